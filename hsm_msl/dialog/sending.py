"""Accepts, seals and transmits what the application sends (dialog sections 6 and 7)."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hsm_msl.dialog.binding import Binding, CertificateFacts
from hsm_msl.dialog.context import Context
from hsm_msl.dialog.encoding import encode
from hsm_msl.dialog.errors import (
    DialogClosedError,
    KeyUnusableError,
    SendLimitError,
    ShiftTooSoonError,
)
from hsm_msl.dialog.lifecycle import Lifecycle
from hsm_msl.dialog.names import (
    AEAD_MESSAGE_LIMIT,
    FINAL,
    FRAGMENT_SIZE,
    MAX_FRAGMENTS,
    MAX_NAME,
    PLAIN,
    RECOVERY_INTERVAL,
    RECOVERY_JUMP,
    RETRY_FIRST,
    RETRY_LAST,
    SENDING,
    WINDOW_MESSAGES,
    Cause,
    Kind,
    Reason,
    Side,
    State,
)
from hsm_msl.dialog.outbound import OutboundKeys
from hsm_msl.dialog.packet import Core
from hsm_msl.dialog.policy import own_shift, shift_too_soon
from hsm_msl.dialog.sealing import Sealer
from hsm_msl.dialog.sequence import ReceiveWindow
from hsm_msl.dialog.session import Outcome, Outgoing, SessionKey
from hsm_msl.errors import DataRejectedError, UsageError
from hsm_msl.ports.dialog_records import DialogTransaction, EndpointRecord, OutboxRow, QueuedRow

Pending = tuple[Kind, str | None, bytes]


class Sender:
    """The sending half of one service's dialogs (claims 1 and 2).

    Args:
        context: the engine's parts.
        outbound: own session keys.
        sealer: seals packets.
        lifecycle: begins, fails and closes dialogs.
    """

    def __init__(self, context: Context, outbound: OutboundKeys, sealer: Sealer, lifecycle: Lifecycle) -> None:
        self._context = context
        self._outbound = outbound
        self._sealer = sealer
        self._lifecycle = lifecycle
        self._distrusted = 0.0

    def distrust(self, before: float) -> None:
        """Seal nothing under keys made before a time: the store may have forgotten what was sealed under them.

        Args:
            before: seconds since the Unix epoch.
        """
        self._distrusted = before

    def send(self, tx: DialogTransaction, dialog: bytes, side: int, messages: Sequence[tuple[str, bytes]]) -> int:
        """Accept messages in order; they are sealed and stored in the caller's transaction and travel after it.

        Without a binding in force they wait, encrypted, until there is one.

        Args:
            tx: the transaction, possibly the application's own.
            dialog: id.
            side: which side of it.
            messages: message type (1-255 bytes) and body of each.

        Returns the sequence number of the last message, 0 while it waits.
        Raises DialogClosedError, DialogFailedError, DialogNotFoundError, SendLimitError, UsageError for a bad type,
        BackendError when a key operation gave no result, StoreError; in each case nothing is accepted.
        """
        state = self._lifecycle.load_live(tx, dialog, side)
        if state.state not in SENDING:
            raise DialogClosedError("one side has ended the dialog")
        pending: list[Pending] = []
        for message_type, body in messages:
            if not 0 < len(message_type.encode()) <= MAX_NAME:
                raise UsageError("a message type is 1 to 255 bytes")
            pending.append((Kind.APP, message_type, PLAIN + body))
        if state.side == Side.TARGET and state.state == State.STARTED_INBOUND:
            state.state = State.CONVERSING
        return self._accept(tx, state, pending)

    def end(self, tx: DialogTransaction, dialog: bytes, side: int, error: tuple[int, str] | None = None) -> None:
        """End this side's part of the dialog, after everything sent before.

        Args:
            tx: the transaction.
            dialog: id.
            side: which side of it.
            error: code (0 or more) and text, when the end is one with an error.

        Raises as ``send``; ending twice is a DialogClosedError.
        """
        state = self._lifecycle.load_live(tx, dialog, side)
        if state.end_out:
            raise DialogClosedError("this side has ended the dialog")
        kind, body = (Kind.END, PLAIN) if error is None else (Kind.END_WITH_ERROR, PLAIN + encode(list(error)))
        if state.state in SENDING:
            state.state = State.DISCONNECTED_OUTBOUND
        state.end_out = -1
        self._accept(tx, state, [(kind, None, body)])

    def shift(self, tx: DialogTransaction, dialog: bytes, side: int, outcome: Outcome) -> None:
        """Shift the own session key now, on an operator's word.

        Raises ShiftTooSoonError within a second of the last shift, UsageError before the first message or without a
        binding, and as ``send``.
        """
        state = self._lifecycle.load_live(tx, dialog, side)
        now = self._lifecycle.now(state)
        if shift_too_soon(state, now):
            raise ShiftTooSoonError("the last shift is less than a second ago")
        found = self._recipient(tx, state, now)
        if not state.out_generation or found is None:
            raise UsageError("there is no key to shift yet")
        self._shift(tx, state, *found, Cause.OPERATOR, now, outcome)
        tx.save_endpoint(state)

    def shift_if_due(self, tx: DialogTransaction, state: EndpointRecord, outcome: Outcome, now: float) -> None:
        """Shift an aged key although nothing is sent, so that a waiting peer sees it (section 6, active mode)."""
        found = self._recipient(tx, state, now)
        if found is None or not state.out_generation:
            return
        cause = own_shift(found[0].policy, state, now)
        if cause is not None:
            self._shift(tx, state, *found, cause, now, outcome)

    def recover(self, tx: DialogTransaction, state: EndpointRecord, now: float) -> None:
        """Begin a generation far ahead after a restore; nothing is sent before the peer said where it stands.

        Without a binding in force this is tried again later. Raises as ``send`` (section 8).
        """
        found = self._recipient(tx, state, now)
        if found is not None:
            # One backup may be restored twice: as shifts keep a second's distance, seconds tell generations apart.
            jump = RECOVERY_JUMP + max(0, int(now - (state.out_since or state.created_at)))
            self._outbound.begin(tx, state, *found, Cause.RECOVERY, now, jump=jump)
            state.recovering = 2

    def flush(self, tx: DialogTransaction, state: EndpointRecord, outcome: Outcome, now: float) -> None:
        """Seal messages that waited, when they can be sealed now. Raises as ``send``."""
        if state.queued:
            self._doubt(state, now)
        if not state.queued or state.recovering:
            return
        found = self._recipient(tx, state, now)
        if found is None:
            return
        rows = tx.take_queued(state.dialog, state.side, state.queued)
        pending: list[Pending] = []
        for row in rows:
            try:
                key = self._context.local.storage.unwrap(row.wrapped_key)
                body = AESGCM(key).decrypt(bytes(12), row.ciphertext, None)
            except (DataRejectedError, InvalidTag):
                self._lifecycle.fail(tx, state, Reason.KEY_UNUSABLE, outcome, now)
                return
            pending.append((Kind(row.kind), row.message_type or None, body))
        state.queued -= len(rows)
        self._seal(tx, state, *found, pending, now)

    def transmit(self, tx: DialogTransaction, limit: int) -> list[Outgoing]:
        """Take what is due from the outbox, count the attempt, and return the packets to send after the commit.

        Args:
            tx: the transaction; rows taken in it are nobody else's.
            limit: most packets.

        Raises BackendError, StoreError; nothing is counted then.
        """
        now = self._context.clock()
        rows = tx.due(self._context.local.name, now, now + 2 * RETRY_LAST, limit)
        states: dict[tuple[bytes, int], tuple[EndpointRecord | None, tuple[tuple[int, int], ...]]] = {}
        sessions: dict[tuple[bytes, int, int], SessionKey | None] = {}
        outgoing: list[Outgoing] = []
        later: list[tuple[bytes, int, int, int, float]] = []
        for row in rows:
            key = (row.dialog, row.side)
            if key not in states:
                states[key] = self._sendable(tx, *key, now)
            state, ranges = states[key]
            wait = min(RETRY_FIRST * 2 ** min(row.attempts, 8), RETRY_LAST)
            jitter = 0.75 + int.from_bytes(self._context.random(1)) / 512
            later.append((row.dialog, row.side, row.seq, row.frag, now + wait * jitter))
            if state is None:
                continue
            generation = (*key, row.generation)
            if generation not in sessions:
                sessions[generation] = self._loaded(tx, state, row.generation, now)
            session = sessions[generation]
            if session is not None:
                packet = self._sealer.transmission(session, state, row, ranges, now)
                outgoing.append(Outgoing(state.remote, packet))
        if later:
            tx.reschedule(later)
        return outgoing

    def _loaded(self, tx: DialogTransaction, state: EndpointRecord, generation: int, now: float) -> SessionKey | None:
        try:
            return self._outbound.load(tx, state, generation, now)
        except KeyUnusableError:
            self._context.counted["own_key_unusable"] += 1
            return None

    def _sendable(
        self, tx: DialogTransaction, dialog: bytes, side: int, now: float
    ) -> tuple[EndpointRecord | None, tuple[tuple[int, int], ...]]:
        state = tx.endpoint(dialog, side, lock=False)
        if state is None or state.state in FINAL or state.recovering:
            return None, ()
        if self._context.binding(tx, state.remote, now) is None:
            return None, ()
        window = ReceiveWindow(state, lambda: tx.parked(dialog, side, state.next_in))
        return state, window.ranges()

    def _recipient(
        self, tx: DialogTransaction, state: EndpointRecord, now: float
    ) -> tuple[Binding, CertificateFacts] | None:
        binding = self._context.binding(tx, state.remote, now)
        if binding is None:
            return None
        recipient = self._context.recipient(tx, binding, state.remote, now)
        return None if recipient is None else (binding, recipient)

    def _accept(self, tx: DialogTransaction, state: EndpointRecord, pending: Sequence[Pending]) -> int:
        now = self._lifecycle.now(state)
        if now > state.expires_at:
            raise DialogClosedError("the dialog's lifetime is over")
        self._doubt(state, now)
        found = self._recipient(tx, state, now)
        if found is None or state.queued or state.recovering:
            for kind, message_type, body in pending:
                self._queue(tx, state, kind, message_type, body)
            last = 0
        else:
            last = self._seal(tx, state, *found, pending, now)
        self._lifecycle.timer(state, found[0].policy if found is not None else None)
        tx.save_endpoint(state)
        return last

    def _doubt(self, state: EndpointRecord, now: float) -> None:
        if state.out_generation and not state.recovering and state.out_since <= self._distrusted:
            state.recovering = 1
            # A process that is killed again and again must not use up the shifts that the peer puts up with.
            state.probe_at = max(now, state.out_since + RECOVERY_INTERVAL)

    def _queue(
        self, tx: DialogTransaction, state: EndpointRecord, kind: Kind, message_type: str | None, body: bytes
    ) -> None:
        key = self._context.random(32)
        wrapped = self._context.local.storage.wrap(key)
        sealed = AESGCM(key).encrypt(bytes(12), body, None)  # a key for one message needs no nonce
        state.queued += 1
        number = state.next_out + state.queued
        tx.add_queued(QueuedRow(state.dialog, state.side, number, kind, message_type or "", wrapped, sealed))

    def _shift(
        self,
        tx: DialogTransaction,
        state: EndpointRecord,
        binding: Binding,
        recipient: CertificateFacts,
        cause: Cause,
        now: float,
        outcome: Outcome | None,
    ) -> SessionKey:
        session = self._outbound.begin(tx, state, binding, recipient, cause, now)
        if outcome is not None and cause is not Cause.START:
            outcome.note("shifted", state.dialog, f"{session.generation} {cause.name.lower()}")
        return session

    def _seal(
        self,
        tx: DialogTransaction,
        state: EndpointRecord,
        binding: Binding,
        recipient: CertificateFacts,
        pending: Sequence[Pending],
        now: float,
    ) -> int:
        rows: list[OutboxRow] = []
        session: SessionKey | None = None
        for kind, message_type, plaintext in pending:
            if len(plaintext) > binding.max_body + 1 or len(plaintext) > FRAGMENT_SIZE * MAX_FRAGMENTS:
                raise SendLimitError("the message is larger than the binding allows")
            cause = own_shift(binding.policy, state, now)
            if cause is not None:
                session = self._shift(tx, state, binding, recipient, cause, now, None)
            elif session is None:
                session = self._outbound.load(tx, state, state.out_generation, now)
            if session is None:
                raise SendLimitError("the own session key is gone")
            if state.out_messages >= AEAD_MESSAGE_LIMIT:
                raise SendLimitError("the session key may seal no more messages")
            rows += self._fragments(state, session, kind, message_type, plaintext, now)
            if kind is not Kind.APP:
                state.end_out = state.next_out
            state.next_out += 1
            state.out_messages += 1
            state.out_bytes += len(plaintext)
        tx.add_outbox(rows)
        return state.next_out - 1

    def _fragments(
        self,
        state: EndpointRecord,
        session: SessionKey,
        kind: Kind,
        message_type: str | None,
        plaintext: bytes,
        now: float,
    ) -> list[OutboxRow]:
        count = -(-len(plaintext) // FRAGMENT_SIZE)
        seq = state.next_out
        first = seq == 1
        due_at = now if seq < state.base_out + WINDOW_MESSAGES else None
        rows = []
        for frag in range(count):
            core = Core(
                dialog=state.dialog,
                direction=state.side,
                kind=kind,
                seq=seq,
                frag=frag,
                count=count,
                message_type=message_type,
                generation=session.generation,
                dsk_id=session.dsk_id,
                suite=session.suite,
                sender=state.local if first else None,
                receiver=state.remote if first else None,
                expiry=state.expires_at,
                contract=state.contract if first and state.contract else None,
            ).encode()
            part = plaintext if count == 1 else plaintext[frag * FRAGMENT_SIZE : (frag + 1) * FRAGMENT_SIZE]
            body = session.keys.seal(seq, frag, part, core)
            rows.append(OutboxRow(state.dialog, state.side, seq, frag, session.generation, core, body, 0, due_at))
        return rows
