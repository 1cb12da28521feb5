"""Key wrapping with a key in this process (port ``WrappingKey``)."""

from __future__ import annotations

from cryptography.hazmat.primitives.keywrap import (
    InvalidUnwrap,
    aes_key_unwrap_with_padding,
    aes_key_wrap_with_padding,
)

from hsm_msl.backend import inputs, rfc3394
from hsm_msl.backend.software.secret import Secret
from hsm_msl.backend.software.symmetric import SoftwareAesKey, SoftwareHmacKey, software_mac_key
from hsm_msl.crypto.sealing import LocalAesKey
from hsm_msl.errors import DataRejectedError, KeyPolicyError
from hsm_msl.ports import AesKey, MacAlgorithm, MacKey, WrappingKey


class SoftwareWrappingKey(Secret):
    """An AES key-encrypting key of 16, 24 or 32 bytes. Raises ValueError for other sizes.

    Args:
        value: the key.
    """

    __slots__ = ("_block", "_value")

    def __init__(self, value: bytes) -> None:
        self._block = LocalAesKey(value)
        self._value = value

    def wrap(self, data: bytes, *, pad: bool = False) -> bytes:
        """Wrap bytes. Raises UsageError for a length that cannot be wrapped."""
        inputs.check_to_wrap(data, pad)
        if pad:
            return aes_key_wrap_with_padding(self._value, data)
        return rfc3394.wrap(self._block.encrypt_ecb, data)

    def unwrap(self, wrapped: bytes, *, pad: bool = False) -> bytes:
        """Invert ``wrap``. Raises DataRejectedError."""
        inputs.check_wrapped(wrapped)
        if not pad:
            return rfc3394.unwrap(self._block.decrypt_ecb, wrapped)
        try:
            return aes_key_unwrap_with_padding(self._value, wrapped)
        except InvalidUnwrap:
            raise DataRejectedError(rfc3394.REFUSED) from None

    def wrap_key(self, key: AesKey | MacKey) -> bytes:
        """Wrap a software key. Raises KeyPolicyError for a key that is not one."""
        if isinstance(key, LocalAesKey):
            return self.wrap(bytes(key._algorithm.key))
        if isinstance(key, SoftwareHmacKey):
            return self.wrap(key._value)
        raise KeyPolicyError("the key is not a software key")

    def unwrap_aes(self, wrapped: bytes) -> SoftwareAesKey:
        """Unwrap into an AES key. Raises DataRejectedError."""
        inputs.check_wrapped_aes(wrapped)
        return SoftwareAesKey(self.unwrap(wrapped))

    def unwrap_mac(self, wrapped: bytes, algorithm: MacAlgorithm) -> MacKey:
        """Unwrap into a MAC key. Raises DataRejectedError."""
        (inputs.check_wrapped_aes if algorithm is MacAlgorithm.AES_CMAC else inputs.check_wrapped)(wrapped)
        return software_mac_key(self.unwrap(wrapped), algorithm)

    def unwrap_wrapping(self, wrapped: bytes) -> WrappingKey:
        """Unwrap into a key-encrypting key. Raises DataRejectedError."""
        inputs.check_wrapped_aes(wrapped)
        return SoftwareWrappingKey(self.unwrap(wrapped))
