"""SoftHSMv2 2.6.1: development and CI; measured on 2.6.1 of Debian 12."""

from __future__ import annotations

from pkcs11 import Mechanism
from pkcs11.exceptions import GeneralError

from hsm_msl.backend.pkcs11.vendors.base import VendorProfile

SOFTHSM = VendorProfile(
    name="softhsm",
    title="SoftHSMv2",
    tested=True,
    source="measured on 2.6.1 (Debian 12)",
    manufacturers=("SoftHSM project",),
    quirks=(
        "a kill during a login or a key write can destroy the token directory; back it up in every ceremony",
        "HMAC keys have to be as long as the digest",
        "OAEP works with SHA-1 only",
        "it never locks a PIN",
        "it keeps 250 bytes of every key made or unwrapped in a session; after a million its module starts anew",
    ),
    # Bad tags, bad padding, wrong wrapping keys and refused OAEP blocks are all CKR_GENERAL_ERROR, and so is trouble
    # with the token directory.
    vague=(GeneralError,),
    padded_wrap=Mechanism.AES_KEY_WRAP_PAD,
    # It fills the key with zeros to a multiple of 8 before it applies RFC 5649, so the length comes back wrong.
    ragged_key_wrap=False,
    bytes_lost_per_unwrap=250,
    unwraps_per_process=1_000_000,
)
