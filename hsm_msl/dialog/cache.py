"""Bounded caches whose loss never changes a result (dialog section 5)."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Cache(Generic[K, V]):
    """Least recently used entries with an end of life each.

    Every step is one dictionary operation, so threads may share a cache: at worst a key is opened twice.

    Args:
        size: most entries; 0 keeps nothing and is a supported configuration.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: dict[K, tuple[float, V]] = {}
        self.hits = 0
        self.misses = 0

    def get(self, key: K, now: float) -> V | None:
        """Return the entry when it is there and has not run out."""
        entry = self._entries.pop(key, None)
        if entry is None or entry[0] < now:
            self.misses += 1
            return None
        self._entries[key] = entry
        self.hits += 1
        return entry[1]

    def put(self, key: K, value: V, until: float) -> None:
        """Keep ``value`` until a Unix time, in place of the least recently used entry when full."""
        if self._size == 0:
            return
        while len(self._entries) >= self._size and key not in self._entries:
            try:
                self._entries.pop(next(iter(self._entries)), None)
            except (RuntimeError, StopIteration):  # another thread was faster
                continue
        self._entries[key] = (until, value)

    def drop(self, key: K) -> None:
        """Forget one entry."""
        self._entries.pop(key, None)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)


class RateLimit:
    """A bucket per key that holds ``count`` answers and fills within ``period`` seconds; for whom nobody vouches.

    Args:
        count: answers a full bucket holds.
        period: seconds.
        size: most keys remembered.
    """

    def __init__(self, count: int, period: float, size: int = 1024) -> None:
        self._count = float(count)
        self._period = period
        self._buckets: Cache[bytes, tuple[float, float]] = Cache(size)

    def allow(self, key: bytes, now: float) -> bool:
        """Tell whether one more answer is allowed now, and count it."""
        level, at = self._buckets.get(key, now) or (self._count, now)
        level = min(self._count, level + max(0.0, now - at) * self._count / self._period)
        allowed = level >= 1.0
        self._buckets.put(key, (level - 1.0 if allowed else level, now), now + self._period)
        return allowed
