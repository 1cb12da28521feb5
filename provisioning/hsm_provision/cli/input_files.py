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
from hsm_provision.open_files import demand_private


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
        demand_private(file, stream.fileno(), holds)
        yield stream, status.st_size if stat.S_ISREG(status.st_mode) else None
