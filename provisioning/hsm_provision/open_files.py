"""Whether a file with secrets in it is open to others."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from hsm_msl.errors import ConfigurationError


def demand_private(path: Path, descriptor: int, holds: str) -> None:
    """Refuse an opened file that others than its owner may read; what is no file, as a pipe, is not judged.

    Args:
        path: its name; what the shell opened (``/dev/stdin``) is not judged either.
        descriptor: the open file.
        holds: what is in it, for people.

    Raises:
        ConfigurationError: its mode has rights for the group or others.
    """
    mode = os.fstat(descriptor).st_mode
    given = path == Path("/dev/stdin") or path.is_relative_to("/dev/fd")
    if stat.S_ISREG(mode) and mode & (stat.S_IRWXG | stat.S_IRWXO) and not given:
        raise ConfigurationError(
            f"{path}: holds {holds} and is open to others (mode {stat.S_IMODE(mode):04o}); run: chmod 600 {path}"
        )
