"""Compression of chunk and token data, with the expansion guard on both sides (msl-wire section 10)."""

from __future__ import annotations

import zlib

from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.wire import lzw
from hsm_msl.wire.limits import MAX_GZIP_MEMBERS, MAX_INFLATE_RATIO, MAX_INFLATED_BYTES

ALGORITHMS = ("GZIP", "LZW")
"""Names on the wire, in order of preference."""

_GZIP = 16  # zlib's way to ask for a GZIP stream: added to the window size
_READ_WINDOW = _GZIP + 15
_LEVEL = 6
_OVERHEAD = 20  # GZIP header, trailer and an empty block: shorter data cannot shrink
# Clearing the full window, a quarter of a megabyte per chunk, costs ten times the work of compressing a small one.
_SMALL_BYTES = 8 * 1024
_SMALL = (_GZIP + 13, 7)
_LARGE = (_GZIP + 15, 8)
_SAMPLE_BYTES = 1024


def compress(algorithm: str, data: bytes) -> bytes | None:
    """Compress data if that is of use and every peer can read it back.

    Args:
        algorithm: one of ``ALGORITHMS``.
        data: chunk or token data.

    Returns:
        The compressed bytes, or None when they would not be strictly shorter (large data is judged by samples), or so
        much shorter that the peer's expansion guard would refuse them: the data then travels as it is.

    Raises:
        KeyError: for a name not in ``ALGORITHMS``; the caller has refused it by then.

    Source: msl-wire section 10.1.
    """
    pack = _COMPRESSORS[algorithm]
    if pack is _gzip and len(data) <= _OVERHEAD:
        return None
    if len(data) > _SMALL_BYTES and not _promising(data):
        return None
    packed = pack(data)
    if packed is None or len(packed) >= len(data) or len(data) > MAX_INFLATE_RATIO * len(packed):
        return None
    return packed


def uncompress(algorithm: str, data: bytes, max_ratio: int = MAX_INFLATE_RATIO) -> bytes:
    """Restore compressed data, stopping before the limit is exceeded.

    Args:
        algorithm: one of ``ALGORITHMS``.
        data: the compressed bytes.
        max_ratio: most bytes to produce per byte of ``data``, at least 1; ``MAX_INFLATED_BYTES`` holds besides.

    Returns:
        The data.

    Raises:
        MslError: UNCOMPRESSION_ERROR for corrupt or truncated input, trailing junk, or too much output.
        KeyError: for a name not in ``ALGORITHMS``; the caller has refused it by then.

    Source: msl-wire sections 10.1 to 10.3.
    """
    return _UNCOMPRESSORS[algorithm](data, min(max_ratio * len(data), MAX_INFLATED_BYTES))


def _promising(data: bytes) -> bool:
    """Tell from three samples whether large data shrinks: images and ciphertext would cost a millisecond in vain."""
    middle = len(data) // 2
    sample = data[:_SAMPLE_BYTES] + data[middle : middle + _SAMPLE_BYTES] + data[-_SAMPLE_BYTES:]
    return len(_gzip(sample)) < len(sample)


def _gzip(data: bytes) -> bytes:
    window, memory = _SMALL if len(data) <= _SMALL_BYTES else _LARGE
    # The stream object writes a zero modification time: equal data gives equal bytes.
    stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, window, memory)
    return stream.compress(data) + stream.flush()


def _gunzip(data: bytes, limit: int) -> bytes:
    produced = b""
    for _ in range(MAX_GZIP_MEMBERS):
        stream = zlib.decompressobj(_READ_WINDOW)
        room = limit - len(produced) + 1
        try:
            part = stream.decompress(data, room)
        except zlib.error:
            raise _refused("malformed GZIP data") from None
        if len(part) == room:
            raise _refused("uncompressed data exceeds the limit")
        if not stream.eof:
            raise _refused("GZIP data ends early")
        produced = produced + part if produced else part
        data = stream.unused_data
        if not data:
            return produced
    raise _refused("too many GZIP members")


def _lzw(data: bytes) -> bytes | None:
    return lzw.compress(data, len(data))


def _refused(detail: str) -> MslError:
    return MslError(ErrorCode.UNCOMPRESSION_ERROR, detail)


_COMPRESSORS = {"GZIP": _gzip, "LZW": _lzw}
_UNCOMPRESSORS = {"GZIP": _gunzip, "LZW": lzw.uncompress}
