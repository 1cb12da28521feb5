"""AWS CloudHSM, Client SDK 5: from public documentation, never tested here."""

from __future__ import annotations

from pkcs11 import Mechanism
from pkcs11.exceptions import DeviceError, FunctionFailed, GeneralError

from hsm_msl.backend.pkcs11.vendors.base import VendorProfile

CLOUDHSM = VendorProfile(
    name="cloudhsm",
    title="AWS CloudHSM",
    source="docs.aws.amazon.com/cloudhsm, mechanisms and known issues of the PKCS#11 library, Client SDK 5",
    manufacturers=("Marvell", "Cavium", "Amazon", "AWS"),
    vague=(GeneralError, FunctionFailed, DeviceError),
    # It makes the GCM nonce itself.
    broken=frozenset((Mechanism.AES_GCM,)),
    padded_wrap=None,
    read_write_sessions=True,
    sessions=16,
    largest_input=16 * 1024,
    quirks=(
        "the PIN is user:password of a crypto user",
        "Client SDK 5 has no read-only sessions: share the keys with a crypto user of the service's own, which then "
        "uses them and neither exports nor deletes them",
        "its AES key wrap has the vendor's own mechanism numbers: peers' keys are wrapped by blocks, session keys "
        "under RSA",
        "it answers CKR_DEVICE_ERROR when it is throttled",
        "every CKA_ID has to be unique on the token, and ECDH runs partly on the host",
        "storms of opening sessions are throttled; keep the pool",
    ),
)
