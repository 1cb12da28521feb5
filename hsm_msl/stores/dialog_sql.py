"""Dialogs in SQL: endpoints, outbox, inbox; SQLite for one process, PostgreSQL for a cluster (dialog section 8)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields

from sqlalchemy import Connection, Table, and_, bindparam, delete, exists, func, insert, or_, select, true, update
from sqlalchemy.sql.expression import ColumnElement

from hsm_msl.errors import StoreError
from hsm_msl.ports.dialog_records import (
    EndpointRecord,
    InboxRow,
    OutboxRow,
    ParkedSlot,
    QueuedRow,
)
from hsm_msl.stores.dialog_sql_keys import SqlKeyRows
from hsm_msl.stores.dialog_tables import (
    DSK_IN,
    DSK_OUT,
    ENDPOINT,
    INBOX,
    KEK_IN,
    KEK_OUT,
    LIVE,
    OUTBOX,
    PEER_CERT,
    QUEUED,
    SHIFT,
    TOMBSTONE,
    UNTAKEN,
    prepare,
)
from hsm_msl.stores.sql import Database

_FIELDS = [column.name for column in ENDPOINT.c]
_CHANGING = [name for name in _FIELDS if name not in ("dialog", "side", "local", "remote", "created_at")]


def _of(table: Table) -> ColumnElement[bool]:
    return and_(table.c.dialog == bindparam("d"), table.c.side == bindparam("s"))


_E, _O, _I = ENDPOINT.c, OUTBOX.c, INBOX.c
_LOAD = select(ENDPOINT).where(_of(ENDPOINT))
_LOCK = _LOAD.with_for_update()
_SAVE = update(ENDPOINT).where(_of(ENDPOINT)).values({name: bindparam(f"v_{name}") for name in _CHANGING})
_LIST = select(ENDPOINT).where(_E.local == bindparam("l"), _E.dialog > bindparam("a"))
_LIST = _LIST.order_by(_E.dialog, _E.side).limit(bindparam("n"))
_ATTENTION = select(_E.dialog, _E.side).where(_E.local == bindparam("l"), _E.attention_at <= bindparam("now"), LIVE)
_ATTENTION = _ATTENTION.order_by(_E.attention_at).limit(bindparam("n"))
_OPEN = select(_E.dialog, _E.side).where(_E.local == bindparam("l"), LIVE).order_by(_E.dialog, _E.side)
_BEHIND = or_(_E.dialog > bindparam("d"), and_(_E.dialog == bindparam("d"), _E.side > bindparam("s")))
_WAITING = select(_E.dialog, _E.side).where(_E.local == bindparam("l"), UNTAKEN, _BEHIND)
_WAITING = _WAITING.order_by(_E.dialog, _E.side).limit(bindparam("n"))

_ADD_OUTBOX = insert(OUTBOX)
_ACK_BELOW = delete(OUTBOX).where(_of(OUTBOX), _O.seq < bindparam("b"))
_ACK_RANGE = delete(OUTBOX).where(_of(OUTBOX), _O.seq >= bindparam("b"), _O.seq <= bindparam("e"))
_RELEASE = update(OUTBOX).where(_of(OUTBOX), _O.due_at.is_(None), _O.seq < bindparam("b"))
_RELEASE = _RELEASE.values(due_at=bindparam("now"))
_DUE = select(OUTBOX).join(ENDPOINT, and_(_E.dialog == _O.dialog, _E.side == _O.side))
_DUE = _DUE.where(_E.local == bindparam("l"), or_(_O.due_at <= bindparam("now"), _O.due_at > bindparam("latest")))
_DUE = _DUE.order_by(_O.dialog, _O.side, _O.seq, _O.frag).limit(bindparam("n"))
_DUE = _DUE.with_for_update(of=OUTBOX, skip_locked=True)
_RESCHEDULE = update(OUTBOX).where(_of(OUTBOX), _O.seq == bindparam("q"), _O.frag == bindparam("f"))
_RESCHEDULE = _RESCHEDULE.values(attempts=_O.attempts + 1, due_at=bindparam("at"))
_HASTEN = update(OUTBOX).where(_of(OUTBOX), _O.due_at.is_not(None)).values(due_at=bindparam("now"))
_NEXT_DUE = select(func.min(_O.due_at)).join(ENDPOINT, and_(_E.dialog == _O.dialog, _E.side == _O.side))
_NEXT_DUE = _NEXT_DUE.where(_E.local == bindparam("l"))

_OUTBOX_DEPTH = select(func.count()).select_from(OUTBOX)
_OUTBOX_DEPTH = _OUTBOX_DEPTH.join(ENDPOINT, and_(_E.dialog == _O.dialog, _E.side == _O.side))
_OUTBOX_DEPTH = _OUTBOX_DEPTH.where(_E.local == bindparam("l"))
_INBOX_DEPTH = select(func.coalesce(func.sum(_E.next_in - 1 - _E.taken), 0))
_INBOX_DEPTH = _INBOX_DEPTH.where(_E.local == bindparam("l"), UNTAKEN)

_ADD_INBOX = insert(INBOX)
_PARKED = select(_I.seq, _I.frag, _I.count, _I.kind, _I.generation, _I.digest, _I.size)
_PARKED = _PARKED.where(_of(INBOX), _I.seq >= bindparam("b"))
_DIGEST = select(_I.digest).where(_of(INBOX), _I.seq == bindparam("q"), _I.frag == bindparam("f"))
_DROP_PARKED = delete(INBOX).where(_of(INBOX), _I.seq >= bindparam("b"))
_BETWEEN = and_(_of(INBOX), _I.seq >= bindparam("b"), _I.seq <= bindparam("e"))
_MESSAGES = select(INBOX).where(_BETWEEN).order_by(_I.seq, _I.frag)
_EMPTY = update(INBOX).where(_BETWEEN).values(core=b"", body=b"")
_TRIM = delete(INBOX).where(_of(INBOX), _I.seq < bindparam("b"), _I.core == b"")

_ADD_QUEUED = insert(QUEUED)
_QUEUED = select(QUEUED).where(_of(QUEUED)).order_by(QUEUED.c.number).limit(bindparam("n"))
_DROP_QUEUED = delete(QUEUED).where(_of(QUEUED), QUEUED.c.number <= bindparam("b"))
_CLEAR = tuple(delete(table).where(_of(table)) for table in (OUTBOX, QUEUED))
_FORGET = tuple(
    delete(table).where(_of(table)) for table in (OUTBOX, QUEUED, INBOX, DSK_OUT, DSK_IN, SHIFT, ENDPOINT, TOMBSTONE)
)
_OVER = select(TOMBSTONE.c.dialog, TOMBSTONE.c.side).where(TOMBSTONE.c.until < bindparam("now"))
_OVER = _OVER.where(
    ~exists().where(_E.dialog == TOMBSTONE.c.dialog, _E.side == TOMBSTONE.c.side, _E.taken + 1 < _E.next_in)
)
_OVER = _OVER.limit(bindparam("n"))
_DATED = tuple(
    delete(table).where(table.c.not_after < bindparam("now"), condition)
    for table, condition in (
        (KEK_IN, ~exists().where(DSK_IN.c.kek_id == KEK_IN.c.kek_id)),
        (KEK_OUT, true()),
        (PEER_CERT, true()),
    )
)


class SqlDialogTransaction(SqlKeyRows):
    """One transaction, see ``DialogTransaction``; the connection may be the application's own."""

    def __init__(self, database: Database, connection: Connection) -> None:
        super().__init__(database, connection)

    def endpoint(self, dialog: bytes, side: int, *, lock: bool = True) -> EndpointRecord | None:
        """Load one side of a dialog, locked unless ``lock`` is off."""
        row = self._connection.execute(_LOCK if lock else _LOAD, {"d": dialog, "s": side}).first()
        return None if row is None else _endpoint(tuple(row))

    def add_endpoint(self, record: EndpointRecord) -> None:
        """Insert a new side. Raises StoreError when it exists."""
        self._connection.execute(insert(ENDPOINT), {name: getattr(record, name) for name in _FIELDS})

    def save_endpoint(self, record: EndpointRecord) -> None:
        """Write every field back."""
        values = {f"v_{name}": getattr(record, name) for name in _CHANGING}
        self._connection.execute(_SAVE, {**values, "d": record.dialog, "s": record.side})

    def endpoints(self, local: str, *, limit: int, after: bytes = b"") -> Sequence[EndpointRecord]:
        """List sides held by a service in order of dialog id, without locks."""
        rows = self._connection.execute(_LIST, {"l": local, "a": after, "n": limit})
        return [_endpoint(tuple(row)) for row in rows]

    def attention(self, local: str, now: float, limit: int) -> Sequence[tuple[bytes, int]]:
        """Name live sides whose timer is due."""
        rows = self._connection.execute(_ATTENTION, {"l": local, "now": now, "n": limit})
        return [(row.dialog, row.side) for row in rows]

    def open_sides(self, local: str) -> Sequence[tuple[bytes, int]]:
        """Name every side that still may send."""
        return [(row.dialog, row.side) for row in self._connection.execute(_OPEN, {"l": local})]

    def waiting(self, local: str, limit: int, after: tuple[bytes, int] = (b"", 0)) -> Sequence[tuple[bytes, int]]:
        """Name sides with messages or a final event the application has not taken, in order."""
        rows = self._connection.execute(_WAITING, {"l": local, "n": limit, "d": after[0], "s": after[1]})
        return [(row.dialog, row.side) for row in rows]

    def add_outbox(self, rows: Sequence[OutboxRow]) -> None:
        """Insert sealed fragments."""
        if rows:
            self._connection.execute(_ADD_OUTBOX, [_named(row) for row in rows])

    def acknowledge(self, dialog: bytes, side: int, below: int, ranges: Sequence[tuple[int, int]]) -> None:
        """Delete fragments below a sequence number or within an inclusive range."""
        self._connection.execute(_ACK_BELOW, {"d": dialog, "s": side, "b": below})
        if ranges:
            self._connection.execute(
                _ACK_RANGE, [{"d": dialog, "s": side, "b": low, "e": high} for low, high in ranges]
            )

    def release(self, dialog: bytes, side: int, below: int, now: float) -> None:
        """Make fragments that waited beyond the window due."""
        self._connection.execute(_RELEASE, {"d": dialog, "s": side, "b": below, "now": now})

    def due(self, local: str, now: float, latest: float, limit: int) -> Sequence[OutboxRow]:
        """Take fragments whose time has come, passing over rows that another worker holds."""
        rows = self._connection.execute(_DUE, {"l": local, "now": now, "latest": latest, "n": limit})
        return [OutboxRow(*row) for row in rows]

    def reschedule(self, rows: Iterable[tuple[bytes, int, int, int, float]]) -> None:
        """Count an attempt and set the next time."""
        values = [dict(zip(("d", "s", "q", "f", "at"), row, strict=True)) for row in rows]
        if values:
            self._connection.execute(_RESCHEDULE, values)

    def hasten(self, dialog: bytes, side: int, now: float) -> None:
        """Make every fragment of a side that lies within the window due now."""
        self._connection.execute(_HASTEN, {"d": dialog, "s": side, "now": now})

    def clear_outbox(self, dialog: bytes, side: int) -> None:
        """Delete every fragment and queued message of a side."""
        for statement in _CLEAR:
            self._connection.execute(statement, {"d": dialog, "s": side})

    def next_due(self, local: str) -> float | None:
        """Return the earliest time at which a fragment is due, or None."""
        found: float | None = self._connection.scalar(_NEXT_DUE, {"l": local})
        return found

    def add_inbox(self, rows: Sequence[InboxRow]) -> None:
        """Insert received fragments."""
        if rows:
            self._connection.execute(_ADD_INBOX, [_named(row) for row in rows])

    def parked(self, dialog: bytes, side: int, next_in: int) -> Sequence[ParkedSlot]:
        """Return the fragments at or beyond a sequence number."""
        rows = self._connection.execute(_PARKED, {"d": dialog, "s": side, "b": next_in})
        return [ParkedSlot(*row) for row in rows]

    def digest(self, dialog: bytes, side: int, seq: int, frag: int) -> bytes | None:
        """Return the stored digest of a fragment."""
        return self._connection.scalar(_DIGEST, {"d": dialog, "s": side, "q": seq, "f": frag})

    def drop_parked(self, dialog: bytes, side: int, from_seq: int) -> None:
        """Delete parked fragments from a sequence number on."""
        self._connection.execute(_DROP_PARKED, {"d": dialog, "s": side, "b": from_seq})

    def messages(self, dialog: bytes, side: int, first: int, last: int) -> Sequence[InboxRow]:
        """Return the fragments of messages in order."""
        rows = self._connection.execute(_MESSAGES, {"d": dialog, "s": side, "b": first, "e": last})
        return [InboxRow(*row) for row in rows]

    def empty(self, dialog: bytes, side: int, first: int, last: int) -> None:
        """Keep of messages only the digests."""
        self._connection.execute(_EMPTY, {"d": dialog, "s": side, "b": first, "e": last})

    def trim(self, dialog: bytes, side: int, below: int) -> None:
        """Delete taken messages below a sequence number."""
        self._connection.execute(_TRIM, {"d": dialog, "s": side, "b": below})

    def add_queued(self, row: QueuedRow) -> None:
        """Keep a message that cannot be sealed yet."""
        self._connection.execute(_ADD_QUEUED, _named(row))

    def take_queued(self, dialog: bytes, side: int, limit: int) -> Sequence[QueuedRow]:
        """Remove and return the oldest queued messages."""
        found = self._connection.execute(_QUEUED, {"d": dialog, "s": side, "n": limit})
        rows = [QueuedRow(*row) for row in found]
        if rows:
            self._connection.execute(_DROP_QUEUED, {"d": dialog, "s": side, "b": rows[-1].number})
        return rows

    def purge(self, now: float, limit: int) -> int:
        """Delete everything of dialogs whose tombstone has run out, and keys whose dates have passed."""
        over = [{"d": row.dialog, "s": row.side} for row in self._connection.execute(_OVER, {"now": now, "n": limit})]
        if over:
            for statement in _FORGET:
                self._connection.execute(statement, over)
            for statement in _DATED:
                self._connection.execute(statement, {"now": now})
        return len(over)


class SqlDialogStore:
    """A ``DialogStore`` in SQL, shared by every process that uses the database.

    Args:
        database: where the state is; missing tables are created.

    Raises ConfigurationError when the tables are there in another layout, StoreError.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        prepare(database)

    @contextmanager
    def transaction(self) -> Iterator[SqlDialogTransaction]:
        """Open a writing transaction, durable when the block has ended. Raises StoreError."""
        with self._database.transaction() as connection:
            yield SqlDialogTransaction(self._database, connection)

    @contextmanager
    def reading(self) -> Iterator[SqlDialogTransaction]:
        """Open a view for reading. Raises StoreError."""
        with self._database.statements() as connection:
            yield SqlDialogTransaction(self._database, connection)

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Open a writing transaction on the same database for the application itself. Raises StoreError."""
        with self._database.transaction() as connection:
            yield connection

    def depths(self, local: str) -> tuple[int, int]:
        """Return how many packets of a service wait to be acknowledged, and how many messages to be taken.

        Args:
            local: the service's name.

        Raises StoreError.
        """
        with self._database.statements() as connection:
            parameters = {"l": local}
            return (
                int(connection.execute(_OUTBOX_DEPTH, parameters).scalar_one()),
                int(connection.execute(_INBOX_DEPTH, parameters).scalar_one()),
            )

    def join(self, connection: Connection) -> SqlDialogTransaction:
        """Take part in the application's own transaction on the same database; the application commits.

        On SQLite that transaction must have begun with BEGIN IMMEDIATE. Raises StoreError when none is open.
        """
        if not connection.in_transaction():
            raise StoreError("the connection is in no transaction")
        return SqlDialogTransaction(self._database, connection)

    @contextmanager
    def joined(self, connection: Connection) -> Iterator[SqlDialogTransaction]:
        """Take part as ``join``; what the connection raises in the block is a StoreError, whoever opened it."""
        with self._database.answers():
            yield self.join(connection)


def _endpoint(row: tuple[object, ...]) -> EndpointRecord:
    return EndpointRecord(**dict(zip(_FIELDS, row, strict=True)))  # type: ignore[arg-type]  # the columns are the fields


_NAMES = {kind: tuple(field.name for field in fields(kind)) for kind in (OutboxRow, InboxRow, QueuedRow)}


def _named(row: OutboxRow | InboxRow | QueuedRow) -> dict[str, object]:
    return {name: getattr(row, name) for name in _NAMES[type(row)]}
