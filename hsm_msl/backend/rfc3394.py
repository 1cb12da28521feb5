"""AES key wrap over a single-block cipher (RFC 3394, RFC 5649), for keys that only offer ECB.

The libraries' own functions are used wherever they fit; this is for tokens without a wrap mechanism, and for the
one-unit input that RFC 3394 leaves out and MSL peers accept.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

from hsm_msl.errors import DataRejectedError

Block = Callable[[bytes], bytes]
"""Encrypts or decrypts one 16-byte block."""

INITIAL_VALUE = bytes.fromhex("a6a6a6a6a6a6a6a6")  # RFC 3394 section 2.2.3.1
PADDED_INITIAL_VALUE = bytes.fromhex("a65959a6")  # RFC 5649 section 3, followed by the length
ROUNDS = 6
REFUSED = "the wrapped key does not fit the wrapping key"


def wrap(encrypt: Block, data: bytes, *, pad: bool = False) -> bytes:
    """Wrap bytes.

    Args:
        encrypt: the wrapping key's block encryption.
        data: one or more units of 8 bytes; any length from 1 with ``pad``.
        pad: use RFC 5649.

    Returns:
        8 bytes more than the (padded) input. Exceptions of ``encrypt`` pass.
    """
    if not pad:
        return _wrap(encrypt, INITIAL_VALUE, data)
    start = PADDED_INITIAL_VALUE + len(data).to_bytes(4, "big")
    data += bytes(-len(data) % 8)
    return encrypt(start + data) if len(data) == 8 else _wrap(encrypt, start, data)


def unwrap(decrypt: Block, wrapped: bytes, *, pad: bool = False) -> bytes:
    """Invert ``wrap``.

    Args:
        decrypt: the wrapping key's block decryption.
        wrapped: two or more units of 8 bytes.
        pad: use RFC 5649.

    Returns:
        The bytes that were wrapped. Exceptions of ``decrypt`` pass.

    Raises:
        DataRejectedError: the integrity check fails.
    """
    if pad and len(wrapped) == 16:
        block = decrypt(wrapped)
        start, data = block[:8], block[8:]
    else:
        start, data = _unwrap(decrypt, wrapped)
    if not pad:
        if not hmac.compare_digest(start, INITIAL_VALUE):
            raise DataRejectedError(REFUSED)
        return data
    length = int.from_bytes(start[4:], "big")
    fits = hmac.compare_digest(start[:4], PADDED_INITIAL_VALUE)
    if not fits or not len(data) - 8 < length <= len(data) or any(data[length:]):
        raise DataRejectedError(REFUSED)
    return data[:length]


def _wrap(encrypt: Block, start: bytes, data: bytes) -> bytes:
    units = [data[index : index + 8] for index in range(0, len(data), 8)]
    step = 0
    for _ in range(ROUNDS):
        for index, unit in enumerate(units):
            step += 1
            block = encrypt(start + unit)
            start = (int.from_bytes(block[:8], "big") ^ step).to_bytes(8, "big")
            units[index] = block[8:]
    return start + b"".join(units)


def _unwrap(decrypt: Block, wrapped: bytes) -> tuple[bytes, bytes]:
    start = wrapped[:8]
    units = [wrapped[index : index + 8] for index in range(8, len(wrapped), 8)]
    step = ROUNDS * len(units)
    for _ in range(ROUNDS):
        for index in reversed(range(len(units))):
            block = decrypt((int.from_bytes(start, "big") ^ step).to_bytes(8, "big") + units[index])
            start, units[index] = block[:8], block[8:]
            step -= 1
    return start, b"".join(units)
