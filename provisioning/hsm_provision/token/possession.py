"""Proof that a private key is the one that belongs to a public key, by the one operation its rights allow."""

from __future__ import annotations

import os
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from pkcs11 import KDF, MGF, Attribute, KeyType, Mechanism, ObjectClass

from hsm_msl.audit.signatures import signature_fits
from hsm_provision.check_values import ZERO_BLOCK
from hsm_provision.profiles import KeyProfile
from hsm_provision.token.access import token_errors
from hsm_provision.token.signing import sign_by_handle

_OAEP = (Mechanism.SHA_1, MGF.SHA1, None)
_READABLE = {Attribute.TOKEN: False, Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True}


def halves_match(profile: KeyProfile, handle: Any, spki: bytes) -> bool:
    """Tell whether a private key object belongs to a public key.

    Args:
        profile: the kind of key; its usage chooses the operation.
        handle: the private key object.
        spki: the public key, SubjectPublicKeyInfo DER.

    Raises:
        KeyPolicyError: the key refuses what its profile is for.
        BackendUnavailableError: the token fails.
    """
    public = serialization.load_der_public_key(spki)
    with token_errors("proving that both halves of a pair belong together"):
        if "sign" in profile.usage:
            challenge = os.urandom(32)
            return signature_fits(spki, challenge, sign_by_handle(handle, challenge))
        if isinstance(public, rsa.RSAPublicKey):
            return _opens(profile, handle, public)
        if isinstance(public, ec.EllipticCurvePublicKey):
            return _agrees(handle, public)
    return False


def _opens(profile: KeyProfile, handle: Any, public: rsa.RSAPublicKey) -> bool:
    secret = os.urandom(16)
    # OAEP with SHA-1 is what SoftHSMv2 accepts; a random challenge is no use of its collision resistance.
    scheme = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # noqa: S303  # see above
    sealed = public.encrypt(secret, scheme)
    if "decrypt" in profile.usage:
        return bytes(handle.decrypt(sealed, mechanism=Mechanism.RSA_PKCS_OAEP, mechanism_param=_OAEP)) == secret
    opened = handle.unwrap_key(
        ObjectClass.SECRET_KEY,
        KeyType.AES,
        sealed,
        mechanism=Mechanism.RSA_PKCS_OAEP,
        mechanism_param=_OAEP,
        store=False,
        template={
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
            Attribute.ENCRYPT: True,
            Attribute.DECRYPT: False,
            Attribute.WRAP: False,
            Attribute.UNWRAP: False,
        },
    )
    try:
        actual = bytes(opened.encrypt(ZERO_BLOCK, mechanism=Mechanism.AES_ECB))
    finally:
        opened.destroy()
    # One constant block under a throw-away key.
    expected = Cipher(algorithms.AES(secret), modes.ECB()).encryptor().update(ZERO_BLOCK)  # noqa: S305  # see above
    return actual == expected


def _agrees(handle: Any, public: ec.EllipticCurvePublicKey) -> bool:
    own = ec.generate_private_key(public.curve)
    point = own.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    shared = own.exchange(ec.ECDH(), public)
    derived = handle.derive_key(
        KeyType.GENERIC_SECRET,
        len(shared) * 8,
        mechanism=Mechanism.ECDH1_DERIVE,
        mechanism_param=(KDF.NULL, None, point),
        store=False,
        template=_READABLE,
    )
    try:
        return bytes(derived[Attribute.VALUE]) == shared
    finally:
        derived.destroy()
