"""Goes on with the counts of processes that ended, so that a restart does not make a key version look idle."""

from __future__ import annotations

import fcntl
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from hsm_msl.service.key_usage import KeyUsage, UsageReport

_LOG = logging.getLogger("hsm_msl.keys")
_NAME = re.compile(r"(?P<host>.+)-(?P<pid>[0-9]+)\.json")


@contextmanager
def adopted(path: Path, usage: KeyUsage) -> Iterator[None]:
    """Add to the counters what ended processes of this host reported; their files go when the block has ended well.

    Args:
        path: this process's report, ``HOST-PID.json``; one of that name is from an earlier process.
        usage: the counters.

    Raises:
        OSError: the directory cannot be read or made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Workers that start together must not count the same report twice.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        left = [found for found in sorted(path.parent.iterdir()) if found == path or _ended(found, path)]
        taken = [found for found in left if found.exists() and _add(found, usage)]
        yield
        for found in taken:
            if found != path:
                found.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _ended(found: Path, own: Path) -> bool:
    """Tell whether a file is the report of another process of this host that does not run any more."""
    mine, other = _NAME.fullmatch(own.name), _NAME.fullmatch(found.name)
    if mine is None or other is None or mine["host"] != other["host"]:
        return False
    try:
        os.kill(int(other["pid"]), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return False


def _add(found: Path, usage: KeyUsage) -> bool:
    try:
        usage.add(msgspec.json.decode(found.read_bytes(), type=UsageReport))
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        _LOG.error("%s: not a usage report, and not counted on: %s", found, error)
        return False
    return True
