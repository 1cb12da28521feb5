"""Signatures with a private key on a token (port ``SigningKey``)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NamedTuple

from pkcs11 import MGF, KeyType, Mechanism

from hsm_msl.backend.pkcs11.binding import Handle
from hsm_msl.backend.pkcs11.lookup import TokenObject
from hsm_msl.backend.pkcs11.public import ecdsa_der, public_half
from hsm_msl.errors import KeyPolicyError, MechanismUnsupportedError
from hsm_msl.ports import SignatureScheme

_SHA256_DIGEST_INFO = bytes.fromhex("3031300d060960864801650304020105000420")  # RFC 8017 section 9.2, note 1


def _whole(data: bytes) -> bytes:
    return data


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _sha384(data: bytes) -> bytes:
    return hashlib.sha384(data).digest()


def digest_info(data: bytes) -> bytes:
    """Return the DigestInfo of the SHA-256 of ``data``, as RSASSA-PKCS1-v1_5 signs it (RFC 8017 section 9.2)."""
    return _SHA256_DIGEST_INFO + _sha256(data)


def _same(signature: bytes) -> bytes:
    return signature


class _Way(NamedTuple):
    """One way to make a signature: what the token gets, and what is done with its answer."""

    key_type: KeyType
    mechanism: Mechanism
    parameter: tuple[Mechanism, MGF, int] | None
    before: Callable[[bytes], bytes]
    after: Callable[[bytes], bytes]


_PSS = (Mechanism.SHA256, MGF.SHA256, 32)

_WAYS: dict[SignatureScheme, tuple[_Way, ...]] = {  # the first that the token has is taken
    SignatureScheme.RSA_PKCS1_SHA256: (
        _Way(KeyType.RSA, Mechanism.SHA256_RSA_PKCS, None, _whole, _same),
        _Way(KeyType.RSA, Mechanism.RSA_PKCS, None, digest_info, _same),
    ),
    SignatureScheme.RSA_PSS_SHA256: (
        _Way(KeyType.RSA, Mechanism.SHA256_RSA_PKCS_PSS, _PSS, _whole, _same),
        _Way(KeyType.RSA, Mechanism.RSA_PKCS_PSS, _PSS, _sha256, _same),
    ),
    SignatureScheme.ECDSA_SHA256: (_Way(KeyType.EC, Mechanism.ECDSA, None, _sha256, ecdsa_der),),
    SignatureScheme.ECDSA_SHA384: (_Way(KeyType.EC, Mechanism.ECDSA, None, _sha384, ecdsa_der),),
}


class TokenSigningKey:
    """An RSA or EC private key on a token.

    Args:
        target: the private key.

    Raises:
        BackendError: the public half cannot be read.
    """

    __slots__ = ("_public", "_target", "_type")

    def __init__(self, target: TokenObject) -> None:
        self._target = target
        self._public = target.call(public_half)
        self._type = target.fingerprint.key_type

    @property
    def target(self) -> TokenObject:
        """What the operations are run on."""
        return self._target

    @property
    def public_key(self) -> bytes:
        """The public half, SubjectPublicKeyInfo DER."""
        return self._public

    def sign(self, data: bytes, scheme: SignatureScheme) -> bytes:
        """Return the signature over ``data``.

        Args:
            data: any length; hashed here or in the token.
            scheme: ECDSA signatures are ASN.1 DER.

        Raises:
            KeyPolicyError: the scheme is for another kind of key.
            MechanismUnsupportedError: the token has no way to make it, or none for so much data.
            BackendError: see ``errors.translate``.
        """
        connection = self._target.connection
        most = connection.profile.largest_input
        for way in _WAYS[scheme]:
            if way.key_type is not self._type:
                raise KeyPolicyError(f"{self._target.doing}: the key is not for {scheme.value}")
            if way.before is _whole and most is not None and len(data) > most:
                continue  # hashed here, it is short enough
            if way.mechanism in connection.mechanisms:
                return way.after(self._target.call(_sign, way.before(data), way.mechanism, way.parameter))
        connection.check_fits(len(data), self._target.doing)
        raise MechanismUnsupportedError(f"{self._target.doing}: the token has no way to make {scheme.value}")

    def __repr__(self) -> str:
        return f"TokenSigningKey({self._target!r})"


def _sign(handle: Handle, data: bytes, mechanism: Mechanism, parameter: object) -> bytes:
    result: bytes = handle.sign(data, mechanism=mechanism, mechanism_param=parameter)
    return result
