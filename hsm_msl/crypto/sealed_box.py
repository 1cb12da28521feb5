"""Encrypt-then-MAC for small secrets that rest on a disk, over key handles."""

from __future__ import annotations

from hsm_msl.crypto.symmetric import pad, unpad
from hsm_msl.errors import DataRejectedError, MslError
from hsm_msl.ports import AesKey, MacAlgorithm, MacKey, RandomBytes

_IV = 16

TAG_BYTES = {
    MacAlgorithm.HMAC_SHA1: 20,
    MacAlgorithm.HMAC_SHA256: 32,
    MacAlgorithm.HMAC_SHA384: 48,
    MacAlgorithm.HMAC_SHA512: 64,
    MacAlgorithm.HMAC_SHA3_256: 32,
    MacAlgorithm.HMAC_SHA3_384: 48,
    MacAlgorithm.HMAC_SHA3_512: 64,
    MacAlgorithm.AES_CMAC: 16,
}


class SealedBox:
    """Seals with an AES key and a MAC key, in a token or of the operating system's.

    The MAC covers a purpose beside the ciphertext, so that what was sealed for one use opens for no other.

    Args:
        encryption: encrypts.
        mac: authenticates; another key than ``encryption``.
        purpose: what the box is for.
        random: source of initialisation vectors.
    """

    __slots__ = ("_encryption", "_mac", "_purpose", "_random")

    def __init__(self, encryption: AesKey, mac: MacKey, purpose: str, random: RandomBytes) -> None:
        self._encryption = encryption
        self._mac = mac
        self._purpose = purpose.encode() + b"\x00"
        self._random = random

    def encrypt(self, plaintext: bytes) -> bytes:
        """Return initialisation vector, ciphertext and tag. Raises BackendError."""
        iv = self._random(_IV)
        body = iv + self._encryption.encrypt_cbc(iv, pad(plaintext))
        return body + self._mac.sign(self._purpose + body)

    def decrypt(self, ciphertext: bytes) -> bytes:
        """Verify, then open.

        Raises:
            DataRejectedError: it was not sealed by this box, or was changed.
            BackendError: a key operation did not happen.
        """
        size = TAG_BYTES[self._mac.algorithm]
        body, tag = ciphertext[:-size], ciphertext[-size:]
        if len(body) < 2 * _IV or len(body) % _IV or not self._mac.verify(self._purpose + body, tag):
            raise DataRejectedError("the sealed data was not sealed by this key, or was changed")
        try:
            return unpad(self._encryption.decrypt_cbc(body[:_IV], body[_IV:]))
        except MslError:
            raise DataRejectedError("the sealed data is malformed") from None
