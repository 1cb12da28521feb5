"""Deterministic CBOR with limits: what is not the one encoding of its value is refused (RFC 8949 section 4.2)."""

from __future__ import annotations

from typing import NoReturn

import cbor2

from hsm_msl.dialog.errors import PacketError
from hsm_msl.dialog.names import MAX_DEPTH, MAX_ENTRIES


def _refuse_tag(*_: object) -> NoReturn:
    raise PacketError("CBOR tags are not part of the protocol")


# The library would act on these tags while decoding; none of them is part of the protocol.
_TAGS = dict.fromkeys(
    (0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799), _refuse_tag
)


def encode(item: object) -> bytes:
    """Return the deterministic encoding of ``item``."""
    return cbor2.dumps(item, canonical=True)


def decode(data: bytes) -> object:
    """Return the value of one deterministic CBOR item.

    Raises PacketError for anything else: trailing bytes, tags, indefinite lengths, duplicate or unsorted keys,
    integers longer than needed, floats, more than 8 levels or 64 map entries.
    """
    item = decode_loosely(data)
    _check(item)
    if cbor2.dumps(item, canonical=True) != data:
        raise PacketError("not deterministic CBOR")
    return item


def decode_loosely(data: bytes) -> object:
    """Return the value of one CBOR item; the caller proves that the encoding is the deterministic one.

    Raises PacketError for tags, indefinite lengths, duplicate keys and more than 8 levels.
    """
    try:
        item: object = cbor2.loads(
            data,
            max_depth=MAX_DEPTH,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            semantic_decoders=_TAGS,
        )
    except (cbor2.CBORError, ValueError, OverflowError, RecursionError) as error:
        raise PacketError("not CBOR within the limits") from error
    return item


def walk(data: bytes, most: int) -> None:
    """Refuse an item of many small ones before the decoder makes an object of each.

    Raises PacketError for more than ``most`` items; what else is wrong is left for the decoder to find.
    """
    position, seen, left = 0, 0, 1
    while left and position < len(data):
        seen += 1
        if seen > most:
            raise PacketError("not CBOR within the limits")
        major, low = data[position] >> 5, data[position] & 31
        position += 1
        if low >= 28:
            return
        size = 0 if low < 24 else 1 << (low - 24)
        value = int.from_bytes(data[position : position + size]) if size else low
        position += size
        left -= 1
        if major in (2, 3):
            position += value
        elif major in (4, 5):
            left += value * (major - 3)
        elif major == 6:
            left += 1


def _check(item: object) -> None:
    kind = type(item)
    if kind is dict and isinstance(item, dict):
        if len(item) > MAX_ENTRIES:
            raise PacketError("too many map entries")
        for key, value in item.items():
            if type(key) is not int:
                raise PacketError("map keys are integers")
            _check(value)
    elif kind is list and isinstance(item, list):
        for value in item:
            _check(value)
    elif kind not in (int, str, bytes, bool, type(None)):
        raise PacketError("value of a type that is not part of the protocol")


def head(major: int, length: int) -> bytes:
    """Return the shortest head of a CBOR item of a major type (RFC 8949 section 3)."""
    if length < 24:
        return bytes((major << 5 | length,))
    if length < 0x100:
        return bytes((major << 5 | 24, length))
    if length < 0x10000:
        return bytes((major << 5 | 25,)) + length.to_bytes(2)
    return bytes((major << 5 | 26,)) + length.to_bytes(4)
