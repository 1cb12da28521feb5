"""What an operator has taken back: entities, users and single tokens, in SQL (msl-engine section 22)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from sqlalchemy import Connection, bindparam, select

from hsm_msl.ports import Clock
from hsm_msl.stores.rows import insert_or_count, insert_or_replace
from hsm_msl.stores.schema import REVISION, REVOCATION, WHOLE_SUBJECT
from hsm_msl.stores.sql import Database
from hsm_msl.stores.text import as_read_back, long_name


class Subject(Enum):
    """Whose tokens a revocation is about: an entity's master tokens or a user's user ID tokens."""

    ENTITY = "entity"
    USER = "user"


@dataclass(frozen=True, slots=True)
class Revocation:
    """One thing taken back.

    Attributes:
        subject: whether ``name`` is an entity identity or a user's identity text.
        name: whose tokens.
        serial: the serial number of one token; None takes back the entity or user and every token of theirs.
        reason: for people.
        since: seconds since the epoch; set by the store.
    """

    subject: Subject
    name: str
    serial: int | None = None
    reason: str = ""
    since: int = 0

    @property
    def key(self) -> Key:
        """What makes two revocations the same one."""
        return self.subject, as_read_back(self.name), WHOLE_SUBJECT if self.serial is None else self.serial


Key = tuple[Subject, str, int]


@dataclass(frozen=True, slots=True)
class RevocationChanges:
    """What changed up to a revision; nothing is in both lists.

    ``complete`` says that ``revoked`` is all there is: what was known before no longer counts.
    """

    revision: int
    revoked: Sequence[Revocation]
    withdrawn: Sequence[Revocation]
    complete: bool = False


class RevocationLog(Protocol):
    """Where changes of revocations are read from."""

    def changes(self, after: int) -> RevocationChanges:
        """Return everything changed after a revision (0: everything). Raises StoreError."""


_T = REVOCATION.c
_FIND = select(_T.serial).where(
    _T.kind == bindparam("k"),
    _T.subject == bindparam("n"),
    _T.serial.in_((WHOLE_SUBJECT, bindparam("s"))),
    _T.in_force == 1,
)
_LOCKED = (
    select(_T.serial)
    .where(_T.kind == bindparam("k"), _T.subject == bindparam("n"), _T.serial == bindparam("s"), _T.in_force == 1)
    .with_for_update()
)
_REVISION = select(REVISION.c.number).where(REVISION.c.subject == "revocation")
_CHANGES = select(REVOCATION).where(_T.revision > bindparam("after")).order_by(_T.revision)
_LIST = select(REVOCATION).where(_T.in_force == 1).order_by(_T.revision).offset(bindparam("o")).limit(bindparam("n"))


class SqlRevocations:
    """A ``Revocations`` port and ``RevocationLog`` that asks the database every time; the operator's side too.

    Args:
        database: where revocations are; its tables are prepared.
        clock: stamps revocations.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._put = insert_or_replace(database, REVOCATION)
        self._next_revision = insert_or_count(database, REVISION, REVISION.c.number, REVISION.c.number + 1)

    def entity_revoked(self, identity: str) -> bool:
        """Tell whether the entity may no longer speak. Raises StoreError."""
        return self._find(Subject.ENTITY, identity, WHOLE_SUBJECT)

    def master_token_revoked(self, identity: str, serial: int) -> bool:
        """Tell whether this master token, or every one of its entity, is revoked. Raises StoreError."""
        return self._find(Subject.ENTITY, identity, serial)

    def user_id_token_revoked(self, user: str, serial: int) -> bool:
        """Tell whether this user ID token, or its user, is revoked. Raises StoreError."""
        return self._find(Subject.USER, user, serial)

    def revoke(self, revocation: Revocation) -> None:
        """Take something back; a repeated call renews reason and time. Raises StoreError."""
        with self._database.transaction() as connection:
            self._write(connection, revocation, in_force=True)

    def withdraw(self, revocation: Revocation) -> bool:
        """End a revocation, found by subject, name and serial number; False when none is in force.

        A token revoked through its whole entity or user is not freed one by one. Raises StoreError.
        """
        subject, _, serial = revocation.key
        with self._database.transaction() as connection:
            if connection.execute(_LOCKED, {"k": subject.value, "n": revocation.name, "s": serial}).first() is None:
                return False
            self._write(connection, revocation, in_force=False)
        return True

    def in_force(self, start: int = 0, limit: int = 1000) -> Sequence[Revocation]:
        """Return up to ``limit`` revocations from position ``start``, oldest first. Raises StoreError."""
        with self._database.statements() as connection:
            rows = connection.execute(_LIST, {"o": start, "n": limit}).all()
        return [_revocation(row) for row in rows]

    def changes(self, after: int) -> RevocationChanges:
        """Return everything changed after a revision (0: everything). Raises StoreError."""
        with self._database.statements() as connection:
            # A database restored from a backup counts from an earlier revision again.
            complete = (connection.scalar(_REVISION) or 0) < after
            after = 0 if complete else after
            rows = connection.execute(_CHANGES, {"after": after}).all()
        revoked: list[Revocation] = []
        withdrawn: list[Revocation] = []
        for row in rows:
            (revoked if row.in_force else withdrawn).append(_revocation(row))
        return RevocationChanges(rows[-1].revision if rows else after, revoked, withdrawn, complete)

    def _find(self, subject: Subject, name: str, serial: int) -> bool:
        with self._database.statements() as connection:
            return connection.execute(_FIND, {"k": subject.value, "n": name, "s": serial}).first() is not None

    def _write(self, connection: Connection, revocation: Revocation, *, in_force: bool) -> None:
        # The counted row stays locked until the commit, so revisions become visible in their order.
        revision = connection.scalar(self._next_revision, {"subject": "revocation"})
        row = {
            "kind": revocation.subject.value,
            "subject": revocation.name,
            "serial": WHOLE_SUBJECT if revocation.serial is None else revocation.serial,
            "long_name": long_name(revocation.name),
            "reason": revocation.reason,
            "since": int(self._clock()),
            "in_force": int(in_force),
            "revision": revision,
        }
        connection.execute(self._put, row)


class _Row(Protocol):
    """A row of the table, as SQLAlchemy gives it."""

    kind: str
    subject: str
    long_name: str | None
    serial: int
    reason: str
    since: int


def _revocation(row: _Row) -> Revocation:
    serial = None if row.serial == WHOLE_SUBJECT else row.serial
    name = row.subject if row.long_name is None else row.long_name
    return Revocation(Subject(row.kind), name, serial, row.reason, row.since)
