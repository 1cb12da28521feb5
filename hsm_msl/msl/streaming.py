"""The streaming form of a server application: payloads of any length, in pieces, in both directions.

The driver here is the same for every transport that can be read piece by piece; memory holds one object of the
stream and one chunk of the reply, whatever the length of either (msl-engine section 12).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from hsm_msl.errors import HsmMslError
from hsm_msl.msl.application import Request, request_of
from hsm_msl.msl.response import NO_REQUIREMENTS, Requirements
from hsm_msl.msl.server_exchange import ServerExchange, Stage

Receive = Callable[[], bytes]
"""Returns the next bytes of the request, or empty bytes at its end; blocks until there are some."""


class BrokenReplyError(HsmMslError):
    """A reply failed after its header had left; the transport must cut it short, so that the client sees it."""


@dataclass(frozen=True, slots=True)
class StreamReply:
    """A reply in pieces.

    Attributes:
        pieces: the application data; taken one by one as the transport takes them.
        text: whether the data is UTF-8 text.
        requirements: protection, user and service tokens the reply needs.
    """

    pieces: Iterable[bytes]
    text: bool = False
    requirements: Requirements = NO_REQUIREMENTS


StreamApplication = Callable[[Request, Iterator[bytes]], "Iterable[bytes] | StreamReply"]
"""From a request (whose ``payload`` is empty) and the pieces of its payload to the pieces of the reply.

The reply may begin before the payload was read to its end. What of the payload the application leaves unread is read
and dropped, so that the connection can be used again.
"""


def serve(exchange: ServerExchange, receive: Receive, application: StreamApplication) -> Iterator[bytes]:
    """Answer one request, yielding the response piece by piece.

    Args:
        exchange: a fresh exchange.
        receive: gives the bytes of the request.
        application: called once per application message.

    Raises:
        BrokenReplyError: something failed after the first piece had been yielded.
        BackendError: not even an error message can be protected.
    """
    begun = complete = False
    try:
        while (stage := exchange.receive()) is Stage.MORE_INPUT:
            _feed(exchange, receive)
        if stage is Stage.HANDSHAKE:
            yield exchange.respond_to_handshake()
            return
        header = exchange.header
        if stage is not Stage.REQUEST or header is None:
            return
        answer = application(request_of(header, b""), _payload(exchange, receive))
        reply = answer if isinstance(answer, StreamReply) else StreamReply(answer)
        head = exchange.respond(reply.requirements, text=reply.text)
        begun = True
        yield head
        for piece in reply.pieces:
            encoded = exchange.write(piece)
            if encoded:
                yield encoded
        last = exchange.close()
        complete = True
        yield last
        for _ in _payload(exchange, receive):
            pass
    except Exception as error:
        if complete:
            # The client has its reply. What is wrong with what nobody read is told by ``exchange.complete``.
            return
        if begun:
            raise BrokenReplyError("the reply failed after it had begun") from error
        yield exchange.failure(error)


def _payload(exchange: ServerExchange, receive: Receive) -> Iterator[bytes]:
    while not exchange.complete:
        piece = exchange.read()
        if piece is not None:
            if piece:
                yield piece
        elif not exchange.complete:
            _feed(exchange, receive)


def _feed(exchange: ServerExchange, receive: Receive) -> None:
    data = receive()
    if data:
        exchange.feed(data)
    else:
        exchange.end_input()
