"""Cutting application data into chunks: every size ends, in time that grows with the data (msl-engine section 12)."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from hsm_msl.crypto.null import NullContext
from hsm_msl.msl.message.header import MessageHeader
from hsm_msl.msl.message.writer import MessageWriter
from hsm_msl.wire.limits import DEFAULT_CHUNK_BYTES
from recorded_exchange import split

HEADER = MessageHeader(
    message_id=1,
    renewable=False,
    context=NullContext(),
    payload_context=NullContext(),
    encrypted=False,
    protects_integrity=False,
)


def pieces(body: bytes) -> list[bytes]:
    return [base64.b64decode(json.loads(base64.b64decode(chunk["payload"]))["data"]) for chunk in split(body)]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 100])
@pytest.mark.parametrize("data", ["a\u20ac\U0001f600\u00e9b".encode() * 5, b"\x80" * 20, b"\xe2\x82" * 9])
def test_text_is_cut_between_characters_where_a_chunk_holds_one(size: int, data: bytes) -> None:
    writer = MessageWriter(HEADER, chunk_bytes=size, text=True)
    found = pieces(writer.write(data) + writer.close())
    assert b"".join(found) == data
    assert all(0 < len(piece) <= size for piece in found)
    if size >= 4 and data.startswith(b"a"):
        for piece in found:
            piece.decode("utf-8")


class Counted(bytes):
    """Counts the bytes that are copied out of it."""

    copied = 0

    def __getitem__(self, key: Any) -> Any:
        part = super().__getitem__(key)
        if not isinstance(part, bytes):
            return part
        counted = Counted(part)
        Counted.copied += len(part)
        return counted


def test_a_long_payload_given_at_once_is_copied_once() -> None:
    """It was copied once per chunk, and 64 MB took a minute and a half."""
    data = Counted(8 * 1024 * 1024)
    MessageWriter(HEADER).write(data)
    assert len(data) - DEFAULT_CHUNK_BYTES <= Counted.copied <= len(data)


@pytest.mark.parametrize("text", ["\u00e9", "\u20ac", "\U0001f600", "a"])
def test_flushing_text_leaves_an_unfinished_character(text: str) -> None:
    data = b"x" + text.encode()
    for place in range(1, len(data) + 1):
        writer = MessageWriter(HEADER, text=True)
        first = pieces(writer.write(data[:place]) + writer.flush())
        assert first == [data if place == len(data) else b"x"]
        assert b"".join(first + pieces(writer.write(data[place:]) + writer.close())) == data
