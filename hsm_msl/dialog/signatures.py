"""Pair signatures: made by a key handle, checked on the host with the public key (sections 3 and 4)."""

from __future__ import annotations

import hashlib
import hmac

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from hsm_msl.dialog.names import MIN_RSA_BITS
from hsm_msl.dialog.suites import Suite
from hsm_msl.ports import SignatureScheme, SigningKey

_COORDINATE = 32
# DER of a SHA-256 DigestInfo up to the digest itself (RFC 8017 section 9.2, note 1).
_DIGEST_INFO = bytes.fromhex("3031300d060960864801650304020105000420")


def sign(key: SigningKey, data: bytes, suite: Suite) -> bytes:
    """Return the signature over ``data`` as COSE carries it (ECDSA as two 32-byte numbers, RFC 9053 section 2.1).

    Raises BackendError when the key gives no signature.
    """
    signature = key.sign(data, suite.signature)
    if suite.signature is SignatureScheme.ECDSA_SHA256:
        first, second = utils.decode_dss_signature(signature)
        return first.to_bytes(_COORDINATE) + second.to_bytes(_COORDINATE)
    return signature


def verify(public_key: bytes, data: bytes, signature: bytes, suite: Suite) -> bool:
    """Tell whether ``signature`` over ``data`` fits the public key (SubjectPublicKeyInfo DER).

    A key of the wrong type, a malformed key or a malformed signature is simply False.
    """
    try:
        key = serialization.load_der_public_key(public_key)
        if isinstance(key, rsa.RSAPublicKey):
            return key.key_size >= MIN_RSA_BITS and _verify_rsa(key, data, signature, suite)
        if isinstance(key, ec.EllipticCurvePublicKey):
            return _verify_ec(key, data, signature, suite)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return False


def _verify_rsa(key: rsa.RSAPublicKey, data: bytes, signature: bytes, suite: Suite) -> bool:
    if suite.recover:
        return _recovers(key, data, signature)
    if suite.signature is not SignatureScheme.RSA_PSS_SHA256:
        return False
    key.verify(
        signature,
        data,
        padding.PSS(padding.MGF1(hashes.SHA256()), hashes.SHA256.digest_size),
        hashes.SHA256(),
    )
    return True


def _recovers(key: rsa.RSAPublicKey, data: bytes, signature: bytes) -> bool:
    """Undo the private-key operation with the public key and compare the digest block (section 3, suite 3)."""
    block = key.recover_data_from_signature(signature, padding.PKCS1v15(), None)
    return hmac.compare_digest(block, _DIGEST_INFO + hashlib.sha256(data).digest())


def _verify_ec(key: ec.EllipticCurvePublicKey, data: bytes, signature: bytes, suite: Suite) -> bool:
    if suite.signature is not SignatureScheme.ECDSA_SHA256 or len(signature) != 2 * _COORDINATE:
        return False
    if not isinstance(key.curve, ec.SECP256R1):
        return False
    first, second = int.from_bytes(signature[:_COORDINATE]), int.from_bytes(signature[_COORDINATE:])
    key.verify(utils.encode_dss_signature(first, second), data, ec.ECDSA(hashes.SHA256()))
    return True
