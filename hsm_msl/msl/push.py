"""Receiving messages a server sends unasked, several on one connection (msl-engine sections 8 and 9)."""

from __future__ import annotations

from collections.abc import Generator

from hsm_msl.crypto.context import CryptoContext
from hsm_msl.errors import UsageError, sender_mismatch
from hsm_msl.msl.client_state import ClientState
from hsm_msl.msl.context import MslContext
from hsm_msl.msl.conversation import ErrorResponseError, Receive
from hsm_msl.msl.message.error_header import ErrorHeader
from hsm_msl.msl.message.header import MessageHeader
from hsm_msl.msl.message_stream import MessageStream, Received
from hsm_msl.msl.tokens.master_token import MasterToken


class PushReceiver:
    """A client's end of a connection on which a server pushes.

    Args:
        context: the client.
        state: its tokens; what a push brings is kept there.
        user: local key of the user the connection is for, or None.
        expected_identity: entity the server must authenticate as where no master token binds it, or None for any.

    Raises:
        UsageError: the context is of a peer-to-peer network.
    """

    def __init__(
        self,
        context: MslContext,
        state: ClientState,
        *,
        user: str | None = None,
        expected_identity: str | None = None,
    ) -> None:
        if context.peer_to_peer:
            raise UsageError("nobody pushes in a peer-to-peer network")
        self._context = context
        self._state = state
        self._user = user
        self._expected_identity = expected_identity
        self._known: dict[tuple[str, str], CryptoContext] = {}
        self._stream = MessageStream(context, self._session)

    def receive(self) -> Generator[Receive, bytes | None, Received | None]:
        """Receive the next message.

        Yields:
            ``Receive`` steps: send in the next bytes of the connection, or empty bytes at its end.

        Returns:
            The message, or None when the server has closed the connection between two messages.

        Raises:
            ErrorResponseError: the server sent an error.
            MslError: the message is refused; the connection can go on with the next one.
            TruncatedMessageError: the connection ended inside a message.
            BackendError, StoreError: no answer from a key or the state.
        """
        if (yield from self._stream.at_end()):
            return None
        reader = self._stream.reader()
        header = yield from self._stream.header(reader)
        if isinstance(header, ErrorHeader):
            raise ErrorResponseError(header)
        self._accept(header)
        return Received(header, (yield from self._stream.payload(reader)))

    def _session(self, token: MasterToken) -> CryptoContext | None:
        # A push may come under a session that a renewal elsewhere has replaced since the connection was opened.
        key = token.tokendata, token.signature
        context = self._state.find(token) or self._known.get(key)
        if context is not None:
            self._known[key] = context
        return context

    def _accept(self, header: MessageHeader) -> None:
        """Take what a push brings, as from a reply without a request (msl-engine section 9, steps 2 to 6)."""
        entity = header.entity_auth
        if entity is not None and self._expected_identity not in (None, entity.identity):
            raise sender_mismatch(entity.identity, self._expected_identity)
        token, user_id_token = header.master_token, header.user_id_token
        if self._user is not None and user_id_token is not None and not user_id_token.verified:
            self._state.add_user_id_token(self._user, user_id_token, token)
        self._state.store_service_tokens(header.service_tokens, (token, user_id_token))
