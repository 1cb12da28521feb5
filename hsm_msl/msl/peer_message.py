"""Building the messages of a peer: its own tokens, and those it issued and carries along (msl-engine 4.3, 7, 11)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hsm_msl.errors import MslError
from hsm_msl.msl.client_state import ClientState
from hsm_msl.msl.context import MslContext
from hsm_msl.msl.conversation import KeyRequestSource, Message
from hsm_msl.msl.keyx.base import KeyResponse, PendingKeyRequest
from hsm_msl.msl.message.capabilities import intersection
from hsm_msl.msl.message.header import MessageHeader, encode_header
from hsm_msl.msl.message.writer import MessageWriter
from hsm_msl.msl.request_shape import PayloadSource, shape_of
from hsm_msl.msl.response import answer_user_id_token, exchange_keys
from hsm_msl.msl.token_choice import Choice, Plan, TokenChooser
from hsm_msl.msl.tokens.builder import ServiceTokenBuilder, ServiceTokenUpdate
from hsm_msl.msl.tokens.issuer import TokenIssuer, random_long
from hsm_msl.msl.tokens.master_token import MasterToken
from hsm_msl.msl.tokens.service_token import ServiceToken
from hsm_msl.msl.tokens.user_id_token import UserIdToken


@dataclass(frozen=True, slots=True)
class PeerMessage(Message):
    """An application message between peers.

    Attributes:
        issue_for: issue the peer a user ID token for this user, who the application authenticated itself.
        peer_service_tokens: changes the service tokens the peer keeps.
    """

    issue_for: str | None = None
    peer_service_tokens: ServiceTokenUpdate | None = None


BARE = PeerMessage(b"", encrypted=False, integrity=False)
"""A message that carries keys and tokens only."""


@dataclass(frozen=True, slots=True)
class PeerTokens:
    """What this entity issued to its peer, carried along so that the peer may use it."""

    master_token: MasterToken | None = None
    user_id_token: UserIdToken | None = None
    service_tokens: tuple[ServiceToken, ...] = ()

    @classmethod
    def of(cls, header: MessageHeader) -> PeerTokens:
        """Return what a message of the peer's shows it to hold."""
        return cls(header.master_token, header.user_id_token, header.service_tokens)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message on its way.

    Attributes:
        header: its header.
        encoded: the header as it travels.
        pending: the key requests it makes.
        tokens: what the peer holds once it has this message.
    """

    header: MessageHeader
    encoded: bytes
    pending: tuple[PendingKeyRequest, ...]
    tokens: PeerTokens

    @property
    def awaits_answer(self) -> bool:
        """Whether the peer must answer this message although it asks for none (msl-engine section 4.6)."""
        return must_be_answered(self.header)


def must_be_answered(header: MessageHeader) -> bool:
    """Tell whether a message asks for keys or for a user ID token, which only another message can bring."""
    asks_for_user = header.renewable and header.master_token is not None and header.user_auth is not None
    return header.handshake or bool(header.key_requests) or asks_for_user


class PeerMessageBuilder:
    """Builds the messages to one peer.

    Args:
        context: this entity.
        issuer: its token factory.
        state: the tokens this peer issued to us.
        chooser: chooses among them.
        key_requests: makes key requests to offer.
        chunk_bytes: application bytes per payload chunk.
    """

    __slots__ = ("_chooser", "_chunk_bytes", "_context", "_issuer", "_key_requests", "_state")

    def __init__(
        self,
        context: MslContext,
        issuer: TokenIssuer,
        state: ClientState,
        chooser: TokenChooser,
        key_requests: KeyRequestSource,
        chunk_bytes: int,
    ) -> None:
        self._context = context
        self._issuer = issuer
        self._state = state
        self._chooser = chooser
        self._key_requests = key_requests
        self._chunk_bytes = chunk_bytes

    def build(
        self,
        message: Message,
        plan: Plan,
        choice: Choice,
        held: PeerTokens,
        answering: MessageHeader | None,
        *,
        ask_first: bool = False,
    ) -> Outgoing:
        """Decide everything about a message.

        Args:
            message: what to send.
            plan: how.
            choice: our tokens.
            held: what the peer held when we last heard of it.
            answering: the message being answered, or None for the first of an exchange.
            ask_first: make it a handshake, whatever it could carry.

        Raises:
            MslError: the peer's key requests cannot be answered, or a token does not fit.
            BackendError, StoreError: no answer.
        """
        context, local = self._context, plan.local
        session, token = choice.session, choice.master_token
        key_response, held = self._issue(message, held, answering)
        user_id_token = choice.user_id_token or _echoed_user(message, token, answering)
        shape = shape_of(
            message,
            plan,
            choice,
            user_id_token,
            chooser=self._chooser,
            key_requests=self._key_requests,
            ask_first=ask_first,
        )
        crypto = local.context if session is None else session.context
        capabilities = context.capabilities
        header = MessageHeader(
            message_id=random_long(context.random) if plan.message_id is None else plan.message_id,
            renewable=choice.owned,
            context=crypto,
            payload_context=crypto,
            encrypted=shape.encrypts,
            protects_integrity=shape.protects_integrity,
            entity_auth=local.data if token is None else None,
            master_token=token,
            handshake=shape.handshake,
            non_replayable_id=(
                self._state.next_non_replayable_id(token)
                if message.non_replayable and token is not None and not shape.handshake
                else None
            ),
            capabilities=capabilities if answering is None else intersection(answering.capabilities, capabilities),
            key_requests=tuple(request.request for request in shape.pending),
            key_response=key_response,
            user_id_token=user_id_token,
            user_auth=shape.user_auth,
            service_tokens=self._changed(
                message.service_tokens, self._state.service_tokens(token, user_id_token), token, user_id_token
            ),
            peer_master_token=held.master_token,
            peer_user_id_token=held.user_id_token,
            peer_service_tokens=held.service_tokens,
        )
        self._state.store_service_tokens(header.service_tokens, (token, user_id_token))
        encoded = encode_header(header, context.local.data.identity, int(context.clock()))
        if token is not None:
            self._state.count_message(token)
        if key_response is not None:
            held = PeerTokens(key_response.master_token, held.user_id_token, held.service_tokens)
        return Outgoing(header, encoded, shape.pending, held)

    def pieces(self, message: Message, outgoing: Outgoing) -> Iterator[bytes]:
        """Yield the message as it travels. Raises MslError, BackendError where a chunk cannot be protected."""
        yield outgoing.encoded
        if outgoing.header.handshake:
            return
        writer = MessageWriter(outgoing.header, chunk_bytes=self._chunk_bytes)
        for piece in PayloadSource(message.payload).pieces():
            yield writer.write(piece)
        # Also where there is nothing to say: on a stream the reader could not tell where the message ends.
        yield writer.close()

    def _issue(
        self, message: Message, held: PeerTokens, answering: MessageHeader | None
    ) -> tuple[KeyResponse | None, PeerTokens]:
        """Issue what the peer asked for, and return what goes along for it (msl-engine sections 7.1 to 7.3)."""
        key_response: KeyResponse | None = None
        if answering is None:
            held = self._still_good(held)
        user = held.user_id_token
        if answering is not None:
            now = self._context.clock()
            key_response = exchange_keys(self._context, self._issuer, answering, now)
            reference = answering.master_token if key_response is None else key_response.master_token
            user = answer_user_id_token(self._issuer, answering, reference, now)
            held = PeerTokens(answering.master_token, user, answering.service_tokens)
        reference = held.master_token if key_response is None else key_response.master_token
        update: ServiceTokenUpdate | None = None
        if isinstance(message, PeerMessage):
            update = message.peer_service_tokens
            if message.issue_for is not None and user is None and reference is not None:
                user = self._issuer.create_user_id_token(message.issue_for, reference)
        if user is not None and not user.is_bound_to(reference):
            user = None
        services = self._changed(update, _bound(held.service_tokens, reference, user), reference, user)
        return key_response, PeerTokens(held.master_token, user, services)

    def _still_good(self, held: PeerTokens) -> PeerTokens:
        """Leave out what was taken back: the peer would answer under it, and be refused."""
        try:
            if held.master_token is not None:
                self._issuer.check_master_token(held.master_token)
        except MslError:
            return PeerTokens()
        try:
            if held.user_id_token is not None:
                self._issuer.check_user_id_token(held.user_id_token)
        except MslError:
            return PeerTokens(held.master_token, None, held.service_tokens)
        return held

    def _changed(
        self,
        update: ServiceTokenUpdate | None,
        tokens: tuple[ServiceToken, ...],
        master_token: MasterToken | None,
        user_id_token: UserIdToken | None,
    ) -> tuple[ServiceToken, ...]:
        if update is None:
            return tokens
        builder = ServiceTokenBuilder(tokens, self._context.service_token_keys, master_token, user_id_token)
        update(builder)
        return builder.tokens


def _echoed_user(message: Message, token: MasterToken | None, answering: MessageHeader | None) -> UserIdToken | None:
    """Return the user ID token of ours that the peer carried along, where the answer speaks for nobody else."""
    if answering is None or message.user is not None:
        return None
    carried = answering.peer_user_id_token
    return carried if carried is not None and carried.is_bound_to(token) else None


def _bound(
    tokens: Iterable[ServiceToken], master_token: MasterToken | None, user_id_token: UserIdToken | None
) -> tuple[ServiceToken, ...]:
    master = None if master_token is None else master_token.serial_number
    user = None if user_id_token is None else user_id_token.serial_number
    return tuple(
        token
        for token in tokens
        if token.master_token_serial_number in (None, master) and token.user_id_token_serial_number in (None, user)
    )
