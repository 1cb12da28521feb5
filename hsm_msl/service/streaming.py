"""Streaming over HTTP: an ASGI application whose requests and replies pass in pieces, with back-pressure both ways.

One thread per exchange runs the engine and the application, which are plain blocking code. The event loop hands it
the request's pieces through a queue of a few places and takes the reply's pieces one by one, so that neither side
can run ahead of the other and memory stays flat for messages of any length.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Protocol

from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from hsm_msl.errors import BackendError, RequestLostError
from hsm_msl.msl.server import MslServer
from hsm_msl.msl.server_exchange import ServerExchange
from hsm_msl.msl.streaming import BrokenReplyError, StreamApplication, serve
from hsm_msl.service.asgi import MSL_MEDIA_TYPE, late
from hsm_msl.service.watch.message_counts import MessageCounts
from hsm_msl.service.watch.request_trace import HEADER, Trace, request_id, say, working_on

_LOG = logging.getLogger("hsm_msl.service")
WHOLE_BYTES = 1 << 18
"""The largest request body that counts as not long, unless said otherwise."""

SLOWEST = 4096
"""Bytes per second that a long request must come with, beyond the time one piece may take."""

HEADER_SECONDS = 10.0
"""How long the header of a long message may take to come, where a thread waits for it."""

_PLACES = 4
_POST_ONLY = {"allow": "POST"}


class ClientGoneError(RequestLostError):
    """The client closed the connection in the middle of its request, or sends too slowly."""


class Whole(Protocol):
    """An ASGI application for messages that arrive whole."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""

    def close(self) -> None:
        """Let go of everything."""


class StreamingMslApplication:
    """Serves a streaming application of one MSL server over ASGI.

    Args:
        server: the engine; its own whole-message application is not used here.
        application: from a request and the pieces of its payload to the pieces of the reply.
        whole: answers requests that are not long, and everything that is no message; without it, everything streams.
        whole_bytes: the largest request body that is not long.
        counts: counts what the engine does not hear of; how long a message in pieces takes is its client's doing.
        close: called once when the service stops.
        threads: exchanges that may run at once; more wait.
        seconds: how long one piece may take to come or go.
        longest: the largest request body, bytes; 0 for any length.
    """

    def __init__(
        self,
        server: MslServer,
        application: StreamApplication,
        *,
        whole: Whole | None = None,
        whole_bytes: int = WHOLE_BYTES,
        counts: MessageCounts | None = None,
        close: Callable[[], None] = lambda: None,
        threads: int = 32,
        seconds: float = 60.0,
        longest: int = 0,
    ) -> None:
        self._server = server
        self._application = application
        self._whole = whole
        self._whole_bytes = whole_bytes
        self._counts = counts
        self._close = close
        self._pool = ThreadPoolExecutor(threads, "msl-stream")
        self._seconds = seconds
        self._longest = longest

    def close(self) -> None:
        """Let go of everything; done by itself when a service that was started stops."""
        self._pool.shutdown()
        if self._whole is not None:
            self._whole.close()
        self._close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection (the protocol's own signature)."""
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif scope["type"] == "http":
            if scope["method"] == "POST":
                await self._message(scope, receive, send)
            elif self._whole is not None:
                await self._whole(scope, receive, send)
            else:
                await PlainTextResponse("send MSL messages with POST\n", 405, _POST_ONLY)(scope, receive, send)

    async def _message(self, scope: Scope, receive: Receive, send: Send) -> None:
        declared = next((int(value) for name, value in scope["headers"] if name == b"content-length"), 0)
        if 0 < self._longest < declared:
            await self._refuse(scope, receive, send)
            return
        if self._whole is None:
            await self._exchange(scope, receive, send)
            return
        # What comes soon and is short goes the quick way; memory holds no more than this of one that does not.
        try:
            async with asyncio.timeout(self._seconds):
                begun, size = await self._begun(receive)
        except TimeoutError:
            await late(self._seconds, {})(scope, receive, send)
            return
        long = size > self._whole_bytes or begun[-1].get("more_body", False)
        answer = self._exchange if long else self._whole
        await answer(scope, _again(begun, receive), send)

    async def _begun(self, receive: Receive) -> tuple[list[Message], int]:
        """Return the first events of a request and the bytes in them: all, or more than a short one has."""
        begun = [await receive()]
        size = len(begun[0].get("body", b""))
        while size <= self._whole_bytes and begun[-1].get("more_body", False):
            begun.append(await receive())
            size += len(begun[-1].get("body", b""))
        return begun, size

    async def _exchange(self, scope: Scope, receive: Receive, send: Send) -> None:
        trace = Trace(request_id(scope["headers"], os.urandom))
        traced, started = _Traced(receive, send, trace), time.perf_counter_ns()
        try:
            with working_on(trace):
                await self._streamed(scope, traced.receive, traced.send)
        finally:
            if self._counts is not None and traced.outcome == "unavailable":
                self._counts.unavailable()
            elif self._counts is not None and traced.outcome == "ignored" and not traced.sent:
                self._counts.ignored()
            say(trace, traced.outcome, traced.received, traced.sent, time.perf_counter_ns() - started)

    async def _streamed(self, scope: Scope, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()
        exchange = self._server.exchange()
        request = _Request(loop, receive, exchange, self._seconds, self._longest)
        started = False

        def give(event: dict[str, object]) -> None:
            asyncio.run_coroutine_threadsafe(_send(send, event), loop).result(self._seconds)

        def run() -> None:
            nonlocal started
            for piece in serve(exchange, request.take, self._application):
                if request.too_long:
                    return
                if not started:
                    headers = [(b"content-type", MSL_MEDIA_TYPE.encode())]
                    give({"type": "http.response.start", "status": 200, "headers": headers})
                    started = True
                give({"type": "http.response.body", "body": piece, "more_body": True})

        feeding = asyncio.create_task(request.feed())
        try:
            await loop.run_in_executor(self._pool, copy_context().run, run)
        except BrokenReplyError as error:
            # Leaving without the last body event makes the server cut the connection: the client sees a truncation.
            _LOG.error("a reply broke off: %s", error.__cause__)
            return
        except BackendError as error:
            _LOG.error("no answer possible: %s", error)
            text = "temporarily out of service\n"
            await PlainTextResponse(text, 503, {"retry-after": "1"})(scope, receive, send)
            return
        finally:
            feeding.cancel()
        if request.too_long and not started:
            await self._refuse(scope, receive, send)
            return
        if not started:
            headers = [(b"content-type", MSL_MEDIA_TYPE.encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        text = f"the request is larger than {self._longest} bytes\n"
        await PlainTextResponse(text, 413, {"connection": "close"})(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._whole is not None:
            await self._whole(scope, receive, send)
            self._pool.shutdown()
            self._close()
            return
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            else:
                self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return


class _Traced:
    """The two ends of an exchange: counts bytes, and puts the request's ID on the answer.

    Args:
        receive: gives the request's events.
        send: takes the answer's.
        trace: the request.

    Attributes:
        received: bytes of the request so far.
        sent: bytes of the answer so far.
        outcome: what became of it, where the engine does not say.
    """

    def __init__(self, receive: Receive, send: Send, trace: Trace) -> None:
        self._receive = receive
        self._send = send
        self._id = (HEADER, trace.request_id.encode())
        self.received = 0
        self.sent = 0
        self.outcome = "broken off"

    async def receive(self) -> Message:
        """Return the next event of the request."""
        event = await self._receive()
        self.received += len(event.get("body", b""))
        return event

    async def send(self, event: Message) -> None:
        """Pass an event of the answer on."""
        if event["type"] == "http.response.start":
            event = {**event, "headers": [*event["headers"], self._id]}
            self.outcome = {200: "ignored", 503: "unavailable"}.get(event["status"], "too large")
        self.sent += len(event.get("body", b""))
        await self._send(event)


class _Request:
    """The body of one request, taken piece by piece by another thread; a few places hold the transport back.

    Args:
        loop: where the transport lives.
        receive: gives its events.
        exchange: what it is for.
        seconds: how long one piece may take to come.
        longest: the largest body, bytes; 0 for any length.

    Attributes:
        too_long: whether the body turned out to be larger than that; the exchange has seen it break off.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        receive: Receive,
        exchange: ServerExchange,
        seconds: float,
        longest: int,
    ) -> None:
        self._loop = loop
        self._receive = receive
        self._exchange = exchange
        self._seconds = seconds
        self._longest = longest
        self._pieces: queue.Queue[bytes | None] = queue.Queue()
        self._places = asyncio.Semaphore(_PLACES)
        self._taken = 0
        self._waited = 0.0
        self.too_long = False

    def take(self) -> bytes:
        """Return the next piece, or empty bytes at the end. Raises ClientGoneError."""
        # A thread waits here, so a client may take its time for a piece, but not for every one of many small ones,
        # and only one that has shown who it is.
        patience = self._seconds if self._exchange.header is not None else min(self._seconds, HEADER_SECONDS)
        left = patience + self._taken / SLOWEST - self._waited
        asked = time.monotonic()
        try:
            piece = self._pieces.get(timeout=max(0.0, min(left, self._seconds)))
        except queue.Empty:
            raise ClientGoneError("the client sends too slowly") from None
        self._waited += time.monotonic() - asked
        self._loop.call_soon_threadsafe(self._places.release)
        if piece is None:
            raise ClientGoneError("the client closed the connection in the middle of its request")
        self._taken += len(piece)
        return piece

    async def feed(self) -> None:
        """Pass the body on as places get free."""
        length = 0
        while True:
            await self._places.acquire()
            message = await self._receive()
            body = message.get("body", b"")
            length += len(body)
            self.too_long = 0 < self._longest < length
            if message["type"] != "http.request" or self.too_long:
                self._pieces.put(None)
                return
            if body:
                self._pieces.put(body)
            else:
                self._places.release()
            if not message.get("more_body", False):
                await self._places.acquire()
                self._pieces.put(b"")
                return


def _again(events: list[Message], receive: Receive) -> Receive:
    """Return what gives events once more, and then goes on."""
    first = iter(events)

    async def following() -> Message:
        event = next(first, None)
        return await receive() if event is None else event

    return following


async def _send(send: Send, event: dict[str, object]) -> None:
    await send(event)
