"""Which token mechanisms a key needs: to come into being, to be used, and to be verified."""

from __future__ import annotations

from collections.abc import Mapping

from hsm_provision.desired_keys import DesiredKey
from hsm_provision.profiles import KeyKind

_GENERATION: Mapping[KeyKind, str] = {
    "aes": "AES_KEY_GEN",
    "hmac-sha256": "GENERIC_SECRET_KEY_GEN",
    "rsa": "RSA_PKCS_KEY_PAIR_GEN",
    "ec": "EC_KEY_PAIR_GEN",
}
_USE: Mapping[tuple[KeyKind, str], tuple[str, ...]] = {
    ("aes", "encrypt"): ("AES_CBC", "AES_ECB"),
    ("aes", "derive"): ("AES_ECB_ENCRYPT_DATA",),
    ("aes", "wrap"): ("AES_KEY_WRAP",),
    ("hmac-sha256", "sign"): ("SHA256_HMAC",),
    ("rsa", "sign"): ("SHA256_RSA_PKCS",),
    ("rsa", "decrypt"): ("RSA_PKCS_OAEP",),
    ("rsa", "unwrap"): ("RSA_PKCS_OAEP",),
    ("ec", "sign"): ("ECDSA",),
    ("ec", "derive"): ("ECDH1_DERIVE",),
}


def missing_mechanisms(key: DesiredKey, available: frozenset[str]) -> tuple[str, ...]:
    """Return the mechanisms this key needs and the token does not list.

    Args:
        key: the key to be made.
        available: the token's mechanism names, without the CKM_ prefix.
    """
    needed = {name for usage in key.profile.usage for name in _USE.get((key.profile.type, usage), ())}
    if key.source is None:
        needed.add(_GENERATION[key.profile.type])
    return tuple(sorted(needed - available))
