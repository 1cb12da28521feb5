"""The receiving half of one service's dialogs: from bytes to a committed inbox and an acknowledgement (section 5)."""

from __future__ import annotations

from collections.abc import Sequence

from hsm_msl.dialog import signatures
from hsm_msl.dialog.applying import Applying
from hsm_msl.dialog.authenticating import Authentic, Authenticator, BuriedError
from hsm_msl.dialog.binding import Binding
from hsm_msl.dialog.context import Context
from hsm_msl.dialog.errors import (
    CertificateRefusedError,
    DialogError,
    KeysNeededError,
    KeyUnusableError,
    PacketError,
    PeerRejectedError,
    RewrapNeededError,
)
from hsm_msl.dialog.headers import Notice, parse_notice, protected_bytes, sign1, signed_bytes
from hsm_msl.dialog.inbound import InboundKeys
from hsm_msl.dialog.lifecycle import Lifecycle
from hsm_msl.dialog.names import (
    CLOCK_SKEW,
    FINAL,
    SEQUENCED,
    Cause,
    Kind,
    Reason,
    Side,
    State,
)
from hsm_msl.dialog.outbound import OutboundKeys
from hsm_msl.dialog.packet import Core, Packet, parse
from hsm_msl.dialog.sealing import Sealer
from hsm_msl.dialog.sending import Sender
from hsm_msl.dialog.session import Outcome, SessionKey
from hsm_msl.dialog.suites import suite_of
from hsm_msl.errors import BackendError, ConfigurationError
from hsm_msl.ports.dialog_records import DialogTransaction, EndpointRecord

_Key = tuple[bytes, int]


class Receiver:
    """Receives packets (claims 1 and 6).

    Args:
        context: the engine's parts.
        authenticator: checks packets.
        inbound: the peer's session keys.
        outbound: own session keys, to be wrapped anew when the peer's certificate changed.
        sealer: seals answers.
        lifecycle: fails and closes dialogs.
        sender: shifts an aged key when a peer probes for it.
    """

    def __init__(
        self,
        context: Context,
        authenticator: Authenticator,
        inbound: InboundKeys,
        outbound: OutboundKeys,
        sealer: Sealer,
        lifecycle: Lifecycle,
        sender: Sender,
    ) -> None:
        self._context = context
        self._authenticator = authenticator
        self._inbound = inbound
        self._outbound = outbound
        self._sealer = sealer
        self._lifecycle = lifecycle
        self._sender = sender

    def receive(self, datas: Sequence[bytes]) -> Outcome:
        """Take packets in, all in one transaction, and answer when it is committed.

        Bad packets are dropped one by one and lose nothing of the others. The peer's keys are opened before the
        transaction.

        Args:
            datas: packets as they arrived, in any order, of any dialogs.

        Returns replies for where the packets came from, packets for other places, and events.
        Raises StoreError, after which nothing was received.
        """
        outcome = Outcome()
        now = self._context.clock()
        groups: dict[_Key, list[Authentic]] = {}
        wanted: dict[_Key, tuple[Core, bytes | None]] = {}
        unusable: dict[_Key, KeyUnusableError] = {}
        for data in datas:
            self._context.counted["received"] += 1
            try:
                packet = parse(data)
            except PacketError as error:
                self._refuse(outcome, "malformed", error)
                continue
            core = packet.core
            key = (core.dialog, 1 - core.direction)
            try:
                groups.setdefault(key, []).append(self._authenticator.check(packet, now))
            except KeysNeededError:
                wanted[key] = (core, None)
            except RewrapNeededError as error:
                wanted[key] = (core, self._notice(core, error.sender, now))
            except KeyUnusableError as error:
                outcome.note("key_unusable", core.dialog)
                wanted[key] = (core, None)
                if error.sender:
                    unusable[key] = error
            except BuriedError:
                groups.setdefault(key, [])
            except PeerRejectedError as error:
                self._refuse(outcome, "rejected", error, core.dialog)
            except DialogError as error:
                self._refuse(outcome, "dropped", error, core.dialog)
            except BackendError as error:
                outcome.note("backend", core.dialog, type(error).__name__)
                self._context.counted["retry_later"] += 1
                if self._context.bare_answers.allow(core.dialog, now):
                    outcome.replies.append(self._sealer.bare(core, Kind.RETRY_LATER))
        if groups or wanted:
            self._commit(groups, wanted, unusable, outcome, now)
        return outcome

    def _commit(
        self,
        groups: dict[_Key, list[Authentic]],
        wanted: dict[_Key, tuple[Core, bytes | None]],
        unusable: dict[_Key, KeyUnusableError],
        outcome: Outcome,
        now: float,
    ) -> None:
        result = Outcome()
        with self._context.store.transaction() as tx:
            # One order for everybody: two nodes that receive the same two dialogs never wait for each other.
            for key in sorted({*groups, *wanted}):
                core, notice = wanted.get(key, (None, None))
                self._side(tx, key, groups.get(key, []), core, notice, unusable.get(key), result, now)
        outcome.replies += result.replies
        outcome.outgoing += result.outgoing
        outcome.events += result.events
        outcome.delivered += result.delivered

    def _side(
        self,
        tx: DialogTransaction,
        key: _Key,
        group: list[Authentic],
        wanted: Core | None,
        notice: bytes | None,
        unusable: KeyUnusableError | None,
        outcome: Outcome,
        now: float,
    ) -> None:
        state = tx.endpoint(*key)
        if state is None:
            state = self._begin(tx, key, group, outcome, now)
        if state is None:
            if wanted is not None and self._context.bare_answers.allow(key[0], now):
                outcome.replies.append(self._sealer.bare(wanted, Kind.NEED_KEYS, notice))
            elif group == []:
                self._last_word(tx, key, outcome, now)
            return
        if state.local != self._context.local.name:
            return
        if state.state in FINAL:
            self._last_word(tx, key, outcome, now)
            return
        now = self._lifecycle.now(state)
        binding = self._context.binding(tx, state.remote, now)
        if binding is None:
            outcome.note("rejected", state.dialog, "no binding in force")
            return
        if now > state.expires_at:
            self._lifecycle.fail(tx, state, Reason.LIFETIME, outcome, now)
            tx.save_endpoint(state)
            return
        state.ack_on_commit = int(binding.ack_mode == "on_commit")
        # Anybody may name this dialog beside a key of his own.
        if unusable is not None and unusable.sender == state.remote:
            self._count_unusable(tx, state, unusable.digest, outcome, now)
        work = Applying(self._context, self._lifecycle, tx, state, binding, outcome, now)
        refused: dict[bytes, str] = {}
        for authentic in group:
            session = authentic.session
            if session is not None:
                if session.signing_cert not in refused:
                    refused[session.signing_cert] = self._refusal(binding, state.remote, session, now)
                if refused[session.signing_cert]:
                    outcome.note("rejected", state.dialog, refused[session.signing_cert])
                    self._context.counted["rejected"] += 1
                    continue
                if session.rewrap is not None:
                    self._inbound.keep(session, now)
            work.apply(authentic)
            if authentic.packet.ext.notice is not None and work.asked_for_keys:
                self._rewrap(tx, state, binding, authentic.packet, outcome, now)
        work.finish()
        if state.state not in FINAL:
            self._answer(tx, state, work, wanted, notice, outcome, now)
            self._lifecycle.timer(state, binding.policy)
        elif state.state == State.CLOSED:
            self._last_word(tx, key, outcome, now)
        tx.save_endpoint(state)

    def _refusal(self, binding: Binding, remote: str, session: SessionKey, now: float) -> str:
        """Say why the peer's key is not trusted now, in spite of all caches; empty when it is."""
        if session.sender != remote:
            return "signed by another service"
        try:
            self._context.trust.signer(binding, remote, session.signing_cert, session.presented.signing, now)
        except CertificateRefusedError as error:
            return str(error)
        return ""

    def _answer(
        self,
        tx: DialogTransaction,
        state: EndpointRecord,
        work: Applying,
        wanted: Core | None,
        notice: bytes | None,
        outcome: Outcome,
        now: float,
    ) -> None:
        if work.asked_for_keys and self._context.bare_answers.allow(b"attach" + state.dialog, now):
            state.headers_known = 0
            tx.hasten(state.dialog, state.side, now)
            outcome.note("need_keys", state.dialog)
        if work.probed:
            self._sender.shift_if_due(tx, state, outcome, now)
        try:
            if wanted is not None and self._context.bare_answers.allow(state.dialog, now):
                asked = self._sealer.system(tx, state, Kind.NEED_KEYS, (), now, notice=notice)
                outcome.replies.append(asked or self._sealer.bare(wanted, Kind.NEED_KEYS, notice))
            if work.acknowledge or work.probed:
                ranges = work.window.ranges()
                ack = self._sealer.system(tx, state, Kind.ACK, ranges, now, newest=work.newest)
                if ack is not None:
                    outcome.replies.append(ack)
        except KeyUnusableError:
            outcome.note("key_unusable", state.dialog)

    def _begin(
        self,
        tx: DialogTransaction,
        key: _Key,
        group: list[Authentic],
        outcome: Outcome,
        now: float,
    ) -> EndpointRecord | None:
        """Make the target side for the first packet of an unknown dialog (section 7, replay of a first message)."""
        opener = next(
            (found for found in group if found.session is not None and _opens(found.packet.core.kind, found.session)),
            None,
        )
        if key[1] != Side.TARGET or opener is None or opener.session is None:
            return None
        if tx.tombstone(*key) is not None:
            self._last_word(tx, key, outcome, now)
            return None
        session, core = opener.session, opener.packet.core
        binding = self._context.binding(tx, session.sender, now)
        if binding is None or core.expiry > now + binding.policy.max_lifetime + CLOCK_SKEW:
            outcome.note("rejected", core.dialog, "no binding in force, or lifetime too long")
            return None
        refusal = self._refusal(binding, session.sender, session, now)
        if refusal:
            self._context.counted["rejected"] += 1
            outcome.note("rejected", core.dialog, refusal)
            return None
        state = EndpointRecord(
            dialog=core.dialog,
            side=Side.TARGET,
            local=self._context.local.name,
            remote=session.sender,
            contract=core.contract or "",
            state=State.STARTED_INBOUND,
            created_at=now,
            expires_at=core.expiry,
            attention_at=core.expiry,
            clock_mark=now,
        )
        tx.add_endpoint(state)
        outcome.note("begun", core.dialog, session.sender)
        return state

    def _last_word(self, tx: DialogTransaction, key: _Key, outcome: Outcome, now: float) -> None:
        tombstone = tx.tombstone(*key)
        if tombstone is not None and tombstone.reply and self._context.bare_answers.allow(b"last" + key[0], now):
            outcome.replies.append(tombstone.reply)

    def _count_unusable(
        self, tx: DialogTransaction, state: EndpointRecord, digest: bytes, outcome: Outcome, now: float
    ) -> None:
        """Fail the dialog on the second header that cannot be opened; the first one may come again and again."""
        mark = int.from_bytes(digest[:7]) | 1
        if state.key_failures and state.key_failures != mark:
            self._lifecycle.fail(tx, state, Reason.KEY_UNUSABLE, outcome, now)
        state.key_failures = mark

    def _notice(self, core: Core, sender: str, now: float) -> bytes | None:
        local = self._context.local
        if not self._context.bare_answers.allow(b"notice" + sender.encode(), now):
            return None
        suite = suite_of(core.suite)
        payload = Notice(
            sender=local.name,
            receiver=sender,
            dialog=core.dialog,
            encryption_cert=local.encryption_cert,
            issued_at=int(now),
        ).encode()
        protected = protected_bytes(suite.signature_alg, local.signing_cert)
        try:
            signature = signatures.sign(local.signing_key, signed_bytes(protected, payload), suite)
        except BackendError:
            return None  # asked again with the next packet
        return sign1(protected, payload, signature, local.presented)

    def _rewrap(
        self,
        tx: DialogTransaction,
        state: EndpointRecord,
        binding: Binding,
        packet: Packet,
        outcome: Outcome,
        now: float,
    ) -> None:
        """Follow the peer's signed word that its encryption certificate changed, if the binding knows the new one."""
        try:
            signed = parse_notice(packet.ext.notice or b"")
            notice = signed.notice
            signer = self._context.trust.signer(
                binding, state.remote, signed.key_id, signed.certificates.signing, now
            )
            suite = suite_of(packet.core.suite)
            if (
                signed.algorithm != suite.signature_alg
                or (notice.sender, notice.receiver, notice.dialog) != (state.remote, state.local, state.dialog)
                or not signatures.verify(signer.public_key, signed.signed(), signed.signature, suite)
            ):
                raise PeerRejectedError("notice not trusted")
            self._context.learn(tx, binding, state.remote, signed.certificates, now)
            recipient = self._context.recipient(tx, binding, state.remote, now, notice.encryption_cert)
            if recipient is None:
                outcome.note("certificate_missing", state.dialog, notice.encryption_cert.hex())
                return
            self._outbound.rewrap(tx, state, binding, recipient, now)
            outcome.note("rewrapped", state.dialog)
        except DialogError as error:
            self._refuse(outcome, "rejected", error, state.dialog)
        except (BackendError, ConfigurationError) as error:
            outcome.note("backend", state.dialog, type(error).__name__)

    def _refuse(self, outcome: Outcome, name: str, error: Exception, dialog: bytes = bytes(16)) -> None:
        self._context.counted[name] += 1
        outcome.note(name, dialog, str(error))


def _opens(kind: int, session: SessionKey) -> bool:
    """Tell whether a packet may be a dialog's first here: a message, or the question of a peer after a restore."""
    return kind in SEQUENCED or (kind == Kind.PROBE and session.cause is Cause.RECOVERY)
