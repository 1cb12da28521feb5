"""OP-TEE's PKCS#11 trusted application (libckteec): from its public source, never tested here."""

from __future__ import annotations

from pkcs11.exceptions import DeviceError, FunctionFailed, GeneralError

from hsm_msl.backend.pkcs11.vendors.base import VendorProfile

OPTEE = VendorProfile(
    name="optee",
    title="OP-TEE PKCS#11 trusted application",
    source="the trusted application's table of capabilities and docs of libckteec",
    manufacturers=("Linaro",),
    models=("OP-TEE",),
    vague=(GeneralError, FunctionFailed, DeviceError),
    sessions=2,
    homes=1,
    padded_wrap=None,
    largest_input=32 * 1024,
    quirks=(
        "its library is libckteec.so, and tee-supplicant has to run",
        "it has no AES key wrap: peers' keys are wrapped by blocks, session keys under RSA",
        "it has no Diffie-Hellman; ECDH works",
        "memory of the secure world is scarce: few sessions, short inputs",
        "a PIN may stand for the Linux user or group of the caller, by its way of login",
    ),
)
