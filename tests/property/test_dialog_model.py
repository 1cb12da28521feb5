"""Two endpoints against every misfortune: what arrives is what was sent, or the dialog failed for a listed reason."""

from __future__ import annotations

import tempfile

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dialog_world import World
from hsm_msl.dialog.context import CacheSizes
from hsm_msl.dialog.errors import DialogClosedError, DialogFailedError, ShiftTooSoonError
from hsm_msl.dialog.names import Kind, Reason, Side, State
from hsm_msl.dialog.policy import Policy, Rate
from hsm_msl.dialog.session import Message
from hsm_msl.errors import BackendError, UsageError
from hsm_msl.ports.dialog_records import DialogStore
from hsm_msl.stores.dialog_memory import MemoryDialogStore
from hsm_msl.stores.dialog_sql import SqlDialogStore
from hsm_msl.stores.sql import Database

POLICIES = st.sampled_from(
    [
        Policy(on_peer_shift=False),
        Policy(on_peer_shift=True, max_messages=2),
        Policy(on_peer_shift=False, max_age=20, peer_count=Rate(2, 300)),
        Policy(on_peer_shift=True, max_peer_shifts=Rate(3, 30)),
        Policy(on_peer_shift=False, max_age=60, peer_must_shift=3000, active=True),
    ]
)


class TwoEndpoints(RuleBasedStateMachine):
    """The model is two lists of sent messages per side; everything else must not show."""

    @initialize(
        policy=POLICIES,
        other=POLICIES,
        sizes=st.sampled_from([None, CacheSizes(0, 0, 0), CacheSizes(1, 2, 1)]),
        seed=st.integers(0, 1000),
        ack_mode=st.sampled_from(["on_enqueue", "on_commit"]),
    )
    def start(self, policy: Policy, other: Policy, sizes: CacheSizes | None, seed: int, ack_mode: str) -> None:
        one, two = self.stores()
        self.world = World(
            suite=2,
            sizes=sizes,
            policy=policy,
            target_policy=other,
            seed=str(seed),
            initiator_store=one,
            target_store=two,
        )
        self.services = (self.world.a, self.world.b)
        self.world.b.bind(self.world.b.binding(self.world.a, other, ack_mode=ack_mode))
        self.dialog = self.world.a.begin(self.world.b, 10 * 86400)
        self.network: tuple[list[bytes], list[bytes]] = ([], [])
        self.sent: tuple[list[bytes], list[bytes]] = ([], [])
        self.taken: tuple[list[bytes], list[bytes]] = ([], [])
        self.ended = [False, False]
        self.end_seen = [False, False]
        self.failed: list[Reason | None] = [None, None]
        self.number = 0
        self.send(0, 1)

    def stores(self) -> tuple[DialogStore, DialogStore]:
        """Where the two sides live."""
        return MemoryDialogStore(), MemoryDialogStore()

    def known(self, side: int) -> bool:
        with self.services[side].store.reading() as tx:
            return tx.endpoint(self.dialog, side, lock=False) is not None

    def state(self, side: int) -> str:
        return self.services[side].state(self.dialog, side).state

    @rule(side=st.sampled_from([0, 1]), count=st.integers(1, 4), large=st.booleans())
    def send_some(self, side: int, count: int, large: bool) -> None:
        self.send(side, count, 70_000 if large else 1)

    def send(self, side: int, count: int, size: int = 1) -> None:
        if not self.known(side):
            return
        bodies = []
        for _ in range(count):
            self.number += 1
            bodies.append(b"%d:" % self.number + b"x" * size)
        try:
            self.services[side].send(self.dialog, side, *bodies)
        except (DialogFailedError, DialogClosedError):
            return
        self.sent[side].extend(bodies)

    @rule(side=st.sampled_from([0, 1]))
    def shift(self, side: int) -> None:
        if not self.known(side):
            return
        try:
            self.services[side].shift(self.dialog, side)
        except (ShiftTooSoonError, DialogFailedError, DialogClosedError, UsageError):
            return

    @rule(side=st.sampled_from([0, 1]))
    def end(self, side: int) -> None:
        if not self.known(side) or len(self.sent[side]) < 3:
            return
        try:
            self.services[side].end(self.dialog, side)
        except (DialogFailedError, DialogClosedError):
            return
        self.ended[side] = True

    @rule(side=st.sampled_from([0, 1]))
    def transmit(self, side: int) -> None:
        self.network[1 - side].extend(self.world.outgoing(self.services[side], 8))

    @precondition(lambda self: any(self.network))
    @rule(
        side=st.sampled_from([0, 1]),
        picks=st.lists(st.integers(0, 1000), min_size=1, max_size=6),
        again=st.booleans(),
    )
    def deliver(self, side: int, picks: list[int], again: bool) -> None:
        """Deliver any packets in any order, possibly leaving them in the network."""
        queue = self.network[side]
        batch = []
        for pick in picks:
            if queue:
                index = pick % len(queue)
                batch.append(queue[index] if again else queue.pop(index))
        self.network[1 - side].extend(self.world.deliver(self.services[side], batch))

    @precondition(lambda self: any(self.network))
    @rule(side=st.sampled_from([0, 1]), pick=st.integers(0, 1000))
    def lose(self, side: int, pick: int) -> None:
        queue = self.network[side]
        if queue:
            queue.pop(pick % len(queue))

    @rule(side=st.sampled_from([0, 1]))
    def crash(self, side: int) -> None:
        """Lose everything that is not committed: caches, and packets taken from the outbox but not sent."""
        self.services[side].engine.transmit()
        self.services[side].restart()

    @rule(side=st.sampled_from([0, 1]))
    def token_outage(self, side: int) -> None:
        """Work without the token: an answer or a named outage, never a verdict."""
        service = self.services[side]
        service.token.up = False
        try:
            self.send(side, 1)
            batch, self.network[side][:] = list(self.network[side]), []
            self.network[1 - side].extend(self.world.deliver(service, batch))
        except BackendError:
            self.number += 1
        finally:
            service.token.up = True

    @rule(seconds=st.sampled_from([0.1, 1.5, 5.0, 30.0, 400.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.clock.advance(seconds)

    @rule(seconds=st.sampled_from([300.0, -200.0]))
    def clock_jump(self, seconds: float) -> None:
        self.world.clock.now += seconds

    @rule(side=st.sampled_from([0, 1]))
    def take(self, side: int) -> None:
        if self.known(side):
            for message in self.services[side].take(self.dialog, side):
                self.record(side, message)

    @rule(side=st.sampled_from([0, 1]))
    def take_without_commit(self, side: int) -> None:
        """A consumer that dies before its commit gets the same messages again."""
        if not self.known(side):
            return
        service = self.services[side]
        try:
            with service.store.transaction() as tx:
                service.engine.take(tx, self.dialog, side, 10)
                raise InterruptedError
        except InterruptedError:
            pass

    def record(self, side: int, message: Message) -> None:
        assert not self.end_seen[side] or message.kind is Kind.ABORT, "something after the end"
        if message.kind is Kind.APP:
            self.taken[side].append(message.body)
        elif message.kind is Kind.END:
            self.end_seen[side] = True
        else:
            assert message.reason is not None
            self.failed[side] = message.reason

    @invariant()
    def nothing_lost_repeated_or_reordered(self) -> None:
        for side in (0, 1):
            arrived = self.taken[side]
            assert arrived == self.sent[1 - side][: len(arrived)]

    def teardown(self) -> None:
        """Heal the network: everything sent arrives, or a side says why not."""
        if not hasattr(self, "world"):
            return
        for side in (0, 1):
            self.network[side].clear()
        silence = 0
        for _ in range(60):
            self.world.clock.advance(70.0)
            quiet = True
            for side in (0, 1):
                if self.known(side):
                    self.transmit(side)
            for side in (1, 0):
                batch, self.network[side][:] = list(self.network[side]), []
                quiet = quiet and not batch
                self.network[1 - side].extend(self.world.deliver(self.services[side], batch))
            for side in (0, 1):
                self.take(side)
            silence = silence + 1 if quiet and not any(self.network) else 0
            if silence == 4:
                break
        states = [self.state(side) if self.known(side) else "" for side in (0, 1)]
        if State.FAILED in states:
            reasons = [
                Reason(self.services[side].state(self.dialog, side).reason)
                for side in (0, 1)
                if states[side] == State.FAILED
            ]
            assert set(reasons) <= {Reason.POLICY_SHIFT_RATE, Reason.POLICY_SHIFT_MISSING, Reason.LIFETIME}, reasons
            return
        for side in (Side.INITIATOR, Side.TARGET):
            assert self.taken[side] == self.sent[1 - side]
            assert self.end_seen[side] == self.ended[1 - side]
        if all(self.ended):
            assert states == [State.CLOSED, State.CLOSED]


class TwoEndpointsInSql(TwoEndpoints):
    """The same misfortunes over real databases."""

    def stores(self) -> tuple[DialogStore, DialogStore]:
        self.directory = tempfile.TemporaryDirectory()
        self.databases = [Database(f"sqlite:///{self.directory.name}/{name}.db") for name in "ab"]
        return SqlDialogStore(self.databases[0]), SqlDialogStore(self.databases[1])

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            for database in getattr(self, "databases", []):
                database.close()
            if hasattr(self, "directory"):
                self.directory.cleanup()


TwoEndpoints.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TwoEndpointsInSql.TestCase.settings = settings(max_examples=6, stateful_step_count=30, deadline=None)
TestTwoEndpoints = TwoEndpoints.TestCase
TestTwoEndpointsInSql = TwoEndpointsInSql.TestCase
