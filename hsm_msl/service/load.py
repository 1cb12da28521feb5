"""How busy this process is, so that work which can wait does."""

from __future__ import annotations

from types import TracebackType


class Load:
    """Counts the messages in work. Entered and left on one event loop, read from any thread.

    Args:
        limit: messages in work beyond which the process counts as busy; 0 for never.

    Attributes:
        count: messages in work.
    """

    __slots__ = ("_limit", "count", "deferred")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.count = 0

    def __enter__(self) -> None:
        self.count += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.count -= 1

    def busy(self) -> bool:
        """Tell whether there is more work than is good."""
        return 0 < self._limit < self.count
