"""Who runs a command, for the log."""

from __future__ import annotations

import getpass
import os


def login_name() -> str:
    """Return the login name of who runs this process; a number where the system knows none, as in containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"
