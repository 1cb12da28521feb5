"""How a key exchange carries a written key to the other end."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsm_msl.errors import DataRejectedError, ErrorCode, MslError
from hsm_msl.ports import DecryptionKey, RsaPadding

_PADDINGS: dict[RsaPadding, padding.AsymmetricPadding] = {
    # SHA-1 in OAEP is what deployed peers speak; its collision weakness does not matter in this place.
    RsaPadding.OAEP_SHA1: padding.OAEP(padding.MGF1(SHA1()), SHA1(), None),  # noqa: S303
    RsaPadding.OAEP_SHA256: padding.OAEP(padding.MGF1(SHA256()), SHA256(), None),
    RsaPadding.PKCS1: padding.PKCS1v15(),
}


def load_rsa_public_key(der: bytes) -> rsa.RSAPublicKey:
    """Read a SubjectPublicKeyInfo that must hold an RSA key. Raises MslError INVALID_PUBLIC_KEY."""
    try:
        key = load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm):
        raise MslError(ErrorCode.INVALID_PUBLIC_KEY) from None
    if not isinstance(key, rsa.RSAPublicKey):
        raise MslError(ErrorCode.INVALID_PUBLIC_KEY)
    return key


@dataclass(frozen=True, slots=True)
class RsaTransport:
    """RSA encryption to the requester's one-time public key.

    Attributes:
        padding: the RSA padding of the mechanism.
        public_key: the requester's key, SubjectPublicKeyInfo DER; needed to wrap.
        private_key: the requester's own key; needed to unwrap.
    """

    padding: RsaPadding
    public_key: bytes = b""
    private_key: DecryptionKey | None = None

    def wrap(self, plaintext: bytes) -> bytes:
        """Encrypt a written key.

        Raises:
            MslError: INVALID_PUBLIC_KEY, PLAINTEXT_ILLEGAL_BLOCK_SIZE when the key is too small for the plaintext.
        """
        key = load_rsa_public_key(self.public_key)
        try:
            return key.encrypt(plaintext, _PADDINGS[self.padding])
        except ValueError:
            raise MslError(ErrorCode.PLAINTEXT_ILLEGAL_BLOCK_SIZE) from None

    def unwrap(self, wrapped: bytes) -> bytes:
        """Decrypt a written key.

        Raises:
            MslError: KEYX_PRIVATE_KEY_MISSING, CIPHERTEXT_BAD_PADDING for every kind of bad input.
            BackendError: the key operation did not happen.
        """
        if self.private_key is None:
            raise MslError(ErrorCode.KEYX_PRIVATE_KEY_MISSING)
        try:
            return self.private_key.decrypt(wrapped, self.padding)
        except DataRejectedError:
            raise MslError(ErrorCode.CIPHERTEXT_BAD_PADDING) from None
