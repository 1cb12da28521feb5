"""Session keys that are made in a token and leave it only wrapped: for its own key, or for a peer's RSA key."""

from __future__ import annotations

import contextlib

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pkcs11 import MGF, Attribute, KeyType, Mechanism, ObjectClass
from pkcs11.exceptions import PKCS11Error

from hsm_msl.backend.pkcs11.aes import TokenAesKey
from hsm_msl.backend.pkcs11.binding import Handle
from hsm_msl.backend.pkcs11.mac import TokenMacKey
from hsm_msl.backend.pkcs11.session_objects import SessionObject
from hsm_msl.backend.pkcs11.token import Token
from hsm_msl.errors import DataRejectedError, KeyPolicyError, MechanismUnsupportedError
from hsm_msl.ports import AesKey, MacAlgorithm, MacKey, RsaPadding

_MECHANISMS: dict[RsaPadding, tuple[Mechanism, tuple[Mechanism, MGF, None] | None]] = {
    RsaPadding.OAEP_SHA1: (Mechanism.RSA_PKCS_OAEP, (Mechanism.SHA_1, MGF.SHA1, None)),
    RsaPadding.OAEP_SHA256: (Mechanism.RSA_PKCS_OAEP, (Mechanism.SHA256, MGF.SHA256, None)),
    RsaPadding.PKCS1: (Mechanism.RSA_PKCS, None),
}
_OVERHEAD = {RsaPadding.OAEP_SHA1: 42, RsaPadding.OAEP_SHA256: 66, RsaPadding.PKCS1: 11}
_LONGEST_KEY = 32


class TokenResidentKeys:
    """Makes session keys in one token (``token_vault.ResidentKeys``).

    Args:
        token: the token; it also holds the keys that protect master tokens.
    """

    __slots__ = ("_token",)

    def __init__(self, token: Token) -> None:
        self._token = token

    def generate_aes(self, size: int) -> TokenAesKey:
        """Return a fresh AES key of ``size`` bytes. Raises BackendError."""
        return self._token.generate_aes(size)

    def generate_mac(self, size: int) -> TokenMacKey:
        """Return a fresh HMAC-SHA256 key of ``size`` bytes. Raises BackendError."""
        return self._token.generate_mac(size, MacAlgorithm.HMAC_SHA256)

    def wrap_for(self, key: AesKey | MacKey, public_key: bytes, padding: RsaPadding) -> bytes:
        """Encrypt a session key of this token to a peer's RSA key, inside the token.

        Args:
            key: made by this object.
            public_key: SubjectPublicKeyInfo DER.
            padding: RSA encryption padding.

        Raises:
            DataRejectedError: it is no RSA key, or too small for the session key.
            KeyPolicyError: the session key lives elsewhere or may not leave.
            MechanismUnsupportedError: the token does not wrap with this padding.
            BackendError: see ``errors.translate``.
        """
        target = key.target if isinstance(key, TokenAesKey | TokenMacKey) else None
        connection = self._token.connection
        if not isinstance(target, SessionObject) or target.connection is not connection:
            raise KeyPolicyError("only session keys of the token can be wrapped for a peer")
        mechanism, parameter = _MECHANISMS[padding]
        if mechanism not in connection.mechanisms:
            raise MechanismUnsupportedError(f"token {self._token.name!r} has no RSA wrapping with {padding.value}")
        try:
            peer = load_der_public_key(public_key)
        except (ValueError, UnsupportedAlgorithm):
            peer = None
        if not isinstance(peer, rsa.RSAPublicKey):
            raise DataRejectedError("not an RSA public key")
        if peer.key_size // 8 < _LONGEST_KEY + _OVERHEAD[padding]:
            raise DataRejectedError("the RSA key is too small for a session key")
        numbers = peer.public_numbers()
        template = {
            Attribute.CLASS: ObjectClass.PUBLIC_KEY,
            Attribute.KEY_TYPE: KeyType.RSA,
            Attribute.TOKEN: False,
            Attribute.PRIVATE: False,
            Attribute.WRAP: True,
            Attribute.ENCRYPT: False,
            Attribute.VERIFY: False,
            Attribute.MODULUS: _number(numbers.n),
            Attribute.PUBLIC_EXPONENT: _number(numbers.e),
        }
        return target.call(_wrap, template, mechanism, parameter)


def _wrap(handle: Handle, template: dict[Attribute, object], mechanism: Mechanism, parameter: object) -> bytes:
    peer = handle.session.create_object(template)
    try:
        wrapped: bytes = peer.wrap_key(handle, mechanism=mechanism, mechanism_param=parameter)
    finally:
        with contextlib.suppress(PKCS11Error):  # the session takes it along otherwise
            peer.destroy()
    return wrapped


def _number(value: int) -> bytes:
    return value.to_bytes((value.bit_length() + 7) // 8)
