"""Listening sockets, and what to change in the configuration where one cannot be opened."""

from __future__ import annotations

import errno
import os
import socket
from typing import Protocol

from hsm_msl.errors import ConfigurationError

_BACKLOG = 2048

_PORT_PROBLEMS = {
    errno.EADDRINUSE: "is in use; stop the other program or choose another port (0 takes a free one)",
    errno.EACCES: "is not allowed for this user; choose one above 1023",
}


class Configured(Protocol):
    """What the configurations of both services have."""

    def error(self, key: str, problem: str) -> ConfigurationError:
        """Return the error that names a key."""


def open_listener(config: Configured, table: str, host: str, port: int) -> socket.socket:
    """Open a listening socket.

    Args:
        config: where the address is from.
        table: the table that has it, as ``host`` and ``port``.
        host: name or address.
        port: TCP port; 0 takes a free one.

    Raises:
        ConfigurationError: the address cannot be listened on; names the key and what to do.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise not_listening(config, table, host, port, error) from None


def not_listening(config: Configured, table: str, host: str, port: int, error: OSError) -> ConfigurationError:
    """Return the error about an address that cannot be listened on.

    Args:
        config: where the address is from.
        table: the table that has it.
        host: name or address.
        port: TCP port.
        error: why.
    """
    number = error.errno or 0
    if number in _PORT_PROBLEMS:
        return config.error(f"{table}.port", f"{host}:{port} {_PORT_PROBLEMS[number]}")
    if number == errno.EADDRNOTAVAIL:
        return config.error(f"{table}.host", f"{host} is no address of this machine")
    if number < 0:  # those of the resolver
        return config.error(f"{table}.host", f"{host!r} cannot be resolved")
    return config.error(f"{table}.host", f"{host!r} cannot be listened on: {os.strerror(number)}")
