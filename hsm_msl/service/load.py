"""How busy this process is, so that work which can wait does."""

from __future__ import annotations

from types import TracebackType


class Load:
    """Counts the messages in work. Entered and left on one event loop, read from any thread.

    Args:
        limit: messages in work beyond which the process counts as busy; 0 for never.
    """

    __slots__ = ("_count", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0

    def __enter__(self) -> None:
        self._count += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._count -= 1

    def busy(self) -> bool:
        """Tell whether renewals that can wait should."""
        return 0 < self._limit < self._count
