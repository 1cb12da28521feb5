"""Applies authentic packets to one side of a dialog within one transaction (sections 5 to 7)."""

from __future__ import annotations

import hmac

from hsm_msl.dialog.authenticating import Authentic
from hsm_msl.dialog.binding import Binding
from hsm_msl.dialog.context import Context
from hsm_msl.dialog.errors import PacketError
from hsm_msl.dialog.lifecycle import Lifecycle
from hsm_msl.dialog.names import (
    FINAL,
    FRAGMENT_SIZE,
    GENERATIONS_AHEAD,
    PLAIN,
    SENDING,
    SEQUENCED,
    WINDOW_MESSAGES,
    Cause,
    Kind,
    Reason,
    State,
)
from hsm_msl.dialog.packet import Packet
from hsm_msl.dialog.policy import peer_overdue, peer_shifted
from hsm_msl.dialog.sequence import Placed, ReceiveWindow
from hsm_msl.dialog.session import Outcome, SessionKey
from hsm_msl.dialog.suites import suite_of
from hsm_msl.ports.dialog_records import (
    DialogTransaction,
    EndpointRecord,
    InboundDskRow,
    InboundKekRow,
    InboxRow,
    ParkedSlot,
    ShiftEvent,
)


class Applying:
    """What a batch of packets does to one side of one dialog.

    Args:
        context: the engine's parts.
        lifecycle: fails and closes the dialog.
        tx: the transaction.
        state: the side, locked; saved by the caller.
        binding: the agreement with the peer.
        outcome: collects packets and events.
        now: seconds since the Unix epoch.
    """

    def __init__(
        self,
        context: Context,
        lifecycle: Lifecycle,
        tx: DialogTransaction,
        state: EndpointRecord,
        binding: Binding,
        outcome: Outcome,
        now: float,
    ) -> None:
        self._context = context
        self._lifecycle = lifecycle
        self._tx = tx
        self._state = state
        self._binding = binding
        self._outcome = outcome
        self._now = now
        self._rows: list[InboxRow] = []
        self.window = ReceiveWindow(state, lambda: tx.parked(state.dialog, state.side, state.next_in))
        self.newest: SessionKey | None = None
        self.acknowledge = False
        self.asked_for_keys = False
        self.probed = False

    def apply(self, authentic: Authentic) -> None:
        """Apply one packet; afterwards the dialog may have failed."""
        packet, session, state = authentic.packet, authentic.session, self._state
        core = packet.core
        if state.state in FINAL:
            return
        if authentic.known:
            self.acknowledge = True
            self._context.counted["duplicates"] += 1
            return
        if core.expiry != state.expires_at:
            self._drop("expiry differs")
            return
        if authentic.hint:
            self.asked_for_keys = True
            return
        if session is not None and not self._generation(packet, session):
            return
        if state.state == State.STARTED_OUTBOUND:
            state.state = State.CONVERSING
        if not self._extensions(packet):
            return
        if core.kind in SEQUENCED and session is not None:
            self._sequenced(packet, session, unreadable=authentic.unreadable)
        elif core.kind == Kind.NEED_KEYS:
            self.asked_for_keys = True
        elif core.kind == Kind.PROBE:
            self.probed = self.acknowledge = True
        elif core.kind == Kind.ABORT:
            reason = Reason(packet.ext.reason or Reason.PROTOCOL)
            self._lifecycle.fail(self._tx, state, reason, self._outcome, self._now, announce=False)

    def finish(self) -> None:
        """Store what arrived."""
        if self._rows:
            self._tx.add_inbox(self._rows)
            self._rows.clear()

    def _fail(self, reason: Reason) -> None:
        self.finish()
        self._lifecycle.fail(self._tx, self._state, reason, self._outcome, self._now)

    def _drop(self, why: str) -> None:
        self._context.counted["dropped"] += 1
        self._outcome.note("dropped", self._state.dialog, why)

    def _generation(self, packet: Packet, session: SessionKey) -> bool:
        """Apply the shift rules (section 6) and tell whether the packet may go on."""
        state, core = self._state, packet.core
        if session.generation == state.in_generation:
            if not self._same_key(session):
                self._fail(Reason.PROTOCOL)
                return False
            self.newest = session
            if not self._in_range(packet, session):
                return False
            if core.kind in SEQUENCED and peer_overdue(self._binding.policy, state, self._now):
                self._fail(Reason.POLICY_SHIFT_MISSING)
                return False
            return True
        duplicate = core.kind in SEQUENCED and core.seq < state.next_in
        if session.generation < state.in_generation:
            if duplicate:
                return True
            if session.generation <= state.in_floor:
                self._drop("generation is done")
                return False
            rows = self._tx.inbound_dsks(state.dialog, state.side)
            later = (row.first_seq for row in rows if row.generation > session.generation)
            if core.kind in SEQUENCED and core.seq >= min(later, default=core.seq + 1):
                self._drop("stale key")
                return False
            known = [row.dsk_id for row in rows if row.generation == session.generation]
            if known and known[0] != session.dsk_id:
                self._fail(Reason.PROTOCOL)
                return False
            if known:
                return True
        return self._in_range(packet, session) and self._new_generation(session)

    def _in_range(self, packet: Packet, session: SessionKey) -> bool:
        core = packet.core
        if core.kind in SEQUENCED and core.seq < session.first_seq and session.cause is not Cause.RECOVERY:
            self._drop("sequence number below the first of its key")
            return False
        return True

    def _same_key(self, session: SessionKey) -> bool:
        """Tell whether a key of the newest generation is the one that is kept; the store is asked once per batch."""
        if self.newest is not None:
            return self.newest.dsk_id == session.dsk_id
        rows = self._tx.inbound_dsks(self._state.dialog, self._state.side)
        return all(row.dsk_id == session.dsk_id for row in rows if row.generation == session.generation)

    def _new_generation(self, session: SessionKey) -> bool:
        state, tx, recovery = self._state, self._tx, session.cause is Cause.RECOVERY
        ahead = session.generation > state.in_generation
        if ahead and not recovery:
            missing = session.first_seq > state.next_in
            if missing and session.generation > state.in_delivered + GENERATIONS_AHEAD:
                self._drop("too many generations ahead")
                return False
            if session.first_seq <= state.in_max_seq:
                self._fail(Reason.PROTOCOL)
                return False
        earlier = tx.shifts(state.dialog, state.side)
        keep = self._binding.policy.kept_events
        reason = None
        if session.cause is not Cause.START or session.generation > 1:  # only the very first key is no shift
            reason = peer_shifted(self._binding.policy, state, session.cause, earlier, self._now)
            tx.add_shift(state.dialog, state.side, ShiftEvent(session.generation, session.cause, self._now), keep)
            self._outcome.note("peer_shifted", state.dialog, f"{session.generation} {session.cause.name.lower()}")
        first = max(session.first_seq, state.next_in) if recovery else session.first_seq
        kek = session.rewrap[0] if session.rewrap is not None else session.kek_id
        tx.put_inbound_kek(InboundKekRow(kek, session.pair_header, session.kek_header, session.kek_not_after))
        tx.put_inbound_dsk(
            InboundDskRow(
                state.dialog,
                state.side,
                session.generation,
                session.dsk_id,
                first,
                kek,
                session.header,
                session.rewrap[1] if session.rewrap is not None else b"",
            )
        )
        self._context.learn(tx, self._binding, state.remote, session.presented, self._now)
        if ahead:
            state.in_generation = session.generation
            state.in_first_seq = first
            state.in_since = self._now
            self.newest = session
        if recovery and ahead:
            # The peer came back from a backup: what it sent beyond this point it no longer knows.
            self.finish()
            state.ack_least = state.next_in
            self.window.forget(first)
            tx.drop_parked(state.dialog, state.side, first)
            state.in_max_seq = first - 1
        if reason is not None:
            self._fail(reason)
            return False
        return True

    def _extensions(self, packet: Packet) -> bool:
        """Apply acknowledgements and tell whether the packet may go on."""
        ext, state = packet.ext, self._state
        known = ext.shift_ack or 0
        if known <= state.out_generation:
            state.headers_known = max(state.headers_known, known)
        elif not state.recovering:
            # A restored side does not know its own later keys yet; any other has an impostor, or a restore unnoticed.
            self._fail(Reason.PROTOCOL)
            return False
        if ext.ack is not None and not self._acknowledged(ext.ack.expected, ext.ack.ranges, known):
            self._fail(Reason.PROTOCOL)
            return False
        if ext.base is not None and ext.base > state.next_in:
            # The peer was told that these messages were safe here: this side has lost state.
            self._fail(Reason.PROTOCOL)
            return False
        return True

    def _acknowledged(self, expected: int, ranges: tuple[tuple[int, int], ...], known: int) -> bool:
        state, tx = self._state, self._tx
        if state.recovering:
            if state.recovering == 2 and known == state.out_generation:
                state.recovering = 0
                state.ack_floor = known
                state.next_out = max(state.next_out, expected)
            elif known > state.out_generation:
                # Its own later key, from after an earlier restore: begin one beyond it and ask again.
                state.out_generation, state.recovering, state.probe_at = known, 1, 0.0
                return True
            else:
                return True
        if known < state.ack_floor:
            return True  # said before the restore, about messages this side no longer knows
        if expected > state.next_out or (ranges and ranges[-1][1] >= state.next_out):
            return False
        if expected > state.base_out or ranges:
            tx.acknowledge(state.dialog, state.side, expected, ranges)
            if expected > state.base_out:
                if state.next_out > state.base_out + WINDOW_MESSAGES:
                    tx.release(state.dialog, state.side, expected + WINDOW_MESSAGES, self._now)
                state.base_out = expected
            if state.out_oldest < state.out_generation and state.base_out >= state.out_first_seq:
                tx.drop_outbound_dsks(state.dialog, state.side, state.out_generation)
                state.out_oldest = state.out_generation
            self._lifecycle.close_when_done(tx, state, self._outcome, self._now)
        return True

    def _sequenced(self, packet: Packet, session: SessionKey, *, unreadable: bool) -> None:
        state, core = self._state, packet.core
        self.acknowledge = True
        digest = packet.digest()
        if core.seq < state.next_in:
            self.finish()
            stored = self._tx.digest(state.dialog, state.side, core.seq, core.frag)
            if stored is not None and not hmac.compare_digest(stored, digest):
                self._fail(Reason.PROTOCOL)
            self._context.counted["duplicates"] += 1
            return
        if unreadable or self._too_large(packet, session):
            self._fail(Reason.PROTOCOL)
            return
        slot = ParkedSlot(core.seq, core.frag, core.count, core.kind, session.generation, digest, len(packet.body))
        try:
            placed = self.window.place(slot)
            if placed is Placed.BEYOND:
                self._context.counted["beyond_window"] += 1
                return
            if placed is Placed.DUPLICATE:
                self._context.counted["duplicates"] += 1
                return
            self._rows.append(
                InboxRow(
                    state.dialog,
                    state.side,
                    core.seq,
                    core.frag,
                    core.count,
                    core.kind,
                    session.generation,
                    digest,
                    len(packet.body),
                    packet.core_bytes,
                    packet.body,
                )
            )
            if core.contract and not state.contract:
                state.contract = core.contract
            for message in self.window.advance():
                self._delivered(message)
        except PacketError:
            self._fail(Reason.PROTOCOL)

    def _too_large(self, packet: Packet, session: SessionKey) -> bool:
        """Tell whether a fragment is larger than one may be, or its message than the binding allows."""
        core, size = packet.core, len(packet.body) - suite_of(session.suite).body.overhead
        message = (core.count - 1) * FRAGMENT_SIZE + (size if core.frag == core.count - 1 else 0)
        return size > FRAGMENT_SIZE or message > self._binding.max_body + len(PLAIN)

    def _delivered(self, message: ParkedSlot) -> None:
        state = self._state
        self._outcome.delivered += 1
        if message.kind == Kind.APP:
            return
        state.end_in = message.seq
        if message.kind == Kind.END_WITH_ERROR:
            state.state = State.ERROR
        elif state.state in SENDING:
            state.state = State.DISCONNECTED_INBOUND
        self._lifecycle.close_when_done(self._tx, state, self._outcome, self._now)
