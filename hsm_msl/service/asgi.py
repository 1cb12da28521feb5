"""The HTTP side of a server: one ASGI application that hands request bodies to the engine, and health pages.

MSL carries its own protection and its own errors, so HTTP is a tube: every path, Content-Type and Host is taken, and
whatever the engine says travels with status 200. What cannot be a message at all (another method, a body over the
limit) gets an HTTP error of one line.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send

from hsm_msl.errors import BackendError, HsmMslError
from hsm_msl.msl.server import MslServer

_LOG = logging.getLogger("hsm_msl.service")

MSL_MEDIA_TYPE = "application/json"
"""Objects of JSON, back to back; deployed clients take any type, and proxies leave this one alone."""

_POST_ONLY = {"allow": "POST"}
_CLOSING = {"connection": "close"}


class MslApplication:
    """Serves one MSL server over ASGI.

    Args:
        server: the engine.
        ready: raises an ``HsmMslError`` when a token or store gives no answer; asked by the readiness page.
        close: called once when the service stops.
        max_request: the largest request body, bytes.
        health: path prefix of the health pages.
        threads: threads for the engine; 0 runs it on the event loop.
    """

    def __init__(
        self,
        server: MslServer,
        *,
        ready: Callable[[], None],
        close: Callable[[], None],
        max_request: int,
        health: str = "/health",
        threads: int = 4,
    ) -> None:
        self._server = server
        self._ready = ready
        self._close = close
        self._max_request = max_request
        self._live_path = f"{health}/live"
        self._ready_path = f"{health}/ready"
        self._pool: Executor | None = ThreadPoolExecutor(threads, "msl") if threads else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection (the protocol's own signature)."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            response = await self._respond(scope, receive)
            if response is not None:
                await response(scope, receive, send)

    async def _respond(self, scope: Scope, receive: Receive) -> Response | None:
        method: str = scope["method"]
        if method == "POST":
            return await self._message(scope, receive)
        if method in ("GET", "HEAD"):
            path: str = scope["path"]
            if path == self._live_path:
                return JSONResponse({"status": "live"})
            if path == self._ready_path:
                return await self._readiness()
        return PlainTextResponse("send MSL messages with POST\n", 405, _POST_ONLY)

    async def _message(self, scope: Scope, receive: Receive) -> Response | None:
        try:
            body = await self._body(Request(scope, receive))
        except ClientDisconnect:
            return None
        if body is None:
            text = f"the request is larger than {self._max_request} bytes\n"
            return PlainTextResponse(text, 413, _CLOSING)
        try:
            answer = await self._run(self._server.handle, body)
        except BackendError as error:
            # Not even an error message could be protected: the one case in which HTTP has to speak.
            _LOG.error("no answer possible: %s", error)
            return PlainTextResponse("temporarily out of service\n", 503, {"retry-after": "1"})
        return Response(answer, media_type=MSL_MEDIA_TYPE)

    async def _body(self, request: Request) -> bytes | None:
        """Return the whole body, or None when it is larger than allowed, which is noticed as early as can be."""
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._max_request:
            return None
        parts: list[bytes] = []
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > self._max_request:
                return None
            parts.append(part)
        return b"".join(parts)

    async def _readiness(self) -> Response:
        try:
            await self._run(self._ready)
        except HsmMslError as error:
            _LOG.warning("not ready: %s", error)
            return JSONResponse({"status": "out of service", "reason": type(error).__name__}, 503)
        return JSONResponse({"status": "ready"})

    async def _run(self, function: Callable[..., Any], *arguments: object) -> Any:
        if self._pool is None:
            return function(*arguments)
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message: Message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            else:
                if self._pool is not None:
                    self._pool.shutdown()
                self._close()
                await send({"type": "lifespan.shutdown.complete"})
                return
