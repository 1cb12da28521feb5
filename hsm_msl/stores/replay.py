"""Accepted non-replayable IDs in SQL (msl-engine sections 14 and 22)."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import bindparam, delete, select, update

from hsm_msl.ports import Clock
from hsm_msl.stores.rows import insert_missing
from hsm_msl.stores.schema import NONREPLAY
from hsm_msl.stores.sql import Database

_T = NONREPLAY.c
_ROW = (_T.identity == bindparam("i")) & (_T.serial == bindparam("s"))
_LOCKED = select(_T.largest).where(_ROW).with_for_update()
_STORE = update(NONREPLAY).where(_ROW).values(largest=bindparam("x"), touched=bindparam("now"))
_FORGET = delete(NONREPLAY).where(_T.identity == bindparam("i"))
_PRUNE = delete(NONREPLAY).where(_T.touched < bindparam("before"))


class SqlReplayStore:
    """A ``ReplayStore`` shared by every server that uses the database.

    Args:
        database: where the state is; its tables are prepared.
        clock: stamps rows for ``prune``.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._first = insert_missing(database, NONREPLAY)

    def advance(self, identity: str, serial: int, decide: Callable[[int], int | None]) -> None:
        """Replace the largest ID (0 when none is stored) by ``decide(largest)``; None leaves it.

        ``decide`` runs once, while the row is locked; what it raises is passed on and nothing changes. On return the
        new state is durable.

        Raises:
            StoreError: the state cannot be reached; it may have changed only if the connection broke at commit.
        """
        key: dict[str, str | int] = {"i": identity, "s": serial}
        now = int(self._clock())
        with self._database.transaction() as connection:
            largest = connection.scalar(_LOCKED, key)
            while largest is None:
                first = {"identity": identity, "serial": serial, "largest": 0, "touched": now}
                connection.execute(self._first, first)
                largest = connection.scalar(_LOCKED, key)
            accepted = decide(largest)
            if accepted is None:
                connection.rollback()
            else:
                connection.execute(_STORE, {**key, "x": accepted, "now": now})

    def forget(self, identity: str) -> None:
        """Drop the state of every master token of the entity. Raises StoreError."""
        with self._database.statements() as connection:
            connection.execute(_FORGET, {"i": identity})

    def prune(self, before: float) -> int:
        """Drop rows last touched before a time, in seconds since the epoch, and return how many.

        Only for rows whose master token can no longer be accepted: a dropped row makes its IDs acceptable again.
        Raises StoreError.
        """
        with self._database.statements() as connection:
            return connection.execute(_PRUNE, {"before": int(before)}).rowcount
