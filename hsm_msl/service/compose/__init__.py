"""The composition root: the only package that makes tokens, keys, stores and engines out of a configuration."""

from __future__ import annotations

from hsm_msl.service.compose.client import ComposedClient, compose_client
from hsm_msl.service.compose.inspection import compose_inspection
from hsm_msl.service.compose.server import ComposedServer, compose_server, server_public_key

__all__ = [
    "ComposedClient",
    "ComposedServer",
    "compose_client",
    "compose_inspection",
    "compose_server",
    "server_public_key",
]
