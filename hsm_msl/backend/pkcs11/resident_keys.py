"""Session keys that are made in a token and leave it only wrapped: for its own key, or for a peer's RSA key."""

from __future__ import annotations

from hsm_msl.backend.pkcs11.aes import TokenAesKey
from hsm_msl.backend.pkcs11.mac import TokenMacKey
from hsm_msl.backend.pkcs11.rsa_transport import wrap_for_peer
from hsm_msl.backend.pkcs11.session_objects import SessionObject
from hsm_msl.backend.pkcs11.token import Token
from hsm_msl.errors import KeyPolicyError
from hsm_msl.ports import AesKey, MacAlgorithm, MacKey, RsaPadding


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
        return wrap_for_peer(target, public_key, padding)
