"""Parts that a configured scheme cannot do without."""

from __future__ import annotations

from typing import TypeVar

from hsm_msl.errors import ConfigurationError

_T = TypeVar("_T")


def required(part: _T | None, scheme: str, what: str) -> _T:
    """Return a part that must be there.

    Args:
        part: the part, or None when the composition has none.
        scheme: who needs it.
        what: what it is, for the operator.

    Raises:
        ConfigurationError: it is not there.
    """
    if part is None:
        raise ConfigurationError(f"{scheme} needs {what}")
    return part
