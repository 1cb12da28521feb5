"""Input that is secret: standard input, or a file that only its owner may read."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from hsm_msl.errors import ConfigurationError


@contextlib.contextmanager
def private_source(file: Path, holds: str) -> Iterator[tuple[BinaryIO, int | None]]:
    """Open an input for the length of a ``with`` block; its size in bytes is known of a regular file.

    Args:
        file: the file; ``-`` is standard input.
        holds: what is in it, for people.

    Raises:
        ConfigurationError: it cannot be read, or others may read it.
    """
    if str(file) == "-":
        yield sys.stdin.buffer, None
        return
    try:
        stream = file.open("rb")
    except OSError as error:
        raise ConfigurationError(f"{file}: cannot be read: {error.strerror}") from error
    with stream:
        status = os.fstat(stream.fileno())
        regular = stat.S_ISREG(status.st_mode)
        if regular and status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigurationError(
                f"{file}: holds {holds} and is open to others (mode {stat.S_IMODE(status.st_mode):04o}); "
                f"run: chmod 600 {file}"
            )
        yield stream, status.st_size if regular else None
