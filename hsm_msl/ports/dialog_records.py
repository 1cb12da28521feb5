"""What the secure dialog keeps: the rows, and the transaction in which engine and stores meet (dialog section 8).

No row holds a key in plain: session keys and own key exchange keys rest wrapped under the storage key in the token,
received headers rest as received. Message bodies rest as the ciphertext that travels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(slots=True, kw_only=True)
class EndpointRecord:
    """One side of one dialog; the engine changes a loaded copy and saves it in the same transaction.

    Times are seconds since the Unix epoch; ``out`` is the direction this side sends, ``in`` the other one. With
    ``ack_on_commit`` the peer is told of what the application has taken, ``ack_due`` that it must be told, and
    ``ack_least`` is what it was told in any case when it came back from a backup. ``key_failures`` is 0 or tells
    which header of the peer could not be opened, by the first bits of its digest.
    """

    dialog: bytes
    side: int
    local: str
    remote: str
    contract: str
    state: str
    created_at: float
    expires_at: int
    attention_at: float
    clock_mark: float
    reason: int = 0
    next_out: int = 1
    base_out: int = 1
    out_generation: int = 0
    out_oldest: int = 0
    out_first_seq: int = 0
    out_since: float = 0.0
    out_messages: int = 0
    out_bytes: int = 0
    headers_known: int = 0
    pending_cause: int = 0
    pending_at: float = 0.0
    count_mark: float = 0.0
    next_in: int = 1
    in_generation: int = 0
    in_first_seq: int = 0
    in_since: float = 0.0
    in_max_seq: int = 0
    in_floor: int = 0
    in_delivered: int = 0
    parked: int = 0
    parked_bytes: int = 0
    taken: int = 0
    told: int = 0
    end_out: int = 0
    end_in: int = 0
    recovering: int = 0
    ack_floor: int = 0
    key_failures: int = 0
    queued: int = 0
    probe_at: float = 0.0
    ack_on_commit: int = 0
    ack_due: int = 0
    ack_least: int = 0


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A sealed fragment that waits for its acknowledgement; core and body never change again.

    ``due_at`` is None while the fragment lies beyond the window that the receiver keeps open.
    """

    dialog: bytes
    side: int
    seq: int
    frag: int
    generation: int
    core: bytes
    body: bytes
    attempts: int
    due_at: float | None


@dataclass(frozen=True, slots=True)
class InboxRow:
    """A received fragment: parked while earlier ones are missing, then waiting to be taken, then only a digest.

    ``core`` and ``body`` are as they travelled and are emptied when the application has taken the message.
    """

    dialog: bytes
    side: int
    seq: int
    frag: int
    count: int
    kind: int
    generation: int
    digest: bytes
    size: int
    core: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class ParkedSlot:
    """What sequence logic must know of a parked fragment."""

    seq: int
    frag: int
    count: int
    kind: int
    generation: int
    digest: bytes
    size: int


@dataclass(frozen=True, slots=True)
class QueuedRow:
    """A message accepted before it could be sealed for its peer, encrypted under a key wrapped in the token."""

    dialog: bytes
    side: int
    number: int
    kind: int
    message_type: str
    wrapped_key: bytes
    ciphertext: bytes


@dataclass(frozen=True, slots=True)
class OutboundKekRow:
    """An own key exchange key, wrapped under the storage key, with the two headers that carry it."""

    kek_id: bytes
    local: str
    remote: str
    certificates: bytes
    suite: int
    epoch: int
    pair_header: bytes
    kek_header: bytes
    wrapped: bytes
    created_at: float
    not_after: int
    wraps: int
    retired: bool


@dataclass(frozen=True, slots=True)
class OutboundDskRow:
    """An own session key of one generation; ``rewrap_*`` name a later KEK under which it travels instead."""

    dialog: bytes
    side: int
    generation: int
    dsk_id: bytes
    suite: int
    kek_id: bytes
    header: bytes
    wrapped: bytes
    rewrap_kek_id: bytes
    rewrap: bytes


@dataclass(frozen=True, slots=True)
class InboundDskRow:
    """A received session key header of one authenticated generation."""

    dialog: bytes
    side: int
    generation: int
    dsk_id: bytes
    first_seq: int
    kek_id: bytes
    header: bytes
    rewrap: bytes


@dataclass(frozen=True, slots=True)
class InboundKekRow:
    """The pair header and the KEK header that a peer sent."""

    kek_id: bytes
    pair_header: bytes
    kek_header: bytes
    not_after: int


@dataclass(frozen=True, slots=True)
class ShiftEvent:
    """One authenticated shift of the peer, for the sliding windows."""

    generation: int
    cause: int
    at: float


@dataclass(frozen=True, slots=True)
class TombstoneRow:
    """What is left of a dialog: its last word, sealed, for whoever still sends, until its dates forbid a replay."""

    dialog: bytes
    side: int
    until: float
    state: str
    reason: int
    reply: bytes


@dataclass(frozen=True, slots=True)
class BindingRow:
    """A remote service binding as a document; ``prefix`` makes ``remote`` match every name that starts with it."""

    local: str
    remote: str
    prefix: bool
    document: bytes


@dataclass(frozen=True, slots=True)
class PeerCertificateRow:
    """An encryption certificate that a remote service presented, with those between it and its issuer; DER."""

    local: str
    remote: str
    digest: bytes
    not_after: int
    chain: tuple[bytes, ...]


class DialogTransaction(Protocol):
    """One database transaction; every method may raise StoreError, which says nothing about a peer."""

    def endpoint(self, dialog: bytes, side: int, *, lock: bool = True) -> EndpointRecord | None:
        """Load one side of a dialog, locked against other transactions unless ``lock`` is off."""

    def add_endpoint(self, record: EndpointRecord) -> None:
        """Insert a new side. Raises StoreError when it exists (two receivers of one first packet)."""

    def save_endpoint(self, record: EndpointRecord) -> None:
        """Write every field back."""

    def endpoints(self, local: str, *, limit: int, after: bytes = b"") -> Sequence[EndpointRecord]:
        """List sides held by a service in order of dialog id, without locks."""

    def attention(self, local: str, now: float, limit: int) -> Sequence[tuple[bytes, int]]:
        """Name live sides whose timer is due."""

    def open_sides(self, local: str) -> Sequence[tuple[bytes, int]]:
        """Name every side that still may send, for recovery after a restore."""

    def add_outbox(self, rows: Sequence[OutboxRow]) -> None:
        """Insert sealed fragments."""

    def acknowledge(self, dialog: bytes, side: int, below: int, ranges: Sequence[tuple[int, int]]) -> None:
        """Delete fragments with a sequence number below ``below`` or within an inclusive range."""

    def release(self, dialog: bytes, side: int, below: int, now: float) -> None:
        """Make fragments that waited beyond the window due, up to a sequence number."""

    def due(self, local: str, now: float, latest: float, limit: int) -> Sequence[OutboxRow]:
        """Take fragments whose time has come; one beyond ``latest`` was set by a clock that ran ahead.

        Rows that another worker holds are passed over, so two workers never send the same row at the same time.
        """

    def reschedule(self, rows: Iterable[tuple[bytes, int, int, int, float]]) -> None:
        """Count an attempt and set the next time of (dialog, side, seq, frag, due at) rows."""

    def hasten(self, dialog: bytes, side: int, now: float) -> None:
        """Make every fragment of a side that lies within the window due now."""

    def clear_outbox(self, dialog: bytes, side: int) -> None:
        """Delete every fragment and queued message of a side."""

    def next_due(self, local: str) -> float | None:
        """Return the earliest time at which a fragment is due, or None."""

    def add_inbox(self, rows: Sequence[InboxRow]) -> None:
        """Insert received fragments."""

    def parked(self, dialog: bytes, side: int, next_in: int) -> Sequence[ParkedSlot]:
        """Return the fragments at or beyond ``next_in``."""

    def digest(self, dialog: bytes, side: int, seq: int, frag: int) -> bytes | None:
        """Return the stored digest of a fragment, or None when it is unknown or was trimmed."""

    def drop_parked(self, dialog: bytes, side: int, from_seq: int) -> None:
        """Delete parked fragments from ``from_seq`` on (the peer will send other ones)."""

    def messages(self, dialog: bytes, side: int, first: int, last: int) -> Sequence[InboxRow]:
        """Return the fragments of the messages from ``first`` to ``last`` in order."""

    def empty(self, dialog: bytes, side: int, first: int, last: int) -> None:
        """Keep of the messages from ``first`` to ``last`` only the digests."""

    def trim(self, dialog: bytes, side: int, below: int) -> None:
        """Delete taken messages below a sequence number."""

    def waiting(self, local: str, limit: int, after: tuple[bytes, int] = (b"", 0)) -> Sequence[tuple[bytes, int]]:
        """Name sides with messages or a final event the application has not taken, in order, from behind one on."""

    def add_queued(self, row: QueuedRow) -> None:
        """Keep a message that cannot be sealed yet."""

    def take_queued(self, dialog: bytes, side: int, limit: int) -> Sequence[QueuedRow]:
        """Remove and return the oldest queued messages."""

    def current_kek(self, local: str, remote: str, certificates: bytes, suite: int) -> OutboundKekRow | None:
        """Return the newest key of an ordered pair, for a digest of both certificates, that is not retired."""

    def outbound_kek(self, kek_id: bytes) -> OutboundKekRow | None:
        """Return an own key exchange key by its id."""

    def add_outbound_kek(self, row: OutboundKekRow) -> None:
        """Insert an own key exchange key."""

    def count_wrap(self, kek_id: bytes) -> None:
        """Count one session key wrapped under an own key exchange key."""

    def retire_keks(self, local: str, remote: str) -> None:
        """Let no new session key use the existing key exchange keys of a pair."""

    def outbound_dsk(self, dialog: bytes, side: int, generation: int) -> OutboundDskRow | None:
        """Return an own session key."""

    def outbound_dsks(self, dialog: bytes, side: int) -> Sequence[OutboundDskRow]:
        """Return every own session key of a side, oldest first."""

    def put_outbound_dsk(self, row: OutboundDskRow) -> None:
        """Insert or replace an own session key."""

    def drop_outbound_dsks(self, dialog: bytes, side: int, below: int) -> None:
        """Delete own session keys of generations below ``below``."""

    def inbound_dsks(self, dialog: bytes, side: int) -> Sequence[InboundDskRow]:
        """Return every kept session key header of the peer, oldest first."""

    def put_inbound_dsk(self, row: InboundDskRow) -> None:
        """Insert or replace a session key header of the peer."""

    def drop_inbound_dsks(self, dialog: bytes, side: int, below: int) -> None:
        """Delete session key headers of generations below ``below``."""

    def inbound_kek(self, kek_id: bytes) -> InboundKekRow | None:
        """Return the pair and KEK headers under a KEK id."""

    def put_inbound_kek(self, row: InboundKekRow) -> None:
        """Keep the pair and KEK headers under a KEK id; a second time changes nothing."""

    def add_shift(self, dialog: bytes, side: int, event: ShiftEvent, keep: int) -> None:
        """Record a shift of the peer and keep the newest ``keep`` ones."""

    def shifts(self, dialog: bytes, side: int) -> Sequence[ShiftEvent]:
        """Return the kept shifts of the peer, oldest first."""

    def tombstone(self, dialog: bytes, side: int) -> TombstoneRow | None:
        """Return what is left of a dialog."""

    def put_tombstone(self, row: TombstoneRow) -> None:
        """Insert or replace what is left of a dialog."""

    def purge(self, now: float, limit: int) -> int:
        """Delete everything of dialogs whose tombstone has run out and return how many there were.

        Those with messages the application has not taken stay until it has.
        """

    def find_binding(self, local: str, remote: str) -> BindingRow | None:
        """Return the binding for a remote name: the exact one, else the longest prefix."""

    def bindings(self, local: str) -> Sequence[BindingRow]:
        """List the bindings of a local service."""

    def put_binding(self, row: BindingRow) -> None:
        """Insert or replace a binding."""

    def drop_binding(self, local: str, remote: str) -> None:
        """Delete a binding."""

    def peer_certificates(self, local: str, remote: str) -> Sequence[PeerCertificateRow]:
        """Return the encryption certificates that a remote service presented."""

    def put_peer_certificate(self, row: PeerCertificateRow, keep: int) -> None:
        """Keep a presented certificate, and of that service's no more than ``keep``: those that end last."""

    def incarnation(self, node: str) -> bytes | None:
        """Return the stored incarnation of a node."""

    def set_incarnation(self, node: str, value: bytes) -> None:
        """Store the incarnation of a node."""


class DialogStore(Protocol):
    """Where dialogs live."""

    def reading(self) -> AbstractContextManager[DialogTransaction]:
        """Open a consistent view for reading that holds up no writer. Raises StoreError as ``transaction``."""

    def transaction(self) -> AbstractContextManager[DialogTransaction]:
        """Open a transaction that commits when the block ends and rolls back when it raises.

        Raises StoreError when the state cannot be reached or the commit is not known to have happened.
        """
