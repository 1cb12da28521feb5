"""The trusted-services server: one request in, one response out, no state of clients kept (msl-engine section 8)."""

from __future__ import annotations

from hsm_msl.errors import UsageError
from hsm_msl.msl.application import Application, RejectedError, Reply, Request, request_of
from hsm_msl.msl.context import MslContext
from hsm_msl.msl.response import NO_REQUIREMENTS, Requirements
from hsm_msl.msl.server_exchange import ServerEvents, ServerExchange, SilentEvents, Stage
from hsm_msl.msl.tokens.issuer import TokenIssuer
from hsm_msl.wire.limits import DEFAULT_CHUNK_BYTES
from hsm_msl.wire.tokenizer import Tokenizer


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

    def exchange(self, tokenizer: Tokenizer | None = None) -> ServerExchange:
        """Begin an exchange whose bytes come and go in pieces; the application is then the caller's business.

        Args:
            tokenizer: the stream, on a connection that carries several messages.
        """
        return ServerExchange(
            self._context,
            self._issuer,
            requirements=self._requirements,
            events=self._events,
            chunk_bytes=self._chunk_bytes,
            tokenizer=tokenizer,
        )

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
        exchange = self.exchange()
        exchange.feed(body)
        exchange.end_input()
        try:
            stage = exchange.receive()
            if stage is Stage.HANDSHAKE:
                return exchange.respond_to_handshake()
            header = exchange.header
            if stage is not Stage.REQUEST or header is None:
                return b""
            answer = self._application(request_of(header, exchange.payload()))
            reply = Reply(answer) if isinstance(answer, bytes) else answer
            return exchange.reply(reply.payload, reply.requirements, text=reply.text)
        except Exception as error:
            # Whatever it is becomes a message; an application's defect must not take the server down.
            return exchange.failure(error)


__all__ = ["Application", "MslServer", "RejectedError", "Reply", "Request"]
