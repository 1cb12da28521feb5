"""Streaming over HTTP: an ASGI application whose requests and replies pass in pieces, with back-pressure both ways.

One thread per exchange runs the engine and the application, which are plain blocking code. The event loop hands it
the request's pieces through a queue of a few places and takes the reply's pieces one by one, so that neither side
can run ahead of the other and memory stays flat for messages of any length.
"""

from __future__ import annotations

import asyncio
import logging
import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from hsm_msl.errors import BackendError, HsmMslError
from hsm_msl.msl.server import MslServer
from hsm_msl.msl.streaming import BrokenReplyError, StreamApplication, serve
from hsm_msl.service.asgi import MSL_MEDIA_TYPE

_LOG = logging.getLogger("hsm_msl.service")
_PLACES = 4
_POST_ONLY = {"allow": "POST"}


class ClientGoneError(HsmMslError):
    """The client closed the connection in the middle of its request."""


class StreamingMslApplication:
    """Serves a streaming application of one MSL server over ASGI.

    Args:
        server: the engine; its own whole-message application is not used.
        application: from a request and the pieces of its payload to the pieces of the reply.
        close: called once when the service stops.
        threads: exchanges that may run at once; more wait.
        seconds: how long one piece may take to come or go.
    """

    def __init__(
        self,
        server: MslServer,
        application: StreamApplication,
        *,
        close: Callable[[], None] = lambda: None,
        threads: int = 32,
        seconds: float = 60.0,
    ) -> None:
        self._server = server
        self._application = application
        self._close = close
        self._pool = ThreadPoolExecutor(threads, "msl-stream")
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection (the protocol's own signature)."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            if scope["method"] != "POST":
                await PlainTextResponse("send MSL messages with POST\n", 405, _POST_ONLY)(scope, receive, send)
            else:
                await self._exchange(scope, receive, send)

    async def _exchange(self, scope: Scope, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()
        pieces: queue.Queue[bytes | None] = queue.Queue()
        places = asyncio.Semaphore(_PLACES)
        started = False

        def take() -> bytes:
            piece = pieces.get(timeout=self._seconds)
            loop.call_soon_threadsafe(places.release)
            if piece is None:
                raise ClientGoneError("the client closed the connection in the middle of its request")
            return piece

        def give(event: dict[str, object]) -> None:
            asyncio.run_coroutine_threadsafe(_send(send, event), loop).result(self._seconds)

        def run() -> None:
            nonlocal started
            for piece in serve(self._server.exchange(), take, self._application):
                if not started:
                    headers = [(b"content-type", MSL_MEDIA_TYPE.encode())]
                    give({"type": "http.response.start", "status": 200, "headers": headers})
                    started = True
                give({"type": "http.response.body", "body": piece, "more_body": True})

        feeding = asyncio.create_task(_feed(receive, pieces, places))
        try:
            await loop.run_in_executor(self._pool, run)
        except BrokenReplyError as error:
            # Leaving without the last body event makes the server cut the connection: the client sees a truncation.
            _LOG.error("a reply broke off: %s", error.__cause__)
            return
        except BackendError as error:
            _LOG.error("no answer possible: %s", error)
            await PlainTextResponse("temporarily out of service\n", 503)(scope, receive, send)
            return
        finally:
            feeding.cancel()
        if not started:
            headers = [(b"content-type", MSL_MEDIA_TYPE.encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            else:
                self._pool.shutdown()
                self._close()
                await send({"type": "lifespan.shutdown.complete"})
                return


async def _send(send: Send, event: dict[str, object]) -> None:
    await send(event)


async def _feed(receive: Receive, pieces: queue.Queue[bytes | None], places: asyncio.Semaphore) -> None:
    """Pass the request on; the semaphore holds the transport back while the exchange is busy."""
    while True:
        await places.acquire()
        message = await receive()
        if message["type"] != "http.request":
            pieces.put(None)
            return
        body = message.get("body", b"")
        if body:
            pieces.put(body)
        else:
            places.release()
        if not message.get("more_body", False):
            await places.acquire()
            pieces.put(b"")
            return
