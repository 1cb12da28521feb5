"""The trusted-services server: one request in, one response out, no state of clients kept (msl-engine section 8)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from hsm_msl.errors import (
    BackendError,
    ErrorCode,
    HsmMslError,
    MslError,
    StoreError,
    TruncatedMessageError,
    UsageError,
)
from hsm_msl.msl.context import MslContext
from hsm_msl.msl.message.error_header import encode_error_header
from hsm_msl.msl.message.header import MessageHeader, encode_header
from hsm_msl.msl.message.reader import MessageReader
from hsm_msl.msl.message.writer import MessageWriter
from hsm_msl.msl.response import NO_REQUIREMENTS, Requirements, build_response, check_requirements
from hsm_msl.msl.server_checks import check_received
from hsm_msl.msl.tokens.issuer import TokenIssuer, next_long, random_long
from hsm_msl.msl.tokens.service_token import ServiceToken
from hsm_msl.wire.limits import DEFAULT_CHUNK_BYTES


@dataclass(frozen=True, slots=True)
class Request:
    """What an application gets to see of a message.

    Attributes:
        payload: the application data.
        entity: the authenticated identity of the client.
        user: the authenticated user, or None.
        message_id: the message's ID.
        languages: languages the client prefers, best first.
        service_tokens: what the client sent along; contents only where this server has the keys.
    """

    payload: bytes
    entity: str
    user: str | None
    message_id: int
    languages: tuple[str, ...] = ()
    service_tokens: tuple[ServiceToken, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """What an application answers.

    Attributes:
        payload: the application data.
        text: whether the payload is UTF-8 text, so that no chunk splits a character.
        requirements: protection, user and service tokens the reply needs.
    """

    payload: bytes
    text: bool = False
    requirements: Requirements = NO_REQUIREMENTS


class RejectedError(HsmMslError):
    """Raised by an application to refuse the entity or the user of a request (msl-engine section 8, error).

    Args:
        subject: ``entity`` or ``user``.
        message: text for developers, without secrets.
    """

    def __init__(self, subject: str, message: str = "") -> None:
        if subject not in ("entity", "user"):
            raise UsageError("a rejection is of an entity or a user")
        super().__init__(message or f"{subject} rejected")
        self.subject = subject


Application = Callable[[Request], bytes | Reply]
"""One function from request to reply."""


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


_REJECTIONS = {
    ("entity", True): ErrorCode.MASTERTOKEN_REJECTED_BY_APP,
    ("entity", False): ErrorCode.ENTITY_REJECTED_BY_APP,
    ("user", True): ErrorCode.USERIDTOKEN_REJECTED_BY_APP,
    ("user", False): ErrorCode.USER_REJECTED_BY_APP,
}


class MslServer:
    """Answers requests of a trusted-services network.

    Safe to call from several threads: an exchange keeps its state to itself.

    Args:
        context: identity, keys, schemes and tokens of this server.
        application: called once per application message, never for handshakes.
        requirements: what every reply needs; checked before the application is called.
        events: hears what happens.
        chunk_bytes: application bytes per payload chunk of a reply.

    Raises:
        UsageError: the context cannot issue tokens, or is of a peer-to-peer network.
    """

    def __init__(
        self,
        context: MslContext,
        application: Application,
        *,
        requirements: Requirements = NO_REQUIREMENTS,
        events: ServerEvents | None = None,
        chunk_bytes: int = DEFAULT_CHUNK_BYTES,
    ) -> None:
        if context.issuer is None or context.peer_to_peer:
            raise UsageError("a trusted-services server needs a token issuer and no peer-to-peer network")
        self._context = context
        self._issuer: TokenIssuer = context.issuer
        self._application = application
        self._requirements = requirements
        self._events: ServerEvents = SilentEvents() if events is None else events
        self._chunk_bytes = chunk_bytes

    def handle(self, body: bytes) -> bytes:
        """Answer one request given whole.

        Args:
            body: everything the client sent.

        Returns:
            The response, or the error message the specification names; nothing for an error message received,
            which is never answered.

        Raises:
            BackendError: not even an error message can be protected, because the token is out of service.
        """
        reader = MessageReader(self._context)
        reader.feed(body)
        reader.end_input()
        header: MessageHeader | None = None
        try:
            received = reader.header()
            if not isinstance(received, MessageHeader):
                return b""
            header = received
            check_received(header, self._issuer, self._context.clock())
            payload = _payload(reader, header)
            if payload is None:
                return self._respond(header, Reply(b""), handshake=True)
            check_requirements(self._context, header, self._requirements)
            return self._respond(header, self._ask(header, payload))
        except MslError as error:
            self._events.refused(error, header)
            return self._error(reader.message_id, error.code, error.detail)
        except TruncatedMessageError as error:
            refusal = MslError(ErrorCode.MSL_PARSE_ERROR, str(error))
            self._events.refused(refusal, header)
            return self._error(reader.message_id, refusal.code, refusal.detail)
        except RejectedError as rejection:
            token = header is not None and (
                header.master_token if rejection.subject == "entity" else header.user_id_token
            )
            refusal = MslError(_REJECTIONS[rejection.subject, bool(token)], str(rejection))
            self._events.refused(refusal, header)
            return self._error(reader.message_id, refusal.code, refusal.detail)
        except (BackendError, StoreError) as error:
            self._events.failed(error, header)
            return self._error(reader.message_id, ErrorCode.INTERNAL_EXCEPTION, "temporarily out of service")
        except Exception as error:
            # An application's defect must not take the server down; the service logs it.
            self._events.failed(error, header)
            return self._error(reader.message_id, ErrorCode.INTERNAL_EXCEPTION, "internal error")

    def _ask(self, header: MessageHeader, payload: bytes) -> Reply:
        capabilities = header.capabilities
        answer = self._application(
            Request(
                payload,
                header.identity or "",
                header.user,
                header.message_id,
                capabilities.languages if capabilities is not None else (),
                header.service_tokens,
            )
        )
        return Reply(answer) if isinstance(answer, bytes) else answer

    def _respond(self, request: MessageHeader, reply: Reply, *, handshake: bool = False) -> bytes:
        context = self._context
        response = build_response(context, self._issuer, request, reply.requirements)
        encoded = encode_header(response, context.local.data.identity, int(context.clock()))
        self._events.answered(request, response)
        if handshake:
            # Deployed clients expect exactly one object here, as the reference sends it.
            return encoded
        writer = MessageWriter(response, chunk_bytes=self._chunk_bytes, text=reply.text)
        return encoded + writer.write(reply.payload) + writer.close()

    def _error(self, message_id: int | None, code: ErrorCode, detail: str) -> bytes:
        answer_id = random_long(self._context.random) if message_id is None else next_long(message_id)
        return encode_error_header(self._context, answer_id, code, f"{code.name}: {detail}" if detail else code.name)


def _payload(reader: MessageReader, header: MessageHeader) -> bytes | None:
    """Return the application data, or None for a handshake, flagged or inferred (msl-engine section 6)."""
    if header.handshake:
        return None
    offers_keys = header.renewable and bool(header.key_requests)
    try:
        payload = reader.payload()
    except TruncatedMessageError:
        if offers_keys and not reader.chunks_read:
            return None
        raise
    return None if offers_keys and not payload and reader.chunks_read == 1 else payload
