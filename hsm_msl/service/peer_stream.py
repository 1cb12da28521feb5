"""One peer's end of a plain byte stream: messages of any length in both directions, in bounded memory."""

from __future__ import annotations

import socket
from collections.abc import Callable, Generator, Iterator
from typing import TypeVar

from hsm_msl.errors import ErrorCode, HsmMslError, MslError
from hsm_msl.msl.application import RejectedError, rejection_code
from hsm_msl.msl.conversation import Deliver, Message, Receive, Transmit
from hsm_msl.msl.message_stream import Received
from hsm_msl.msl.peer import PeerConnection, Steps
from hsm_msl.msl.peer_message import PeerMessage
from hsm_msl.service.byte_stream import Sending, StreamClosedError, close_gently, receive_from, transmit_to
from hsm_msl.service.http_client import DEFAULT_TIMEOUT
from hsm_msl.service.http_stream import wait_for

PeerApplication = Callable[[Received, Iterator[bytes]], PeerMessage | None]
"""From a message (whose ``payload`` is empty) and the pieces of its payload to the answer, or None for no answer.

The answer's payload may be made of those pieces as they come, where this peer holds a master token already; else it
has to wait for keys, and what was not read by then is passed over.
"""

_T = TypeVar("_T")


class PeerStream:
    """Moves the bytes of one peer connection over one socket, blocking; for one thread at a time.

    After an error that is not the peer's or about its message the connection is closed: a message that broke off
    cannot be told from the next one.

    Args:
        peer: the connection's engine.
        connection: a connected socket.
        seconds: how long to wait for another connection's renewal, for the peer to take what it refused, and for the
            peer to close its end.
    """

    def __init__(self, peer: PeerConnection, connection: socket.socket, *, seconds: float = DEFAULT_TIMEOUT) -> None:
        self._peer = peer
        self._connection = connection
        self._seconds = seconds

    def request(self, message: Message, deliver: Callable[[bytes], None]) -> Received:
        """Send a message and hand over its reply piece by piece, which may come while the message is being sent.

        Args:
            message: what to send; its payload may be a source of pieces, opened anew for every repetition.
            deliver: takes each piece of the reply.

        Returns:
            The reply's header.

        Raises:
            StreamClosedError: the connection broke.
            WaitTimeoutError: another connection's renewal did not end in time.
            ErrorResponseError, MslError, TruncatedMessageError: as ``PeerConnection.stream``.
            BackendError, StoreError: likewise.
        """
        sending: list[Sending] = []

        def transmit(pieces: Iterator[bytes]) -> None:
            # The peer reads one message to its end before it looks at another.
            if sending and not sending.pop().finished(self._seconds):
                raise StreamClosedError("the peer does not take the rest of the message")
            sending.append(Sending(self._connection, pieces))

        reply = self._run(self._peer.stream(message), transmit, deliver)
        if sending and not sending.pop().finished():
            # The peer answered without reading on; what it still expects nobody knows.
            self._connection.close()
        return reply

    def send(self, message: Message) -> None:
        """Send a message for which no reply is read. Raises as ``request``."""
        self._run(self._peer.send(message))

    def serve(self, application: PeerApplication) -> int:
        """Answer messages until the peer closes the connection.

        Args:
            application: called once per application message.

        Returns:
            How many messages were taken.

        Raises:
            MslError, TruncatedMessageError: the stream cannot be understood any more.
            BackendError, StoreError, StreamClosedError, WaitTimeoutError, ErrorResponseError: as ``request``.
        """
        taken = 0
        while True:
            try:
                message = self._run(self._peer.accept())
                if message is None:
                    return taken
                self._answer(message, application)
            except HsmMslError as error:
                # A refusal was told to the peer, which may well try again on this connection.
                if self._peer.lost or self._connection.fileno() < 0 or not isinstance(error, MslError):
                    raise
            else:
                taken += 1

    def close(self) -> None:
        """Close the connection once the peer has read what was sent, or after the time this stream waits."""
        close_gently(self._connection, self._seconds)

    def _answer(self, message: Received, application: PeerApplication) -> None:
        try:
            answer = application(message, self._pieces())
        except RejectedError as error:
            self._run(self._peer.error(message, rejection_code(error, message.header), str(error)))
            return
        except HsmMslError:
            raise
        except Exception:
            self._run(self._peer.error(message, ErrorCode.INTERNAL_EXCEPTION, "internal error"))
            raise
        if answer is not None:
            self._run(self._peer.respond(message, answer))

    def _pieces(self) -> Iterator[bytes]:
        while piece := self._run(self._peer.read()):
            yield piece

    def _transmit(self, pieces: Iterator[bytes]) -> None:
        for piece in pieces:
            if piece:
                transmit_to(self._connection, piece)

    def _run(
        self,
        conversation: Generator[Steps | Deliver, bytes | None, _T],
        transmit: Callable[[Iterator[bytes]], None] | None = None,
        deliver: Callable[[bytes], None] | None = None,
    ) -> _T:
        answer: bytes | None = None
        try:
            while True:
                step = conversation.send(answer)
                answer = None
                try:
                    answer = self._perform(step, transmit or self._transmit, deliver)
                except BaseException:
                    self._connection.close()
                    raise
        except StopIteration as done:
            result: _T = done.value
            return result
        finally:
            conversation.close()

    def _perform(
        self,
        step: Steps | Deliver,
        transmit: Callable[[Iterator[bytes]], None],
        deliver: Callable[[bytes], None] | None,
    ) -> bytes | None:
        if isinstance(step, Receive):
            return receive_from(self._connection)
        if isinstance(step, Transmit):
            transmit(step.pieces)
        elif isinstance(step, Deliver):
            if deliver is not None:
                deliver(step.data)
        else:
            wait_for(step, self._seconds)
        return None
