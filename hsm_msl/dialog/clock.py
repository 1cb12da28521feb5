"""Time that never runs backwards within a process (dialog section 6)."""

from __future__ import annotations

from hsm_msl.ports import Clock


class SteadyClock:
    """Wall time that follows the monotonic clock, so that a backward step counts as no time and relaxes no rule.

    A forward step of the wall clock is followed at once: keys then age early, which is the safe side.

    Args:
        wall: seconds since the Unix epoch.
        monotonic: seconds since any fixed moment, never running backwards.
    """

    def __init__(self, wall: Clock, monotonic: Clock) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._base = wall()
        self._started = monotonic()

    def __call__(self) -> float:
        """Return seconds since the Unix epoch, never less than an earlier answer."""
        steady = self._base + (self._monotonic() - self._started)
        wall = self._wall()
        if wall > steady:
            self._base += wall - steady
            return wall
        return steady
