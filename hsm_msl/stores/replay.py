"""Accepted non-replayable IDs in SQL (msl-engine sections 14 and 22)."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import bindparam, select, update

from hsm_msl.ports import ReplayState
from hsm_msl.stores.rows import delete_expired, insert_missing
from hsm_msl.stores.schema import NONREPLAY
from hsm_msl.stores.sql import Database

_T = NONREPLAY.c
_ROW = (_T.identity == bindparam("i")) & (_T.serial == bindparam("s"))
_LOCKED = select(_T.largest, _T.unused, _T.until).where(_ROW).with_for_update()
_STORE = (
    update(NONREPLAY)
    .where(_ROW)
    .values(largest=bindparam("largest"), unused=bindparam("unused"), until=bindparam("until"))
)
_PRUNE = delete_expired(NONREPLAY)


class SqlReplayStore:
    """A ``ReplayStore`` shared by every server that uses the database.

    Args:
        database: where the state is; its tables are prepared.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._first = insert_missing(database, NONREPLAY)

    def advance(self, identity: str, serial: int, decide: Callable[[ReplayState], ReplayState | None]) -> None:
        """Replace the state (zeros when none is stored) by ``decide(state)``; None leaves it.

        ``decide`` runs once, while the row is locked; what it raises is passed on and nothing changes. On return the
        new state is durable.

        Raises:
            StoreError: the state cannot be reached; it may have changed only if the connection broke at commit.
        """
        key: dict[str, str | int] = {"i": identity, "s": serial}
        with self._database.transaction() as connection:
            row = connection.execute(_LOCKED, key).one_or_none()
            while row is None:
                first = {"identity": identity, "serial": serial, **_columns(ReplayState())}
                connection.execute(self._first, first)
                row = connection.execute(_LOCKED, key).one_or_none()
            state = decide(ReplayState(row.largest, int.from_bytes(row.unused), row.until))
            if state is None:
                connection.rollback()
            else:
                connection.execute(_STORE, {**key, **_columns(state)})

    def prune(self, before: float, limit: int) -> int:
        """Drop up to ``limit`` states kept until before a time, in seconds since the epoch; return how many.

        Only for master tokens that are accepted no more: without their state, their IDs are acceptable again.
        Raises StoreError.
        """
        with self._database.statements() as connection:
            return connection.execute(_PRUNE, {"before": int(before), "limit": limit}).rowcount


def _columns(state: ReplayState) -> dict[str, int | bytes]:
    unused = state.unused.to_bytes((state.unused.bit_length() + 7) // 8)
    return {"largest": state.largest, "unused": unused, "until": state.until}
