"""Runs one process of a service with dialogs behind an HTTP server."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import uvicorn

from hsm_msl.errors import ConfigurationError
from hsm_msl.service.dialog_compose import compose_dialogs
from hsm_msl.service.dialog_config import read_dialog_config
from hsm_msl.service.dialog_http import PATH, DialogApplication, HttpTransport
from hsm_msl.service.dialog_node import DialogNode


def serve(path: Path, announce: Callable[[str, str], None]) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        path: the configuration file.
        announce: called once everything is open, with the URL for packets and the service's name.

    Raises ConfigurationError, BackendError, StoreError: something the configuration names cannot be opened or used.
    """
    _log_to_stderr()
    config = read_dialog_config(path)
    section = config.document.server
    composed = compose_dialogs(config)
    try:
        family = socket.AF_INET6 if ":" in section.host else socket.AF_INET
        try:
            listener = socket.create_server((section.host, section.port), family=family, backlog=2048)
        except OSError as error:
            where = f"{section.host}:{section.port}"
            raise ConfigurationError(f"{path}: server: {where} cannot be listened on: {error.strerror}") from None
        node = DialogNode(
            composed.engine,
            composed.store,
            HttpTransport(),
            node=composed.node,
            mirror=composed.mirror,
            threads=section.threads,
        )
        settings = uvicorn.Config(
            DialogApplication(node, health=section.health, close=composed.close),
            log_config=None,
            access_log=False,
            lifespan="on",
            ws="none",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=section.grace,
        )
        with listener:
            host, port = listener.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            announce(f"http://{shown}:{port}{PATH}", config.document.service.name)
            uvicorn.Server(settings).run(sockets=[listener])
    finally:
        composed.close()


def _log_to_stderr() -> None:
    """Send log lines to standard error; contents, keys and credentials are never among them."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name, level in (("hsm_msl", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False
