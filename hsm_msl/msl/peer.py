"""Peer-to-peer: two entities that issue tokens for each other, over one connection (msl-engine section 11).

Every operation is a conversation like the client's: it yields ``Transmit``, ``Receive`` and ``Wait`` steps, and the
driver moves bytes over the one connection. A connection does one thing at a time, in turn with the other end; only
``read`` may go on while the answer is being transmitted, so that one message can be made of the other as it comes.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

from hsm_msl.errors import (
    BackendError,
    ErrorCode,
    MslError,
    StoreError,
    TruncatedMessageError,
    UsageError,
    sender_mismatch,
)
from hsm_msl.msl.client_state import ClientState, Session
from hsm_msl.msl.context import MslContext
from hsm_msl.msl.conversation import (
    Deliver,
    EntitySource,
    ErrorResponseError,
    KeyRequestSource,
    Message,
    Receive,
    Transmit,
    Wait,
)
from hsm_msl.msl.error_recovery import ErrorRecovery, no_new_entity
from hsm_msl.msl.message.error_header import ErrorHeader, encode_error_header
from hsm_msl.msl.message.header import MessageHeader
from hsm_msl.msl.message.reader import MessageReader
from hsm_msl.msl.message_stream import MessageStream, Received, Whole
from hsm_msl.msl.peer_message import BARE, Outgoing, PeerMessageBuilder, PeerTokens, must_be_answered
from hsm_msl.msl.recovery import Recovery
from hsm_msl.msl.renewal import RenewalLock
from hsm_msl.msl.server_checks import check_received
from hsm_msl.msl.token_choice import Choice, Plan, ShownTokens, TokenChooser
from hsm_msl.msl.tokens.issuer import TokenIssuer, next_long, random_long
from hsm_msl.msl.tokens.master_token import MasterToken, session_context
from hsm_msl.wire.limits import DEFAULT_CHUNK_BYTES, MAX_MESSAGES

Steps = Transmit | Receive | Wait


@dataclass(frozen=True, slots=True)
class _Turn:
    """A message of ours and what came back; ``reader`` gives the payload."""

    sent: MessageHeader
    reply: MessageHeader | ErrorHeader | None
    reader: MessageReader


class PeerConnection:
    """One connection to one peer.

    Args:
        context: this entity, of a peer-to-peer network.
        state: the tokens this peer issued to us; kept from connection to connection.
        key_requests: makes key requests to offer.
        lock: the renewal lock of this state.
        reauthenticate: gives entity data after an entity error.
        expected_identity: whom the peer must be, or None for any.
        held: what the peer held at the end of an earlier connection, so that it need not ask for new keys.
        renew_after_messages: ask for new session keys after this many messages under one master token; 0 for never.
        chunk_bytes: application bytes per payload chunk.

    Raises:
        UsageError: the context is not of a peer-to-peer network, or cannot issue tokens.
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
        held: PeerTokens | None = None,
        renew_after_messages: int = 0,
        chunk_bytes: int = DEFAULT_CHUNK_BYTES,
    ) -> None:
        if context.issuer is None or not context.peer_to_peer:
            raise UsageError("a peer needs a token issuer and a peer-to-peer network")
        self._context = context
        self._issuer: TokenIssuer = context.issuer
        self._state = state
        self._lock = RenewalLock() if lock is None else lock
        self._chooser = TokenChooser(state, self._lock, context.clock, renew_after_messages)
        self._recovery = ErrorRecovery(context, state, reauthenticate or no_new_entity(context.local))
        self._expected_identity = expected_identity
        self._builder = PeerMessageBuilder(context, self._issuer, state, self._chooser, key_requests, chunk_bytes)
        # Whoever sends us something uses a master token of ours, so nothing else is looked up.
        self._stream = MessageStream(context)
        self._reader: MessageReader | None = None
        self._first = b""
        self._transmitting = False
        self._held = PeerTokens() if held is None else held

    @property
    def held(self) -> PeerTokens:
        """What the peer holds of ours, for the next connection."""
        return self._held

    @property
    def lost(self) -> bool:
        """Whether no further message can be read on this connection."""
        return self._stream.lost

    def request(self, message: Message) -> Generator[Steps, bytes | None, Received]:
        """Send a message and receive its reply as a whole. Raises as ``stream`` and ``check_whole``."""
        conversation = self.stream(message)
        whole = Whole(self._stream)
        data: bytes | None = None
        try:
            while True:
                step = conversation.send(data)
                data = None
                if isinstance(step, Deliver):
                    whole.take(step.data)
                else:
                    data = yield step
        except StopIteration as done:
            received: Received = done.value
            return replace(received, payload=whole.data)
        finally:
            # Also when the driver gives up in the middle: the renewal lock must be let go.
            conversation.close()

    def stream(self, message: Message) -> Generator[Steps | Deliver, bytes | None, Received]:
        """Send a message and receive its reply piece by piece.

        The reply may begin while the message is still being transmitted.

        Returns:
            The reply; its data was delivered.

        Raises:
            ErrorResponseError: the peer's error stands.
            MslError, TruncatedMessageError: a reply is refused; nothing is sent about it.
            BackendError, StoreError: no answer from a key or the state.
        """
        plan, current, answering = Plan(Recovery(), self._context.local), message, None
        failure: ErrorHeader | None = None
        for _ in range(MAX_MESSAGES // 2):
            turn = yield from self._turn(current, plan, answering, renew=current is not BARE)
            if isinstance(turn.reply, ErrorHeader):
                failure = turn.reply
                repeated = self._recovery.plan(current, turn.sent, failure)
                if repeated is None:
                    break
                plan, answering = repeated, None
                continue
            reply = _message(turn)
            plan, answering = self._next(reply), reply
            if turn.sent.handshake:
                # The answer to a handshake carries no data; ours goes out now.
                continue
            if reply.handshake:
                # The peer cannot send its data yet: bring its keys and wait once more.
                current = BARE
                continue
            yield from self._stream.deliver(turn.reader, reply)
            if must_be_answered(reply):
                yield from self._turn(BARE, plan, answering, renew=False, awaits=False)
            return Received(reply)
        if failure is None:
            raise MslError(ErrorCode.KEYX_MASTER_TOKEN_MISSING, "no handshake brought session keys")
        raise ErrorResponseError(failure)

    def send(self, message: Message) -> Generator[Steps, bytes | None, MessageHeader]:
        """Send a message for which no reply is read (msl-engine section 4.6).

        Only what the message cannot be sent without is asked for first, by a handshake whose answer is read.

        Returns:
            The header that carried the message.

        Raises:
            As ``stream``, for the handshake.
        """
        message = replace(message, request_tokens=False)
        plan, answering = Plan(Recovery(), self._context.local), None
        failure: ErrorHeader | None = None
        for _ in range(MAX_MESSAGES // 2):
            turn = yield from self._turn(message, plan, answering, awaits=None, eager=False)
            if turn.reply is None:
                return turn.sent
            if isinstance(turn.reply, ErrorHeader):
                failure = turn.reply
                repeated = self._recovery.plan(message, turn.sent, failure)
                if repeated is None:
                    break
                plan, answering = repeated, None
                continue
            plan, answering = self._next(turn.reply), turn.reply
        if failure is None:
            raise MslError(ErrorCode.KEYX_MASTER_TOKEN_MISSING, "no handshake brought session keys")
        raise ErrorResponseError(failure)

    def receive(self) -> Generator[Steps, bytes | None, Received | None]:
        """Receive a message as a whole; handshakes are answered on the way.

        Returns:
            The message, to be answered with ``respond``, or None when the peer has closed the connection.

        Raises:
            As ``accept``, ``read`` and ``check_whole``.
        """
        message = yield from self.accept()
        if message is None:
            return None
        whole = Whole(self._stream)
        while piece := (yield from self.read()):
            try:
                whole.take(piece)
            except MslError as error:
                yield self._refusal(message.header.message_id, error, _languages(message.header))
                raise
        return replace(message, payload=whole.data)

    def accept(self) -> Generator[Steps, bytes | None, Received | None]:
        """Receive the beginning of a message, whose payload ``read`` gives; handshakes are answered on the way.

        Returns:
            The message, to be answered with ``respond``, or None when the peer has closed the connection.

        Raises:
            ErrorResponseError: the peer sent an error.
            MslError, TruncatedMessageError: the message was refused, and the peer was told so.
            BackendError, StoreError: no answer from a key or the state; the peer was told to try again later.
        """
        if (yield from self._stream.at_end()):
            return None
        reader = self._stream.reader()
        try:
            received = yield from self._stream.header(reader)
            if isinstance(received, ErrorHeader):
                raise ErrorResponseError(received)
            self._accept(BARE, None, received)
        except (MslError, TruncatedMessageError, BackendError, StoreError) as error:
            yield self._refusal(reader.message_id, error, reader.languages)
            raise
        for _ in range((MAX_MESSAGES - 1) // 2):
            if not (yield from self._begin(reader, received)):
                # The application's to answer, whatever keys and tokens it asks for besides: an answer of our own
                # would take the message ID of the application's (msl-engine section 11).
                return Received(received)
            turn = yield from self._turn(BARE, self._next(received), received, tells=True)
            if isinstance(turn.reply, ErrorHeader):
                raise ErrorResponseError(turn.reply)
            reader, received = turn.reader, _message(turn)
        raise MslError(ErrorCode.HANDSHAKE_DATA_MISSING, "handshakes without end")

    def read(self) -> Generator[Steps, bytes | None, bytes]:
        """Return the next piece of the message accepted last, or empty bytes at its end.

        Raises:
            MslError, TruncatedMessageError: the rest is refused. The peer was told so, unless an answer was being
                transmitted, which must be cut short then.
            BackendError: a key operation did not happen; likewise.
            UsageError: the peer's next message was looked for meanwhile, as an answer does that has to wait for keys
                or is sent again. Such an answer must not be made of what is still to be read.
        """
        first, self._first = self._first, b""
        reader = self._reader
        if first or reader is None or reader.finished:
            return first
        if not self._stream.reads(reader):
            raise UsageError("what was left of the message has been passed over")
        try:
            return (yield from self._stream.piece(reader))
        except (MslError, TruncatedMessageError, BackendError) as error:
            if not self._transmitting:
                yield self._refusal(reader.message_id, error, reader.languages)
            raise

    def respond(self, request: Received, message: Message) -> Generator[Steps, bytes | None, Received | None]:
        """Answer a message.

        Args:
            request: the message.
            message: the answer.

        Returns:
            The peer's message that was answered in the end, where keys had to be exchanged first; else None.

        Raises:
            As ``request``; where the answer cannot be built, the peer was told so.
        """
        plan, answering, answered = self._next(request.header), request.header, None
        failure: ErrorHeader | None = None
        for _ in range((MAX_MESSAGES - 3) // 2):
            turn = yield from self._turn(message, plan, answering, awaits=None, tells=True)
            if turn.reply is None:
                return answered
            if isinstance(turn.reply, ErrorHeader):
                failure = turn.reply
                repeated = self._recovery.plan(message, turn.sent, failure)
                if repeated is None:
                    break
                plan = repeated
                continue
            # What closes the loop, or brings our keys after a handshake of ours, carries no data.
            if not turn.sent.handshake:
                return answered
            answered = Received(turn.reply)
            plan, answering = self._next(turn.reply), turn.reply
        if failure is None:
            raise MslError(ErrorCode.KEYX_MASTER_TOKEN_MISSING, "no handshake brought session keys")
        raise ErrorResponseError(failure)

    def error(self, request: Received, code: ErrorCode, detail: str = "") -> Generator[Steps, bytes | None, None]:
        """Answer a message with an error. Raises MslError, BackendError where it cannot be protected."""
        yield self._refusal(request.header.message_id, MslError(code, detail), _languages(request.header))

    def _begin(self, reader: MessageReader, header: MessageHeader) -> Generator[Steps, bytes | None, bool]:
        """Take up a message; True where it is a handshake, by its flag or, from the oldest peers, by its shape."""
        self._reader, self._first = reader, b""
        if header.handshake_stated or not (header.renewable and header.key_requests):
            return header.handshake
        self._first = yield from self.read()
        return not self._first

    def _next(self, header: MessageHeader) -> Plan:
        """Plan the answer to a message: with our tokens that came along with it, if any (msl-engine section 7.3)."""
        ours = header.peer_master_token if header.key_response is None else header.key_response.master_token
        shown = ShownTokens(ours, header.peer_user_id_token)
        return Plan(Recovery(), self._context.local, next_long(header.message_id), shown=shown)

    def _turn(
        self,
        message: Message,
        plan: Plan,
        answering: MessageHeader | None,
        *,
        renew: bool = True,
        awaits: bool | None = True,
        tells: bool = False,
        eager: bool = True,
    ) -> Generator[Steps, bytes | None, _Turn]:
        """Send one message and read the header of what comes back.

        Args:
            message: what to send.
            plan: how.
            answering: the message being answered, or None for the first of an exchange.
            renew: whether it may ask for new tokens of ours.
            awaits: whether something must come back; None where that depends on what the message asks for.
            tells: whether the peer waits for us, and so must hear of a failure on this side.
            eager: ask for new tokens also where the message can do without; else first, and only if it cannot.
        """
        if renew:
            choice = yield from self._chooser.choose(message, plan, eager=eager)
        else:
            newest = self._state.newest()
            choice = Choice(newest if plan.shown is None else plan.shown.session(newest), None)
        outcome: MasterToken | None = None
        answered = None if answering is None else answering.message_id
        try:
            try:
                ask_first = choice.owned and not eager
                sent = self._builder.build(message, plan, choice, self._held, answering, ask_first=ask_first)
                self._transmitting = True
                yield Transmit(self._builder.pieces(message, sent))
                self._transmitting = False
                self._held = sent.tokens
                reader = self._stream.reader(sent.pending)
                if not (sent.awaits_answer if awaits is None else awaits):
                    return _Turn(sent.header, None, reader)
                answered = None
                header = yield from self._stream.header(reader)
                answered = reader.message_id
                if isinstance(header, ErrorHeader):
                    # An error is not answered with an error, so this one is told to nobody.
                    tells = False
                    self._recovery.check_id(sent.header, header)
                    self._check_sender(header)
                else:
                    self._accept(message, sent, header)
                    outcome = header.peer_master_token
                    if header.key_response is not None:
                        outcome = header.key_response.master_token
            except (MslError, TruncatedMessageError, BackendError, StoreError) as error:
                self._held = PeerTokens()
                if tells:
                    yield self._refusal(answered, error, _languages(answering))
                raise
        finally:
            if choice.owned:
                self._lock.release(outcome)
        return _Turn(sent.header, header, reader)

    def _check_sender(self, header: MessageHeader | ErrorHeader) -> None:
        identity = header.entity_auth.identity if isinstance(header, ErrorHeader) else header.identity
        if self._expected_identity not in (None, identity):
            raise sender_mismatch(identity, self._expected_identity)

    def _accept(self, message: Message, sent: Outgoing | None, header: MessageHeader) -> None:
        """Check a message and take what it brings (msl-engine sections 6, stages E3 and E4, and 9)."""
        context = self._context
        if sent is not None and header.message_id != next_long(sent.header.message_id):
            raise MslError(ErrorCode.UNEXPECTED_RESPONSE_MESSAGE_ID)
        self._check_sender(header)
        check_received(header, self._issuer, context.clock())
        ours = header.peer_master_token
        if header.key_response is not None and header.session_keys is not None:
            ours = header.key_response.master_token
            keys = header.session_keys
            crypto = session_context(context.local.data.identity, ours.sequence_number, keys, context.random)
            self._state.add_session(Session(ours, crypto, keys), None if sent is None else sent.header.master_token)
        user = header.peer_user_id_token
        if message.user is not None and user is not None and not user.verified:
            self._state.add_user_id_token(message.user, user, ours)
        self._state.store_service_tokens(header.peer_service_tokens, (ours, user))
        if header.timestamp is not None:
            self._state.update_remote_time(header.timestamp, context.clock())
        if header.master_token is not None:
            self._held = PeerTokens.of(header)

    def _refusal(self, message_id: int | None, error: Exception, languages: Sequence[str]) -> Transmit:
        """Return the error message that says ``error`` to the peer, and to a user of these languages."""
        context = self._context
        code, detail = ErrorCode.INTERNAL_EXCEPTION, "temporarily out of service"
        if isinstance(error, MslError):
            code, detail = error.code, error.detail
        elif isinstance(error, TruncatedMessageError):
            code, detail = ErrorCode.MSL_PARSE_ERROR, str(error)
        answer_id = random_long(context.random) if message_id is None else next_long(message_id)
        text = f"{code.name}: {detail}" if detail else code.name
        user_text = None if context.user_text is None else context.user_text(code, languages)
        return Transmit(iter([encode_error_header(context, answer_id, code, text, user_text)]))


def _languages(header: MessageHeader | None) -> tuple[str, ...]:
    capabilities = None if header is None else header.capabilities
    return () if capabilities is None else capabilities.languages


def _message(turn: _Turn) -> MessageHeader:
    if not isinstance(turn.reply, MessageHeader):
        raise UsageError("a turn without a message")
    return turn.reply
