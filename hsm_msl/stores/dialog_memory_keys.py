"""Dialogs in memory: wrapped keys, received headers, shifts, tombstones, bindings, and how changes are undone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from hsm_msl.ports.dialog_records import (
    BindingRow,
    EndpointRecord,
    InboundDskRow,
    InboundKekRow,
    InboxRow,
    OutboundDskRow,
    OutboundKekRow,
    OutboxRow,
    PeerCertificateRow,
    QueuedRow,
    ShiftEvent,
    TombstoneRow,
)

Side = tuple[bytes, int]
_K = TypeVar("_K")
_V = TypeVar("_V")


@dataclass(slots=True)
class Tables:
    """Everything, by key."""

    endpoints: dict[Side, EndpointRecord] = field(default_factory=dict)
    outbox: dict[Side, dict[tuple[int, int], OutboxRow]] = field(default_factory=dict)
    inbox: dict[Side, dict[tuple[int, int], InboxRow]] = field(default_factory=dict)
    queued: dict[Side, dict[int, QueuedRow]] = field(default_factory=dict)
    keks_out: dict[bytes, OutboundKekRow] = field(default_factory=dict)
    dsks_out: dict[Side, dict[int, OutboundDskRow]] = field(default_factory=dict)
    dsks_in: dict[Side, dict[int, InboundDskRow]] = field(default_factory=dict)
    keks_in: dict[bytes, InboundKekRow] = field(default_factory=dict)
    shifts: dict[Side, list[ShiftEvent]] = field(default_factory=dict)
    tombstones: dict[Side, TombstoneRow] = field(default_factory=dict)
    bindings: dict[tuple[str, str], BindingRow] = field(default_factory=dict)
    incarnations: dict[str, bytes] = field(default_factory=dict)
    certificates: dict[tuple[str, str, bytes], PeerCertificateRow] = field(default_factory=dict)


def _ordered(table: dict[int, _V]) -> list[_V]:
    return [table[key] for key in sorted(table)]


class MemoryKeyRows:
    """The rows of a ``DialogTransaction`` that are not messages; every change notes how to undo it."""

    def __init__(self, tables: Tables) -> None:
        self._t = tables
        self._undo: list[Callable[[], object]] = []

    def rollback(self) -> None:
        """Undo everything, newest first."""
        while self._undo:
            self._undo.pop()()

    def _put(self, table: dict[_K, _V], key: _K, value: _V) -> None:
        if key in table:
            self._undo.append(partial(table.__setitem__, key, table[key]))
        else:
            self._undo.append(partial(table.pop, key, None))
        table[key] = value

    def _drop(self, table: dict[_K, _V], key: _K) -> None:
        if key in table:
            self._undo.append(partial(table.__setitem__, key, table.pop(key)))

    def _clear(self, table: dict[_K, _V]) -> None:
        for key in list(table):
            self._drop(table, key)

    def _drop_below(self, table: dict[int, _V], below: int) -> None:
        for key in [key for key in table if key < below]:
            self._drop(table, key)

    def current_kek(self, local: str, remote: str, certificates: bytes, suite: int) -> OutboundKekRow | None:
        """Return the newest key of an ordered pair that is not retired."""
        found = [
            row
            for row in self._t.keks_out.values()
            if (row.local, row.remote, row.certificates, row.suite) == (local, remote, certificates, suite)
            and not row.retired
        ]
        return max(found, key=lambda row: row.created_at, default=None)

    def outbound_kek(self, kek_id: bytes) -> OutboundKekRow | None:
        """Return an own key exchange key by its id."""
        return self._t.keks_out.get(kek_id)

    def add_outbound_kek(self, row: OutboundKekRow) -> None:
        """Insert an own key exchange key."""
        self._put(self._t.keks_out, row.kek_id, row)

    def count_wrap(self, kek_id: bytes) -> None:
        """Count one session key wrapped under an own key exchange key."""
        row = self._t.keks_out[kek_id]
        self._put(self._t.keks_out, kek_id, replace(row, wraps=row.wraps + 1))

    def retire_keks(self, local: str, remote: str) -> None:
        """Let no new session key use the existing key exchange keys of a pair."""
        for key, row in list(self._t.keks_out.items()):
            if (row.local, row.remote) == (local, remote):
                self._put(self._t.keks_out, key, replace(row, retired=True))

    def outbound_dsk(self, dialog: bytes, side: int, generation: int) -> OutboundDskRow | None:
        """Return an own session key."""
        return self._t.dsks_out.get((dialog, side), {}).get(generation)

    def outbound_dsks(self, dialog: bytes, side: int) -> Sequence[OutboundDskRow]:
        """Return every own session key of a side, oldest first."""
        return _ordered(self._t.dsks_out.get((dialog, side), {}))

    def put_outbound_dsk(self, row: OutboundDskRow) -> None:
        """Insert or replace an own session key."""
        self._put(self._t.dsks_out.setdefault((row.dialog, row.side), {}), row.generation, row)

    def drop_outbound_dsks(self, dialog: bytes, side: int, below: int) -> None:
        """Delete own session keys of older generations."""
        self._drop_below(self._t.dsks_out.get((dialog, side), {}), below)

    def inbound_dsks(self, dialog: bytes, side: int) -> Sequence[InboundDskRow]:
        """Return every kept session key header of the peer, oldest first."""
        return _ordered(self._t.dsks_in.get((dialog, side), {}))

    def put_inbound_dsk(self, row: InboundDskRow) -> None:
        """Insert or replace a session key header of the peer."""
        self._put(self._t.dsks_in.setdefault((row.dialog, row.side), {}), row.generation, row)

    def drop_inbound_dsks(self, dialog: bytes, side: int, below: int) -> None:
        """Delete session key headers of older generations."""
        self._drop_below(self._t.dsks_in.get((dialog, side), {}), below)

    def inbound_kek(self, kek_id: bytes) -> InboundKekRow | None:
        """Return the pair and KEK headers under a KEK id."""
        return self._t.keks_in.get(kek_id)

    def put_inbound_kek(self, row: InboundKekRow) -> None:
        """Keep the pair and KEK headers under a KEK id."""
        if row.kek_id not in self._t.keks_in:
            self._put(self._t.keks_in, row.kek_id, row)

    def add_shift(self, dialog: bytes, side: int, event: ShiftEvent, keep: int) -> None:
        """Record a shift of the peer and keep the newest ones."""
        events = [*self._t.shifts.get((dialog, side), []), event]
        self._put(self._t.shifts, (dialog, side), events[-keep:])

    def shifts(self, dialog: bytes, side: int) -> Sequence[ShiftEvent]:
        """Return the kept shifts of the peer, oldest first."""
        return list(self._t.shifts.get((dialog, side), []))

    def tombstone(self, dialog: bytes, side: int) -> TombstoneRow | None:
        """Return what is left of a dialog."""
        return self._t.tombstones.get((dialog, side))

    def put_tombstone(self, row: TombstoneRow) -> None:
        """Insert or replace what is left of a dialog."""
        self._put(self._t.tombstones, (row.dialog, row.side), row)

    def find_binding(self, local: str, remote: str) -> BindingRow | None:
        """Return the binding for a remote name: the exact one, else the longest prefix."""
        exact = self._t.bindings.get((local, remote))
        if exact is not None:
            return exact
        rows = [
            row
            for row in self._t.bindings.values()
            if row.local == local and row.prefix and remote.startswith(row.remote)
        ]
        return max(rows, key=lambda row: len(row.remote), default=None)

    def bindings(self, local: str) -> Sequence[BindingRow]:
        """List the bindings of a local service."""
        return sorted((row for row in self._t.bindings.values() if row.local == local), key=lambda row: row.remote)

    def put_binding(self, row: BindingRow) -> None:
        """Insert or replace a binding."""
        self._put(self._t.bindings, (row.local, row.remote), row)

    def drop_binding(self, local: str, remote: str) -> None:
        """Delete a binding."""
        self._drop(self._t.bindings, (local, remote))

    def peer_certificates(self, local: str, remote: str) -> Sequence[PeerCertificateRow]:
        """Return the encryption certificates that a remote service presented."""
        return [row for row in self._t.certificates.values() if (row.local, row.remote) == (local, remote)]

    def put_peer_certificate(self, row: PeerCertificateRow, keep: int) -> None:
        """Keep a presented certificate, and of that service's those that end last."""
        self._put(self._t.certificates, (row.local, row.remote, row.digest), row)
        found = sorted(self.peer_certificates(row.local, row.remote), key=lambda one: one.not_after, reverse=True)
        for old in found[keep:]:
            self._drop(self._t.certificates, (old.local, old.remote, old.digest))

    def incarnation(self, node: str) -> bytes | None:
        """Return the stored incarnation of a node."""
        return self._t.incarnations.get(node)

    def set_incarnation(self, node: str, value: bytes) -> None:
        """Store the incarnation of a node."""
        self._put(self._t.incarnations, node, value)
