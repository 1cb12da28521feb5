"""Receiving one message from bytes that arrive in any pieces (msl-wire section 3, msl-engine section 12)."""

from __future__ import annotations

from collections.abc import Sequence

from hsm_msl.errors import ErrorCode, MslError, TruncatedMessageError
from hsm_msl.msl.context import MslContext
from hsm_msl.msl.keyx.base import PendingKeyRequest
from hsm_msl.msl.message.decode import HeaderDecoder, SessionLookup
from hsm_msl.msl.message.error_header import ErrorHeader
from hsm_msl.msl.message.header import MessageHeader
from hsm_msl.msl.message.payload import FIRST_CHUNK_NUMBER, decode_chunk
from hsm_msl.wire.limits import MAX_INFLATED_BYTES
from hsm_msl.wire.tokenizer import Tokenizer


class MessageReader:
    """Read a header, then its chunks as they come.

    Feed bytes, ask for ``header()`` until it is there, then for ``chunk()``; tell ``end_input()`` at the end of the
    stream. What follows the message stays in the tokenizer for the next reader.

    Args:
        context: the receiving entity.
        sessions: contexts of master tokens issued by others; a server gives none.
        pending: our outstanding key requests, when this is a reply.
        tokenizer: the stream, when it carries several messages.
    """

    __slots__ = ("_decoder", "_ended", "_fed", "_finished", "_header", "_next_chunk", "_tokenizer")

    def __init__(
        self,
        context: MslContext,
        sessions: SessionLookup | None = None,
        pending: Sequence[PendingKeyRequest] = (),
        tokenizer: Tokenizer | None = None,
    ) -> None:
        self._decoder = HeaderDecoder(context, sessions, pending)
        self._tokenizer = Tokenizer() if tokenizer is None else tokenizer
        self._header: MessageHeader | ErrorHeader | None = None
        self._next_chunk = FIRST_CHUNK_NUMBER
        self._finished = False
        self._ended = False
        self._fed = 0

    @property
    def message_id(self) -> int | None:
        """The message's ID once it is known, also when the header is refused later."""
        return self._decoder.message_id

    @property
    def languages(self) -> tuple[str, ...]:
        """The sender's languages as far as they are known, also when the header is refused for something else."""
        stated = self._decoder.languages
        return tuple(tag for tag in stated if isinstance(tag, str)) if isinstance(stated, list) else ()

    @property
    def chunks_read(self) -> int:
        """How many chunks were read so far."""
        return self._next_chunk - FIRST_CHUNK_NUMBER

    @property
    def finished(self) -> bool:
        """Whether the message is complete: its last chunk was read, or it has none."""
        return self._finished

    @property
    def tokenizer(self) -> Tokenizer:
        """The stream, to read the next message from."""
        return self._tokenizer

    def feed(self, data: bytes) -> None:
        """Take bytes from the stream. Raises MslError MSL_PARSE_ERROR when an object grows too large."""
        self._fed += len(data)
        self._tokenizer.feed(data)

    def end_input(self) -> None:
        """Take note that the stream ended; what is missing now is missing for good."""
        self._ended = True

    def header(self) -> MessageHeader | ErrorHeader | None:
        """Return the header, or None while more bytes are needed.

        Raises:
            MslError: MESSAGE_DATA_MISSING for an empty stream, MSL_PARSE_ERROR, or any refusal of the header.
            BackendError, StoreError: no answer, which is no verdict about the sender.
        """
        if self._header is None:
            outer = self._tokenizer.next_object()
            if outer is None:
                if self._ended:
                    pending = self._tokenizer.pending
                    raise MslError(ErrorCode.MSL_PARSE_ERROR if pending else ErrorCode.MESSAGE_DATA_MISSING)
                return None
            self._header = self._decoder.decode(outer)
            self._finished = isinstance(self._header, ErrorHeader) or self._header.handshake
        return self._header

    def chunk(self) -> bytes | None:
        """Return the data of the next chunk (possibly empty), or None while more bytes are needed or all were read.

        Raises:
            MslError: the chunk is refused (msl-wire section 7).
            TruncatedMessageError: the stream ended before the last chunk.
            BackendError: a key operation did not happen.
        """
        header = self._header
        if self._finished or not isinstance(header, MessageHeader):
            return None
        outer = self._tokenizer.next_object()
        if outer is None:
            if not self._ended:
                return None
            if self._tokenizer.pending:
                raise MslError(ErrorCode.MSL_PARSE_ERROR, "the stream ends inside a chunk")
            raise TruncatedMessageError("the stream ended before the last chunk of the message")
        chunk = decode_chunk(header.payload_context, header.message_id, self._next_chunk, outer)
        self._next_chunk += 1
        self._finished = chunk.end_of_message
        return chunk.data

    def payload(self) -> bytes:
        """Return the data of every chunk at once, after ``end_input``. Raises as ``chunk`` and ``check_whole``."""
        parts = []
        size = 0
        while not self._finished:
            data = self.chunk()
            if data is None:
                break
            size += len(data)
            check_whole(size, self._fed)
            parts.append(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def check_whole(size: int, received: int) -> None:
    """Hold a payload that is kept in memory as a whole to what came, or to a limit where that is larger.

    Each chunk may be inflated by a ratio that is no matter for one of them and too much for all; a message in pieces
    needs no such limit.

    Args:
        size: bytes of the payload so far.
        received: bytes of the message as it came.

    Raises:
        MslError: UNCOMPRESSION_ERROR.
    """
    if size > max(received, MAX_INFLATED_BYTES):
        raise MslError(ErrorCode.UNCOMPRESSION_ERROR, "uncompressed payload exceeds the limit")
