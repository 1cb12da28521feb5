"""The engine of one service's dialogs: pure, driven from outside by calls, bytes and time."""

from __future__ import annotations

from collections import Counter

from hsm_msl.dialog.authenticating import Authenticator
from hsm_msl.dialog.context import Caches, CacheSizes, Context
from hsm_msl.dialog.delivery import Delivery
from hsm_msl.dialog.errors import DialogError, KeyUnusableError
from hsm_msl.dialog.identity import LocalService
from hsm_msl.dialog.inbound import InboundKeys
from hsm_msl.dialog.lifecycle import QUEUE_RETRY, Lifecycle
from hsm_msl.dialog.names import FINAL, ID_SIZE, Kind, Reason
from hsm_msl.dialog.outbound import OutboundKeys
from hsm_msl.dialog.policy import peer_overdue
from hsm_msl.dialog.receiving import Receiver
from hsm_msl.dialog.sealing import Sealer
from hsm_msl.dialog.sending import Sender
from hsm_msl.dialog.session import Outcome, Outgoing
from hsm_msl.dialog.trust import NoEvidence, Trust
from hsm_msl.errors import ConfigurationError, DataRejectedError, KeyPolicyError, MechanismUnsupportedError
from hsm_msl.ports import Clock, RandomBytes
from hsm_msl.ports.dialog import IncarnationMirror, RevocationEvidence
from hsm_msl.ports.dialog_records import DialogStore, DialogTransaction, EndpointRecord

PROBE_AGAIN = 4.0
_PASS = 64
_AT_REST = b"at rest"
_DOUBT = "last abrupt end of "
_OF_ONE_DIALOG = (DialogError, DataRejectedError, ConfigurationError, KeyPolicyError, MechanismUnsupportedError)
"""What goes wrong for reasons of one dialog, its binding or its peer's certificate."""


class DialogEngine:
    """Everything a service does with its dialogs; holds nothing that a restart would lose.

    Args:
        local: the service with its key handles.
        store: where dialogs live; several engines may share it.
        clock: seconds since the Unix epoch, never running backwards (SteadyClock).
        random: cryptographic bytes.
        sizes: most entries of the caches.
        evidence: revocation lists and OCSP responses, for bindings that trust issuers.
    """

    def __init__(
        self,
        local: LocalService,
        store: DialogStore,
        clock: Clock,
        random: RandomBytes,
        sizes: CacheSizes | None = None,
        evidence: RevocationEvidence | None = None,
    ) -> None:
        sizes = sizes or CacheSizes()
        trust = Trust(evidence or NoEvidence(), sizes.certificates)
        self.context = Context(local, store, clock, random, Caches.of(sizes), trust)
        inbound, self._outbound = InboundKeys(self.context), OutboundKeys(self.context)
        self._sealer = Sealer(self.context, inbound, self._outbound)
        self._lifecycle = Lifecycle(self.context, self._sealer)
        self._sender = Sender(self.context, self._outbound, self._sealer, self._lifecycle)
        authenticator = Authenticator(self.context, inbound, self._outbound)
        self._receiver = Receiver(
            self.context, authenticator, inbound, self._outbound, self._sealer, self._lifecycle, self._sender
        )
        self._delivery = Delivery(self.context, inbound, self._lifecycle)
        # The verbs of the parts are the verbs of the engine.
        self.send = self._sender.send
        self.end = self._sender.end
        self.shift = self._sender.shift
        self.receive = self._receiver.receive
        self.look = self._delivery.look
        self.take = self._delivery.take

    @property
    def counted(self) -> Counter[str]:
        """What happened so far, by name, for metrics."""
        return self.context.counted

    def begin(self, tx: DialogTransaction, remote: str, lifetime: int = 86400, contract: str = "") -> EndpointRecord:
        """Begin a dialog with another service. Raises UsageError, StoreError; see ``Lifecycle.begin``."""
        return self._lifecycle.begin(tx, remote, lifetime, contract)

    def fail(
        self, tx: DialogTransaction, dialog: bytes, side: int, outcome: Outcome, reason: Reason = Reason.OPERATOR
    ) -> None:
        """Fail a dialog on the application's or the operator's word.

        Raises DialogNotFoundError, DialogFailedError, DialogClosedError, StoreError.
        """
        state = self._lifecycle.load_live(tx, dialog, side)
        self._lifecycle.fail(tx, state, reason, outcome, self._lifecycle.now(state))
        tx.save_endpoint(state)

    def transmit(self, limit: int = _PASS) -> list[Outgoing]:
        """Take due packets out of the outbox in a transaction of its own; send them now that it is committed.

        Raises BackendError, StoreError; then nothing was taken.
        """
        with self.context.store.transaction() as tx:
            return self._sender.transmit(tx, limit)

    def tick(self) -> Outcome:
        """Do what time demands, of some dialogs: lifetimes, policies, probes, waiting messages, tombstones.

        A dialog with which something is wrong is told of and looked at again later; it holds up no other.

        Raises BackendError, StoreError; then nothing was done.
        """
        try:
            return self._pass(None)
        except _OF_ONE_DIALOG:
            return self._pass(Outcome())

    def _pass(self, outcome: Outcome | None) -> Outcome:
        """Attend to what is due: with an outcome given each dialog in a transaction of its own, else all in one."""
        store, now = self.context.store, self.context.clock()
        with store.transaction() as tx:
            # In the order in which packets lock their dialogs, so that two nodes never wait for each other.
            due = sorted(tx.attention(self.context.local.name, now, _PASS))
            more = tx.purge(now, _PASS) == _PASS or len(due) == _PASS
            if outcome is None:
                together = Outcome(more=more)
                for key in due:
                    self._look_after(tx, key, together)
                return together
        for key in due:
            alone = Outcome()
            try:
                with store.transaction() as tx:
                    self._look_after(tx, key, alone)
            except _OF_ONE_DIALOG as error:
                alone = Outcome()
                alone.note("waits", key[0], str(error))
                with store.transaction() as tx:
                    state = tx.endpoint(*key)
                    if state is not None:
                        state.attention_at = min(float(state.expires_at), self.context.clock() + QUEUE_RETRY)
                        tx.save_endpoint(state)
            outcome.events += alone.events
            outcome.outgoing += alone.outgoing
            outcome.delivered += alone.delivered
        outcome.more = more
        return outcome

    def _look_after(self, tx: DialogTransaction, key: tuple[bytes, int], outcome: Outcome) -> None:
        state = tx.endpoint(*key)
        if state is not None and state.state not in FINAL:
            self._attend(tx, state, outcome)
            tx.save_endpoint(state)

    def rotate_kek(self, tx: DialogTransaction, remote: str) -> None:
        """Let new session keys for a service use a new key exchange key. Raises StoreError."""
        tx.retire_keks(self.context.local.name, remote)

    def check_incarnation(
        self, node: str, mirror: IncarnationMirror, *, starting: bool = False, resting: bool = False
    ) -> bool:
        """Compare the store's incarnation with its mirror and renew both; call at start and every minute.

        After a restore of the store from a backup the two differ: every dialog that may still send then begins a
        generation far ahead and asks its peer where it stands before it sends (section 8). A crash between the two
        writes has the same effect and harms nothing.

        A state of the store that is younger than the last renewal cannot be told from the present one, so a process
        that starts after one that did not come to rest lets each dialog do the same before it next sends.

        Args:
            node: name of this process's mirror.
            mirror: the value kept outside the backup.
            starting: whether nothing was sealed in this process yet.
            resting: whether nothing more will be.

        Returns whether a restore was seen. Raises StoreError, BackendError.
        """
        value = self.context.random(ID_SIZE) + (_AT_REST if resting else b"")
        mirrored = mirror.read()
        abrupt = starting and mirrored is not None and not mirrored.endswith(_AT_REST)
        with self.context.store.transaction() as tx:
            if abrupt:
                tx.set_incarnation(_DOUBT + self.context.local.name, str(self.context.clock()).encode())
            restored = tx.incarnation(node) != mirrored
            if restored:
                for dialog, side in tx.open_sides(self.context.local.name):
                    state = tx.endpoint(dialog, side)
                    if state is not None:
                        state.recovering = 1
                        state.probe_at = state.attention_at = 0.0
                        tx.save_endpoint(state)
            tx.set_incarnation(node, value)
        mirror.write(value)
        if starting:
            self.learn_doubts()
        return restored

    def learn_doubts(self) -> None:
        """Learn which keys are too old to seal under; for a process that seals and is no node. Raises StoreError."""
        with self.context.store.reading() as tx:
            since = tx.incarnation(_DOUBT + self.context.local.name)
        if since is not None:
            self._sender.distrust(float(since))

    def _acknowledge(self, tx: DialogTransaction, state: EndpointRecord, outcome: Outcome, now: float) -> None:
        """Tell the peer what the application has taken; where that fails, its next transmission asks again."""
        state.ack_due = 0
        try:
            ack = self._sealer.system(tx, state, Kind.ACK, (), now)
        except KeyUnusableError:
            outcome.note("key_unusable", state.dialog)
            return
        if ack is not None:
            outcome.outgoing.append(Outgoing(state.remote, ack))
        self._lifecycle.close_when_done(tx, state, outcome, now)

    def _attend(self, tx: DialogTransaction, state: EndpointRecord, outcome: Outcome) -> None:
        now = self._lifecycle.now(state)
        binding = self.context.binding(tx, state.remote, now)
        if now >= state.expires_at:
            self._lifecycle.fail(tx, state, Reason.LIFETIME, outcome, now)
            return
        if state.ack_due:
            self._acknowledge(tx, state, outcome, now)
        if state.recovering == 1 and now >= state.probe_at:
            self._sender.recover(tx, state, now)
        self._sender.flush(tx, state, outcome, now)
        if state.state in FINAL:
            return
        policy = binding.policy if binding is not None else None
        watching = policy is not None and policy.active and state.in_generation > 0
        if policy is not None and watching and peer_overdue(policy, state, now):
            self._lifecycle.fail(tx, state, Reason.POLICY_SHIFT_MISSING, outcome, now)
            return
        aged = (
            policy is not None
            and policy.peer_must_shift is not None
            and watching
            and now - state.in_since >= 0.75 * policy.peer_must_shift
        )
        if (state.recovering == 2 or aged) and now >= state.probe_at:
            probe = self._sealer.system(tx, state, Kind.PROBE, (), now)
            state.probe_at = now + PROBE_AGAIN
            if probe is not None:
                outcome.outgoing.append(Outgoing(state.remote, probe))
        elif state.recovering == 1 and now >= state.probe_at:
            state.probe_at = now + PROBE_AGAIN
        self._lifecycle.timer(state, policy)
