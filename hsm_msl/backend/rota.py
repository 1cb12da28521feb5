"""In which order the tokens of a set are asked: one that failed a moment ago last, but for a probe now and then."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from enum import Enum

PROBE_SECONDS = 1.0
"""How long a token that failed is asked last, before one caller tries it first again."""


class Mode(Enum):
    """Which token of a set a call goes to first."""

    FAILOVER = "failover"
    SPREAD = "spread"


class Rota:
    """The order for one set.

    Args:
        count: how many tokens it has.
        mode: ``FAILOVER`` begins with the first one, ``SPREAD`` goes round.
        monotonic: seconds that never run backwards.
    """

    __slots__ = ("_clock", "_count", "_lock", "_turn", "_until")

    def __init__(self, count: int, mode: Mode, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._count = count
        self._clock = monotonic
        self._turn: Iterator[int] = itertools.count() if mode is Mode.SPREAD else itertools.repeat(0)
        self._until: list[float | None] = [None] * count
        self._lock = threading.Lock()

    def order(self) -> list[int]:
        """Return the tokens for one call, the first to be asked first."""
        start = next(self._turn)
        order = [(start + offset) % self._count for offset in range(self._count)]
        if self._until.count(None) == self._count:
            return order
        with self._lock:
            now, sound, failed = self._clock(), [], []
            for index in order:
                until = self._until[index]
                if until is not None and now < until:
                    failed.append(index)
                    continue
                if until is not None:
                    self._until[index] = now + PROBE_SECONDS  # one caller finds out for all
                sound.append(index)
        return sound + failed

    def failed(self, index: int) -> None:
        """Note that a token gave no answer.

        Args:
            index: which one.
        """
        self._until[index] = self._clock() + PROBE_SECONDS

    def answered(self, index: int) -> None:
        """Note that a token answered.

        Args:
            index: which one.
        """
        if self._until[index] is not None:
            self._until[index] = None
