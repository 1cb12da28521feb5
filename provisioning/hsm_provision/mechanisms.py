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
    # Any one is enough; what is missing then is the first. Other modes are made of AES-ECB where a token lacks them.
    ("aes", "encrypt"): ("AES_ECB",),
    ("aes", "derive"): ("AES_ECB_ENCRYPT_DATA",),
    ("aes", "wrap"): ("AES_KEY_WRAP",),
    ("hmac-sha256", "sign"): ("SHA256_HMAC",),
    ("rsa", "sign"): ("SHA256_RSA_PKCS", "RSA_PKCS"),
    ("rsa", "decrypt"): ("RSA_PKCS_OAEP",),
    ("rsa", "unwrap"): ("RSA_PKCS_OAEP",),
    ("ec", "sign"): ("ECDSA",),
    ("ec", "derive"): ("ECDH1_DERIVE",),
}


def missing_mechanisms(key: DesiredKey, available: frozenset[str], *, by_blocks: bool = False) -> tuple[str, ...]:
    """Return the mechanisms this key needs and the token does not list.

    Args:
        key: the key to be made.
        available: the token's mechanism names, without the CKM_ prefix.
        by_blocks: whether keys wrap by blocks on this token.
    """
    uses = [(key.profile.type, usage) for usage in key.profile.usage]
    if by_blocks and key.profile.blocks:
        uses = [("aes", "encrypt") if use == ("aes", "wrap") else use for use in uses]
    needed = [_USE[use] for use in uses if use in _USE]
    if key.source is None:
        needed.append((_GENERATION[key.profile.type],))
    return tuple(sorted(ways[0] for ways in needed if available.isdisjoint(ways)))
