"""Secure dialogs on the port of an MSL server: one process, one listener, one login to the token."""

from __future__ import annotations

from typing import Protocol, TypeVar

from starlette.types import Receive, Scope, Send

from hsm_msl.service.compose.server import ComposedServer
from hsm_msl.service.dialog.compose import ComposedDialogs, compose_dialogs
from hsm_msl.service.dialog.config import read_dialog_config
from hsm_msl.service.dialog.http import DialogApplication
from hsm_msl.service.dialog.serving import node_of
from hsm_msl.service.dialog.watch import dialog_source
from hsm_msl.service.documents import Configuration, ServerConfig


class ClosingApplication(Protocol):
    """An ASGI application that lets go of what it stands on when the service stops."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection (the protocol's own signature)."""

    def close(self) -> None:
        """Let go now, when it never served."""


_Inner = TypeVar("_Inner", bound=ClosingApplication)


def with_dialogs(
    config: Configuration[ServerConfig], composed: ComposedServer, inner: _Inner
) -> _Inner | DialogApplication:
    """Return an MSL server's application, behind one that takes packets where ``[dialog]`` names a file.

    Args:
        config: the MSL server's configuration.
        composed: the MSL server; its tokens hold the dialogs' keys when their own file names no token.
        inner: answers everything but packets.

    Raises:
        ConfigurationError, BackendError, StoreError: something the dialogs' file names cannot be opened or used.
    """
    dialogs = dialogs_beside(config, composed)
    if dialogs is None:
        return inner
    node = node_of(dialogs)
    composed.metrics.also(dialog_source(dialogs.engine, dialogs.store))
    return DialogApplication(node, health=config.document.server.health, inner=inner, close=dialogs.close)


def dialogs_beside(config: Configuration[ServerConfig], composed: ComposedServer) -> ComposedDialogs | None:
    """Open the dialogs that ``[dialog]`` names, if it does. Arguments and errors as ``with_dialogs``."""
    section = config.document.dialog
    if section is None:
        return None
    if config.document.server.workers != 1:
        raise config.error(
            "dialog",
            "needs server.workers = 1: a process that holds dialogs is one node with its own incarnation; run several"
            " services on one PostgreSQL, each with its own service.node",
        )
    return compose_dialogs(read_dialog_config(config.resolve(section.configuration)), token=composed.token)
