"""The HTTP side of a server: one ASGI application that hands request bodies to the engine, and health pages.

MSL carries its own protection and its own errors, so HTTP is a tube: every path, Content-Type and Host is taken, and
whatever the engine says travels with status 200. What cannot be a message at all (another method, a body over the
limit) gets an HTTP error of one line.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send

from hsm_msl.errors import BackendError
from hsm_msl.msl.server import MslServer
from hsm_msl.ports import RandomBytes
from hsm_msl.service.fast_lane import FastLane
from hsm_msl.service.load import Load
from hsm_msl.service.watch.health import Report, Status
from hsm_msl.service.watch.health_pages import Pulse
from hsm_msl.service.watch.management import ManagementListener
from hsm_msl.service.watch.message_counts import MessageCounts
from hsm_msl.service.watch.request_trace import HEADER, Trace, request_id, say, working_on

_LOG = logging.getLogger("hsm_msl.service")

MSL_MEDIA_TYPE = "application/json"
"""Objects of JSON, back to back; deployed clients take any type, and proxies leave this one alone."""

_CALL_SECONDS = 2.0
"""How long calls into the engine may still take when the service stops, after its ``grace``."""

_MEDIA_TYPE = (b"content-type", MSL_MEDIA_TYPE.encode())
_POST_ONLY = {"allow": "POST"}
_CLOSING = {"connection": "close"}


def late(seconds: float, headers: Mapping[str, str]) -> Response:
    """Return the answer to a request that does not come in.

    Args:
        seconds: how long was waited.
        headers: further headers.
    """
    return PlainTextResponse(
        f"the request did not come in within {seconds:g} seconds\n", 408, {**_CLOSING, **headers}
    )


class _TooLargeError(Exception):
    """The request body is larger than this server takes."""


class _GoneError(Exception):
    """The client closed the connection before its request was complete."""


class MslApplication:
    """Serves one MSL server over ASGI.

    Args:
        server: the engine.
        load: counts the messages in work.
        counts: counts what became of messages.
        ready: tells whether messages can be answered; asked by the readiness page.
        close: called once when the service stops.
        max_request: the largest request body, bytes.
        management: the operators' pages; served from when the service starts until it stops.
        pulse: watches the event loop for the operators.
        health: path prefix of the health pages.
        threads: threads for the engine; 0 runs it on the event loop.
        inline: run messages of sessions that proved to be quick on the event loop all the same (``fast_lane``).
        random: makes the IDs of requests that bring none.
        seconds: how long a request may take to come in whole.
    """

    def __init__(
        self,
        server: MslServer,
        *,
        load: Load,
        counts: MessageCounts,
        ready: Callable[[], Report],
        close: Callable[[], None],
        max_request: int,
        management: ManagementListener | None = None,
        pulse: Pulse | None = None,
        health: str = "/health",
        threads: int = 4,
        inline: bool = True,
        random: RandomBytes = os.urandom,
        seconds: float = 60.0,
    ) -> None:
        self._server = server
        self._load = load
        self._seconds = seconds
        self._counts = counts
        self._management = management
        self._pulse = pulse
        self._stop_management: Callable[[], None] = lambda: None
        self._inline = inline
        self._random = random
        self._lane = FastLane()
        self._ready = ready
        self._close = close
        self._max_request = max_request
        self._live_path = f"{health}/live"
        self._ready_path = f"{health}/ready"
        self._pool: Executor | None = ThreadPoolExecutor(threads, "msl") if threads else None

    def close(self) -> None:
        """Let go of everything; done by itself when a service that was started stops."""
        self._stop_management()
        if self._management is not None:
            self._management.listener.close()
        if self._pool is None:
            self._close()
            return
        self._pool.shutdown(wait=False, cancel_futures=True)
        ending = threading.Thread(target=self._pool.shutdown, daemon=True)
        ending.start()
        # A call that hangs must not keep the audit log and the usage reports from their last words.
        ending.join(_CALL_SECONDS)
        self._close()
        ending.join()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection (the protocol's own signature)."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            if scope["method"] == "POST":
                await self._message(scope, receive, send)
            else:
                response = await self._page(scope)
                await response(scope, receive, send)

    async def _message(self, scope: Scope, receive: Receive, send: Send) -> None:
        trace = Trace(request_id(scope["headers"], self._random))
        names = {HEADER.decode(): trace.request_id}
        try:
            async with asyncio.timeout(self._seconds):
                body = await self._body(scope, receive)
        except _GoneError:
            return
        except TimeoutError:
            await late(self._seconds, names)(scope, receive, send)
            return
        except _TooLargeError:
            text = f"the request is larger than {self._max_request} bytes\n"
            await PlainTextResponse(text, 413, {**_CLOSING, **names})(scope, receive, send)
            return
        started = time.perf_counter_ns()
        try:
            session = self._lane.session(body) if self._inline else None
            with self._load:
                if self._lane.admits(session):
                    answer, elapsed = self._timed(body, trace)
                else:
                    answer, elapsed = await self._run(self._timed, body, trace)
            self._lane.took(session, elapsed / 1e9)
        except BackendError as error:
            # Not even an error message could be protected: the one case in which HTTP has to speak.
            self._counts.unavailable()
            with working_on(trace):
                _LOG.error("no answer possible: %s", error)
            text = "temporarily out of service\n"
            await PlainTextResponse(text, 503, {"retry-after": "1", **names})(scope, receive, send)
            trace.fields["outcome"] = "unavailable"
            say(trace, "unavailable", len(body), len(text), time.perf_counter_ns() - started)
            return
        self._counts.took(elapsed)
        if not answer:
            self._counts.ignored()
        say(trace, "ignored", len(body), len(answer), elapsed)
        # This path runs once per message, so it does without response objects.
        length = b"%d" % len(answer)
        headers = [_MEDIA_TYPE, (b"content-length", length), (HEADER, trace.request_id.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    def _timed(self, body: bytes, trace: Trace) -> tuple[bytes, int]:
        start = time.perf_counter_ns()
        with working_on(trace):
            answer = self._server.handle(body)
        return answer, time.perf_counter_ns() - start

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """Return the whole body, or raise as soon as it is known to be too large or not to come."""
        for name, value in scope["headers"]:
            if name == b"content-length" and int(value) > self._max_request:
                raise _TooLargeError
        body, more = await _piece(receive)
        if not more and len(body) <= self._max_request:
            return body
        parts = bytearray(body)
        while more and len(parts) <= self._max_request:
            body, more = await _piece(receive)
            parts += body
        if len(parts) > self._max_request:
            raise _TooLargeError
        return bytes(parts)

    async def _page(self, scope: Scope) -> Response:
        if scope["method"] in ("GET", "HEAD"):
            if scope["path"] == self._live_path:
                return JSONResponse({"status": "live"})
            if scope["path"] == self._ready_path:
                return await self._readiness()
        return PlainTextResponse("send MSL messages with POST\n", 405, _POST_ONLY)

    async def _readiness(self) -> Response:
        report = await self._run(self._ready)
        if report.status is Status.OK:
            return JSONResponse({"status": "ready"})
        _LOG.warning("not ready: %s", report.error)
        return JSONResponse({"status": "out of service", "reason": type(report.error).__name__}, 503)

    async def _run(self, function: Callable[..., Any], *arguments: object) -> Any:
        if self._pool is None:
            return function(*arguments)
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message: Message = await receive()
            if message["type"] == "lifespan.startup":
                if self._pulse is not None:
                    self._pulse.watch(asyncio.get_running_loop())
                if self._management is not None:
                    self._stop_management = self._management.start()
                await send({"type": "lifespan.startup.complete"})
            else:
                self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return


async def _piece(receive: Receive) -> tuple[bytes, bool]:
    """Return the next piece of a request body, and whether more follows."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise _GoneError
    return message.get("body", b""), message.get("more_body", False)
