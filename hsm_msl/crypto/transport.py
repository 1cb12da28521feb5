"""How a key exchange carries a written key to the other end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsm_msl.errors import DataRejectedError, ErrorCode, MslError
from hsm_msl.ports import AesKey, DecryptionKey, KeyTransport, MacAlgorithm, MacKey, RsaPadding, WrappingKey
from hsm_msl.wire.jose import pad_jwk
from hsm_msl.wire.limits import KEY_WRAP_UNIT_BYTES

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
            MslError: KEYX_PRIVATE_KEY_MISSING, CIPHERTEXT_ILLEGAL_BLOCK_SIZE for more bytes than the modulus has,
                CIPHERTEXT_BAD_PADDING for every other kind of bad input.
            BackendError: the key operation did not happen.
        """
        if self.private_key is None:
            raise MslError(ErrorCode.KEYX_PRIVATE_KEY_MISSING)
        if len(wrapped) * 8 > load_rsa_public_key(self.private_key.public_key).key_size + 7:
            raise MslError(ErrorCode.CIPHERTEXT_ILLEGAL_BLOCK_SIZE)
        try:
            return self.private_key.decrypt(wrapped, self.padding)
        except DataRejectedError:
            raise MslError(ErrorCode.CIPHERTEXT_BAD_PADDING) from None


_Opened = TypeVar("_Opened")


@dataclass(frozen=True, slots=True)
class WrapTransport:
    """AES key wrap (RFC 3394) under a key both ends hold; carries keys as handles too.

    Attributes:
        key: the key-encrypting key; without one nothing can be carried.
        failure: the code when the integrity check fails, which differs by the key's origin (msl-schemes section 8).
    """

    key: WrappingKey | None
    failure: ErrorCode = ErrorCode.UNWRAP_ERROR

    def wrap(self, plaintext: bytes) -> bytes:
        """Wrap a written key.

        Raises:
            MslError: WRAP_NOT_SUPPORTED without a key, PLAINTEXT_ILLEGAL_BLOCK_SIZE for anything but whole units of
                eight bytes, of which some keys take two at least, as RFC 3394 does.
            BackendError: the key operation did not happen.
        """
        key = self._wrapping()
        if not plaintext or len(plaintext) % KEY_WRAP_UNIT_BYTES:
            raise MslError(ErrorCode.PLAINTEXT_ILLEGAL_BLOCK_SIZE)
        try:
            return key.wrap(plaintext)
        except DataRejectedError:
            raise MslError(ErrorCode.PLAINTEXT_ILLEGAL_BLOCK_SIZE) from None

    def wrap_key(self, key: AesKey | MacKey) -> bytes:
        """Wrap a key beside the wrapping key. Raises MslError WRAP_NOT_SUPPORTED; KeyPolicyError, BackendError."""
        return self._wrapping().wrap_key(key)

    def unwrap(self, wrapped: bytes) -> bytes:
        """Unwrap a written key.

        Raises:
            MslError: UNWRAP_NOT_SUPPORTED without a key, CIPHERTEXT_ILLEGAL_BLOCK_SIZE for a part of a unit,
                ``failure``.
            BackendError: the key operation did not happen.
        """
        return self._open(lambda key: key.unwrap(wrapped), wrapped)

    def unwrap_aes(self, wrapped: bytes) -> AesKey:
        """Unwrap an AES key where the wrapping key lives. Raises as ``unwrap``."""
        return self._open(lambda key: key.unwrap_aes(wrapped), wrapped)

    def unwrap_mac(self, wrapped: bytes, algorithm: MacAlgorithm) -> MacKey:
        """Unwrap a MAC key where the wrapping key lives. Raises as ``unwrap``."""
        return self._open(lambda key: key.unwrap_mac(wrapped, algorithm), wrapped)

    def _wrapping(self) -> WrappingKey:
        if self.key is None:
            raise MslError(ErrorCode.WRAP_NOT_SUPPORTED)
        return self.key

    def _open(self, operation: Callable[[WrappingKey], _Opened], wrapped: bytes) -> _Opened:
        if self.key is None:
            raise MslError(ErrorCode.UNWRAP_NOT_SUPPORTED)
        if len(wrapped) % KEY_WRAP_UNIT_BYTES:
            raise MslError(ErrorCode.CIPHERTEXT_ILLEGAL_BLOCK_SIZE)
        try:
            return operation(self.key)
        except DataRejectedError:
            raise MslError(self.failure) from None


@dataclass(frozen=True, slots=True)
class PaddedJwkTransport:
    """Lengthens a JWK to whole units before another transport wraps it (msl-schemes section 8)."""

    carrier: KeyTransport

    def wrap(self, plaintext: bytes) -> bytes:
        """Pad and wrap a JWK. Raises as the carrier."""
        return self.carrier.wrap(pad_jwk(plaintext))

    def unwrap(self, wrapped: bytes) -> bytes:
        """Unwrap a JWK; its padding is white space to JSON. Raises as the carrier."""
        return self.carrier.unwrap(wrapped)
