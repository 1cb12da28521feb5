"""Drives client conversations over HTTP: posts what they send, gives back what came, waits where they wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeVar

import httpx

from hsm_msl.errors import HsmMslError, UsageError
from hsm_msl.msl.client import MslClient
from hsm_msl.msl.conversation import Message, Response, Send, Sent, Wait
from hsm_msl.service.http_connections import LIMITS, PatientTransport, limit
from hsm_msl.wire.limits import MAX_INFLATED_BYTES

DEFAULT_TIMEOUT = 30.0
MAX_REPLY_BYTES = 4 * MAX_INFLATED_BYTES
"""A reply of the largest message this side would open, three Base64 layers included, and no endless stream."""

_STATUS_TEXT_BYTES = 200
_LAST_PORT = 65535
_SENT = "http11.receive_response_headers.started"
_T = TypeVar("_T")


class TransportError(HsmMslError):
    """The message could not be delivered or its answer not be fetched. Whether it arrived is not known."""


class UrlError(TransportError):
    """What was given as the URL of a server is none."""


class WaitTimeoutError(HsmMslError):
    """Another exchange of this client holds the renewal for too long."""


class HttpClient:
    """Sends application messages to one URL, from any number of threads; connections are kept and reused.

    Args:
        client: the MSL side: its context, state and keys.
        url: where the server listens, ``http://`` or ``https://``.
        timeout: seconds for connecting, from the end of a request until its answer's headers are in, from there to
            the answer's end, and for waiting on another exchange's renewal.

    Raises:
        UrlError: the URL cannot be used.
        UsageError: the timeout cannot be used.
    """

    def __init__(self, client: MslClient, url: str, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        self._client = client
        self._url = checked(url)
        self._timeout = checked_timeout(timeout)
        # Proxies of the environment are for browsing; a message for an HSM service goes where it was told to go.
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

    def request(self, message: Message) -> Response:
        """Send a message and return its reply, however many request and response pairs that takes.

        Raises:
            TransportError: no answer, or none that is MSL.
            WaitTimeoutError: another thread's renewal did not end in time.
            ErrorResponseError, MslError, TruncatedMessageError, BackendError, StoreError: as ``MslClient.request``.
        """
        return self._drive(self._client.request(message))

    def send(self, message: Message) -> Sent:
        """Send a message and read no reply: that the server refused it nobody will know.

        Returns:
            What was sent, once the server has taken it.

        Raises:
            TransportError: the message could not be delivered.
            WaitTimeoutError: as ``request``.
            ErrorResponseError, MslError, TruncatedMessageError: as ``MslClient.send_stream``.
            BackendError, StoreError: likewise.
        """
        return self._drive(self._client.send(message))

    def _drive(self, conversation: Generator[Send | Wait, bytes | None, _T]) -> _T:
        try:
            step = next(conversation)
            while True:
                try:
                    answer = self._perform(step)
                except HsmMslError as error:
                    step = conversation.throw(error)
                else:
                    step = conversation.send(answer)
        except StopIteration as done:
            outcome: _T = done.value
            return outcome
        finally:
            conversation.close()

    def _perform(self, step: Send | Wait) -> bytes | None:
        if isinstance(step, Send):
            return self._post(step.body)
        resolved = threading.Event()
        step.ticket.subscribe(resolved.set)
        if not resolved.wait(self._timeout):
            raise WaitTimeoutError(f"another exchange has been renewing for {self._timeout:g} s")
        return None

    def _post(self, body: bytes) -> bytes:
        try:
            with self._http.stream("POST", self._url, content=body) as reply:
                received = self._received(reply)
        except httpx.HTTPError as error:
            raise _unanswered(self._url, error) from error
        return _accepted(self._url, reply.status_code, received)

    def _received(self, reply: httpx.Response) -> bytes:
        limit(reply, self._timeout)
        received = bytearray()
        try:
            for part in reply.iter_bytes():
                received += part
                _check_size(received)
        except httpx.ReadTimeout:
            raise _unfinished(self._url, self._timeout) from None
        return bytes(received)


class AsyncHttpClient:
    """As ``HttpClient``, for one event loop; key operations run on the loop.

    Args:
        client: the MSL side.
        url: where the server listens.
        timeout: seconds, as for ``HttpClient``.

    Raises:
        UrlError: the URL cannot be used.
        UsageError: the timeout cannot be used.
    """

    def __init__(self, client: MslClient, url: str, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        self._client = client
        self._url = checked(url)
        self._timeout = checked_timeout(timeout)
        self._http = httpx.AsyncClient(timeout=timeout, trust_env=False, limits=LIMITS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def request(self, message: Message) -> Response:
        """Send a message and return its reply. Raises as ``HttpClient.request``."""
        return await self._drive(self._client.request(message))

    async def send(self, message: Message) -> Sent:
        """Send a message and read no reply. Returns and raises as ``HttpClient.send``."""
        return await self._drive(self._client.send(message))

    async def _drive(self, conversation: Generator[Send | Wait, bytes | None, _T]) -> _T:
        try:
            step = next(conversation)
            while True:
                try:
                    answer = await self._perform(step)
                except HsmMslError as error:
                    step = conversation.throw(error)
                else:
                    step = conversation.send(answer)
        except StopIteration as done:
            outcome: _T = done.value
            return outcome
        finally:
            conversation.close()

    async def _perform(self, step: Send | Wait) -> bytes | None:
        if isinstance(step, Send):
            return await self._post(step.body)
        resolved = asyncio.Event()
        step.ticket.subscribe(_on_loop(asyncio.get_running_loop(), resolved))
        try:
            async with asyncio.timeout(self._timeout):
                await resolved.wait()
        except TimeoutError:
            raise WaitTimeoutError(f"another exchange has been renewing for {self._timeout:g} s") from None
        return None

    async def _post(self, body: bytes) -> bytes:
        received = bytearray()
        now = asyncio.get_running_loop().time
        begun = False

        async def trace(event: str, _: object) -> None:
            if event == _SENT:
                left.reschedule(now() + self._timeout)

        try:
            async with (
                asyncio.timeout(None) as left,
                self._http.stream("POST", self._url, content=body, extensions={"trace": trace}) as reply,
            ):
                begun = True
                left.reschedule(now() + self._timeout)
                async for part in reply.aiter_bytes():
                    received += part
                    _check_size(received)
        except (TimeoutError, httpx.ReadTimeout) as error:
            if begun:
                raise _unfinished(self._url, self._timeout) from None
            raise _unanswered(self._url, httpx.ReadTimeout("timed out")) from error
        except httpx.HTTPError as error:
            raise _unanswered(self._url, error) from error
        return _accepted(self._url, reply.status_code, bytes(received))


def _on_loop(loop: asyncio.AbstractEventLoop, resolved: asyncio.Event) -> Callable[[], None]:
    def wake() -> None:
        # A loop that was closed meanwhile has nobody left who waits; whoever renewed must not fail for it.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(resolved.set)

    return wake


def checked(url: str) -> str:
    """Return a URL that can be used. Raises UrlError."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise UrlError(f"{url!r} is no URL: {error}; write http://HOST:PORT/PATH") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UrlError(f"{url!r} is no URL of a server; write http://HOST:PORT/PATH")
    if parsed.port is not None and not 0 < parsed.port <= _LAST_PORT:
        raise UrlError(f"{url!r} has no port of a server; ports are 1 to {_LAST_PORT}")
    return url


def checked_timeout(timeout: object) -> float:
    """Return a timeout that can be used, seconds. Raises UsageError."""
    if not isinstance(timeout, int | float) or not 0 < timeout <= threading.TIMEOUT_MAX:
        raise UsageError(f"a timeout is a number of seconds greater than 0; no {timeout!r}")
    return timeout


def _check_size(received: bytearray) -> None:
    if len(received) > MAX_REPLY_BYTES:
        raise TransportError(f"the answer is larger than {MAX_REPLY_BYTES} bytes")


def _unfinished(url: str, seconds: float) -> TransportError:
    return TransportError(f"the answer from {url} did not end within {seconds:g} s")


def _unanswered(url: str, error: httpx.HTTPError) -> TransportError:
    reason = str(error) or type(error).__name__
    return TransportError(f"no answer from {url}: {reason}")


def _accepted(url: str, status: int, body: bytes) -> bytes:
    if status == httpx.codes.OK:
        return body
    raise refused(url, status, body)


def refused(url: str, status: int, body: bytes) -> TransportError:
    """Return the error of an answer that is not MSL; its first line says why, as a rule."""
    text = body[:_STATUS_TEXT_BYTES].decode("utf-8", "replace").strip().splitlines()
    return TransportError(f"{url} answered HTTP {status}" + (f": {text[0]}" if text else ""))
