"""How a command ends when it cannot do its work: one line that says what to do, and an exit code scripts can tell.

The codes are those of sysexits.h where it has a fitting one.
"""

from __future__ import annotations

import sys
from typing import Final

from hsm_msl.errors import (
    BackendConfigurationError,
    BackendError,
    BackendUnavailableError,
    ConfigurationError,
    HsmMslError,
    MslError,
    StoreError,
    TruncatedMessageError,
)
from hsm_msl.printable import printable

USAGE: Final = 2
FAILED: Final = 1
UNAVAILABLE: Final = 69
PROTOCOL: Final = 76
CONFIGURATION: Final = 78
INTERRUPTED: Final = 130

_CODES: Final[tuple[tuple[type[HsmMslError], int], ...]] = (
    (ConfigurationError, CONFIGURATION),
    (BackendConfigurationError, CONFIGURATION),
    (BackendUnavailableError, UNAVAILABLE),
    (StoreError, UNAVAILABLE),
    (BackendError, CONFIGURATION),
    (MslError, PROTOCOL),
    (TruncatedMessageError, PROTOCOL),
)


class CommandError(HsmMslError):
    """A command cannot go on, for a reason of its own.

    Args:
        text: one line for people.
        code: the exit code.
    """

    def __init__(self, text: str, code: int = FAILED) -> None:
        super().__init__(text)
        self.code = code


def exit_code(error: HsmMslError) -> int:
    """Return the exit code that stands for an error."""
    if isinstance(error, CommandError):
        return error.code
    return next((code for kind, code in _CODES if isinstance(error, kind)), FAILED)


def say(text: str) -> None:
    """Write one line to standard error, led by the program's name.

    What a server says may be part of it, so nothing that a terminal would obey is written as it is.
    """
    sys.stderr.write(f"hsm-msl: {printable(' '.join(text.split()))}\n")
    sys.stderr.flush()
