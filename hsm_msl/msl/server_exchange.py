"""One request and its response at a trusted-services server, with bytes in and bytes out as they come.

The exchange decides what the protocol decides; the application's part begins when ``receive`` says ``REQUEST``.
Whatever goes wrong on the way becomes an error message through ``failure``, in one place (msl-engine section 8).
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Protocol

from hsm_msl.errors import (
    BackendError,
    ErrorCode,
    MslError,
    RequestLostError,
    StoreError,
    TruncatedMessageError,
    UsageError,
)
from hsm_msl.msl.application import RejectedError, rejection_code
from hsm_msl.msl.context import MslContext
from hsm_msl.msl.message.error_header import encode_error_header
from hsm_msl.msl.message.header import MessageHeader, encode_header
from hsm_msl.msl.message.reader import MessageReader
from hsm_msl.msl.message.writer import MessageWriter
from hsm_msl.msl.response import NO_REQUIREMENTS, Requirements, build_push, build_response, check_requirements
from hsm_msl.msl.server_checks import check_received
from hsm_msl.msl.tokens.issuer import TokenIssuer, next_long, random_long
from hsm_msl.wire.limits import DEFAULT_CHUNK_BYTES
from hsm_msl.wire.tokenizer import Tokenizer


class ServerEvents(Protocol):
    """Hears what a server did; for logs, metrics and audit. Must not raise."""

    def answered(self, request: MessageHeader, response: MessageHeader) -> None:
        """Hear of a response."""

    def refused(self, error: MslError, request: MessageHeader | None) -> None:
        """Hear of a message answered with an MSL error."""

    def failed(self, error: Exception, request: MessageHeader | None) -> None:
        """Hear of an outage or a defect on this side; the client was told to try again later."""


class SilentEvents:
    """Listen to nothing."""

    def answered(self, request: MessageHeader, response: MessageHeader) -> None:
        """Do nothing."""

    def refused(self, error: MslError, request: MessageHeader | None) -> None:
        """Do nothing."""

    def failed(self, error: Exception, request: MessageHeader | None) -> None:
        """Do nothing."""


class Stage(Enum):
    """What the exchange needs next."""

    MORE_INPUT = auto()
    REQUEST = auto()
    """The application may ``read`` and ``respond``."""
    HANDSHAKE = auto()
    """Answer with ``respond_to_handshake``; the application sees nothing."""
    NO_ANSWER = auto()
    """An error message came in; it is never answered."""


class ServerExchange:
    """One exchange. Feed it, ask for its stage, then read the payload and respond.

    Args:
        context: the server.
        issuer: its token factory.
        requirements: what every reply needs.
        events: hears what happens.
        chunk_bytes: application bytes per payload chunk of the reply.
        tokenizer: the stream, on a connection that carries several messages.
    """

    __slots__ = (
        "_chunk_bytes",
        "_context",
        "_events",
        "_first",
        "_issuer",
        "_reader",
        "_requirements",
        "_writer",
        "header",
    )

    def __init__(
        self,
        context: MslContext,
        issuer: TokenIssuer,
        *,
        requirements: Requirements = NO_REQUIREMENTS,
        events: ServerEvents | None = None,
        chunk_bytes: int = DEFAULT_CHUNK_BYTES,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        self._context = context
        self._issuer = issuer
        self._requirements = requirements
        self._events: ServerEvents = SilentEvents() if events is None else events
        self._chunk_bytes = chunk_bytes
        self._reader = MessageReader(context, tokenizer=tokenizer)
        self._first: bytes | None = None
        self._writer: MessageWriter | None = None
        self.header: MessageHeader | None = None

    def feed(self, data: bytes) -> None:
        """Take bytes of the request."""
        self._reader.feed(data)

    def end_input(self) -> None:
        """Take note that the request has ended."""
        self._reader.end_input()

    def receive(self) -> Stage:
        """Decode and check what has arrived, up to the point where somebody must act.

        Raises:
            MslError: the request is refused; give it to ``failure``.
            TruncatedMessageError: the request ended early.
            BackendError, StoreError: no answer.
        """
        header = self.header
        if header is None:
            received = self._reader.header()
            if received is None:
                return Stage.MORE_INPUT
            if not isinstance(received, MessageHeader):
                return Stage.NO_ANSWER
            header = self.header = received
            check_received(header, self._issuer, self._context.clock())
        if header.handshake:
            return Stage.HANDSHAKE
        if not header.handshake_stated and header.renewable and header.key_requests and self._first is None:
            # The oldest clients send no flag: an empty message that offers keys is a handshake (msl-engine section
            # 6). From all others it is a message of the application's that happens to be empty.
            try:
                self._first = self._reader.chunk()
            except TruncatedMessageError:
                return Stage.HANDSHAKE
            if self._first is None:
                return Stage.MORE_INPUT
            if not self._first and self._reader.finished:
                return Stage.HANDSHAKE
        check_requirements(self._context, header, self._requirements)
        return Stage.REQUEST

    def read(self) -> bytes | None:
        """Return the data of the next chunk, or None while more input is needed or when all was read (``complete``).

        Raises:
            MslError, TruncatedMessageError, BackendError: as ``receive``.
        """
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return self._reader.chunk()

    def payload(self) -> bytes:
        """Return the whole payload, after ``end_input``. Raises as ``read``."""
        rest = b"" if self._reader.finished else self._reader.payload()
        if self._first is None:
            return rest
        return self._first + rest if rest else self._first

    @property
    def complete(self) -> bool:
        """Whether the whole payload was read."""
        return self._reader.finished and not self._first

    def respond_to_handshake(self) -> bytes:
        """Return the answer to a handshake: a header alone, the one object deployed clients expect.

        Raises:
            MslError, BackendError, StoreError: give it to ``failure``.
        """
        return self._respond(NO_REQUIREMENTS)[1]

    def respond(self, requirements: Requirements = NO_REQUIREMENTS, *, text: bool = False) -> bytes:
        """Return the header of the response; ``write`` and ``close`` give its payload.

        Args:
            requirements: what this reply needs, beside what every reply needs.
            text: whether the payload is UTF-8 text, so that no chunk splits a character.

        Raises:
            MslError, BackendError, StoreError: give it to ``failure``.
        """
        response, encoded = self._respond(self._requirements | requirements)
        self._writer = MessageWriter(response, chunk_bytes=self._chunk_bytes, text=text)
        return encoded

    def reply(self, payload: bytes, requirements: Requirements = NO_REQUIREMENTS, *, text: bool = False) -> bytes:
        """Return a whole response. Raises as ``respond``.

        Args:
            payload: the application data.
            requirements: what this reply needs, beside what every reply needs.
            text: whether the payload is UTF-8 text.
        """
        response, encoded = self._respond(self._requirements | requirements)
        writer = MessageWriter(response, chunk_bytes=self._chunk_bytes, text=text)
        if len(payload) <= self._chunk_bytes:
            return encoded + writer.close(payload)
        return encoded + writer.write(payload) + writer.close()

    def push(self, requirements: Requirements = NO_REQUIREMENTS, *, text: bool = False) -> bytes:
        """Return the header of a message sent unasked on the same connection; may be called again after ``close``.

        Args:
            requirements: what the message needs.
            text: whether the payload is UTF-8 text.

        Raises:
            UsageError: there is no request yet.
            MslError, BackendError: give it to ``failure``.
        """
        if self.header is None:
            raise UsageError("there is no request that opened the connection")
        header = build_push(self._context, self.header, requirements)
        encoded = encode_header(header, self._context.local.data.identity, int(self._context.clock()))
        self._writer = MessageWriter(header, chunk_bytes=self._chunk_bytes, text=text)
        return encoded

    def write(self, data: bytes) -> bytes:
        """Return the chunks that became full. Raises UsageError before ``respond``, MslError, BackendError."""
        if self._writer is None:
            raise UsageError("respond first")
        return self._writer.write(data)

    def flush(self) -> bytes:
        """Return a chunk of what is buffered. Raises as ``write``."""
        if self._writer is None:
            raise UsageError("respond first")
        return self._writer.flush()

    def close(self) -> bytes:
        """Return the last chunk. Raises as ``write``."""
        if self._writer is None:
            raise UsageError("respond first")
        return self._writer.close()

    def failure(self, error: Exception) -> bytes:
        """Return the error message that says ``error`` to the client.

        A token or store that gave no answer is a transient failure, never a verdict about the client.

        Raises:
            BackendError: not even this message can be protected.
        """
        if isinstance(error, MslError):
            return self._refuse(error)
        if isinstance(error, TruncatedMessageError):
            return self._refuse(MslError(ErrorCode.MSL_PARSE_ERROR, str(error)))
        if isinstance(error, RequestLostError):
            return self._refuse(MslError(ErrorCode.MSL_COMMS_FAILURE, str(error)))
        if isinstance(error, RejectedError):
            return self._refuse(MslError(rejection_code(error, self.header), str(error)))
        self._events.failed(error, self.header)
        outage = isinstance(error, BackendError | StoreError)
        text = "temporarily out of service" if outage else "internal error"
        return self._error(ErrorCode.INTERNAL_EXCEPTION, text)

    def _respond(self, requirements: Requirements) -> tuple[MessageHeader, bytes]:
        if self.header is None:
            raise UsageError("there is no request to respond to")
        context = self._context
        response = build_response(context, self._issuer, self.header, requirements)
        encoded = encode_header(response, context.local.data.identity, int(context.clock()))
        self._events.answered(self.header, response)
        return response, encoded

    def _refuse(self, error: MslError) -> bytes:
        self._events.refused(error, self.header)
        return self._error(error.code, error.detail)

    def _error(self, code: ErrorCode, detail: str) -> bytes:
        context = self._context
        known = self._reader.message_id
        answer_id = random_long(context.random) if known is None else next_long(known)
        user_text = None if context.user_text is None else context.user_text(code, self._reader.languages)
        text = f"{code.name}: {detail}" if detail else code.name
        return encode_error_header(context, answer_id, code, text, user_text)
