"""``ack_mode``: with ``on_commit`` the peer keeps a message until the application's transaction has committed it."""

from __future__ import annotations

import contextlib
import copy

import pytest

from dialog_world import World
from hsm_msl.dialog.names import KEPT_DIGESTS, WINDOW_MESSAGES, Kind, Side, State
from hsm_msl.dialog.packet import parse
from hsm_msl.dialog.policy import Policy
from hsm_msl.stores.dialog_memory import MemoryDialogStore

INIT, TARGET = Side.INITIATOR, Side.TARGET
QUIET = Policy(on_peer_shift=False)


def world_of(mode: str, **options: object) -> World:
    """Two services, of which the target acknowledges by ``mode``."""
    world = World(policy=QUIET, **options)  # type: ignore[arg-type]  # field names of World
    world.b.bind(world.b.binding(world.a, QUIET, ack_mode=mode))
    return world


def waiting(world: World, dialog: bytes) -> list[int]:
    """Numbers of the messages the initiator still keeps."""
    with world.a.store.reading() as tx:
        return [row.seq for row in tx.due(world.a.name, 4e9, 5e9, 1000) if row.dialog == dialog]


def take_and_die(world: World, dialog: bytes) -> None:
    """A consumer that fails between its work and its commit."""
    with contextlib.suppress(InterruptedError), world.b.store.transaction() as tx:
        assert len(world.b.engine.take(tx, dialog, TARGET, 2)) == 2
        raise InterruptedError


def later(world: World) -> None:
    world.clock.advance(70)
    world.settle()


@pytest.mark.parametrize(("mode", "kept"), [("on_enqueue", []), ("on_commit", [1, 2, 3])])
def test_when_the_sender_may_forget(mode: str, kept: list[int]) -> None:
    world = world_of(mode)
    dialog = world.a.begin(world.b)
    world.a.send(dialog, INIT, b"one", b"two", b"three")
    world.settle()
    assert waiting(world, dialog) == kept
    assert world.b.state(dialog, TARGET).next_in == 4, "they have arrived either way"


def test_a_commit_is_told_at_the_next_tick_and_a_rollback_is_not() -> None:
    world = world_of("on_commit")
    dialog = world.a.begin(world.b)
    world.a.send(dialog, INIT, b"one", b"two", b"three")
    world.settle()
    take_and_die(world, dialog)
    later(world)
    assert waiting(world, dialog) == [1, 2, 3]
    assert [message.body for message in world.b.take(dialog, TARGET, 2)] == [b"one", b"two"]
    (ack,) = world.outgoing(world.b)
    assert parse(ack).core.kind == Kind.ACK
    world.deliver(world.a, [ack])
    assert waiting(world, dialog) == [3]
    assert world.outgoing(world.b) == [], "said once"


def test_a_lost_acknowledgement_is_repeated_for_the_retransmission() -> None:
    world = world_of("on_commit")
    dialog = world.a.begin(world.b)
    world.a.send(dialog, INIT, b"one")
    world.settle()
    assert world.b.bodies(dialog, TARGET) == [b"one"]
    assert len(world.outgoing(world.b)) == 1  # lost
    assert waiting(world, dialog) == [1]
    later(world)
    assert waiting(world, dialog) == []
    assert world.b.bodies(dialog, TARGET) == []


def test_it_rides_on_return_traffic() -> None:
    world = world_of("on_commit")
    dialog = world.a.begin(world.b)
    world.a.send(dialog, INIT, b"one", b"two")
    world.settle()
    with world.b.store.transaction() as tx:
        world.b.engine.take(tx, dialog, TARGET, 1)
        world.b.engine.send(tx, dialog, TARGET, [("r", b"answer")])
    (packet,) = [out.packet for out in world.b.engine.transmit()]
    ack = parse(packet).ext.ack
    assert ack is not None
    assert (ack.expected, ack.ranges) == (2, ())


@pytest.mark.parametrize("restart", [False, True])
def test_crash_between_receive_and_commit_repeats_and_loses_nothing(restart: bool) -> None:
    world = world_of("on_commit")
    dialog = world.open()
    later(world)
    world.a.send(dialog, INIT, b"two", b"three")
    world.settle()
    if restart:
        world.b.restart()
    take_and_die(world, dialog)
    world.b.restart()
    later(world)
    assert world.b.bodies(dialog, TARGET) == [b"two", b"three"]
    later(world)
    assert world.b.bodies(dialog, TARGET) == []
    assert waiting(world, dialog) == []


def test_a_receiver_whose_database_fell_back_loses_nothing_it_had_not_committed() -> None:
    """The same loss fails the dialog under ``on_enqueue`` (C55): there the peer had been told to forget."""
    store = MemoryDialogStore()
    world = world_of("on_commit", target_store=store)
    dialog = world.open()
    later(world)
    backup = MemoryDialogStore()
    backup._tables = copy.deepcopy(store._tables)
    world.a.send(dialog, INIT, b"two")
    world.clock.advance(2)
    world.a.shift(dialog, INIT)
    world.a.send(dialog, INIT, b"three")
    world.settle()
    world.b.store = backup
    world.b.restart()
    later(world)
    later(world)
    assert world.b.bodies(dialog, TARGET) == [b"two", b"three"]
    later(world)
    assert waiting(world, dialog) == []
    assert world.a.state(dialog, INIT).state == State.CONVERSING


def test_a_restored_sender_is_told_where_the_receiver_stands() -> None:
    """What arrived but is not committed has used its numbers; else the sender would give them to other messages."""

    class Mirror:
        value: bytes | None = None

        def read(self) -> bytes | None:
            return self.value

        def write(self, value: bytes) -> None:
            self.value = value

    store, mirror = MemoryDialogStore(), Mirror()
    world = world_of("on_commit", initiator_store=store)
    world.a.engine.check_incarnation("node", mirror)
    dialog = world.open()
    later(world)
    backup = MemoryDialogStore()
    backup._tables = copy.deepcopy(store._tables)
    world.a.engine.check_incarnation("node", mirror)
    world.a.send(dialog, INIT, b"two", b"three")
    world.settle()
    world.a.store = backup
    world.a.restart()
    assert world.a.engine.check_incarnation("node", mirror) is True
    world.a.send(dialog, INIT, b"after")
    for _ in range(3):
        later(world)
    assert world.b.bodies(dialog, TARGET) == [b"two", b"three", b"after"]
    later(world)
    assert waiting(world, dialog) == []


def test_a_dialog_closes_when_the_application_has_taken_the_end() -> None:
    world = world_of("on_commit")
    dialog = world.open()
    later(world)
    world.b.end(dialog, TARGET)
    world.a.end(dialog, INIT)
    later(world)
    assert world.b.state(dialog, TARGET).state != State.CLOSED
    assert world.a.state(dialog, INIT).state != State.CLOSED
    assert [message.kind for message in world.b.take(dialog, TARGET)] == [Kind.END]
    later(world)
    assert world.b.state(dialog, TARGET).state == State.CLOSED
    assert world.a.state(dialog, INIT).state == State.CLOSED


def test_a_consumer_that_rests_holds_the_sender_back() -> None:
    """The window counts what is not committed, so a slow application is not buried in messages."""
    world = world_of("on_commit")
    dialog = world.a.begin(world.b)
    count = 3 * WINDOW_MESSAGES
    world.a.send(dialog, INIT, *(b"%d" % number for number in range(count)))
    later(world)
    later(world)
    assert world.b.state(dialog, TARGET).next_in == WINDOW_MESSAGES + 1
    arrived: list[bytes] = []
    for _ in range(4):
        arrived += world.b.bodies(dialog, TARGET)
        later(world)
    assert arrived == [b"%d" % number for number in range(count)]


def test_the_mode_may_change_in_mid_dialog() -> None:
    world = world_of("on_enqueue")
    dialog = world.open()
    world.a.send(dialog, INIT, b"two")
    world.settle()
    world.b.bind(world.b.binding(world.a, QUIET, ack_mode="on_commit"))
    world.a.send(dialog, INIT, b"three")
    world.settle()
    assert waiting(world, dialog) == [3]
    assert world.b.bodies(dialog, TARGET) == [b"two", b"three"]
    world.a.send(dialog, INIT, b"four")
    later(world)
    world.b.bind(world.b.binding(world.a, QUIET))
    later(world)
    assert waiting(world, dialog) == []
    assert world.b.bodies(dialog, TARGET) == [b"four"]


def test_digests_outlive_the_longest_wait() -> None:
    """A retransmission is recognised however long the application took."""
    assert KEPT_DIGESTS >= 2 * WINDOW_MESSAGES
