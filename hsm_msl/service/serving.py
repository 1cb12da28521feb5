"""Running the service: one listening socket, and one or several processes that answer on it."""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn
from starlette.responses import Response
from starlette.types import ASGIApp
from uvicorn.supervisors.multiprocess import Multiprocess

from hsm_msl.msl.streaming import StreamApplication
from hsm_msl.service.asgi import MslApplication
from hsm_msl.service.compose.server import ComposedServer, compose_server
from hsm_msl.service.config import read_server_config
from hsm_msl.service.dialog.beside import with_dialogs
from hsm_msl.service.dialog.http import DialogApplication
from hsm_msl.service.documents import Configuration, ServerConfig
from hsm_msl.service.http_protocol import KEEP_ALIVE_SECONDS, HttpProtocol
from hsm_msl.service.last_resort import LastResort
from hsm_msl.service.listening import not_listening, open_listener
from hsm_msl.service.named_application import applications
from hsm_msl.service.sections import ManagementSection
from hsm_msl.service.streaming import WHOLE_BYTES, StreamingMslApplication
from hsm_msl.service.watch.health import Check
from hsm_msl.service.watch.health_pages import Health
from hsm_msl.service.watch.log_lines import set_up_logging
from hsm_msl.service.watch.management import ManagementListener, ManagementPages, open_management

_START_SECONDS = 60
"""How long a worker process may take to start before it is replaced; a token on a busy machine takes its time."""


def application(
    config: Configuration[ServerConfig], composed: ComposedServer, stream: StreamApplication | None = None
) -> MslApplication | StreamingMslApplication | DialogApplication:
    """Return the ASGI application of a composed server, with the dialogs its configuration names.

    Args:
        config: the configuration it was composed from.
        composed: the server; the application closes it when the service stops.
        stream: answers messages that are long, piece by piece; without it they are refused.

    Raises:
        ConfigurationError, BackendError, StoreError: a listener or the dialogs cannot be opened.
    """
    listen = config.document.server
    health = Health(
        lambda: (Check("token keys and store", composed.check),),
        composed.deep,
        composed.drift,
        config.document.management or ManagementSection(),
    )
    composed.metrics.also(health.samples)
    inner = MslApplication(
        composed.server,
        load=composed.load,
        counts=composed.counts,
        management=management(config, composed, health),
        pulse=health.pulse,
        ready=health.ready,
        close=composed.close,
        max_request=config.document.limits.request,
        health=listen.health,
        threads=listen.threads,
        inline=listen.inline and config.document.session_keys.residency == "host",
    )
    if stream is None:
        return with_dialogs(config, composed, inner)
    limits = config.document.limits
    whole_bytes = min(WHOLE_BYTES, limits.request)
    streaming = StreamingMslApplication(
        composed.server,
        stream,
        whole=inner,
        whole_bytes=whole_bytes,
        counts=composed.counts,
        longest=limits.streamed,
    )
    return with_dialogs(config, composed, streaming)


def management(
    config: Configuration[ServerConfig], composed: ComposedServer, health: Health
) -> ManagementListener | None:
    """Open the operators' listener of this process; None where the configuration has none.

    Raises:
        ConfigurationError: its address cannot be listened on; names the key.
    """
    section = config.document.management
    if section is None:
        return None
    try:
        listener = open_management(section, config.document.server.workers)
    except OSError as error:
        raise not_listening(config, "management", section.host, section.port, error) from None

    def metrics() -> Response:
        return Response(composed.metrics.text(), media_type=composed.metrics.content_type)

    return ManagementListener(listener, ManagementPages({"/metrics": metrics, **health.pages()}))


def worker_application(path: str) -> ASGIApp:
    """Build the application in a worker process. Raises as ``compose_server``.

    Args:
        path: the configuration file, checked by the parent.
    """
    config = read_server_config(Path(path))
    set_up_logging(config.document.log)
    named = applications(config)
    return LastResort(application(config, compose_server(config, named.whole), named.stream))


def listen(config: Configuration[ServerConfig]) -> socket.socket:
    """Open the listening socket, so that the port is known and connections queue before the first worker is up.

    Raises:
        ConfigurationError: the address cannot be listened on; names the key and what to do.
    """
    section = config.document.server
    return open_listener(config, "server", section.host, section.port)


def url_of(listener: socket.socket) -> str:
    """Return the URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def serve(config: Configuration[ServerConfig], announce: Callable[[str, ComposedServer], None]) -> None:
    """Serve until SIGINT or SIGTERM, then finish the requests in progress.

    Args:
        config: the configuration.
        announce: called once everything is open, with the URL and the composed server.

    Raises:
        ConfigurationError, BackendError, StoreError: something the configuration names cannot be opened or used.
    """
    section = config.document.server
    named = applications(config)
    composed = compose_server(config, named.whole, occasion="serve" if section.workers == 1 else "check")
    try:
        composed.check()
        listener = listen(config)
        app = application(config, composed, named.stream)
    except BaseException:
        composed.close()
        raise
    with listener:
        announce(url_of(listener), composed)
        if section.workers == 1:
            run(config, app, listener)
            return
        app.close()
        # The workers open the token themselves: sessions and logins do not survive a change of process.
        factory = functools.partial(worker_application, str(config.path))
        settings = _settings(config, factory, factory=True, workers=section.workers)
        Multiprocess(settings, [listener]).run()


def run(config: Configuration[ServerConfig], app: ASGIApp, listener: socket.socket) -> None:
    """Answer on a socket, in this process, until SIGINT or SIGTERM.

    A process that cannot stop is ended: ``grace`` and ``last_resort.SECONDS`` after the signal.

    Args:
        config: the configuration.
        app: the application.
        listener: from ``listen``.
    """
    uvicorn.Server(_settings(config, LastResort(app))).run(sockets=[listener])


def _settings(
    config: Configuration[ServerConfig],
    app: ASGIApp | Callable[[], ASGIApp],
    *,
    factory: bool = False,
    workers: int = 1,
) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        factory=factory,
        workers=workers,
        log_config=None,
        access_log=False,
        lifespan="on",
        http=HttpProtocol,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        ws="none",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=config.document.server.grace,
        timeout_worker_healthcheck=_START_SECONDS,
    )
