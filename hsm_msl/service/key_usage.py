"""Counts what key versions are used for, as ``hsm-provision retire`` reads it before it takes one out of use."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime

import msgspec

from hsm_msl.ports import Clock, MacAlgorithm, MacKey, SymmetricKeys

STAMP = "%Y-%m-%dT%H:%M:%SZ"


class KeyUse(msgspec.Struct, frozen=True):
    """Uses of one key version that are known, and when the last one was."""

    operations: int
    last: str | None = None


class UsageReport(msgspec.Struct, frozen=True):
    """What one server process reports, those it went on for included; times are UTC in ISO 8601.

    Attributes:
        server: which, for people.
        since: since when it counts.
        written: when this was reported.
        keys: the counts by label.
        ended: when it stopped in good order; None while it runs, and of one that was killed.
    """

    server: str
    since: str
    written: str
    keys: dict[str, KeyUse]
    ended: str | None = None


class UseCounter:
    """Uses of the keys of one version, counted together: what its MAC key made or recognised.

    Args:
        clock: local time.
    """

    __slots__ = ("_clock", "_last", "_lock", "_operations")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._operations = 0
        self._last: float | None = None

    def count(self) -> None:
        """Count one use, now."""
        now = self._clock()
        with self._lock:
            self._operations += 1
            self._last = now

    def read(self) -> KeyUse:
        """Return the count and the time of the last use."""
        with self._lock:
            return KeyUse(self._operations, None if self._last is None else stamp(self._last))


class CountedMacKey:
    """A MAC key (``MacKey``) that counts the tags it makes and those it recognises, and no others.

    Args:
        key: the key.
        counter: counts.
    """

    __slots__ = ("_counter", "_key")

    def __init__(self, key: MacKey, counter: UseCounter) -> None:
        self._key = key
        self._counter = counter

    @property
    def algorithm(self) -> MacAlgorithm:
        """The one algorithm this key is for."""
        return self._key.algorithm

    @property
    def key(self) -> MacKey:
        """The key without the counter."""
        return self._key

    def sign(self, data: bytes) -> bytes:
        """Return the full-length tag over ``data``. Raises BackendError."""
        tag = self._key.sign(data)
        self._counter.count()
        return tag

    def verify(self, data: bytes, tag: bytes) -> bool:
        """Tell whether ``tag`` is the tag over ``data``. Raises BackendError."""
        fits = self._key.verify(data, tag)
        if fits:
            self._counter.count()
        return fits

    def __repr__(self) -> str:
        return f"CountedMacKey({self._key!r})"


def uncounted(key: MacKey) -> MacKey:
    """Return the key for uses that are no evidence of use, such as examinations.

    Args:
        key: counted or not.
    """
    return key.key if isinstance(key, CountedMacKey) else key


class KeyUsage:
    """The counters of one process, by key label.

    Args:
        server: names the process for people.
        clock: local time.
    """

    def __init__(self, server: str, clock: Clock) -> None:
        self._server = server
        self._clock = clock
        self._since = stamp(clock())
        self._counters: dict[str, UseCounter] = {}
        self._earlier: dict[str, KeyUse] = {}

    def add(self, report: UsageReport) -> None:
        """Go on with what a process counted that ended.

        Args:
            report: its last one.
        """
        self._since = min(self._since, report.since)
        self._earlier = _together(self._earlier, report.keys)

    def counted(self, keys: SymmetricKeys, labels: Iterable[str]) -> SymmetricKeys:
        """Return the handles of a version with its uses counted.

        Args:
            keys: its handles; whatever they open or make, their MAC key is asked first or last.
            labels: the labels of its keys, the MAC key's first.
        """
        names = tuple(labels)
        if keys.mac is None or not names:
            return keys
        counter = self._counters.get(names[0]) or UseCounter(self._clock)
        self._counters = {**self._counters, **dict.fromkeys(names, counter)}
        return replace(keys, mac=CountedMacKey(keys.mac, counter))

    def report(self, *, ended: bool = False) -> UsageReport:
        """Return the counts so far.

        Args:
            ended: whether the process counts no more.
        """
        now = stamp(self._clock())
        keys = _together(self._earlier, {label: counter.read() for label, counter in self._counters.items()})
        return UsageReport(self._server, self._since, now, keys, now if ended else None)


def _together(one: Mapping[str, KeyUse], other: Mapping[str, KeyUse]) -> dict[str, KeyUse]:
    """Return the sums of two counts."""
    none = KeyUse(0)
    both = {label: (one.get(label, none), other.get(label, none)) for label in sorted({*one, *other})}
    return {
        label: KeyUse(a.operations + b.operations, max((t for t in (a.last, b.last) if t is not None), default=None))
        for label, (a, b) in both.items()
    }


def stamp(seconds: float) -> str:
    """Return a time as UTC in ISO 8601, whole seconds.

    Args:
        seconds: since the epoch.
    """
    return datetime.fromtimestamp(seconds, UTC).strftime(STAMP)
