"""NSS softokn 3.87: the software token of Firefox and of many Red Hat systems; run by our suite."""

from __future__ import annotations

from pkcs11 import Attribute, Mechanism
from pkcs11.exceptions import DeviceError, FunctionFailed, GeneralError

from hsm_msl.backend.pkcs11.vendors.base import VendorProfile

NSS = VendorProfile(
    name="nss",
    title="NSS softokn",
    tested=True,
    source="measured on 3.87.1 (Debian 12)",
    manufacturers=("Mozilla",),
    vague=(GeneralError, FunctionFailed, DeviceError),
    # Asked for the length of their output, these two forget the tag and the padding, and the call that follows fails.
    # AES_KEY_WRAP_PAD works and is not RFC 5649.
    broken=frozenset((Mechanism.AES_GCM, Mechanism.AES_KEY_WRAP_KWP, Mechanism.AES_KEY_WRAP_PAD)),
    padded_wrap=None,
    unknown_attributes=frozenset((Attribute.COPYABLE,)),
    quirks=(
        "it takes its database as a parameter string at initialisation",
        "a forked child draws the same random bytes as its parent until it starts the module again",
        "private keys on its database are decrypted for every call: RSA-2048 is 30 to 40 times slower than SoftHSMv2",
        "it never locks a PIN and does not enforce wrapping templates",
        "keys that may not leave it can be wrapped out and copied into ones that may: hsm-provision makes none on it",
    ),
)
