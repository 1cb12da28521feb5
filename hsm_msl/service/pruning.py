"""Keeps the tables of accepted IDs and issued tokens bounded: drops what no master token can need any more.

Every server does it, each at moments of its own, and passes over rows another has in hand; a row is dropped once.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from hsm_msl.errors import HsmMslError
from hsm_msl.ports import Clock, RandomBytes
from hsm_msl.service.repeated import Repeated

_LOG = logging.getLogger("hsm_msl.service")

BATCH_ROWS = 1000
"""Rows dropped by one statement, so that none holds others up for long."""

CLOCK_MARGIN = 3600
"""Seconds a state outlives its token: another server's clock may be behind."""


class Prunable(Protocol):
    """A store whose states have an end."""

    def prune(self, before: float, limit: int) -> int:
        """Drop up to ``limit`` states that had to be kept until before a time; return how many."""


class Pruning(Repeated):
    """Prunes stores from time to time.

    Args:
        stores: what to prune.
        kept: seconds a state is kept beyond the expiration of its token; not less than tokens are renewable then.
        every: seconds between two rounds, on average.
        clock: this server's time.
        random: spreads the rounds of several servers.
    """

    def __init__(
        self, stores: Sequence[Prunable], kept: int, every: float, *, clock: Clock, random: RandomBytes
    ) -> None:
        super().__init__("store pruning", every)
        self._stores = stores
        self._kept = kept
        self._clock = clock
        self._random = random
        self._began = False

    def look(self) -> None:
        """Go one round; nothing depends on it now, so the next makes up for one that fails."""
        try:
            dropped = self.round()
            if dropped:
                _LOG.info("dropped %d states of master tokens that are renewed no more", dropped)
        except HsmMslError as error:
            _LOG.warning("old states not dropped: %s", error)

    def round(self) -> int:
        """Drop what need not be kept, batch by batch; return how much. Raises StoreError."""
        before = self._clock() - self._kept - CLOCK_MARGIN
        dropped = 0
        for store in self._stores:
            while not self._stop.is_set():
                count = store.prune(before, BATCH_ROWS)
                dropped += count
                if count < BATCH_ROWS:
                    break
        return dropped

    def _pause(self) -> float:
        """Wait a random part of the interval before the first round, then half to one and a half of it."""
        fraction = int.from_bytes(self._random(2)) / 65536
        least, self._began = (0.5 if self._began else 0.0), True
        return self._every * (least + fraction)
