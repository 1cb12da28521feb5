"""AES and message authentication with keys in this process (ports ``AesKey`` and ``MacKey``)."""

from __future__ import annotations

import hmac

from cryptography.hazmat.primitives.hashes import (
    SHA1,
    SHA3_256,
    SHA3_384,
    SHA3_512,
    SHA256,
    SHA384,
    SHA512,
    HashAlgorithm,
)
from cryptography.hazmat.primitives.hmac import HMAC

from hsm_msl.backend import inputs
from hsm_msl.backend.software.secret import Secret
from hsm_msl.crypto.sealing import LocalAesKey, LocalCmacKey
from hsm_msl.ports import MacAlgorithm, MacKey

_HASHES: dict[MacAlgorithm, type[HashAlgorithm]] = {
    MacAlgorithm.HMAC_SHA1: SHA1,
    MacAlgorithm.HMAC_SHA256: SHA256,
    MacAlgorithm.HMAC_SHA384: SHA384,
    MacAlgorithm.HMAC_SHA512: SHA512,
    MacAlgorithm.HMAC_SHA3_256: SHA3_256,
    MacAlgorithm.HMAC_SHA3_384: SHA3_384,
    MacAlgorithm.HMAC_SHA3_512: SHA3_512,
}


class SoftwareAesKey(LocalAesKey):
    """An AES key of 16, 24 or 32 bytes. Raises ValueError for other sizes.

    Args:
        value: the key.
    """

    __slots__ = ()

    def encrypt_ecb(self, data: bytes) -> bytes:
        """Encrypt whole blocks. Raises UsageError for anything else."""
        inputs.check_plain_blocks(data)
        return super().encrypt_ecb(data)

    def decrypt_ecb(self, data: bytes) -> bytes:
        """Decrypt whole blocks. Raises DataRejectedError for anything else."""
        inputs.check_cipher_blocks(data)
        return super().decrypt_ecb(data)

    def encrypt_cbc(self, iv: bytes, data: bytes) -> bytes:
        """Encrypt whole blocks. Raises UsageError for anything else, DataRejectedError for a wrong ``iv``."""
        inputs.check_block(iv)
        inputs.check_plain_blocks(data)
        return super().encrypt_cbc(iv, data)

    def decrypt_cbc(self, iv: bytes, data: bytes) -> bytes:
        """Decrypt whole blocks. Raises DataRejectedError for anything else."""
        inputs.check_block(iv)
        inputs.check_cipher_blocks(data)
        return super().decrypt_cbc(iv, data)

    def crypt_ctr(self, counter: bytes, data: bytes) -> bytes:
        """Encrypt or decrypt in counter mode. Raises DataRejectedError for a counter that is not 16 bytes."""
        inputs.check_block(counter)
        return super().crypt_ctr(counter, data)

    def encrypt_gcm(self, nonce: bytes, data: bytes, associated: bytes) -> bytes:
        """Return ciphertext and tag. Raises DataRejectedError for a nonce that is not 12 bytes."""
        inputs.check_nonce(nonce)
        return super().encrypt_gcm(nonce, data, associated)

    def decrypt_gcm(self, nonce: bytes, data: bytes, associated: bytes) -> bytes:
        """Open ciphertext and tag. Raises DataRejectedError for a bad nonce or tag."""
        inputs.check_nonce(nonce)
        return super().decrypt_gcm(nonce, data, associated)


class SoftwareHmacKey(Secret):
    """An HMAC key of any size above zero.

    Args:
        value: the key.
        algorithm: one of the HMAC algorithms.
    """

    __slots__ = ("_algorithm", "_keyed", "_value")

    def __init__(self, value: bytes, algorithm: MacAlgorithm) -> None:
        if not value:
            raise ValueError("empty MAC key")
        self._algorithm = algorithm
        self._value = value
        self._keyed = HMAC(value, _HASHES[algorithm]())

    @property
    def algorithm(self) -> MacAlgorithm:
        """The one algorithm this key is for."""
        return self._algorithm

    def sign(self, data: bytes) -> bytes:
        """Return the full tag."""
        keyed = self._keyed.copy()
        keyed.update(data)
        return keyed.finalize()

    def verify(self, data: bytes, tag: bytes) -> bool:
        """Tell in constant time whether the tag fits."""
        return hmac.compare_digest(self.sign(data), tag)


def software_mac_key(value: bytes, algorithm: MacAlgorithm) -> MacKey:
    """Return a MAC key of this algorithm. Raises ValueError for a size it cannot have."""
    return LocalCmacKey(value) if algorithm is MacAlgorithm.AES_CMAC else SoftwareHmacKey(value, algorithm)
