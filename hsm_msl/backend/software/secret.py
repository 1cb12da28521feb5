"""What every key held in this process has in common: it is shown nowhere and copied nowhere."""

from __future__ import annotations

from typing import NoReturn

from hsm_msl.errors import UsageError


class Secret:
    """Keep keys out of representations and pickles."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __reduce__(self) -> NoReturn:
        raise UsageError("keys are not serialisable")
