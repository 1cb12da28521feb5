"""MSL over a plain byte stream: several messages back to back on one connection (msl-wire section 3)."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from typing import TypeVar

from hsm_msl.errors import HsmMslError
from hsm_msl.msl.client import MslClient
from hsm_msl.msl.conversation import Deliver, Message, Receive, Response, Sent, Transmit, Wait
from hsm_msl.msl.server import MslServer
from hsm_msl.msl.streaming import StreamApplication, serve
from hsm_msl.service.http_client import DEFAULT_TIMEOUT
from hsm_msl.service.http_stream import ignore, wait_for
from hsm_msl.wire.tokenizer import Tokenizer

_READ_BYTES = 65536
_LAST_PIECE_SECONDS = 1.0
_T = TypeVar("_T")


class StreamClosedError(HsmMslError):
    """The other side closed the connection, or it broke."""


def serve_connection(server: MslServer, connection: socket.socket, application: StreamApplication) -> int:
    """Answer the messages of one connection until the client closes it.

    Args:
        server: the engine.
        connection: a connected socket; the caller closes it, at once after a ``BrokenReplyError``.
        application: as for HTTP.

    Returns:
        How many messages were answered.

    Raises:
        BrokenReplyError: a reply broke off; nothing after it on this connection would be understood.
        BackendError: not even an error message could be protected.
        StreamClosedError: the connection broke in the middle of an exchange.
    """
    tokenizer = Tokenizer()
    answered = 0
    while tokenizer.pending or _more(connection, tokenizer):
        exchange = server.exchange(tokenizer)
        for piece in serve(exchange, lambda: receive_from(connection), application):
            transmit_to(connection, piece)
        answered += 1
        if not exchange.complete:
            # What is left of a refused request cannot be told from the next one.
            break
    return answered


class ByteStreamClient:
    """Sends messages over connected sockets, one connection for any number of messages.

    What follows a handshake or an error goes over a connection of its own (msl-engine sections 4.7 and 10.2): a
    server may add an empty chunk to its answer to a handshake, and ends the connection of a request it refused.

    Args:
        client: the engine.
        connect: opens a connection to the server; asked again after one was lost or has done its work.
        seconds: how long to wait for another exchange's renewal.
    """

    def __init__(
        self, client: MslClient, connect: Callable[[], socket.socket], *, seconds: float = DEFAULT_TIMEOUT
    ) -> None:
        self._client = client
        self._connect = connect
        self._seconds = seconds
        self._connection: socket.socket | None = None

    def request(self, message: Message, deliver: Callable[[bytes], None]) -> Response:
        """Send a message and hand over its reply piece by piece.

        Args:
            message: what to send; its payload may be a source of pieces.
            deliver: takes each piece of the reply.

        Returns:
            The reply's header and account.

        Raises:
            StreamClosedError: the connection broke.
            WaitTimeoutError: another exchange's renewal did not end in time.
            ErrorResponseError, MslError, TruncatedMessageError, BackendError, StoreError: as ``MslClient.stream``.
        """
        response, sending = self._drive(self._client.stream(message), deliver)
        if sending is not None and not sending.finished():
            # The server answered without reading on; what it still expects nobody knows.
            self.close()
        return response

    def send(self, message: Message) -> Sent:
        """Send a message and read no reply: that the server refused it nobody will know.

        The reply has the connection to itself, which ends with it; the next message opens another.

        Returns:
            What was sent, once the server has closed the connection.

        Raises:
            StreamClosedError: the connection broke, or the message was not taken to its end in time.
            WaitTimeoutError: another exchange's renewal did not end in time.
            ErrorResponseError, MslError, TruncatedMessageError: as ``MslClient.send_stream``.
            BackendError, StoreError: likewise.
        """
        sent, sending = self._drive(self._client.send_stream(message), ignore)
        connection = self._open()
        # A reply that nobody takes would hold the server up in the middle of the message.
        draining = threading.Thread(target=_drain, args=(connection,), daemon=True)
        draining.start()
        try:
            if sending is not None and not sending.finished(None):
                raise StreamClosedError("the server did not take the message to its end")
            with suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
            draining.join(self._seconds)
        finally:
            self.close()
        return sent

    def _drive(
        self,
        conversation: Generator[Transmit | Receive | Deliver | Wait, bytes | None, _T],
        deliver: Callable[[bytes], None],
    ) -> tuple[_T, Sending | None]:
        sending: Sending | None = None
        between = False
        try:
            step = next(conversation)
            while True:
                answer: bytes | None = None
                if isinstance(step, Transmit):
                    if sending is not None:
                        self.close()
                    between = self._connection is not None
                    sending = Sending(self._open(), step.pieces)
                elif isinstance(step, Receive):
                    answer = (_past_space if between else receive_from)(self._open())
                    between = False
                elif isinstance(step, Deliver):
                    deliver(step.data)
                else:
                    wait_for(step, self._seconds)
                step = conversation.send(answer)
        except StopIteration as done:
            outcome: _T = done.value
            return outcome, sending
        except BaseException:
            self.close()
            raise
        finally:
            conversation.close()

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            with suppress(OSError):
                # What still sends in another thread must not wait for a server that does not read on.
                self._connection.shutdown(socket.SHUT_RDWR)
            self._connection.close()
            self._connection = None

    def _open(self) -> socket.socket:
        if self._connection is None:
            try:
                self._connection = self._connect()
            except OSError as error:
                raise StreamClosedError(f"no connection: {error.strerror or error}") from error
        return self._connection


class Sending:
    """Sends a request in a thread of its own, so that a reply which begins early cannot block both sides.

    Args:
        connection: where to send.
        pieces: what to send.
    """

    def __init__(self, connection: socket.socket, pieces: Iterator[bytes]) -> None:
        self._failed = False
        self._thread = threading.Thread(target=self._run, args=(connection, pieces), daemon=True)
        self._thread.start()

    def finished(self, seconds: float | None = _LAST_PIECE_SECONDS) -> bool:
        """Tell whether everything was sent; wait a moment for the last piece, or as long as it takes with None."""
        self._thread.join(seconds)
        return not (self._failed or self._thread.is_alive())

    def _run(self, connection: socket.socket, pieces: Iterator[bytes]) -> None:
        try:
            for piece in pieces:
                connection.sendall(piece)
        except Exception:
            # The reply tells what matters: an answer that came all the same, or a connection that broke.
            self._failed = True
            with suppress(OSError):
                connection.shutdown(socket.SHUT_WR)


def _past_space(connection: socket.socket) -> bytes:
    """Return what follows the white space that may stand between two messages, or empty bytes at the end."""
    while data := receive_from(connection):
        if begun := data.lstrip(b" \t\r\n"):
            return begun
    return b""


def _drain(connection: socket.socket) -> None:
    with suppress(StreamClosedError):
        while receive_from(connection):
            pass


def _more(connection: socket.socket, tokenizer: Tokenizer) -> bool:
    data = receive_from(connection)
    tokenizer.feed(data)
    return bool(data)


def receive_from(connection: socket.socket) -> bytes:
    """Return the next bytes, or empty bytes where the other side has closed. Raises StreamClosedError."""
    try:
        return connection.recv(_READ_BYTES)
    except OSError as error:
        raise StreamClosedError(f"the connection broke: {error.strerror or error}") from error


def transmit_to(connection: socket.socket, data: bytes) -> None:
    """Send bytes, waiting while the other side takes none. Raises StreamClosedError."""
    try:
        connection.sendall(data)
    except OSError as error:
        raise StreamClosedError(f"the connection broke: {error.strerror or error}") from error


def close_gently(connection: socket.socket, seconds: float) -> None:
    """Close a connection without taking back what the other side has not read yet.

    A socket closed with something unread in it, such as the end of a handshake's answer that nobody waits for, resets
    the connection, and the other side loses what was still on its way (RFC 9112 section 9.6 has the same remedy).

    Args:
        connection: a connected socket.
        seconds: how long the other side has to close its end.
    """
    end = time.monotonic() + seconds
    with connection, suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        while (left := end - time.monotonic()) > 0:
            connection.settimeout(left)
            if not connection.recv(_READ_BYTES):
                return
