"""Runs one process of a service with dialogs behind an HTTP server: as a program, or inside an application."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import uvicorn
from starlette.responses import Response
from starlette.types import ASGIApp

from hsm_msl.dialog.proving import prove_suites
from hsm_msl.errors import ConfigurationError
from hsm_msl.service.dialog.compose import ComposedDialogs, compose_dialogs
from hsm_msl.service.dialog.config import DialogConfiguration, read_dialog_config
from hsm_msl.service.dialog.http import PATH, DialogApplication, HttpTransport
from hsm_msl.service.dialog.node import DialogNode
from hsm_msl.service.dialog.watch import dialog_health, dialog_source
from hsm_msl.service.http_protocol import KEEP_ALIVE_SECONDS, HttpProtocol
from hsm_msl.service.last_resort import LastResort
from hsm_msl.service.listening import not_listening, open_listener
from hsm_msl.service.watch.health_pages import Pulse
from hsm_msl.service.watch.log_lines import set_up_logging
from hsm_msl.service.watch.management import ManagementListener, ManagementPages, open_management
from hsm_msl.service.watch.metric_sources import token_source
from hsm_msl.service.watch.metrics import Metrics
from hsm_msl.service.watch.pin_flags import PinFlags


def serve(path: Path, announce: Callable[[str, str], None]) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        path: the configuration file.
        announce: called once everything is open, with the URL for packets and the service's name.

    Raises ConfigurationError, BackendError, StoreError: something the configuration names cannot be opened or used.
    """
    set_up_logging()
    config = read_dialog_config(path)
    set_up_logging(config.document.log)
    composed = compose_dialogs(config)
    with contextlib.closing(composed), _listening(config) as listener, _managed(config, composed) as pulse:
        announce(_url(listener), config.document.service.name)
        settings = _settings(config, LastResort(_application(config, composed, node_of(composed), pulse)))
        uvicorn.Server(settings).run(sockets=[listener])


@contextlib.asynccontextmanager
async def running(path: Path) -> AsyncIterator[DialogNode]:
    """Run a service inside an application of one's own, on its event loop, until the block ends.

    Args:
        path: the configuration file.

    Yields the node: begin dialogs with it, and wait for those of others.
    Raises ConfigurationError, BackendError, StoreError: something the configuration names cannot be opened or used.
    """
    config = read_dialog_config(path)
    composed = await asyncio.to_thread(compose_dialogs, config)
    with contextlib.closing(composed), _listening(config) as listener, _managed(config, composed) as pulse:
        node = node_of(composed)
        server = uvicorn.Server(_settings(config, _application(config, composed, node, pulse)))
        server.capture_signals = contextlib.nullcontext  # type: ignore[assignment,method-assign]  # the application's own
        task = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started and not task.done():
            await asyncio.sleep(0.01)  # the server offers nothing to wait for
        try:
            if task.done():
                await task
                raise ConfigurationError(f"{path}: the service did not start; its log says why")
            yield node
        finally:
            server.should_exit = True
            await task


@contextlib.contextmanager
def _managed(config: DialogConfiguration, composed: ComposedDialogs) -> Iterator[Pulse]:
    """Serve the operators' pages for a block, where the configuration has them; yield what is to watch the loop."""
    section = config.document.management
    if section is None:
        yield Pulse()
        return
    try:
        listener = open_management(section, 1)
    except OSError as error:
        raise not_listening(config, "management", section.host, section.port, error) from None
    engine, store = composed.engine, composed.store
    suites = {suite for binding in config.document.bindings for suite in binding.suites}
    health = dialog_health(engine, store, lambda: prove_suites(engine.context.local, suites), section)
    flags = PinFlags(composed.opened)
    sources = (token_source(composed.opened), flags.samples, dialog_source(engine, store), health.samples)
    metrics = Metrics(sources)

    def page() -> Response:
        return Response(metrics.text(), media_type=metrics.content_type)

    with listener:
        stop = ManagementListener(listener, ManagementPages({"/metrics": page, **health.pages()})).start()
        try:
            yield health.pulse
        finally:
            stop()


def node_of(composed: ComposedDialogs) -> DialogNode:
    """Return a node that carries packets over HTTP."""
    return DialogNode(
        composed.engine,
        composed.store,
        HttpTransport(),
        node=composed.node,
        mirror=composed.mirror,
        observer=composed.observer,
        threads=composed.threads,
    )


def _listening(config: DialogConfiguration) -> socket.socket:
    section = config.document.server
    return open_listener(config, "server", section.host, section.port)


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}{PATH}" if ":" in host else f"http://{host}:{port}{PATH}"


def _application(
    config: DialogConfiguration, composed: ComposedDialogs, node: DialogNode, pulse: Pulse
) -> DialogApplication:
    return DialogApplication(node, health=config.document.server.health, close=composed.close, pulse=pulse)


def _settings(config: DialogConfiguration, app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="on",
        http=HttpProtocol,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        ws="none",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=config.document.server.grace,
    )
