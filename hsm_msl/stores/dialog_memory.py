"""Dialogs in the memory of one process: for tests, and for dialogs that need not outlive it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from hsm_msl.dialog_records import (
    BindingRow,
    EndpointRecord,
    InboundDskRow,
    InboundKekRow,
    InboxRow,
    OutboundDskRow,
    OutboundKekRow,
    OutboxRow,
    ParkedSlot,
    QueuedRow,
    ShiftEvent,
    TombstoneRow,
)
from hsm_msl.errors import StoreError

_Side = tuple[bytes, int]
_FINAL = ("CD", "FAILED")
_K = TypeVar("_K")
_V = TypeVar("_V")


@dataclass(slots=True)
class _Tables:
    endpoints: dict[_Side, EndpointRecord] = field(default_factory=dict)
    outbox: dict[_Side, dict[tuple[int, int], OutboxRow]] = field(default_factory=dict)
    inbox: dict[_Side, dict[tuple[int, int], InboxRow]] = field(default_factory=dict)
    queued: dict[_Side, dict[int, QueuedRow]] = field(default_factory=dict)
    keks_out: dict[bytes, OutboundKekRow] = field(default_factory=dict)
    dsks_out: dict[_Side, dict[int, OutboundDskRow]] = field(default_factory=dict)
    dsks_in: dict[_Side, dict[int, InboundDskRow]] = field(default_factory=dict)
    keks_in: dict[bytes, InboundKekRow] = field(default_factory=dict)
    shifts: dict[_Side, list[ShiftEvent]] = field(default_factory=dict)
    tombstones: dict[_Side, TombstoneRow] = field(default_factory=dict)
    bindings: dict[tuple[str, str], BindingRow] = field(default_factory=dict)
    incarnations: dict[str, bytes] = field(default_factory=dict)


class MemoryDialogTransaction:
    """One transaction, see ``DialogTransaction``; what it changed is undone when its block raises."""

    def __init__(self, tables: _Tables) -> None:
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

    def endpoint(self, dialog: bytes, side: int, *, lock: bool = True) -> EndpointRecord | None:
        """Load one side of a dialog."""
        del lock  # transactions exclude each other
        found = self._t.endpoints.get((dialog, side))
        return None if found is None else replace(found)

    def add_endpoint(self, record: EndpointRecord) -> None:
        """Insert a new side. Raises StoreError when it exists."""
        if (record.dialog, record.side) in self._t.endpoints:
            raise StoreError("the dialog exists")
        self.save_endpoint(record)

    def save_endpoint(self, record: EndpointRecord) -> None:
        """Write every field back."""
        self._put(self._t.endpoints, (record.dialog, record.side), replace(record))

    def endpoints(self, local: str, *, limit: int, after: bytes = b"") -> Sequence[EndpointRecord]:
        """List sides held by a service in order of dialog id."""
        keys = sorted(key for key, found in self._t.endpoints.items() if found.local == local and key[0] > after)
        return [replace(self._t.endpoints[key]) for key in keys[:limit]]

    def attention(self, local: str, now: float, limit: int) -> Sequence[tuple[bytes, int]]:
        """Name live sides whose timer is due."""
        return [
            key
            for key, found in self._t.endpoints.items()
            if found.local == local and found.attention_at <= now and found.state not in _FINAL
        ][:limit]

    def open_sides(self, local: str) -> Sequence[tuple[bytes, int]]:
        """Name every side that still may send."""
        return [key for key, found in self._t.endpoints.items() if found.local == local and found.state not in _FINAL]

    def add_outbox(self, rows: Sequence[OutboxRow]) -> None:
        """Insert sealed fragments."""
        for row in rows:
            self._put(self._t.outbox.setdefault((row.dialog, row.side), {}), (row.seq, row.frag), row)

    def acknowledge(self, dialog: bytes, side: int, below: int, ranges: Sequence[tuple[int, int]]) -> None:
        """Delete fragments below a sequence number or within an inclusive range."""
        rows = self._t.outbox.get((dialog, side), {})
        for key in list(rows):
            if key[0] < below or any(low <= key[0] <= high for low, high in ranges):
                self._drop(rows, key)

    def release(self, dialog: bytes, side: int, below: int, now: float) -> None:
        """Make fragments that waited beyond the window due."""
        table = self._t.outbox.get((dialog, side), {})
        for key, row in list(table.items()):
            if row.due_at is None and row.seq < below:
                self._put(table, key, replace(row, due_at=now))

    def due(self, local: str, now: float, latest: float, limit: int) -> Sequence[OutboxRow]:
        """Return fragments whose time has come."""
        found: list[OutboxRow] = []
        for key, rows in self._t.outbox.items():
            state = self._t.endpoints.get(key)
            if state is None or state.local != local:
                continue
            for row in rows.values():
                if row.due_at is not None and not now < row.due_at <= latest:
                    found.append(row)
                    if len(found) == limit:
                        return found
        return found

    def reschedule(self, rows: Iterable[tuple[bytes, int, int, int, float]]) -> None:
        """Count an attempt and set the next time."""
        for dialog, side, seq, frag, due_at in rows:
            table = self._t.outbox[dialog, side]
            row = table[seq, frag]
            self._put(table, (seq, frag), replace(row, attempts=row.attempts + 1, due_at=due_at))

    def hasten(self, dialog: bytes, side: int, now: float) -> None:
        """Make every fragment of a side that lies within the window due now."""
        table = self._t.outbox.get((dialog, side), {})
        for key, row in list(table.items()):
            if row.due_at is not None:
                self._put(table, key, replace(row, due_at=now))

    def clear_outbox(self, dialog: bytes, side: int) -> None:
        """Delete every fragment and queued message of a side."""
        self._clear(self._t.outbox.get((dialog, side), {}))
        self._clear(self._t.queued.get((dialog, side), {}))

    def next_due(self, local: str) -> float | None:
        """Return the earliest time at which a fragment is due, or None."""
        times = [
            row.due_at
            for key, rows in self._t.outbox.items()
            if key in self._t.endpoints and self._t.endpoints[key].local == local
            for row in rows.values()
            if row.due_at is not None
        ]
        return min(times, default=None)

    def add_inbox(self, rows: Sequence[InboxRow]) -> None:
        """Insert received fragments."""
        for row in rows:
            self._put(self._t.inbox.setdefault((row.dialog, row.side), {}), (row.seq, row.frag), row)

    def parked(self, dialog: bytes, side: int, next_in: int) -> Sequence[ParkedSlot]:
        """Return the fragments at or beyond a sequence number."""
        return [
            ParkedSlot(row.seq, row.frag, row.count, row.kind, row.generation, row.digest, row.size)
            for row in self._t.inbox.get((dialog, side), {}).values()
            if row.seq >= next_in
        ]

    def digest(self, dialog: bytes, side: int, seq: int, frag: int) -> bytes | None:
        """Return the stored digest of a fragment."""
        row = self._t.inbox.get((dialog, side), {}).get((seq, frag))
        return None if row is None else row.digest

    def drop_parked(self, dialog: bytes, side: int, from_seq: int) -> None:
        """Delete parked fragments from a sequence number on."""
        table = self._t.inbox.get((dialog, side), {})
        for key in [key for key in table if key[0] >= from_seq]:
            self._drop(table, key)

    def messages(self, dialog: bytes, side: int, first: int, last: int) -> Sequence[InboxRow]:
        """Return the fragments of messages in order."""
        table = self._t.inbox.get((dialog, side), {})
        return [
            table[seq, frag]
            for seq in range(first, last + 1)
            if (seq, 0) in table
            for frag in range(table[seq, 0].count)
        ]

    def empty(self, dialog: bytes, side: int, first: int, last: int) -> None:
        """Keep of messages only the digests."""
        table = self._t.inbox.get((dialog, side), {})
        for row in self.messages(dialog, side, first, last):
            self._put(table, (row.seq, row.frag), replace(row, core=b"", body=b""))

    def trim(self, dialog: bytes, side: int, below: int) -> None:
        """Delete taken messages below a sequence number."""
        table = self._t.inbox.get((dialog, side), {})
        for key in [key for key, row in table.items() if key[0] < below and not row.core]:
            self._drop(table, key)

    def waiting(self, local: str, limit: int) -> Sequence[tuple[bytes, int]]:
        """Name sides with messages or a final event the application has not taken."""
        return [
            key
            for key, found in self._t.endpoints.items()
            if found.local == local
            and (found.taken + 1 < found.next_in or (found.state == "FAILED" and not found.told))
        ][:limit]

    def add_queued(self, row: QueuedRow) -> None:
        """Keep a message that cannot be sealed yet."""
        self._put(self._t.queued.setdefault((row.dialog, row.side), {}), row.number, row)

    def take_queued(self, dialog: bytes, side: int, limit: int) -> Sequence[QueuedRow]:
        """Remove and return the oldest queued messages."""
        table = self._t.queued.get((dialog, side), {})
        taken = [table[number] for number in sorted(table)[:limit]]
        for row in taken:
            self._drop(table, row.number)
        return taken

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
        table = self._t.dsks_out.get((dialog, side), {})
        return [table[generation] for generation in sorted(table)]

    def put_outbound_dsk(self, row: OutboundDskRow) -> None:
        """Insert or replace an own session key."""
        self._put(self._t.dsks_out.setdefault((row.dialog, row.side), {}), row.generation, row)

    def drop_outbound_dsks(self, dialog: bytes, side: int, below: int) -> None:
        """Delete own session keys of older generations."""
        table = self._t.dsks_out.get((dialog, side), {})
        for generation in [found for found in table if found < below]:
            self._drop(table, generation)

    def inbound_dsks(self, dialog: bytes, side: int) -> Sequence[InboundDskRow]:
        """Return every kept session key header of the peer, oldest first."""
        table = self._t.dsks_in.get((dialog, side), {})
        return [table[generation] for generation in sorted(table)]

    def put_inbound_dsk(self, row: InboundDskRow) -> None:
        """Insert or replace a session key header of the peer."""
        self._put(self._t.dsks_in.setdefault((row.dialog, row.side), {}), row.generation, row)

    def drop_inbound_dsks(self, dialog: bytes, side: int, below: int) -> None:
        """Delete session key headers of older generations."""
        table = self._t.dsks_in.get((dialog, side), {})
        for generation in [found for found in table if found < below]:
            self._drop(table, generation)

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

    def purge(self, now: float, limit: int) -> int:
        """Delete everything of dialogs whose tombstone has run out."""
        over = [key for key, row in self._t.tombstones.items() if row.until < now][:limit]
        for key in over:
            t = self._t
            self.clear_outbox(*key)
            self._clear(t.inbox.get(key, {}))
            self._clear(t.dsks_out.get(key, {}))
            self._clear(t.dsks_in.get(key, {}))
            self._drop(t.shifts, key)
            self._drop(t.endpoints, key)
            self._drop(t.tombstones, key)
        for kek_id in [kek_id for kek_id, row in self._t.keks_in.items() if row.not_after < now][:limit]:
            self._drop(self._t.keks_in, kek_id)
        for kek_id in [kek_id for kek_id, row in self._t.keks_out.items() if row.not_after < now][:limit]:
            self._drop(self._t.keks_out, kek_id)
        return len(over)

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

    def incarnation(self, node: str) -> bytes | None:
        """Return the stored incarnation of a node."""
        return self._t.incarnations.get(node)

    def set_incarnation(self, node: str, value: bytes) -> None:
        """Store the incarnation of a node."""
        self._put(self._t.incarnations, node, value)


class MemoryDialogStore:
    """A ``DialogStore`` for the threads of one process."""

    def __init__(self) -> None:
        self._tables = _Tables()
        self._lock = threading.RLock()

    @contextmanager
    def transaction(self) -> Iterator[MemoryDialogTransaction]:
        """Open a transaction; transactions exclude each other."""
        with self._lock:
            tx = MemoryDialogTransaction(self._tables)
            try:
                yield tx
            except BaseException:
                tx.rollback()
                raise

    @contextmanager
    def reading(self) -> Iterator[MemoryDialogTransaction]:
        """Open a view for reading."""
        with self._lock:
            yield MemoryDialogTransaction(self._tables)
