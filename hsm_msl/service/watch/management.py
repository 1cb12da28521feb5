"""The pages for operators, on an address of their own: metrics and health, away from what strangers can reach."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import uvicorn
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from hsm_msl.service.sections import ManagementSection

_LOG = logging.getLogger("hsm_msl.service")

_AT_ONCE = 8
"""Requests in work; more are turned away, so that nobody keeps the service from its messages by asking how it is."""

_STOP_SECONDS = 5.0

Page = Callable[[], Response]
"""Makes an answer; may take its time, since it runs in a thread."""


class ManagementPages:
    """Serves pages over ASGI.

    Args:
        pages: by path.
    """

    def __init__(self, pages: Mapping[str, Page]) -> None:
        self._pages = dict(pages)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection (the protocol's own signature)."""
        if scope["type"] != "http":
            return
        page = self._pages.get(scope["path"])
        if page is None:
            response: Response = PlainTextResponse(f"here are: {' '.join(self._pages)}\n", 404)
        elif scope["method"] not in ("GET", "HEAD"):
            response = PlainTextResponse("ask with GET\n", 405, {"allow": "GET, HEAD"})
        else:
            response = await asyncio.get_running_loop().run_in_executor(None, page)
        await response(scope, receive, send)


@dataclass(frozen=True, slots=True)
class ManagementListener:
    """Answers on a socket from a thread of its own, so that a service that is busy still says how it is.

    Args:
        listener: the listening socket.
        pages: what is served.
    """

    listener: socket.socket
    pages: ManagementPages

    def start(self) -> Callable[[], None]:
        """Begin to answer; returns what stops it."""
        settings = uvicorn.Config(
            self.pages,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            proxy_headers=False,
            server_header=False,
            limit_concurrency=_AT_ONCE,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(settings)
        thread = threading.Thread(
            target=server.run, kwargs={"sockets": [self.listener]}, name="management", daemon=True
        )
        thread.start()
        host, port = self.listener.getsockname()[:2]
        _LOG.info("management is listening on http://%s:%d/", f"[{host}]" if ":" in host else host, port)

        def stop() -> None:
            server.should_exit = True
            thread.join(_STOP_SECONDS)

        return stop


def open_management(section: ManagementSection, processes: int) -> socket.socket:
    """Open the listening socket of one process.

    Args:
        section: where.
        processes: how many processes share the section; each takes the first free port from ``port`` upward.

    Raises:
        OSError: no port is free, or the address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in section.host else socket.AF_INET
    ports = range(section.port, section.port + processes) if section.port else (0,)
    failure: OSError | None = None
    for port in ports:
        try:
            return socket.create_server((section.host, port), family=family)
        except OSError as error:
            failure = error
    raise failure or OSError("no port")
