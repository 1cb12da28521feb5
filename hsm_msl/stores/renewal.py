"""Sequence numbers of issued master tokens in SQL (msl-engine sections 17 and 22)."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, bindparam, delete, select, update

from hsm_msl.ports import RenewalState
from hsm_msl.stores.rows import delete_expired, insert_missing, insert_or_replace
from hsm_msl.stores.schema import RENEWAL
from hsm_msl.stores.sql import Database

_T = RENEWAL.c
_ROW = (_T.identity == bindparam("i")) & (_T.serial == bindparam("s"))
_LOCKED = select(_T.last_issued, _T.last_used, _T.unanswered, _T.until).where(_ROW).with_for_update()
_STORE = (
    update(RENEWAL)
    .where(_ROW)
    .values(
        last_issued=bindparam("issued"),
        last_used=bindparam("used"),
        unanswered=bindparam("lost"),
        until=bindparam("until"),
    )
)
_DROP_EARLIER = delete(RENEWAL).where(_T.identity == bindparam("i"), _T.serial != bindparam("s"))
_PRUNE = delete_expired(RENEWAL)


class SqlRenewalStore:
    """A ``RenewalStore`` shared by every server that uses the database.

    Args:
        database: where the state is; its tables are prepared.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._first = insert_missing(database, RENEWAL).returning(_T.serial)
        self._start = insert_or_replace(database, RENEWAL)

    def create(self, identity: str, serial: int, state: RenewalState) -> None:
        """Start the state of a fresh master token and drop that of the entity's earlier ones.

        Two creations for one entity at the same moment happen one after the other: one state is left.

        Raises:
            StoreError: the state cannot be reached.
        """
        row = _row(identity, serial, state)
        with self._database.transaction() as connection:
            self._database.lock(connection, f"renewal {identity!a}")
            connection.execute(_DROP_EARLIER, {"i": identity, "s": serial})
            connection.execute(self._start, row)

    def renew(self, identity: str, serial: int, decide: Callable[[RenewalState | None], RenewalState | None]) -> None:
        """Replace the state (None when not stored) by ``decide(state)``; None leaves it.

        ``decide`` runs once, while the row is locked; what it raises is passed on and nothing changes. On return the
        new state is durable.

        Raises:
            StoreError: the state cannot be reached; it may have changed only if the connection broke at commit.
        """
        key: dict[str, str | int] = {"i": identity, "s": serial}
        with self._database.transaction() as connection:
            state, created = self._locked_state(connection, key)
            following = decide(None if created else state)
            if following is None:
                connection.rollback()
                return
            values: dict[str, str | int] = {
                "issued": following.last_issued,
                "used": following.last_used,
                "lost": following.unanswered,
                "until": following.until,
            }
            connection.execute(_STORE, {**key, **values})

    def prune(self, before: float, limit: int) -> int:
        """Drop up to ``limit`` states kept until before a time, in seconds since the epoch; return how many.

        Only for master tokens that are renewed no more. Raises StoreError.
        """
        with self._database.statements() as connection:
            return connection.execute(_PRUNE, {"before": int(before), "limit": limit}).rowcount

    def _locked_state(self, connection: Connection, key: dict[str, str | int]) -> tuple[RenewalState, bool]:
        """Return the locked state, and whether it is only the placeholder put there to have a row to lock."""
        created = False
        while True:
            row = connection.execute(_LOCKED, key).one_or_none()
            if row is not None:
                return RenewalState(row.last_issued, row.last_used, row.unanswered, row.until), created
            placeholder = _row(str(key["i"]), int(key["s"]), RenewalState(0, 0, 0))
            created = connection.scalar(self._first, placeholder) is not None


def _row(identity: str, serial: int, state: RenewalState) -> dict[str, str | int]:
    return {
        "identity": identity,
        "serial": serial,
        "last_issued": state.last_issued,
        "last_used": state.last_used,
        "unanswered": state.unanswered,
        "until": state.until,
    }
