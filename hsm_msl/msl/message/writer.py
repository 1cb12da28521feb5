"""Sending the payload of one message in chunks (msl-engine section 12)."""

from __future__ import annotations

from hsm_msl.errors import UsageError
from hsm_msl.msl.message.header import MessageHeader
from hsm_msl.msl.message.payload import FIRST_CHUNK_NUMBER, encode_chunk
from hsm_msl.wire.limits import DEFAULT_CHUNK_BYTES


class MessageWriter:
    """Turn application data into chunks.

    Args:
        header: the message's header, already sent.
        chunk_bytes: how much data a chunk carries at most.
        text: whether the data is UTF-8 text, which is then cut between characters only.
    """

    __slots__ = ("_algorithm", "_buffer", "_chunk_bytes", "_closed", "_header", "_next_chunk", "_text")

    def __init__(self, header: MessageHeader, *, chunk_bytes: int = DEFAULT_CHUNK_BYTES, text: bool = False) -> None:
        self._header = header
        capabilities = header.capabilities
        self._algorithm = None if capabilities is None else capabilities.preferred_compression()
        self._chunk_bytes = chunk_bytes
        self._text = text
        self._buffer = b""
        self._next_chunk = FIRST_CHUNK_NUMBER
        # A handshake carries no payload at all.
        self._closed = header.handshake

    def write(self, data: bytes) -> bytes:
        """Take data and return the chunks that became full.

        Raises:
            UsageError: the message is closed or carries no payload.
            MslError, BackendError: a chunk could not be protected.
        """
        if self._closed:
            raise UsageError("this message takes no more data")
        data = self._buffer + data if self._buffer else data
        out = []
        start = 0
        # One copy per chunk and one of the rest: a payload given at once costs what it costs in pieces.
        while len(data) - start > self._chunk_bytes:
            end = self._cut(data, start)
            out.append(self._emit(data[start:end], end=False))
            start = end
        self._buffer = data[start:]
        return b"".join(out)

    def flush(self) -> bytes:
        """Return a chunk with what is buffered, or nothing when nothing is. Raises as ``write``.

        Of text, a character whose end has not been written yet stays in the buffer.
        """
        if self._closed:
            raise UsageError("this message takes no more data")
        end = len(self._buffer) - (_unfinished(self._buffer) if self._text else 0)
        if not end:
            return b""
        piece, self._buffer = self._buffer[:end], self._buffer[end:]
        return self._emit(piece, end=False)

    def close(self, last: bytes = b"") -> bytes:
        """Return the last chunk, empty if nothing is buffered; a second call returns nothing. Raises as ``write``.

        Args:
            last: the end of the data, for a writer with nothing buffered; not more than a chunk holds.
        """
        if self._closed:
            return b""
        self._closed = True
        piece, self._buffer = self._buffer or last, b""
        return self._emit(piece, end=True)

    def _emit(self, data: bytes, *, end: bool) -> bytes:
        header = self._header
        chunk = encode_chunk(
            header.payload_context, header.message_id, self._next_chunk, data, end=end, algorithm=self._algorithm
        )
        self._next_chunk += 1
        return chunk

    def _cut(self, data: bytes, start: int) -> int:
        """Return where the chunk that begins at ``start`` ends."""
        end = start + self._chunk_bytes
        if self._text:
            # A UTF-8 character starts at a byte that is not 10xxxxxx; at most three such bytes lie before it.
            for place in range(end, max(start, end - 4), -1):
                if data[place] & 0xC0 != 0x80:
                    return place
        return end


def _unfinished(text: bytes) -> int:
    """Return how many bytes at the end begin a UTF-8 character that is not complete."""
    for held in range(1, min(len(text), 3) + 1):
        byte = text[-held]
        if byte & 0xC0 != 0x80:
            size = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
            return held if held < size else 0
    return 0
