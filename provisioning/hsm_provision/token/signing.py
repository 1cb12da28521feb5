"""Signatures made by a token key over records of this package."""

from __future__ import annotations

import hashlib
from typing import Any

from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from pkcs11 import Attribute, KeyType, Mechanism
from pkcs11.exceptions import MechanismInvalid

from hsm_msl.backend.pkcs11.signing import digest_info
from hsm_provision.token.access import token_errors
from hsm_provision.token.objects import TokenSession, find_object


def sign_with(session: TokenSession, label: str, data: bytes) -> bytes:
    """Sign data with a token key: ECDSA SHA-256 (DER) or RSASSA-PKCS1-v1_5 SHA-256.

    Args:
        session: the token.
        label: the key pair.
        data: what is signed.

    Raises:
        KeyNotFoundError: no such key.
        KeyPolicyError: the key may not sign.
        BackendUnavailableError: the token fails.
    """
    handle = find_object(session, label, "private")
    with token_errors(f"signing with {label}"):
        return sign_by_handle(handle, data)


def sign_by_handle(handle: Any, data: bytes) -> bytes:
    """Sign as ``sign_with``, with a key object at hand. Raises the binding's errors."""
    if handle[Attribute.KEY_TYPE] == KeyType.RSA:
        try:
            return bytes(handle.sign(data, mechanism=Mechanism.SHA256_RSA_PKCS))
        except MechanismInvalid:
            return bytes(handle.sign(digest_info(data), mechanism=Mechanism.RSA_PKCS))
    raw = bytes(handle.sign(hashlib.sha256(data).digest(), mechanism=Mechanism.ECDSA))
    half = len(raw) // 2
    return encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))
