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
        self._buffer = self._buffer + data if self._buffer else data
        out = []
        while len(self._buffer) > self._chunk_bytes:
            cut = self._cut()
            piece, self._buffer = self._buffer[:cut], self._buffer[cut:]
            out.append(self._emit(piece, end=False))
        return b"".join(out)

    def flush(self) -> bytes:
        """Return a chunk with what is buffered, or nothing when nothing is. Raises as ``write``."""
        if self._closed:
            raise UsageError("this message takes no more data")
        if not self._buffer:
            return b""
        piece, self._buffer = self._buffer, b""
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

    def _cut(self) -> int:
        cut = self._chunk_bytes
        if self._text:
            # A UTF-8 character starts at a byte that is not 10xxxxxx; at most three such bytes lie before it.
            while cut > self._chunk_bytes - 4 and self._buffer[cut] & 0xC0 == 0x80:
                cut -= 1
        return cut or self._chunk_bytes
