"""Ends a process that was told to stop and cannot, because a call into a token never returns.

No thread can be taken out of a PKCS#11 module, and an interpreter waits for its threads.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOG = logging.getLogger("hsm_msl.service")

SECONDS = 10.0
"""How long a service may take to close what it stands on, after the requests in progress had their time."""

_STATUS = 1


class LastResort:
    """An ASGI application whose process ends within a time after it was told to stop, whatever hangs.

    Args:
        app: the application.
        seconds: how long its shutdown may take.
        end: ends the process at once.
    """

    def __init__(self, app: ASGIApp, seconds: float = SECONDS, end: Callable[[int], object] = os._exit) -> None:
        self._app = app
        self._seconds = seconds
        self._end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection (the protocol's own signature)."""
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        stopped = threading.Event()

        async def watched() -> Message:
            message: Message = await receive()
            if message["type"] == "lifespan.shutdown":
                threading.Thread(target=self._watch, args=(stopped,), name="last-resort", daemon=True).start()
            return message

        try:
            await self._app(scope, watched, send)
        finally:
            stopped.set()

    def _watch(self, stopped: threading.Event) -> None:
        if not stopped.wait(self._seconds):
            _LOG.critical("not stopped in %g s: a call hangs, perhaps into a token; the process ends", self._seconds)
            self._end(_STATUS)
