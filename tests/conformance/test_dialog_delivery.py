"""Conformance cases C43-C55: exactly once, in order, ends, lifetimes, crashes, backups (dialog sections 7 and 13)."""

from __future__ import annotations

import copy
import random

import pytest

from dialog_world import START, Service, World
from hsm_msl.dialog.errors import DialogClosedError, DialogFailedError, OpeningKeyGoneError, SendLimitError
from hsm_msl.dialog.names import CLOCK_SKEW, Kind, Reason, Side, State
from hsm_msl.dialog.packet import Core, Ext, assemble, parse, tag_input
from hsm_msl.dialog.policy import Policy
from hsm_msl.stores.dialog_memory import MemoryDialogStore

INIT, TARGET = Side.INITIATOR, Side.TARGET
QUIET = Policy(on_peer_shift=False)


def numbered(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def test_c43_a_duplicate_is_acknowledged_again_and_not_delivered() -> None:
    world = World()
    dialog = world.open()
    world.a.send(dialog, INIT, b"once")
    (packet,) = world.outgoing(world.a)
    for _ in range(3):
        replies = world.deliver(world.b, [packet])
        assert [parse(reply).ext.ack.expected for reply in replies if parse(reply).ext.ack] == [3]
    assert world.b.bodies(dialog, TARGET) == [b"once"]
    world.b.restart()
    assert world.deliver(world.b, [packet])
    assert world.b.bodies(dialog, TARGET) == []


def test_c44_reordering_within_the_window() -> None:
    world = World()
    dialog = world.open()
    bodies = numbered(60)
    world.a.send(dialog, INIT, *bodies)
    packets = world.outgoing(world.a)
    random.Random(1).shuffle(packets)
    for packet in packets:
        replies = world.deliver(world.b, [packet])
    assert world.b.bodies(dialog, TARGET) == bodies
    assert parse(replies[0]).ext.ack.ranges == ()  # type: ignore[union-attr]  # an acknowledgement has one


def test_c44_ranges_spare_retransmission() -> None:
    world = World()
    dialog = world.open()
    world.a.send(dialog, INIT, *numbered(10))
    packets = world.outgoing(world.a)
    replies = world.deliver(world.b, packets[2:5] + packets[7:9])
    ack = parse(replies[-1]).ext.ack
    assert ack is not None
    assert (ack.expected, ack.ranges) == (2, ((4, 6), (9, 10)))
    world.deliver(world.a, replies)
    world.clock.advance(100)
    assert [parse(packet).core.seq for packet in world.outgoing(world.a)] == [2, 3, 7, 8, 11]


def test_c45_beyond_the_window_is_dropped_and_recovered() -> None:
    world = World()
    dialog = world.open()
    bodies = numbered(200)
    world.a.send(dialog, INIT, *bodies)
    first = world.outgoing(world.a, 1000)
    assert len(first) == 64, "the sender keeps to the receiver's window"
    with world.a.store.transaction() as tx:
        tx.release(dialog, INIT, 1000, world.clock())
    rest = world.outgoing(world.a, 1000)
    assert len(rest) == 136
    world.deliver(world.b, rest)
    assert world.b.engine.counted["beyond_window"] == 136
    for _ in range(8):
        world.clock.advance(100)
        world.settle(rounds=100)
    assert world.b.bodies(dialog, TARGET) == bodies


def test_c46_crash_before_commit_sends_nothing() -> None:
    world = World()
    dialog = world.open()

    def crash() -> None:
        with world.a.store.transaction() as tx:
            world.a.engine.send(tx, dialog, INIT, [("t", b"never")])
            raise InterruptedError

    with pytest.raises(InterruptedError):
        crash()
    world.a.restart()
    assert world.outgoing(world.a) == []
    world.a.send(dialog, INIT, b"instead")
    world.settle()
    assert world.b.bodies(dialog, TARGET) == [b"instead"]


def test_c47_crash_after_commit_resends_identical_bytes() -> None:
    world = World()
    dialog = world.open()
    world.a.send(dialog, INIT, b"committed")
    (lost,) = world.outgoing(world.a)
    world.a.restart()
    world.clock.advance(10)
    (again,) = world.outgoing(world.a)
    assert (parse(lost).core_bytes, parse(lost).body) == (parse(again).core_bytes, parse(again).body)
    assert parse(lost).ext.attempt == 1
    assert parse(again).ext.attempt == 2


def test_c48_crash_between_delivery_and_ack() -> None:
    world = World()
    dialog = world.open()
    world.a.send(dialog, INIT, b"x")
    world.deliver(world.b, world.outgoing(world.a))
    assert world.b.bodies(dialog, TARGET) == [b"x"]
    world.b.restart()  # the acknowledgement never left
    world.clock.advance(10)
    world.settle()
    assert world.b.bodies(dialog, TARGET) == []
    assert world.a.state(dialog, INIT).base_out == 3


def forged_twin(world: World, dialog: bytes, seq: int, body: bytes | None = None) -> bytes:
    """What a holder of the key could make: another message under a number that was used, or a body that is none."""
    state = world.a.state(dialog, INIT)
    with world.a.store.reading() as tx:
        own = world.a.engine._outbound.load(tx, state, state.out_generation, world.clock())
    assert own is not None
    core = Core(
        dialog=dialog, direction=0, kind=1, seq=seq, message_type="t", generation=own.generation,
        dsk_id=own.dsk_id, suite=own.suite, expiry=state.expires_at,
    ).encode()  # fmt: skip
    body = own.keys.seal(seq, 0, b"\0twin", core) if body is None else body
    ext = Ext().encode()
    return assemble(core, ext, body, own.keys.tag(tag_input(core, ext, body)))


@pytest.mark.parametrize("parked", [False, True])
def test_c49_same_number_other_contents_is_a_protocol_failure(parked: bool) -> None:
    world = World()
    dialog = world.open()
    world.a.send(dialog, INIT, b"two", b"three")
    packets = world.outgoing(world.a)
    world.deliver(world.b, packets[1:] if parked else packets)
    world.deliver(world.b, [forged_twin(world, dialog, 3)])
    state = world.b.state(dialog, TARGET)
    assert (state.state, state.reason) == (State.FAILED, Reason.PROTOCOL)


def test_c49_a_body_that_does_not_open_is_no_message_whatever_the_tag_says() -> None:
    world = World()
    dialog = world.open()
    assert world.deliver(world.b, [forged_twin(world, dialog, 2, body=bytes(40))]) == []
    assert world.b.state(dialog, TARGET).next_in == 2


def test_c50_fragments_lost_duplicated_reordered() -> None:
    world = World()
    dialog = world.open()
    body = random.Random(2).randbytes(700_000)
    world.a.send(dialog, INIT, body, b"after")
    packets = world.outgoing(world.a)
    assert len(packets) == 12
    chance = random.Random(3)
    world.deliver(world.b, chance.sample(packets, 5) * 2)
    assert world.b.bodies(dialog, TARGET) == []
    world.clock.advance(100)
    packets = world.outgoing(world.a)
    chance.shuffle(packets)
    for packet in packets:
        world.deliver(world.b, [packet])
    assert world.b.bodies(dialog, TARGET) == [body, b"after"]


def test_c50_more_fragments_than_the_binding_allows() -> None:
    world = World()
    world.b.bind(world.b.binding(world.a, max_body=100_000))
    dialog = world.open()
    world.a.send(dialog, INIT, b"x" * 100_000)
    world.settle()
    assert len(world.b.bodies(dialog, TARGET)[0]) == 100_000
    world.a.send(dialog, INIT, b"x" * 200_000)
    world.settle()
    assert world.b.state(dialog, TARGET).reason == Reason.PROTOCOL
    with pytest.raises(SendLimitError):
        world.b.send(world.b.begin(world.a), INIT, b"x" * 100_001)


@pytest.mark.parametrize(("size", "allowed"), [(70_000, 10**6), (5_002, 5_000)])
def test_c50_a_fragment_larger_than_one_may_be_or_than_its_message(size: int, allowed: int) -> None:
    """A peer that does not cut its messages cannot get more through than the binding allows."""
    world = World()
    world.b.bind(world.b.binding(world.a, max_body=allowed))
    dialog = world.open()
    state = world.a.state(dialog, INIT)
    with world.a.store.reading() as tx:
        own = world.a.engine._outbound.load(tx, state, state.out_generation, world.clock())
    assert own is not None
    core = Core(
        dialog=dialog, direction=0, kind=1, seq=2, message_type="t", generation=own.generation,
        dsk_id=own.dsk_id, suite=own.suite, expiry=state.expires_at,
    ).encode()  # fmt: skip
    body, ext = own.keys.seal(2, 0, bytes(size), core), Ext().encode()
    world.deliver(world.b, [assemble(core, ext, body, own.keys.tag(tag_input(core, ext, body)))])
    assert world.b.state(dialog, TARGET).reason == Reason.PROTOCOL


@pytest.mark.parametrize("suite", [2, 4])
def test_c50_the_largest_message_the_binding_allows(suite: int) -> None:
    world = World(suite=suite)
    for allowed in (5_000, 65_535, 65_536, 200_000):
        world.b.bind(world.b.binding(world.a, max_body=allowed))
        dialog = world.open()
        world.a.send(dialog, INIT, b"x" * allowed)
        world.settle()
        assert world.b.bodies(dialog, TARGET) == [b"x" * allowed]


def test_a_message_whose_key_is_gone_for_good_is_named_and_kept() -> None:
    """Section 10: the private key was destroyed while a message waited to be taken."""
    world = World(policy=QUIET)
    dialog = world.open()
    world.a.send(dialog, INIT, b"two")
    world.settle()
    kept = dict(world.b.opening)
    world.b.opening.clear()
    world.b.restart()
    with pytest.raises(OpeningKeyGoneError, match="message 2 cannot be opened"):
        world.b.take(dialog, TARGET)
    world.b.opening.update(kept)
    assert world.b.bodies(dialog, TARGET) == [b"two"]


def test_c51_lifetime_ends_the_dialog_on_both_sides() -> None:
    world = World()
    dialog = world.open(lifetime=1000)
    world.a.send(dialog, INIT, b"never acknowledged")
    world.outgoing(world.a)
    world.clock.advance(1001)
    world.settle()
    for service, side in ((world.a, INIT), (world.b, TARGET)):
        assert [message.reason for message in service.take(dialog, side)] == [Reason.LIFETIME]
        with pytest.raises(DialogFailedError):
            service.send(dialog, side, b"x")


@pytest.mark.parametrize("first", [INIT, TARGET])
def test_c52_end_from_either_side(first: int) -> None:
    world = World()
    dialog = world.open()
    one, other = (world.a, world.b) if first == INIT else (world.b, world.a)
    one.send(dialog, first, b"last words")
    one.end(dialog, first)
    world.settle()
    assert one.state(dialog, first).state == State.DISCONNECTED_OUTBOUND
    assert other.state(dialog, 1 - first).state == State.DISCONNECTED_INBOUND
    assert [message.kind for message in other.take(dialog, 1 - first)] == [Kind.APP, Kind.END]
    for service, side in ((one, first), (other, 1 - first)):
        with pytest.raises(DialogClosedError):
            service.send(dialog, side, b"more")
    with pytest.raises(DialogClosedError):
        one.end(dialog, first)
    other.end(dialog, 1 - first)
    world.settle()
    assert [message.kind for message in one.take(dialog, first)] == [Kind.END]
    assert one.state(dialog, first).state == other.state(dialog, 1 - first).state == State.CLOSED
    with other.store.reading() as tx:
        assert tx.outbound_dsks(dialog, 1 - first) == []


def test_c52_end_with_error() -> None:
    world = World()
    dialog = world.open()
    world.a.end(dialog, INIT, (42, "out of stock"))
    world.settle()
    (message,) = world.b.take(dialog, TARGET)
    assert (message.kind, message.error) == (Kind.END_WITH_ERROR, (42, "out of stock"))
    assert world.b.state(dialog, TARGET).state == State.ERROR
    world.b.end(dialog, TARGET)
    world.settle()
    assert world.b.state(dialog, TARGET).state == State.CLOSED


def test_c52_the_last_acknowledgement_is_lost_and_asked_for() -> None:
    world = World()
    dialog = world.open()
    world.a.end(dialog, INIT)
    world.settle()
    world.b.end(dialog, TARGET)
    world.deliver(world.a, world.outgoing(world.b))  # a closes; its acknowledgement is lost
    assert world.a.state(dialog, INIT).state == State.CLOSED
    world.clock.advance(10)
    world.settle()
    assert world.b.state(dialog, TARGET).state == State.CLOSED


def replayed(world: World) -> tuple[bytes, list[bytes]]:
    """A closed dialog and everything the target ever received."""
    dialog = world.open(lifetime=5000)
    world.a.end(dialog, INIT)
    world.settle()
    world.b.end(dialog, TARGET)
    world.settle()
    world.b.take(dialog, TARGET)
    return dialog, [data for name, data in world.log if name == world.b.name]


def test_c53_replay_of_a_whole_dialog_after_its_close() -> None:
    world = World()
    dialog, packets = replayed(world)
    world.b.restart()
    for packet in packets:
        world.deliver(world.b, [packet])
    assert world.b.bodies(dialog, TARGET) == []
    assert world.b.state(dialog, TARGET).state == State.CLOSED
    assert world.b.token.done["private"] == 1


def test_c54_replay_after_the_tombstone_is_rejected_by_dates() -> None:
    world = World()
    dialog, packets = replayed(world)
    world.clock.advance(5000 + CLOCK_SKEW + 1)
    world.b.engine.tick()
    with world.b.store.reading() as tx:
        assert tx.tombstone(dialog, TARGET) is None
        assert tx.endpoint(dialog, TARGET, lock=False) is None
    for packet in packets:
        assert world.deliver(world.b, [packet]) == []
    assert "dialog is out of its dates" in [event.detail for event in world.events]
    with world.b.store.reading() as tx:
        assert tx.endpoint(dialog, TARGET, lock=False) is None


class FileMirror:
    """An incarnation value outside the backup set."""

    def __init__(self) -> None:
        self.value: bytes | None = None

    def read(self) -> bytes | None:
        return self.value

    def write(self, value: bytes) -> None:
        self.value = value


def restored(service: Service, backup: MemoryDialogStore, mirror: FileMirror) -> None:
    service.store = backup
    service.restart()
    assert service.engine.check_incarnation("node", mirror) is True


def test_c55_restore_from_backup_forces_a_shift_and_asks_the_peer() -> None:
    store = MemoryDialogStore()
    world = World(initiator_store=store, policy=QUIET)
    mirror = FileMirror()
    world.a.engine.check_incarnation("node", mirror)
    dialog = world.open()
    backup = MemoryDialogStore()
    backup._tables = copy.deepcopy(store._tables)
    world.a.engine.check_incarnation("node", mirror)
    world.a.send(dialog, INIT, b"two", b"three", b"four", b"five")
    packets = world.outgoing(world.a)
    (delayed,) = world.deliver(world.b, packets[:2] + packets[3:])  # "five" is parked, "four" is lost
    used = {(parse(data).core.generation, parse(data).core.seq) for data in packets}
    restored(world.a, backup, mirror)
    assert world.a.send(dialog, INIT, b"after the restore") == 0, "nothing is sealed before the peer answered"
    for _ in range(3):
        world.clock.advance(5)
        world.settle()
    assert world.b.bodies(dialog, TARGET) == [b"two", b"three", b"after the restore"]
    state = world.a.state(dialog, INIT)
    used_generation = state.out_generation
    assert used_generation >= 1001
    assert state.next_out == 5
    assert (used_generation, 4) not in used
    world.deliver(world.a, [delayed])
    assert world.a.state(dialog, INIT).state == State.CONVERSING, "what was said before the restore is past"
    world.b.send(dialog, TARGET, b"still talking")
    world.settle()
    assert world.a.bodies(dialog, INIT) == [b"still talking"]


def test_c55_what_is_parked_in_the_same_batch_as_the_recovery_is_forgotten_too() -> None:
    store = MemoryDialogStore()
    world = World(initiator_store=store, policy=QUIET)
    mirror = FileMirror()
    world.a.engine.check_incarnation("node", mirror)
    dialog = world.open()
    backup = MemoryDialogStore()
    backup._tables = copy.deepcopy(store._tables)
    world.a.engine.check_incarnation("node", mirror)
    world.a.send(dialog, INIT, b"lost", b"parked")
    late = world.outgoing(world.a)[1:]
    restored(world.a, backup, mirror)
    probe = world.outgoing(world.a)
    world.deliver(world.a, world.deliver(world.b, late + probe))
    world.a.send(dialog, INIT, b"new two", b"new three")
    world.settle()
    assert world.b.bodies(dialog, TARGET) == [b"new two", b"new three"]


def test_c55_messages_that_were_in_the_backup_and_not_delivered_arrive_as_they_were() -> None:
    store = MemoryDialogStore()
    world = World(initiator_store=store, policy=QUIET)
    mirror = FileMirror()
    world.a.engine.check_incarnation("node", mirror)
    dialog = world.open()
    world.a.send(dialog, INIT, b"two")
    backup = MemoryDialogStore()
    backup._tables = copy.deepcopy(store._tables)
    world.a.engine.check_incarnation("node", mirror)
    restored(world.a, backup, mirror)
    world.a.send(dialog, INIT, b"three")
    for _ in range(3):
        world.clock.advance(5)
        world.settle()
    assert world.b.bodies(dialog, TARGET) == [b"two", b"three"]


def test_c55_the_peer_speaks_of_keys_the_restored_side_forgot() -> None:
    store = MemoryDialogStore()
    world = World(initiator_store=store, policy=QUIET)
    mirror = FileMirror()
    world.a.engine.check_incarnation("node", mirror)
    dialog = world.open()
    backup = MemoryDialogStore()
    backup._tables = copy.deepcopy(store._tables)
    world.a.engine.check_incarnation("node", mirror)
    for number in range(3):
        world.clock.advance(2)
        world.a.shift(dialog, INIT)
        world.a.send(dialog, INIT, b"%d" % number)
        world.settle()
    restored(world.a, backup, mirror)
    world.b.send(dialog, TARGET, b"first to speak")
    world.deliver(world.a, world.outgoing(world.b))
    world.a.send(dialog, INIT, b"back")
    for _ in range(3):
        world.clock.advance(5)
        world.settle()
    assert world.a.bodies(dialog, INIT) == [b"first to speak"]
    assert world.b.bodies(dialog, TARGET) == [b"0", b"1", b"2", b"back"]


def test_c55_a_restore_nobody_noticed_fails_the_dialog() -> None:
    store = MemoryDialogStore()
    world = World(initiator_store=store, policy=QUIET)
    dialog = world.open()
    backup = MemoryDialogStore()
    backup._tables = copy.deepcopy(store._tables)
    world.a.send(dialog, INIT, b"two")
    world.settle()
    world.a.store = backup
    world.a.restart()
    world.b.send(dialog, TARGET, b"x")
    world.settle()
    state = world.a.state(dialog, INIT)
    assert (state.state, state.reason) == (State.FAILED, Reason.PROTOCOL)


def test_c55_a_restored_receiver_that_lost_messages_fails_the_dialog() -> None:
    store = MemoryDialogStore()
    world = World(target_store=store, policy=QUIET)
    dialog = world.open()
    backup = MemoryDialogStore()
    backup._tables = copy.deepcopy(store._tables)
    world.a.send(dialog, INIT, b"two")
    world.settle()
    world.b.store = backup
    world.b.restart()
    world.a.send(dialog, INIT, b"three")
    world.settle()
    for service, side in ((world.b, TARGET), (world.a, INIT)):
        state = service.state(dialog, side)
        assert (state.state, state.reason) == (State.FAILED, Reason.PROTOCOL)


def test_c55_no_restore_is_seen_in_an_ordinary_restart() -> None:
    world = World()
    mirror = FileMirror()
    assert world.a.engine.check_incarnation("node", mirror) is False
    world.a.restart()
    assert world.a.engine.check_incarnation("node", mirror) is False
    assert world.clock() == START
