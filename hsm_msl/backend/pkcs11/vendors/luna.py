"""Thales Luna Network and Cloud HSM: from public documentation, never tested here."""

from __future__ import annotations

from pkcs11 import Mechanism
from pkcs11.exceptions import DeviceError, FunctionFailed, GeneralError

from hsm_msl.backend.pkcs11.vendors.base import VendorProfile

LUNA = VendorProfile(
    name="luna",
    title="Thales Luna",
    source="the vendor's PKCS#11 documentation; crypto11's list of quirks",
    manufacturers=("SafeNet", "Thales", "Gemalto"),
    models=("LunaSA", "LUNA", "Luna", "Cryptovisor"),
    vague=(GeneralError, FunctionFailed, DeviceError),
    # In FIPS mode it makes the GCM nonce itself and appends it to the ciphertext, which the port has no room for.
    broken=frozenset((Mechanism.AES_GCM,)),
    padded_wrap=Mechanism.AES_KEY_WRAP_KWP,
    sessions=16,
    quirks=(
        "let services log in as the partition's Crypto User, which neither makes nor destroys keys",
        "in FIPS mode it takes no key in clear: import under a wrapping key, and wrap bytes for peers by blocks",
        "in high availability groups the key handles are virtual; let the group do the failover, not a token set",
        "firmware before 7 has its own numbers for key wrap; the doctor shows which is listed",
    ),
)
