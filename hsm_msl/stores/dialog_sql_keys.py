"""Dialogs in SQL: wrapped keys, received headers, shifts, tombstones, bindings, incarnations (dialog section 8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import msgspec
from sqlalchemy import Connection, Table, and_, bindparam, delete, or_, select, update
from sqlalchemy.sql.expression import ColumnElement

from hsm_msl.ports.dialog_records import (
    BindingRow,
    InboundDskRow,
    InboundKekRow,
    OutboundDskRow,
    OutboundKekRow,
    PeerCertificateRow,
    ShiftEvent,
    TombstoneRow,
)
from hsm_msl.stores.dialog_tables import (
    BINDING,
    DSK_IN,
    DSK_OUT,
    INCARNATION,
    KEK_IN,
    KEK_OUT,
    PEER_CERT,
    SHIFT,
    TOMBSTONE,
)
from hsm_msl.stores.rows import insert_missing, insert_or_replace
from hsm_msl.stores.sql import Database

_Row = (
    PeerCertificateRow | BindingRow | InboundDskRow | InboundKekRow | OutboundDskRow | OutboundKekRow | TombstoneRow
)


def _of(table: Table) -> ColumnElement[bool]:
    return and_(table.c.dialog == bindparam("d"), table.c.side == bindparam("s"))


_K, _S, _B = KEK_OUT.c, SHIFT.c, BINDING.c
_CURRENT = select(KEK_OUT).where(
    _K.local == bindparam("l"),
    _K.remote == bindparam("r"),
    _K.certificates == bindparam("c"),
    _K.suite == bindparam("u"),
    _K.retired.is_(False),
)
_CURRENT = _CURRENT.order_by(_K.created_at.desc()).limit(1)
_KEK = select(KEK_OUT).where(_K.kek_id == bindparam("k"))
_COUNT = update(KEK_OUT).where(_K.kek_id == bindparam("k")).values(wraps=_K.wraps + 1)
_RETIRE = update(KEK_OUT).where(_K.local == bindparam("l"), _K.remote == bindparam("r")).values(retired=True)
_OWN = select(DSK_OUT).where(_of(DSK_OUT)).order_by(DSK_OUT.c.generation)
_OWN_ONE = select(DSK_OUT).where(_of(DSK_OUT), DSK_OUT.c.generation == bindparam("g"))
_DROP_OWN = delete(DSK_OUT).where(_of(DSK_OUT), DSK_OUT.c.generation < bindparam("g"))
_PEER = select(DSK_IN).where(_of(DSK_IN)).order_by(DSK_IN.c.generation)
_DROP_PEER = delete(DSK_IN).where(_of(DSK_IN), DSK_IN.c.generation < bindparam("g"))
_PEER_KEK = select(KEK_IN).where(KEK_IN.c.kek_id == bindparam("k"))
_SHIFTS = select(_S.generation, _S.cause, _S.at).where(_of(SHIFT)).order_by(_S.at, _S.generation)
_DROP_SHIFT = delete(SHIFT).where(_of(SHIFT), _S.generation == bindparam("g"))
_TOMBSTONE = select(TOMBSTONE).where(_of(TOMBSTONE))
_FIND = select(BINDING).where(_B.local == bindparam("l"), or_(_B.remote == bindparam("r"), _B.prefix.is_(True)))
_BINDINGS = select(BINDING).where(_B.local == bindparam("l")).order_by(_B.remote)
_DROP_BINDING = delete(BINDING).where(_B.local == bindparam("l"), _B.remote == bindparam("r"))
_P = PEER_CERT.c
_LEARNED = select(_P.local, _P.remote, _P.digest, _P.not_after, _P.chain)
_LEARNED = _LEARNED.where(_P.local == bindparam("l"), _P.remote == bindparam("r")).order_by(_P.not_after.desc())
_FORGET = delete(PEER_CERT).where(
    _P.local == bindparam("l"), _P.remote == bindparam("r"), _P.digest == bindparam("d")
)
_INCARNATION = select(INCARNATION.c.value).where(INCARNATION.c.node == bindparam("n"))


class SqlKeyRows:
    """The rows of a ``DialogTransaction`` that are not messages.

    Args:
        database: which database the connection belongs to.
        connection: inside a transaction.
    """

    def __init__(self, database: Database, connection: Connection) -> None:
        self._database = database
        self._connection = connection

    def _put(self, table: Table, row: _Row | dict[str, object]) -> None:
        values = row if isinstance(row, dict) else _named(row)
        self._connection.execute(insert_or_replace(self._database, table), values)

    def current_kek(self, local: str, remote: str, certificates: bytes, suite: int) -> OutboundKekRow | None:
        """Return the newest key of an ordered pair that is not retired."""
        row = self._connection.execute(_CURRENT, {"l": local, "r": remote, "c": certificates, "u": suite}).first()
        return None if row is None else OutboundKekRow(*row)

    def outbound_kek(self, kek_id: bytes) -> OutboundKekRow | None:
        """Return an own key exchange key by its id."""
        row = self._connection.execute(_KEK, {"k": kek_id}).first()
        return None if row is None else OutboundKekRow(*row)

    def add_outbound_kek(self, row: OutboundKekRow) -> None:
        """Insert an own key exchange key."""
        self._put(KEK_OUT, row)

    def count_wrap(self, kek_id: bytes) -> None:
        """Count one session key wrapped under an own key exchange key."""
        self._connection.execute(_COUNT, {"k": kek_id})

    def retire_keks(self, local: str, remote: str) -> None:
        """Let no new session key use the existing key exchange keys of a pair."""
        self._connection.execute(_RETIRE, {"l": local, "r": remote})

    def outbound_dsk(self, dialog: bytes, side: int, generation: int) -> OutboundDskRow | None:
        """Return an own session key."""
        row = self._connection.execute(_OWN_ONE, {"d": dialog, "s": side, "g": generation}).first()
        return None if row is None else OutboundDskRow(*row)

    def outbound_dsks(self, dialog: bytes, side: int) -> Sequence[OutboundDskRow]:
        """Return every own session key of a side, oldest first."""
        return [OutboundDskRow(*row) for row in self._connection.execute(_OWN, {"d": dialog, "s": side})]

    def put_outbound_dsk(self, row: OutboundDskRow) -> None:
        """Insert or replace an own session key."""
        self._put(DSK_OUT, row)

    def drop_outbound_dsks(self, dialog: bytes, side: int, below: int) -> None:
        """Delete own session keys of older generations."""
        self._connection.execute(_DROP_OWN, {"d": dialog, "s": side, "g": below})

    def inbound_dsks(self, dialog: bytes, side: int) -> Sequence[InboundDskRow]:
        """Return every kept session key header of the peer, oldest first."""
        return [InboundDskRow(*row) for row in self._connection.execute(_PEER, {"d": dialog, "s": side})]

    def put_inbound_dsk(self, row: InboundDskRow) -> None:
        """Insert or replace a session key header of the peer."""
        self._put(DSK_IN, row)

    def drop_inbound_dsks(self, dialog: bytes, side: int, below: int) -> None:
        """Delete session key headers of older generations."""
        self._connection.execute(_DROP_PEER, {"d": dialog, "s": side, "g": below})

    def inbound_kek(self, kek_id: bytes) -> InboundKekRow | None:
        """Return the pair and KEK headers under a KEK id."""
        row = self._connection.execute(_PEER_KEK, {"k": kek_id}).first()
        return None if row is None else InboundKekRow(*row)

    def put_inbound_kek(self, row: InboundKekRow) -> None:
        """Keep the pair and KEK headers under a KEK id."""
        self._connection.execute(insert_missing(self._database, KEK_IN), _named(row))

    def add_shift(self, dialog: bytes, side: int, event: ShiftEvent, keep: int) -> None:
        """Record a shift of the peer and keep the newest ones."""
        values = {
            "dialog": dialog,
            "side": side,
            "generation": event.generation,
            "cause": event.cause,
            "at": event.at,
        }
        self._put(SHIFT, values)
        old = self.shifts(dialog, side)[:-keep]
        if old:
            self._connection.execute(_DROP_SHIFT, [{"d": dialog, "s": side, "g": event.generation} for event in old])

    def shifts(self, dialog: bytes, side: int) -> Sequence[ShiftEvent]:
        """Return the kept shifts of the peer, oldest first."""
        return [ShiftEvent(*row) for row in self._connection.execute(_SHIFTS, {"d": dialog, "s": side})]

    def tombstone(self, dialog: bytes, side: int) -> TombstoneRow | None:
        """Return what is left of a dialog."""
        row = self._connection.execute(_TOMBSTONE, {"d": dialog, "s": side}).first()
        return None if row is None else TombstoneRow(*row)

    def put_tombstone(self, row: TombstoneRow) -> None:
        """Insert or replace what is left of a dialog."""
        self._put(TOMBSTONE, row)

    def find_binding(self, local: str, remote: str) -> BindingRow | None:
        """Return the binding for a remote name: the exact one, else the longest prefix."""
        rows = [BindingRow(*row) for row in self._connection.execute(_FIND, {"l": local, "r": remote})]
        for row in rows:
            if row.remote == remote:
                return row
        fitting = [row for row in rows if row.prefix and remote.startswith(row.remote)]
        return max(fitting, key=lambda row: len(row.remote), default=None)

    def bindings(self, local: str) -> Sequence[BindingRow]:
        """List the bindings of a local service."""
        return [BindingRow(*row) for row in self._connection.execute(_BINDINGS, {"l": local})]

    def put_binding(self, row: BindingRow) -> None:
        """Insert or replace a binding."""
        self._put(BINDING, row)

    def drop_binding(self, local: str, remote: str) -> None:
        """Delete a binding."""
        self._connection.execute(_DROP_BINDING, {"l": local, "r": remote})

    def peer_certificates(self, local: str, remote: str) -> Sequence[PeerCertificateRow]:
        """Return the encryption certificates that a remote service presented."""
        rows = self._connection.execute(_LEARNED, {"l": local, "r": remote})
        return [
            PeerCertificateRow(*row[:4], msgspec.msgpack.decode(row.chain, type=tuple[bytes, ...])) for row in rows
        ]

    def put_peer_certificate(self, row: PeerCertificateRow, keep: int) -> None:
        """Keep a presented certificate, and of that service's those that end last."""
        self._put(PEER_CERT, {**_named(row), "chain": msgspec.msgpack.encode(row.chain)})
        for old in self.peer_certificates(row.local, row.remote)[keep:]:
            self._connection.execute(_FORGET, {"l": old.local, "r": old.remote, "d": old.digest})

    def incarnation(self, node: str) -> bytes | None:
        """Return the stored incarnation of a node."""
        return self._connection.scalar(_INCARNATION, {"n": node})

    def set_incarnation(self, node: str, value: bytes) -> None:
        """Store the incarnation of a node."""
        self._put(INCARNATION, {"node": node, "value": value})


def _named(row: _Row) -> dict[str, object]:
    return {field.name: getattr(row, field.name) for field in fields(row)}
