"""Drives streaming client conversations over HTTP: payloads pass in pieces, in bounded memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from itertools import chain
from types import TracebackType
from typing import Self, TypeVar

import httpx

from hsm_msl.msl.client import MslClient
from hsm_msl.msl.conversation import Deliver, Message, Receive, Response, Sent, Transmit, Wait
from hsm_msl.service.http_client import (
    DEFAULT_TIMEOUT,
    TransportError,
    WaitTimeoutError,
    checked,
    checked_timeout,
    refused,
)
from hsm_msl.service.http_connections import PatientTransport, limit

_WHOLE_BYTES = 1 << 18
_T = TypeVar("_T")


def wait_for(step: Wait, seconds: float) -> None:
    """Block until another exchange's renewal has ended.

    Raises:
        WaitTimeoutError: it did not end within ``seconds``.
    """
    resolved = threading.Event()
    step.ticket.subscribe(resolved.set)
    if not resolved.wait(seconds):
        raise WaitTimeoutError(f"another exchange has been renewing for {seconds:g} s")


class HttpStreamClient:
    """Sends messages of any length to one URL.

    HTTP sends a request to its end before the reply is read, so an application that answers a long request while it
    still reads it needs a plain byte stream instead. A payload given as a source is opened once per attempt.

    Args:
        client: the engine.
        url: where the server listens.
        timeout: seconds for connecting, from the end of a request until its answer's HTTP headers are in, from there
            to the first piece of the payload, from each piece to the next, and for waiting on another exchange's
            renewal.

    Raises:
        UrlError: the URL cannot be used.
        UsageError: the timeout cannot be used.
    """

    def __init__(self, client: MslClient, url: str, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        self._client = client
        self._url = checked(url)
        self._timeout = checked_timeout(timeout)
        self._http = httpx.Client(timeout=timeout, trust_env=False, transport=PatientTransport())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._http.close()

    def request(self, message: Message, deliver: Callable[[bytes], None]) -> Response:
        """Send a message and hand over its reply piece by piece.

        Args:
            message: what to send; its payload may be a source of pieces.
            deliver: takes each piece of the reply.

        Returns:
            The reply's header and account.

        Raises:
            TransportError: no answer, or none that is MSL.
            WaitTimeoutError: another exchange's renewal did not end in time.
            ErrorResponseError, MslError, TruncatedMessageError, BackendError, StoreError: as ``MslClient.stream``.
        """
        return self._drive(self._client.stream(message), deliver)

    def send(self, message: Message) -> Sent:
        """Send a message and pass over its reply: that the server refused it nobody will know.

        Returns:
            What was sent, once the server has answered to the end, or for as long as the timeout.

        Raises:
            TransportError: the message could not be delivered.
            WaitTimeoutError: as ``request``.
            ErrorResponseError, MslError, TruncatedMessageError: as ``MslClient.send_stream``.
            BackendError, StoreError: likewise.
        """
        # Closing in the middle of the answer resets the connection, and the server loses what it has not read yet.
        return self._drive(self._client.send_stream(message), ignore, pass_over=True)

    def _drive(
        self,
        conversation: Generator[Transmit | Receive | Deliver | Wait, bytes | None, _T],
        deliver: Callable[[bytes], None],
        *,
        pass_over: bool = False,
    ) -> _T:
        with ExitStack() as opened:
            reply: _Reply | None = None
            try:
                step = next(conversation)
                while True:
                    answer: bytes | None = None
                    if isinstance(step, Transmit):
                        opened.close()
                        reply = self._post(opened, step.pieces)
                    elif isinstance(step, Receive):
                        answer = b"" if reply is None else reply.next()
                    elif isinstance(step, Deliver):
                        if reply is not None:
                            reply.take_time()
                        deliver(step.data)
                    else:
                        wait_for(step, self._timeout)
                    step = conversation.send(answer)
            except StopIteration as done:
                outcome: _T = done.value
                if pass_over and reply is not None:
                    reply.pass_over()
                return outcome
            finally:
                conversation.close()

    def _post(self, opened: ExitStack, content: Iterator[bytes]) -> _Reply:
        try:
            response = opened.enter_context(self._http.stream("POST", self._url, content=_begun(content)))
        except httpx.HTTPError as error:
            raise TransportError(f"no answer from {self._url}: {str(error) or type(error).__name__}") from error
        # Until the application has the first piece the conversation may hold the renewal lock.
        limit(response, self._timeout)
        reply = _Reply(response, self._url)
        if response.status_code != httpx.codes.OK:
            raise refused(self._url, response.status_code, reply.next())
        return reply


class _Reply:
    """The answer to one request as it comes in.

    Args:
        response: its headers are in, and the time for the rest is limited.
        url: what it answers.
    """

    def __init__(self, response: httpx.Response, url: str) -> None:
        self._response = response
        self._url = url
        # An empty piece would mean the end to the conversation; HTTP may well deliver one in between.
        self._pieces = filter(None, response.iter_bytes())

    def next(self) -> bytes:
        """Return the next bytes, or empty bytes at the end. Raises TransportError."""
        try:
            return next(self._pieces, b"")
        except httpx.HTTPError as error:
            raise self._broken(error) from error

    def take_time(self) -> None:
        """Let the rest take as long as it may, while each piece comes in time."""
        limit(self._response, None)

    def pass_over(self) -> None:
        """Read to the end, or until the time is over. Raises TransportError."""
        try:
            for _ in self._pieces:
                pass
        except httpx.ReadTimeout:
            return
        except httpx.HTTPError as error:
            raise self._broken(error) from error

    def _broken(self, error: httpx.HTTPError) -> TransportError:
        return TransportError(f"the answer of {self._url} broke off: {type(error).__name__}")


def _begun(content: Iterator[bytes]) -> bytes | Iterator[bytes]:
    """Return a short message as a whole, so that its length is said: older servers and proxies want to know it."""
    begun: list[bytes] = []
    size = 0
    for piece in content:
        begun.append(piece)
        size += len(piece)
        if size > _WHOLE_BYTES:
            return chain(begun, content)
    return b"".join(begun)


def ignore(piece: bytes) -> None:
    """Take a piece of a reply that nobody reads."""
