"""How a dialog begins, fails, closes and is remembered (dialog sections 6 and 7)."""

from __future__ import annotations

from hsm_msl.dialog.context import Context
from hsm_msl.dialog.errors import DialogClosedError, DialogError, DialogFailedError, DialogNotFoundError
from hsm_msl.dialog.names import (
    CLOCK_SKEW,
    FINAL,
    ID_SIZE,
    MAX_NAME,
    Kind,
    Reason,
    Side,
    State,
)
from hsm_msl.dialog.policy import Policy
from hsm_msl.dialog.sealing import Sealer
from hsm_msl.dialog.session import Outcome, Outgoing
from hsm_msl.errors import BackendError, UsageError
from hsm_msl.ports.dialog_records import DialogTransaction, EndpointRecord, TombstoneRow

QUEUE_RETRY = 4.0


class Lifecycle:
    """Begins, fails and closes dialogs.

    Args:
        context: the engine's parts.
        sealer: seals last words.
    """

    def __init__(self, context: Context, sealer: Sealer) -> None:
        self._context = context
        self._sealer = sealer

    def begin(self, tx: DialogTransaction, remote: str, lifetime: int, contract: str) -> EndpointRecord:
        """Begin a dialog; nothing travels before the first message.

        Args:
            tx: the transaction.
            remote: name of the other service; it need not have a binding yet.
            lifetime: seconds until the dialog ends on both sides whatever happens.
            contract: name of the agreed contract, may be empty.

        Raises UsageError for a name or lifetime out of range, StoreError.
        """
        now = self._context.clock()
        if not 0 < len(remote.encode()) <= MAX_NAME or len(contract.encode()) > MAX_NAME:
            raise UsageError("a name is 1 to 255 bytes")
        binding = self._context.binding(tx, remote, now)
        longest = (binding.policy if binding is not None else Policy()).max_lifetime
        if not 0 < lifetime <= longest:
            raise UsageError(f"a lifetime is between 1 and {longest} seconds")
        expires_at = int(now) + lifetime
        state = EndpointRecord(
            dialog=self._context.random(ID_SIZE),
            side=Side.INITIATOR,
            local=self._context.local.name,
            remote=remote,
            contract=contract,
            state=State.STARTED_OUTBOUND,
            created_at=now,
            expires_at=expires_at,
            attention_at=expires_at,
            clock_mark=now,
        )
        tx.add_endpoint(state)
        return state

    def load(self, tx: DialogTransaction, dialog: bytes, side: int) -> EndpointRecord:
        """Return one side of a dialog, locked. Raises DialogNotFoundError, StoreError."""
        state = tx.endpoint(dialog, side)
        if state is None or state.local != self._context.local.name:
            raise DialogNotFoundError("no such dialog here")
        return state

    def load_live(self, tx: DialogTransaction, dialog: bytes, side: int) -> EndpointRecord:
        """Return one side that has not failed or closed. Raises DialogFailedError, DialogClosedError, as ``load``."""
        state = self.load(tx, dialog, side)
        if state.state == State.FAILED:
            raise DialogFailedError(Reason(state.reason))
        if state.state == State.CLOSED:
            raise DialogClosedError("the dialog is closed")
        return state

    def now(self, state: EndpointRecord) -> float:
        """Return the time of a dialog, which never runs backwards, not even across a restart or between nodes."""
        now = max(self._context.clock(), state.clock_mark)
        state.clock_mark = now
        return now

    def fail(
        self,
        tx: DialogTransaction,
        state: EndpointRecord,
        reason: Reason,
        outcome: Outcome,
        now: float,
        *,
        announce: bool = True,
    ) -> None:
        """Fail a dialog: own keys destroyed, unsent messages dropped, an abort for the peer, a tombstone.

        What the peer was told is received stays readable until the application has taken it.

        Args:
            tx: the transaction.
            state: this side.
            reason: why.
            outcome: collects the abort and the event.
            now: seconds since the Unix epoch.
            announce: whether the peer must be told; not when it was the peer that failed the dialog.
        """
        abort = self._last_word(tx, state, Kind.ABORT, now, reason) if announce else b""
        if abort:
            outcome.outgoing.append(Outgoing(state.remote, abort))
        state.state = State.FAILED
        state.reason = reason
        self._bury(tx, state, abort, outcome)
        outcome.note("failed", state.dialog, reason.text)
        self._context.counted["failed"] += 1

    def close_when_done(self, tx: DialogTransaction, state: EndpointRecord, outcome: Outcome, now: float) -> None:
        """Close a dialog that both sides ended and whose own end is acknowledged; keep the last acknowledgement."""
        if state.state in FINAL or not state.end_in or state.end_out < 1 or state.base_out <= state.end_out:
            return
        if state.ack_on_commit and state.taken < state.end_in:
            return  # the peer's end is not acknowledged before the application has taken it
        ack = self._last_word(tx, state, Kind.ACK, now, None)
        state.state = State.CLOSED
        self._bury(tx, state, ack, outcome)
        outcome.note("closed", state.dialog)

    def timer(self, state: EndpointRecord, policy: Policy | None) -> None:
        """Set when this side wants attention next."""
        times = [float(state.expires_at)]
        if state.queued:
            times.append(state.clock_mark + QUEUE_RETRY)
        if state.recovering:
            times.append(state.probe_at)
        if state.ack_due:
            times.append(state.clock_mark)
        if policy is not None and policy.active and policy.peer_must_shift and state.in_generation:
            period = policy.peer_must_shift
            probe = max(state.probe_at, state.in_since + 0.75 * period)
            times.append(min(probe, state.in_since + period + 0.001))
        state.attention_at = min(times)

    def _last_word(
        self, tx: DialogTransaction, state: EndpointRecord, kind: Kind, now: float, reason: Reason | None
    ) -> bytes:
        try:
            return self._sealer.system(tx, state, kind, (), now, reason=reason) or b""
        except (DialogError, BackendError):
            return b""  # a dialog that cannot speak any more still fails

    def _bury(self, tx: DialogTransaction, state: EndpointRecord, reply: bytes, outcome: Outcome) -> None:
        caches = self._context.caches
        for own in tx.outbound_dsks(state.dialog, state.side):
            caches.own_keys.drop(own.dsk_id)
        for row in tx.inbound_dsks(state.dialog, state.side):
            caches.session_keys.drop(row.dsk_id)
        tx.clear_outbox(state.dialog, state.side)
        tx.drop_outbound_dsks(state.dialog, state.side, state.out_generation + 1)
        if state.parked:
            tx.drop_parked(state.dialog, state.side, state.next_in)
            state.parked = state.parked_bytes = 0
        state.queued = state.recovering = 0
        until = float(state.expires_at + CLOCK_SKEW)
        state.attention_at = until
        tx.put_tombstone(TombstoneRow(state.dialog, state.side, until, state.state, state.reason, reply))
        outcome.delivered += 1
