"""How often a wrong password may be tried (msl-engine section 19, point 18).

A replayed message reaches the users before it is known for one, so a guess costs its sender nothing but time. Every
failure fills buckets that leak; while one is full, passwords are not even looked at. Nobody is locked out for good.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.ports import Clock, Mutex

_WIDER = 10
_REMEMBERED = 100_000
_HOUR = 3600.0

_Key = tuple[str | None, str | None]


@dataclass(slots=True)
class _Bucket:
    level: float
    at: float


class FailedAttempts:
    """Counts the wrong passwords of each entity for each user, of each entity, and for each user.

    The last two hold ten times as much: one entity may serve many users, and one user have many devices.

    Args:
        clock: seconds; only differences count.
        most: failures in a row before further attempts have to wait.
        per_hour: how many are forgiven in an hour.
        remembered: buckets kept, the ones used last.
        mutex: a re-usable lock when several threads authenticate users.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        most: int = 30,
        per_hour: float = 360.0,
        remembered: int = _REMEMBERED,
        mutex: Mutex | None = None,
    ) -> None:
        self._clock = clock
        self._most = most
        self._per_second = per_hour / _HOUR
        self._remembered = remembered
        self._buckets: OrderedDict[_Key, _Bucket] = OrderedDict()
        self._mutex: Mutex = nullcontext() if mutex is None else mutex

    def judged(self, entity: str, user: str, check: Callable[[], str | None]) -> str | None:
        """Run a check of a password unless there were too many failures, and count how it ends.

        Args:
            entity: identity of the authenticated entity.
            user: what it says who the user is.
            check: returns the user's identity text, or None for a wrong password; its exceptions pass, and count as
                no verdict.

        Returns:
            What ``check`` returns.

        Raises:
            MslError: INTERNAL_EXCEPTION, whose response code says to try again later: there were too many failures.
        """
        keys: tuple[_Key, ...] = ((entity, user), (entity, None), (None, user))
        self._count(keys)
        try:
            found = check()
        except BaseException:
            self._forgive(keys)
            raise
        if found is not None:
            self._forgive(keys)
            with self._mutex:
                self._buckets.pop((entity, user), None)
        return found

    def _count(self, keys: tuple[_Key, ...]) -> None:
        """Count an attempt as failed before it is judged: those at the same time must not all slip through."""
        now = self._clock()
        with self._mutex:
            buckets = [self._bucket(key, now) for key in keys]
            if any(bucket.level + 1 > self._room(key) for key, bucket in zip(keys, buckets, strict=True)):
                raise MslError(ErrorCode.INTERNAL_EXCEPTION, "too many failed log-ins; try again later")
            for bucket in buckets:
                bucket.level += 1
            while len(self._buckets) > self._remembered:
                self._buckets.popitem(last=False)

    def _forgive(self, keys: tuple[_Key, ...]) -> None:
        with self._mutex:
            for bucket in map(self._buckets.get, keys):
                if bucket is not None:
                    bucket.level = max(0.0, bucket.level - 1)

    def _room(self, key: _Key) -> int:
        return self._most * (_WIDER if None in key else 1)

    def _bucket(self, key: _Key, now: float) -> _Bucket:
        bucket = self._buckets.setdefault(key, _Bucket(0.0, now))
        self._buckets.move_to_end(key)
        bucket.level = max(0.0, bucket.level - max(0.0, now - bucket.at) * self._per_second)
        bucket.at = now
        return bucket
