"""The trusted-services client as a sans-I/O conversation: it yields what to send and is sent what came back.

One call of ``MslClient.request`` sends one application message and returns its reply, however many request and
response pairs that takes: a handshake where nothing else can protect the data, renewal, recovery from errors
(msl-engine sections 4, 9 and 10).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from hsm_msl.crypto.context import CryptoContext
from hsm_msl.errors import ErrorCode, MslError, TruncatedMessageError, UsageError, sender_mismatch
from hsm_msl.msl.client_state import ClientState, Session
from hsm_msl.msl.context import MslContext
from hsm_msl.msl.conversation import (
    Conversation,
    Deliver,
    EntitySource,
    ErrorResponseError,
    KeyRequestSource,
    Message,
    Receive,
    Response,
    Send,
    SendConversation,
    SendStreamConversation,
    Sent,
    StreamConversation,
    Transmit,
    Wait,
)
from hsm_msl.msl.error_recovery import ErrorRecovery, no_new_entity
from hsm_msl.msl.keyx.base import PendingKeyRequest
from hsm_msl.msl.message.decode import SessionLookup
from hsm_msl.msl.message.error_header import ErrorHeader
from hsm_msl.msl.message.header import MessageHeader, encode_header
from hsm_msl.msl.message.reader import MessageReader, check_whole
from hsm_msl.msl.message.writer import MessageWriter
from hsm_msl.msl.recovery import Recovery
from hsm_msl.msl.renewal import RenewalLock
from hsm_msl.msl.request_shape import PayloadSource, shape_of
from hsm_msl.msl.token_choice import Choice, Plan, TokenChooser
from hsm_msl.msl.tokens.builder import ServiceTokenBuilder
from hsm_msl.msl.tokens.issuer import next_long, random_long
from hsm_msl.msl.tokens.master_token import MasterToken
from hsm_msl.msl.tokens.service_token import ServiceToken
from hsm_msl.msl.tokens.user_id_token import UserIdToken
from hsm_msl.wire.limits import DEFAULT_CHUNK_BYTES, MAX_MESSAGES

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Sent:
    """A request on its way."""

    header: MessageHeader
    pending: tuple[PendingKeyRequest, ...]
    session: Session | None

    def lookup(self, state: ClientState) -> SessionLookup:
        """Return how a reply's session is found; the one in use may have been replaced in the state meanwhile."""

        def find(token: MasterToken) -> CryptoContext | None:
            if self.session is not None and self.session.master_token.same_as(token):
                return self.session.context
            return state.find(token)

        return find


class MslClient:
    """Sends messages to one trusted-services network.

    Several conversations may run at once; the renewal lock orders the ones that change tokens.

    Args:
        context: identity, keys and schemes of this client.
        state: its tokens and counters.
        key_requests: makes key requests to offer.
        lock: the network's renewal lock.
        reauthenticate: gives entity data after an entity error; by default the same data again, and none for an
            error that asks for other data.
        expected_identity: entity the server must authenticate as, or None for any.
        renew_after_messages: ask for new session keys after this many messages under one master token; 0 for never.
        chunk_bytes: application bytes per payload chunk.

    Raises:
        UsageError: the context is of a peer-to-peer network.
    """

    def __init__(
        self,
        context: MslContext,
        state: ClientState,
        key_requests: KeyRequestSource,
        *,
        lock: RenewalLock | None = None,
        reauthenticate: EntitySource | None = None,
        expected_identity: str | None = None,
        renew_after_messages: int = 0,
        chunk_bytes: int = DEFAULT_CHUNK_BYTES,
    ) -> None:
        if context.peer_to_peer:
            raise UsageError("peers of a peer-to-peer network speak over PeerConnection")
        self._context = context
        self._state = state
        self._key_requests = key_requests
        self._lock = RenewalLock() if lock is None else lock
        self._recovery = ErrorRecovery(context, state, reauthenticate or no_new_entity(context.local))
        self._expected_identity = expected_identity
        self._chooser = TokenChooser(state, self._lock, context.clock, renew_after_messages)
        self._chunk_bytes = chunk_bytes

    def request(self, message: Message) -> Conversation:
        """Send a message and receive its reply, each request and answer as a whole.

        Yields:
            ``Send`` and ``Wait`` steps for the driver.

        Returns:
            The reply.

        Raises:
            As ``stream``.
        """
        response, payload = yield from _whole(self.stream(message))
        return replace(response, payload=payload)

    def send(self, message: Message) -> SendConversation:
        """Send a message as a whole and read no reply. Raises as ``send_stream``.

        Yields:
            ``Send`` and ``Wait`` steps for the driver.

        Returns:
            What was sent.
        """
        sent, _ = yield from _whole(self.send_stream(message))
        return sent

    def stream(self, message: Message) -> StreamConversation:
        """Send a message and receive its reply piece by piece.

        Yields:
            ``Transmit``, ``Receive``, ``Deliver`` and ``Wait`` steps for the driver.

        Returns:
            The reply's header and account; its data was delivered.

        Raises:
            ErrorResponseError: the server's error stands.
            MslError: a reply is refused; nothing is sent about it.
            TruncatedMessageError: a reply ended early.
            BackendError, StoreError: no answer from a key or the state.
        """
        requests: list[MessageHeader] = []
        sent = PayloadSource(message.payload)
        answered = yield from self._exchange(replace(message, payload=sent.pieces), requests, eager=True)
        if answered is None:
            raise UsageError("a request without a reply")
        reader, header = answered
        yield from _deliver(reader, header, lambda: sent.empty and _offers_keys(requests[-1]))
        return Response(b"", header, len(requests), tuple(requests))

    def send_stream(self, message: Message) -> SendStreamConversation:
        """Send a message and read no reply (msl-engine section 4.6): that it was refused nobody will know.

        Only what the message cannot be sent without is asked for first, by a handshake whose answer is read; new
        tokens that an unread reply would bring are not, since they would be lost.

        Yields:
            ``Transmit``, ``Wait`` and, for a handshake, ``Receive`` steps for the driver.

        Returns:
            What was sent.

        Raises:
            As ``stream``, for the handshake.
        """
        requests: list[MessageHeader] = []
        yield from self._exchange(replace(message, request_tokens=False), requests, eager=False)
        return Sent(tuple(requests))

    def _exchange(
        self, message: Message, requests: list[MessageHeader], *, eager: bool
    ) -> Generator[Transmit | Receive | Wait, bytes | None, tuple[MessageReader, MessageHeader] | None]:
        """Send a message, however many pairs that takes, and return its reply's reader and header.

        Args:
            message: what to send.
            requests: takes the header of each request.
            eager: ask for new tokens when they are due, and read the reply; without, None is returned.
        """
        plan = Plan(Recovery(), self._context.local)
        failure: ErrorHeader | None = None
        while 2 * len(requests) + 2 <= MAX_MESSAGES:
            outcome: MasterToken | None = None
            choice = yield from self._chooser.choose(message, plan, eager=eager)
            try:
                sent, encoded = self._assemble(message, plan, choice, ask_first=choice.owned and not eager)
                requests.append(sent.header)
                yield Transmit(self._pieces(message, sent.header, encoded))
                if not (eager or sent.header.handshake):
                    return None
                reader = MessageReader(self._context, sent.lookup(self._state), sent.pending)
                header = yield from _header(reader)
                if isinstance(header, ErrorHeader):
                    failure = header
                    self._recovery.check_id(sent.header, header)
                    self._check_sender(header)
                    repeated = self._recovery.plan(message, sent.header, header)
                    if repeated is None:
                        break
                    plan = repeated
                    continue
                self._accept(message, sent, header)
                outcome = header.key_response.master_token if header.key_response else header.master_token
                if sent.header.handshake:
                    plan = Plan(Recovery(), plan.local, next_long(header.message_id))
                    continue
            finally:
                if choice.owned:
                    self._lock.release(outcome)
            return reader, header
        if failure is None:
            raise MslError(ErrorCode.KEYX_MASTER_TOKEN_MISSING, "no handshake brought session keys")
        raise ErrorResponseError(failure)

    def _pieces(self, message: Message, header: MessageHeader, encoded: bytes) -> Iterator[bytes]:
        yield encoded
        if header.handshake:
            return
        writer = MessageWriter(header, chunk_bytes=self._chunk_bytes)
        for piece in PayloadSource(message.payload).pieces():
            yield writer.write(piece)
        yield writer.close()

    def _assemble(self, message: Message, plan: Plan, choice: Choice, *, ask_first: bool) -> tuple[_Sent, bytes]:
        """Build the request (msl-engine section 4.3); ``ask_first`` makes it a handshake, whatever it could carry."""
        context = self._context
        session, user_id_token, token = choice.session, choice.user_id_token, choice.master_token
        shape = shape_of(
            message,
            plan,
            choice,
            user_id_token,
            chooser=self._chooser,
            key_requests=self._key_requests,
            ask_first=ask_first,
        )
        crypto = plan.local.context if session is None else session.context
        header = MessageHeader(
            message_id=random_long(context.random) if plan.message_id is None else plan.message_id,
            renewable=choice.owned,
            context=crypto,
            payload_context=crypto,
            encrypted=shape.encrypts,
            protects_integrity=shape.protects_integrity,
            entity_auth=plan.local.data if token is None else None,
            master_token=token,
            handshake=shape.handshake,
            non_replayable_id=(
                self._state.next_non_replayable_id(token)
                if message.non_replayable and token is not None and not shape.handshake
                else None
            ),
            capabilities=context.capabilities,
            key_requests=tuple(request.request for request in shape.pending),
            user_id_token=user_id_token,
            user_auth=shape.user_auth,
            service_tokens=self._service_tokens(message, token, user_id_token, handshake=shape.handshake),
        )
        self._state.store_service_tokens(header.service_tokens, (token, user_id_token))
        encoded = encode_header(header, context.local.data.identity, int(context.clock()))
        if token is not None:
            self._state.count_message(token)
        return _Sent(header, shape.pending, session), encoded

    def _service_tokens(
        self, message: Message, token: MasterToken | None, user_id_token: UserIdToken | None, *, handshake: bool
    ) -> tuple[ServiceToken, ...]:
        tokens = self._state.service_tokens(token, user_id_token)
        if message.service_tokens is None:
            return tokens
        keys = self._context.service_token_keys
        builder = ServiceTokenBuilder(tokens, keys, token, user_id_token, handshake=handshake)
        message.service_tokens(builder)
        return builder.tokens

    def _check_sender(self, header: MessageHeader | ErrorHeader) -> None:
        expected = self._expected_identity
        if expected is None or header.entity_auth is None:
            # Under a master token the session keys bind the reply to the server; there is nothing to compare.
            return
        if header.entity_auth.identity != expected:
            raise sender_mismatch(header.entity_auth.identity, expected)

    def _accept(self, message: Message, sent: _Sent, header: MessageHeader) -> None:
        """Take what a reply brings, in the order of msl-engine section 9."""
        if header.message_id != next_long(sent.header.message_id):
            raise MslError(ErrorCode.UNEXPECTED_RESPONSE_MESSAGE_ID)
        self._check_sender(header)
        token = sent.header.master_token
        if header.key_response is not None:
            new = Session(header.key_response.master_token, header.payload_context, header.session_keys)
            self._state.add_session(new, token)
            # What the reply brings is bound to it; another process with this store may have replaced it already.
            token = new.master_token
        if message.user is not None and header.user_id_token is not None and not header.user_id_token.verified:
            self._state.add_user_id_token(message.user, header.user_id_token, token)
        self._state.store_service_tokens(
            header.service_tokens, (token, header.user_id_token or sent.header.user_id_token)
        )
        if header.timestamp is not None:
            self._state.update_remote_time(header.timestamp, self._context.clock())


def _whole(
    conversation: Generator[Transmit | Receive | Deliver | Wait, bytes | None, _T],
) -> Generator[Send | Wait, bytes | None, tuple[_T, bytes]]:
    """Run a conversation with bodies as a whole; returns its outcome and what it delivered."""
    answer: bytes | None = None
    delivered: list[bytes] = []
    size = received = 0
    try:
        step = next(conversation)
        while True:
            reply: bytes | None = None
            if isinstance(step, Transmit):
                answer = yield Send(b"".join(step.pieces))
            elif isinstance(step, Receive):
                reply, answer = answer or b"", b""
                received += len(reply)
            elif isinstance(step, Deliver):
                size += len(step.data)
                check_whole(size, received)
                delivered.append(step.data)
            else:
                yield step
            step = conversation.send(reply)
    except StopIteration as done:
        outcome: _T = done.value
        return outcome, b"".join(delivered)
    finally:
        # Also when the driver gives up in the middle: the renewal lock must be let go.
        conversation.close()


def _header(reader: MessageReader) -> Generator[Receive, bytes | None, MessageHeader | ErrorHeader]:
    while True:
        header = reader.header()
        if header is not None:
            return header
        data = yield Receive()
        if data:
            reader.feed(data)
        else:
            reader.end_input()


def _offers_keys(header: MessageHeader) -> bool:
    """Tell whether the reference server takes this request for a handshake of an older client if it is empty.

    It then answers with a header alone (msl-engine section 6).
    """
    return header.renewable and bool(header.key_requests)


def _deliver(
    reader: MessageReader, header: MessageHeader, may_lack_chunks: Callable[[], bool]
) -> Generator[Receive | Deliver, bytes | None, None]:
    while not reader.finished:
        try:
            piece = reader.chunk()
        except TruncatedMessageError:
            if not reader.chunks_read and may_lack_chunks():
                return
            raise
        if piece:
            yield Deliver(header, piece)
        elif piece is None and not reader.finished:
            data = yield Receive()
            if data:
                reader.feed(data)
            else:
                reader.end_input()


__all__ = ["ErrorResponseError", "Message", "MslClient", "Response", "Send", "Wait"]
