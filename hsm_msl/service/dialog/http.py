"""Packets over HTTP: the ASGI side that receives, the client side that sends; the protocol depends on neither."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import httpx
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hsm_msl.dialog.cache import RateLimit
from hsm_msl.dialog.names import MEDIA_TYPE, STREAM_MEDIA_TYPE
from hsm_msl.errors import HsmMslError, LimitExceededError
from hsm_msl.service.asgi import late
from hsm_msl.service.dialog.frames import MAX_BODY, frame, unframe
from hsm_msl.service.dialog.node import DialogNode
from hsm_msl.service.http_connections import LIMITS
from hsm_msl.service.watch.health_pages import Pulse

_LOG = logging.getLogger("hsm_msl.dialog")

PATH = "/dialog"

BODY_SECONDS = 30.0
"""How long a sender may take until the body of a request has come in."""

BODIES_HELD = 8 * MAX_BODY
"""Bytes of the bodies of all requests in work."""


class _CrowdedError(Exception):
    """The bodies of other requests fill the memory that is set apart for them."""


class _LateError(Exception):
    """The body of a request does not come in."""


class DialogApplication:
    """Receives packets for one node over ASGI.

    Args:
        node: the node; started and stopped with the server.
        path: where packets are posted.
        health: path prefix of the health pages.
        inner: the application for every other path, such as the MSL server's; None answers 404.
        per_second: requests of one source per second before it is asked to slow down.
        seconds: how long the body of a request may take to come in.
        held: most bytes of the bodies of all requests in work; who comes with more is asked to come again.
        close: called when the node has stopped.
        pulse: watches the event loop the node runs on.
    """

    def __init__(
        self,
        node: DialogNode,
        *,
        path: str = PATH,
        health: str = "/health",
        inner: ASGIApp | None = None,
        per_second: int = 2000,
        seconds: float = BODY_SECONDS,
        held: int = BODIES_HELD,
        close: Callable[[], None] | None = None,
        pulse: Pulse | None = None,
    ) -> None:
        self._node = node
        self._path = path
        self._live, self._ready = f"{health}/live", f"{health}/ready"
        self._inner = inner
        self._limit = RateLimit(per_second, 1.0)
        self._seconds = seconds
        self._room = held
        self._close = close
        self._pulse = pulse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection (the protocol's own signature)."""
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == self._path:
            response = await self._packets(scope, receive)
            if response is not None:
                await response(scope, receive, send)
        elif self._inner is not None:
            response = await self._unready() if scope["type"] == "http" and scope["path"] == self._ready else None
            await (response or self._inner)(scope, receive, send)
        elif scope["type"] == "http":
            response = await self._page(scope["path"])
            await response(scope, receive, send)

    async def _packets(self, scope: Scope, receive: Receive) -> Response | None:
        if scope["method"] != "POST":
            return PlainTextResponse("send packets with POST\n", 405, {"allow": "POST"})
        source = str((scope.get("client") or ("",))[0]).encode()
        if not self._limit.allow(source, time.monotonic()):
            return PlainTextResponse("slow down\n", 429, {"retry-after": "1"})
        try:
            async with self._body(Request(scope, receive)) as body:
                return await self._received(Headers(scope=scope).get("content-type", ""), body)
        except ClientDisconnect:
            return None
        except _CrowdedError:
            return PlainTextResponse("too much at a time\n", 503, {"retry-after": "1", "connection": "close"})
        except _LateError:
            return late(self._seconds, {})
        except LimitExceededError as error:
            return _too_large(error)

    async def _received(self, media_type: str, body: bytes) -> Response:
        try:
            packets = unframe(media_type, body)
        except LimitExceededError as error:
            return _too_large(error)
        except HsmMslError as error:
            return PlainTextResponse(f"{error}\n", 400)
        except ValueError:
            return PlainTextResponse(f"send {MEDIA_TYPE} or {STREAM_MEDIA_TYPE}\n", 415)
        try:
            replies = await self._node.receive(packets) if packets else []
        except HsmMslError as error:
            # Nothing was received, so nothing is acknowledged; the sender tries again.
            _LOG.error("packets cannot be received now: %s", error)
            return PlainTextResponse("temporarily out of service\n", 503, {"retry-after": "1"})
        if not replies:
            return Response(status_code=204)
        kind, content = frame(replies)
        return Response(content, media_type=kind)

    @asynccontextmanager
    async def _body(self, request: Request) -> AsyncIterator[bytes]:
        """Yield the body of a request; its bytes count as held until the block ends."""
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > MAX_BODY:
            raise LimitExceededError("body too large")
        parts: list[bytes] = []
        size = 0
        try:
            try:
                async with asyncio.timeout(self._seconds):
                    async for part in request.stream():
                        size += len(part)
                        self._room -= len(part)
                        if size > MAX_BODY:
                            raise LimitExceededError("body too large")
                        if self._room < 0:
                            raise _CrowdedError
                        parts.append(part)
            except TimeoutError:
                raise _LateError from None
            yield b"".join(parts)
        finally:
            self._room += size

    async def _page(self, path: str) -> Response:
        if path == self._live:
            return JSONResponse({"status": "live"})
        if path != self._ready:
            return PlainTextResponse("not here\n", 404)
        return await self._unready() or JSONResponse({"status": "ready"})

    async def _unready(self) -> Response | None:
        """Return the answer of a service whose dialogs have no database now."""
        try:
            await self._node.probe()
        except HsmMslError as error:
            return JSONResponse({"status": "out of service", "reason": type(error).__name__}, 503)
        return None

    def close(self) -> None:
        """Close what the dialogs and the inner application stand on; the node has stopped, or never ran."""
        if self._close is not None:
            self._close()
        close = getattr(self._inner, "close", None)
        if close is not None:
            close()

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def watched_receive() -> Message:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self._node.start()
                if self._pulse is not None:
                    self._pulse.watch(asyncio.get_running_loop())
            else:
                await self._node.stop()
                if self._close is not None:
                    self._close()
            return message

        if self._inner is not None:
            await self._inner(scope, watched_receive, send)
            return
        while True:
            message = await watched_receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return


def _too_large(error: LimitExceededError) -> Response:
    return PlainTextResponse(f"{error}\n", 413, {"connection": "close"})


class HttpTransport:
    """Posts packets to other services (``Transport``).

    Args:
        timeout: seconds for connecting, until an answer begins, and from there to its end.
        client: an HTTP client to use instead of an own one.
    """

    def __init__(self, *, timeout: float = 10.0, client: httpx.AsyncClient | None = None) -> None:
        # Proxies and passwords of the environment are for browsing; packets go where they were told to go.
        self._client = client or httpx.AsyncClient(timeout=timeout, trust_env=False, limits=LIMITS)
        self._timeout = timeout

    async def deliver(self, url: str, packets: Sequence[bytes]) -> list[bytes]:
        """Post packets and return the answer's; nobody there, and every refusal, is no answer."""
        media_type, body = frame(packets)
        try:
            headers = {"content-type": media_type, "accept-encoding": "identity"}
            async with self._client.stream("POST", url, content=body, headers=headers) as answer:
                if answer.status_code != 200:
                    return []
                async with asyncio.timeout(self._timeout):
                    content = await _whole(answer)
            return unframe(answer.headers.get("content-type", ""), content)
        except (httpx.HTTPError, httpx.InvalidURL, HsmMslError, ValueError, TimeoutError) as error:
            _LOG.info("no answer from %s: %s", url, type(error).__name__)
            return []

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


async def _whole(answer: httpx.Response) -> bytes:
    content = bytearray()
    async for part in answer.aiter_raw():  # packets do not shrink; what claims to be compressed is no packet
        content += part
        if len(content) > MAX_BODY:
            raise LimitExceededError("answer too large")
    return bytes(content)
