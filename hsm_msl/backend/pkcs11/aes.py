"""AES for data on a token (port ``AesKey``). No mode pads: the token's padding errors would be an oracle."""

from __future__ import annotations

import secrets
import struct
from collections.abc import Callable

from pkcs11 import Attribute, GCMParams, Mechanism

from hsm_msl.backend.inputs import (
    BLOCK,
    GCM_NONCE,
    GCM_TAG,
    check_block,
    check_cipher_blocks,
    check_nonce,
    check_plain_blocks,
)
from hsm_msl.backend.pkcs11.binding import Handle
from hsm_msl.backend.pkcs11.lookup import TokenObject, read
from hsm_msl.backend.pkcs11.session_objects import SessionObject
from hsm_msl.backend.pkcs11.verdicts import judged
from hsm_msl.errors import DataRejectedError, MechanismUnsupportedError

_ZERO = bytes(BLOCK)
_COUNTERS = 1 << 128
_BAD_TAG = "the authentication tag does not fit"


class TokenAesKey:
    """An AES key on a token or in a session.

    Args:
        target: the key.
    """

    __slots__ = ("_cbc", "_ctr", "_gcm", "_most", "_target", "_vague")

    def __init__(self, target: TokenObject | SessionObject) -> None:
        connection = target.connection
        self._target = target
        self._cbc = Mechanism.AES_CBC in connection.mechanisms
        self._ctr = Mechanism.AES_CTR in connection.mechanisms
        self._gcm = Mechanism.AES_GCM in connection.mechanisms
        self._vague = connection.profile.vague
        self._most = connection.profile.largest_input

    @property
    def target(self) -> TokenObject | SessionObject:
        """What the operations are run on."""
        return self._target

    def encrypt_ecb(self, data: bytes) -> bytes:
        """Encrypt whole blocks, each on its own.

        Args:
            data: a multiple of 16 bytes.

        Raises:
            UsageError: not whole blocks.
            BackendError: see ``errors.translate``.
        """
        check_plain_blocks(data)
        return self._ecb(_encrypt, data)

    def decrypt_ecb(self, data: bytes) -> bytes:
        """Invert ``encrypt_ecb``.

        Args:
            data: a multiple of 16 bytes.

        Raises:
            DataRejectedError: not whole blocks.
            BackendError: see ``errors.translate``.
        """
        check_cipher_blocks(data)
        return self._ecb(_decrypt, data)

    def encrypt_cbc(self, iv: bytes, data: bytes) -> bytes:
        """Encrypt whole blocks, chained from ``iv``.

        Args:
            iv: 16 bytes.
            data: a multiple of 16 bytes.

        Raises:
            UsageError: not whole blocks.
            DataRejectedError: the iv is not one block.
            BackendError: see ``errors.translate``.
        """
        check_block(iv)
        check_plain_blocks(data)
        if not data:
            return b""
        if not self._cbc:
            return self._target.call(_chain, data, iv)
        sealed = b""
        for piece in self._pieces(data):
            last = self._target.call(_encrypt, piece, Mechanism.AES_CBC, iv)
            sealed, iv = sealed + last, last[-BLOCK:]
        return sealed

    def decrypt_cbc(self, iv: bytes, data: bytes) -> bytes:
        """Invert ``encrypt_cbc``.

        Args:
            iv: 16 bytes.
            data: a multiple of 16 bytes.

        Raises:
            DataRejectedError: iv or data of a wrong length.
            BackendError: see ``errors.translate``.
        """
        check_block(iv)
        check_cipher_blocks(data)
        if not data:
            return b""
        if not self._cbc:
            return _xor(self._ecb(_decrypt, data), iv + data[:-BLOCK])
        opened = b""
        for piece in self._pieces(data):
            opened += self._target.call(_decrypt, piece, Mechanism.AES_CBC, iv)
            iv = piece[-BLOCK:]
        return opened

    def crypt_ctr(self, counter: bytes, data: bytes) -> bytes:
        """Encrypt or decrypt in counter mode.

        Args:
            counter: the 16-byte initial counter block, a 128-bit number that wraps.
            data: any length.

        Raises:
            DataRejectedError: the counter is not one block.
            BackendError: see ``errors.translate``.
        """
        check_block(counter)
        if not data:
            return b""
        start = int.from_bytes(counter, "big")
        if not self._ctr:
            count = -(-len(data) // BLOCK)
            blocks = b"".join(((start + index) % _COUNTERS).to_bytes(BLOCK, "big") for index in range(count))
            stream = self._ecb(_encrypt, blocks)
            return _xor(data, stream[: len(data)])
        result = []
        while data:
            # Tokens may refuse to count past the last block, so what comes after it starts again at zero by itself.
            most = (_COUNTERS - start) * BLOCK
            if self._most is not None:
                most = min(most, _whole_blocks(self._most))
            parameter = _counter_parameter(start.to_bytes(BLOCK, "big"))
            result.append(self._target.call(_encrypt, data[:most], Mechanism.AES_CTR, parameter))
            start, data = (start + most // BLOCK) % _COUNTERS, data[most:]
        return b"".join(result)

    def encrypt_gcm(self, nonce: bytes, data: bytes, associated: bytes) -> bytes:
        """Return ciphertext and 16-byte tag.

        Args:
            nonce: 12 bytes, never used before under this key.
            data: any length.
            associated: authenticated and not encrypted.

        Raises:
            DataRejectedError: the nonce has a wrong length.
            MechanismUnsupportedError: the token has no GCM that works, or takes no more bytes at once.
            BackendError: see ``errors.translate``.
        """
        check_nonce(nonce)
        self._need_gcm()
        self._target.connection.check_fits(len(data), self._target.doing)
        return self._target.call(_encrypt, data, Mechanism.AES_GCM, _gcm_parameter(nonce, associated))

    def decrypt_gcm(self, nonce: bytes, data: bytes, associated: bytes) -> bytes:
        """Invert ``encrypt_gcm``.

        Args:
            nonce: 12 bytes.
            data: ciphertext and tag.
            associated: as it was when encrypted.

        Raises:
            DataRejectedError: the tag does not fit, a length is wrong, or it is more than the token takes at once.
            MechanismUnsupportedError: the token has no GCM that works.
            BackendError: see ``errors.translate``.
        """
        check_nonce(nonce)
        self._need_gcm()
        if not self._target.connection.fits(len(data)):
            raise DataRejectedError(f"{self._target.doing}: {len(data)} bytes are more than the token takes at once")
        return self._target.call(_decrypt_gcm, data, nonce, associated, self._vague)

    def _pieces(self, data: bytes) -> list[bytes]:
        """Return what the token takes in one call each."""
        if self._most is None or len(data) <= self._most:
            return [data]
        size = _whole_blocks(self._most)
        return [data[start : start + size] for start in range(0, len(data), size)]

    def _ecb(self, operation: Callable[[Handle, bytes, Mechanism, object], bytes], data: bytes) -> bytes:
        return b"".join(
            self._target.call(operation, piece, Mechanism.AES_ECB, None) for piece in self._pieces(data) if piece
        )

    def _need_gcm(self) -> None:
        if not self._gcm:
            raise MechanismUnsupportedError(f"{self._target.doing}: the token has no AES-GCM that works")

    def __repr__(self) -> str:
        return f"TokenAesKey({self._target!r})"


def _whole_blocks(size: int) -> int:
    return size - size % BLOCK


def check_value(handle: Handle) -> bytes:
    """Return the first three bytes of a block of zeros encrypted, the usual check value of an AES key.

    Args:
        handle: the key; the binding's exceptions pass. One that may not encrypt gives the token's own check value.
    """
    if hasattr(handle, "encrypt"):
        return _encrypt(handle, _ZERO, Mechanism.AES_ECB, None)[:3]
    return read(handle, Attribute.CHECK_VALUE, b"")


def _encrypt(handle: Handle, data: bytes, mechanism: Mechanism, parameter: object) -> bytes:
    result: bytes = handle.encrypt(data, mechanism=mechanism, mechanism_param=parameter)
    return result


def _decrypt(handle: Handle, data: bytes, mechanism: Mechanism, parameter: object) -> bytes:
    result: bytes = handle.decrypt(data, mechanism=mechanism, mechanism_param=parameter)
    return result


def _decrypt_gcm(handle: Handle, data: bytes, nonce: bytes, associated: bytes, vague: tuple[type, ...]) -> bytes:
    def run() -> bytes:
        return _decrypt(handle, data, Mechanism.AES_GCM, _gcm_parameter(nonce, associated))

    def prove() -> None:
        good = _gcm_parameter(secrets.token_bytes(GCM_NONCE), b"")
        _decrypt(handle, _encrypt(handle, b"", Mechanism.AES_GCM, good), Mechanism.AES_GCM, good)

    return judged(run, prove, vague, _BAD_TAG)


def _chain(handle: Handle, data: bytes, iv: bytes) -> bytes:
    result = []
    for index in range(0, len(data), BLOCK):
        iv = _encrypt(handle, _xor(iv, data[index : index + BLOCK]), Mechanism.AES_ECB, None)
        result.append(iv)
    return b"".join(result)


def _counter_parameter(counter: bytes) -> bytes:
    return struct.pack("@L16s", 128, counter)  # CK_AES_CTR_PARAMS; the binding's own type cannot hold a whole block


def _gcm_parameter(nonce: bytes, associated: bytes) -> GCMParams:
    return GCMParams(nonce, associated, GCM_TAG * 8)


def _xor(left: bytes, right: bytes) -> bytes:
    return (int.from_bytes(left, "big") ^ int.from_bytes(right, "big")).to_bytes(len(left), "big")
