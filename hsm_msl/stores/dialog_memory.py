"""Dialogs in the memory of one process: for tests, and for dialogs that need not outlive it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from hsm_msl.errors import StoreError
from hsm_msl.ports.dialog_records import (
    EndpointRecord,
    InboxRow,
    OutboxRow,
    ParkedSlot,
    QueuedRow,
)
from hsm_msl.stores.dialog_memory_keys import MemoryKeyRows, Tables

_FINAL = ("CD", "FAILED")


class MemoryDialogTransaction(MemoryKeyRows):
    """One transaction, see ``DialogTransaction``; what it changed is undone when its block raises."""

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
        for key in [key for key, row in table.items() if row.due_at is None and row.seq < below]:
            self._put(table, key, replace(table[key], due_at=now))

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
        for key in [key for key, row in table.items() if row.due_at is not None]:
            self._put(table, key, replace(table[key], due_at=now))

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

    def waiting(self, local: str, limit: int, after: tuple[bytes, int] = (b"", 0)) -> Sequence[tuple[bytes, int]]:
        """Name sides with messages or a final event the application has not taken, in order."""
        return [
            key
            for key, found in sorted(self._t.endpoints.items())
            if found.local == local
            and key > after
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

    def purge(self, now: float, limit: int) -> int:
        """Delete everything of dialogs whose tombstone has run out."""
        ends = self._t.endpoints
        over = [
            key
            for key, row in self._t.tombstones.items()
            if row.until < now and not (key in ends and ends[key].taken + 1 < ends[key].next_in)
        ][:limit]
        for key in over:
            t = self._t
            self.clear_outbox(*key)
            self._clear(t.inbox.get(key, {}))
            self._clear(t.dsks_out.get(key, {}))
            self._clear(t.dsks_in.get(key, {}))
            self._drop(t.shifts, key)
            self._drop(t.endpoints, key)
            self._drop(t.tombstones, key)
        used = {row.kek_id for rows in self._t.dsks_in.values() for row in rows.values()}
        for kek_id in [
            kek_id for kek_id, row in self._t.keks_in.items() if row.not_after < now and kek_id not in used
        ]:
            self._drop(self._t.keks_in, kek_id)
        for kek_id in [kek_id for kek_id, row in self._t.keks_out.items() if row.not_after < now]:
            self._drop(self._t.keks_out, kek_id)
        for name in [name for name, row in self._t.certificates.items() if row.not_after < now]:
            self._drop(self._t.certificates, name)
        return len(over)


class MemoryDialogStore:
    """A ``DialogStore`` for the threads of one process."""

    def __init__(self) -> None:
        self._tables = Tables()
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
