"""What a peer can do that has all keys of its own: fail the dialog, and nothing else."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest

from dialog_keys import digest
from dialog_world import World
from hsm_msl.dialog.binding import PinnedCertificate
from hsm_msl.dialog.context import CacheSizes
from hsm_msl.dialog.encoding import encode
from hsm_msl.dialog.headers import DskHeader, dsk_id
from hsm_msl.dialog.names import Kind, Reason, Side, State
from hsm_msl.dialog.packet import Core, Ext, assemble, tag_input
from hsm_msl.dialog.policy import Policy, Rate
from hsm_msl.dialog.sessionkeys import DirectionKeys, KeyBinding
from hsm_msl.dialog.suites import SUITES
from hsm_msl.stores.dialog_memory import MemoryDialogStore

INIT, TARGET = Side.INITIATOR, Side.TARGET


def crafted(
    world: World,
    dialog: bytes,
    seq: int,
    plaintext: bytes = b"\0x",
    *,
    generation: int = 1,
    first: int = 1,
    cause: int = 1,
    secret: bytes = b"s" * 32,
    kind: Kind = Kind.APP,
    named: bool = True,
) -> bytes:
    """A packet of ``a`` under a session key of the test's own."""
    a, suite = world.a, SUITES[world.suite]
    with a.store.transaction() as tx:
        state = tx.endpoint(dialog, INIT)
        binding = a.engine.context.binding(tx, world.b.name, world.clock())
        assert state is not None
        assert binding is not None
        recipient = a.engine.context.recipient(tx, binding, world.b.name, world.clock())
        assert recipient is not None
        kek, handle = a.engine._outbound._kek(tx, state, binding, recipient, suite, world.clock())
    header = DskHeader(
        kek_id=kek.kek_id, dialog=dialog, direction=0, generation=generation, first_seq=first, cause=cause,
        wrapped=handle.wrap(secret),
    ).encode()  # fmt: skip
    keys = DirectionKeys(secret, KeyBinding(dialog, a.name, world.b.name, 0, generation, kek.kek_id, suite))
    core = Core(
        dialog=dialog, direction=0, kind=kind, seq=seq, message_type="test" if kind is Kind.APP else None,
        generation=generation, dsk_id=dsk_id(header), suite=world.suite, expiry=state.expires_at,
        sender=a.name if named and seq == 1 else None, receiver=world.b.name if named and seq == 1 else None,
    ).encode()  # fmt: skip
    body = keys.seal(seq, 0, plaintext, core)
    ext = Ext(pair=kek.pair_header, kek=kek.kek_header, dsk=header).encode()
    return assemble(core, ext, body, keys.tag(tag_input(core, ext, body)))


def failed(world: World, dialog: bytes) -> Reason | None:
    state = world.b.state(dialog, TARGET)
    return Reason(state.reason) if state.state == State.FAILED else None


def test_a_shift_counts_whatever_cause_it_names() -> None:
    world = World(policy=Policy(max_peer_shifts=Rate(2, 60.0)))
    dialog = world.a.begin(world.b)
    for generation in range(1, 5):
        packet = crafted(
            world, dialog, generation, generation=generation, first=generation, secret=bytes([generation]) * 32
        )
        world.deliver(world.b, [packet])
        assert generation > 3 or failed(world, dialog) is None
    assert failed(world, dialog) is Reason.POLICY_SHIFT_RATE


@pytest.mark.parametrize("together", [False, True])
def test_a_generation_has_one_key(*, together: bool) -> None:
    world = World()
    dialog = world.a.begin(world.b)
    packets = [crafted(world, dialog, 1, secret=b"1" * 32), crafted(world, dialog, 2, secret=b"2" * 32)]
    for batch in [packets] if together else [[packet] for packet in packets]:
        world.deliver(world.b, batch)
    assert failed(world, dialog) is Reason.PROTOCOL
    world.b.restart()
    assert world.b.bodies(dialog, TARGET)[0] == b"x"


CONTENTS: dict[str, tuple[Kind, bytes]] = {
    "unknown encoding": (Kind.APP, b"\1x"),
    "nothing": (Kind.APP, b""),
    "error code is text": (Kind.END_WITH_ERROR, b"\0" + encode(["seven", "no"])),
    "error code is missing": (Kind.END_WITH_ERROR, b"\0" + encode([None, "no"])),
    "error is no CBOR": (Kind.END_WITH_ERROR, b"\0\xff"),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_what_cannot_be_read_is_not_acknowledged(name: str) -> None:
    world = World()
    dialog = world.a.begin(world.b)
    kind, plaintext = CONTENTS[name]
    world.deliver(world.b, [crafted(world, dialog, 1, plaintext, kind=kind)])
    assert failed(world, dialog) is Reason.PROTOCOL
    assert [message.kind for message in world.b.take(dialog, TARGET)] == [Kind.ABORT]


def test_a_refused_certificate_begins_nothing() -> None:
    world = World()
    world.open()
    world.b.bind(world.b.binding(world.a, signing=(PinnedCertificate(world.a.signing_cert, enabled=False),)))
    world.a.send(world.a.begin(world.b), INIT, b"x")
    world.settle()
    with world.b.store.reading() as tx:
        assert len(tx.endpoints(world.b.name, limit=9)) == 1


@pytest.mark.parametrize("size", [4096, 0])
@pytest.mark.parametrize("change", ["disabled binding", "disabled certificate", "expired certificate"])
def test_what_was_acknowledged_can_be_taken_whoever_is_trusted_by_then(change: str, size: int) -> None:
    world = World(sizes=CacheSizes(size, size, size, size))
    dialog = world.a.begin(world.b)
    world.a.send(dialog, INIT, b"acknowledged")
    world.settle()
    assert world.a.state(dialog, INIT).base_out == 2
    disabled = (PinnedCertificate(world.a.signing_cert, enabled=False),)
    binding: dict[str, Callable[[], object]] = {
        "disabled binding": lambda: world.b.bind(world.b.binding(world.a, enabled=False)),
        "disabled certificate": lambda: world.b.bind(world.b.binding(world.a, signing=disabled)),
        "expired certificate": lambda: world.clock.advance(366 * 86400),
    }
    binding[change]()
    assert world.b.bodies(dialog, TARGET) == [b"acknowledged"]
    assert digest(world.a.signing_cert) == world.a.local.signing_cert


def test_what_was_acknowledged_is_not_purged_before_it_was_taken() -> None:
    world = World()
    dialog = world.a.begin(world.b, lifetime=3600)
    world.a.send(dialog, INIT, b"acknowledged")
    world.settle()
    for seconds in (3700, 300, 40 * 86400):
        world.clock.advance(seconds)
        world.b.engine.tick()
    assert world.b.bodies(dialog, TARGET)[0] == b"acknowledged"
    world.b.engine.tick()
    with world.b.store.reading() as tx:
        assert not tx.endpoints(world.b.name, limit=9)


class Mirror:
    def __init__(self) -> None:
        self.value: bytes | None = None

    def read(self) -> bytes | None:
        return self.value

    def write(self, value: bytes) -> None:
        self.value = value


def test_a_restore_before_the_peer_knows_the_dialog() -> None:
    world, mirror = World(), Mirror()
    world.a.engine.check_incarnation("n", mirror)
    dialog = world.a.begin(world.b)
    world.a.send(dialog, INIT, b"not yet there")
    mirror.value = b"another"
    assert world.a.engine.check_incarnation("n", mirror)
    for _ in range(10):
        world.clock.advance(10)
        world.settle()
    assert world.b.bodies(dialog, TARGET) == [b"not yet there"]


def test_one_backup_restored_twice() -> None:
    world, mirror = World(), Mirror()
    world.a.engine.check_incarnation("n", mirror)
    dialog = world.open()
    store = world.a.store
    assert isinstance(store, MemoryDialogStore)
    backup = copy.deepcopy(store._tables)
    for number in range(3):
        store._tables = copy.deepcopy(backup)
        world.a.restart()
        mirror.value = b"%d" % number
        assert world.a.engine.check_incarnation("n", mirror)
        for _ in range(6):
            world.clock.advance(5)
            world.settle()
        world.a.send(dialog, INIT, b"%d" % number)
        world.clock.advance(5)
        world.a.shift(dialog, INIT)
        world.a.send(dialog, INIT, b"shifted")
        world.settle()
        assert world.b.bodies(dialog, TARGET) == [b"%d" % number, b"shifted"]


def test_the_first_packet_of_a_direction_names_both_services() -> None:
    world = World()
    dialog = world.a.begin(world.b)
    world.deliver(world.b, [crafted(world, dialog, 1, named=False)])
    assert world.names() == ["dropped"]
    world.deliver(world.b, [crafted(world, dialog, 1)])
    assert world.b.bodies(dialog, TARGET) == [b"x"]


def test_a_packet_that_brings_a_new_key_lies_within_the_keys_range() -> None:
    world = World()
    dialog = world.a.begin(world.b)
    world.deliver(world.b, [crafted(world, dialog, 1)])
    world.deliver(world.b, [crafted(world, dialog, 2, generation=2, first=3, cause=2, secret=b"2" * 32)])
    assert world.events[-1].detail == "sequence number below the first of its key"
    assert world.b.state(dialog, TARGET).in_generation == 1
    assert world.b.bodies(dialog, TARGET) == [b"x"]
