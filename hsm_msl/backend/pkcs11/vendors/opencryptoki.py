"""openCryptoki 3.8 with its soft token: the PKCS#11 layer of Linux on IBM Z; run by our suite."""

from __future__ import annotations

from pkcs11 import Attribute
from pkcs11.exceptions import FunctionFailed, GeneralError

from hsm_msl.backend.pkcs11.vendors.base import VendorProfile

OPENCRYPTOKI = VendorProfile(
    name="opencryptoki",
    title="openCryptoki soft token",
    tested=True,
    source="measured on 3.8.1 (Debian 12)",
    manufacturers=("IBM Corp",),
    models=("IBM SoftTok",),
    vague=(GeneralError, FunctionFailed),  # refused RSA blocks are CKR_FUNCTION_FAILED
    one_call=True,  # with four threads it was seen to crash in 3 of 3 runs elsewhere, though in none of ours
    padded_wrap=None,
    unknown_attributes=frozenset((Attribute.COPYABLE,)),
    quirks=(
        "it needs the daemon pkcsslotd and membership in the group pkcs11",
        "it ignores CKA_SENSITIVE and CKA_EXTRACTABLE in an unwrap template; both are set afterwards and read back",
        "it has no AES key wrap: peers' keys are wrapped by blocks, session keys under RSA",
        "the soft token has no elliptic curves",
        "an empty RSAES-PKCS1-v1_5 plaintext comes back as one zero byte",
        "five wrong PINs lock the token; the security officer's can be locked for good",
    ),
)
