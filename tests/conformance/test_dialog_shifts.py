"""Conformance cases C25-C42: shifts and the policy engine (dialog sections 6 and 13)."""

from __future__ import annotations

from math import inf, nan

import pytest

from dialog_world import Service, World
from hsm_msl.dialog.errors import ShiftTooSoonError
from hsm_msl.dialog.headers import parse_dsk
from hsm_msl.dialog.names import Cause, Kind, Reason, Side
from hsm_msl.dialog.packet import Core, Ext, assemble, parse, tag_input
from hsm_msl.dialog.policy import Policy, Rate
from hsm_msl.errors import ConfigurationError

INIT, TARGET = Side.INITIATOR, Side.TARGET
QUIET = Policy(on_peer_shift=False, max_peer_shifts=None)


def generations(world: World, dialog: bytes) -> tuple[int, int]:
    return (
        world.a.state(dialog, INIT).out_generation,
        world.b.state(dialog, TARGET).out_generation,
    )


def say(world: World, dialog: bytes, side: int, body: bytes = b"x") -> None:
    service = world.a if side == INIT else world.b
    service.send(dialog, side, body)
    world.settle()


def shift(world: World, dialog: bytes, side: int, after: float = 1.0) -> None:
    """Shift and let the peer see it."""
    world.clock.advance(after)
    (world.a if side == INIT else world.b).shift(dialog, side)
    say(world, dialog, side)


def failure(service: Service, dialog: bytes, side: int) -> Reason | None:
    found = [message.reason for message in service.take(dialog, side) if message.kind is Kind.ABORT]
    return found[0] if found else None


def test_c25_time_rule() -> None:
    """Claims 8 and 14-15."""
    world = World(policy=Policy(max_age=100, on_peer_shift=False))
    dialog = world.open()
    world.clock.advance(98)
    say(world, dialog, INIT)
    assert generations(world, dialog) == (1, 1)
    world.clock.advance(2)
    say(world, dialog, INIT)
    assert generations(world, dialog) == (2, 1)
    say(world, dialog, TARGET)
    assert generations(world, dialog) == (2, 2)


@pytest.mark.parametrize(
    "policy", [Policy(max_messages=3, on_peer_shift=False), Policy(max_bytes=8, on_peer_shift=False)]
)
def test_c26_volume_rule(policy: Policy) -> None:
    world = World(policy=policy)
    dialog = world.a.begin(world.b)
    for _ in range(7):
        world.clock.advance(1.1)
        say(world, dialog, INIT, b"12")
    assert world.a.state(dialog, INIT).out_generation == 3
    assert [event.detail for event in world.events if event.name == "peer_shifted"] == ["2 volume", "3 volume"]


def test_c27_on_peer_shift() -> None:
    """Claims 9 and 16."""
    world = World(policy=QUIET, target_policy=Policy(on_peer_shift=True, peer_shift_delay=10))
    dialog = world.open()
    shift(world, dialog, INIT)
    say(world, dialog, TARGET)
    assert generations(world, dialog) == (2, 1)
    world.clock.advance(10)
    say(world, dialog, TARGET)
    assert generations(world, dialog) == (2, 2)
    causes = [event.detail for event in world.events if event.name == "peer_shifted"]
    assert causes == ["2 operator", "2 peer_shift"]


@pytest.mark.parametrize("policy", [Policy(), Policy(on_peer_shift=False, peer_count=Rate(1, 1000))])
def test_c28_no_ping_pong(policy: Policy) -> None:
    world = World(policy=policy)
    dialog = world.open()
    shift(world, dialog, INIT)
    for _ in range(10):
        world.clock.advance(2)
        say(world, dialog, TARGET)
        say(world, dialog, INIT)
    assert generations(world, dialog) == (2, 2)


def test_c29_peer_count_rule() -> None:
    """Claim 17: shift when the peer shifted n times within a period."""
    world = World(policy=QUIET, target_policy=Policy(on_peer_shift=False, peer_count=Rate(3, 100)))
    dialog = world.open()
    for expected in (1, 1, 2, 2, 2, 3):
        shift(world, dialog, INIT, 10)
        say(world, dialog, TARGET)
        assert generations(world, dialog)[1] == expected
    for _ in range(3):
        shift(world, dialog, INIT, 60)
        say(world, dialog, TARGET)
    assert generations(world, dialog)[1] == 3, "three shifts, but never within the period"


def test_c30_too_many_shifts_fail_at_exactly_one_more() -> None:
    """Claims 10 and 11."""
    world = World(policy=QUIET, target_policy=Policy(on_peer_shift=False, max_peer_shifts=Rate(3, 100)))
    dialog = world.open()
    for _ in range(3):
        shift(world, dialog, INIT, 2)
    assert failure(world.b, dialog, TARGET) is None
    shift(world, dialog, INIT, 2)
    assert failure(world.b, dialog, TARGET) is Reason.POLICY_SHIFT_RATE
    assert failure(world.a, dialog, INIT) is Reason.POLICY_SHIFT_RATE


def test_c31_sliding_window_forgets() -> None:
    world = World(policy=QUIET, target_policy=Policy(on_peer_shift=False, max_peer_shifts=Rate(3, 100)))
    dialog = world.open()
    for _ in range(12):
        shift(world, dialog, INIT, 34)
    assert failure(world.b, dialog, TARGET) is None
    with world.b.store.reading() as tx:
        assert len(tx.shifts(dialog, TARGET)) == 3


def test_c32_a_retransmitted_shift_counts_once() -> None:
    world = World(policy=QUIET, target_policy=Policy(on_peer_shift=False, max_peer_shifts=Rate(1, 100)))
    dialog = world.open()
    world.clock.advance(2)
    world.a.shift(dialog, INIT)
    world.a.send(dialog, INIT, b"x")
    (packet,) = world.outgoing(world.a)
    for _ in range(3):
        world.deliver(world.b, [packet])
        world.b.restart()
    world.clock.advance(10)
    world.deliver(world.b, world.outgoing(world.a))
    assert failure(world.b, dialog, TARGET) is None


def test_c33_an_unauthenticated_shift_is_not_counted() -> None:
    world = World(policy=QUIET, target_policy=Policy(on_peer_shift=True, max_peer_shifts=Rate(1, 100)))
    dialog = world.open()
    world.clock.advance(2)
    world.a.shift(dialog, INIT)
    world.a.send(dialog, INIT, b"x")
    (packet,) = world.outgoing(world.a)
    for position in (len(packet) - 1, len(packet) - 30):
        damaged = bytearray(packet)
        damaged[position] ^= 1
        world.deliver(world.b, [bytes(damaged)])
    with world.b.store.reading() as tx:
        assert tx.shifts(dialog, TARGET) == []
    assert world.b.state(dialog, TARGET).pending_cause == 0
    assert world.b.state(dialog, TARGET).in_generation == 1


def test_c34_peer_must_shift_on_message() -> None:
    """Claim 12."""
    world = World(policy=QUIET, target_policy=Policy(on_peer_shift=False, peer_must_shift=100))
    dialog = world.open()
    world.clock.advance(99)
    say(world, dialog, INIT)
    assert failure(world.b, dialog, TARGET) is None
    world.clock.advance(1000)
    world.settle()
    assert failure(world.b, dialog, TARGET) is None, "idle is not judged in this mode"
    say(world, dialog, INIT)
    assert failure(world.b, dialog, TARGET) is Reason.POLICY_SHIFT_MISSING


def test_c34_a_message_that_brings_the_shift_is_in_time() -> None:
    world = World(policy=QUIET, target_policy=Policy(on_peer_shift=False, peer_must_shift=100))
    dialog = world.open()
    shift(world, dialog, INIT, 1000)
    assert failure(world.b, dialog, TARGET) is None


@pytest.mark.parametrize("cooperates", [True, False])
def test_c35_peer_must_shift_active_with_an_idle_peer(cooperates: bool) -> None:
    ages = Policy(on_peer_shift=False, max_age=60 if cooperates else None)
    world = World(policy=ages, target_policy=Policy(on_peer_shift=False, peer_must_shift=100, active=True))
    dialog = world.open()
    for _ in range(100):
        world.clock.advance(5)
        world.settle()
    expected = None if cooperates else Reason.POLICY_SHIFT_MISSING
    assert failure(world.b, dialog, TARGET) is expected
    assert failure(world.a, dialog, INIT) is expected
    assert (world.a.state(dialog, INIT).out_generation > 4) is cooperates


def test_c36_fragments_of_one_message_share_a_generation() -> None:
    world = World(policy=Policy(max_bytes=70_000, on_peer_shift=False))
    dialog = world.open()
    world.clock.advance(2)
    world.a.send(dialog, INIT, b"x" * 200_000, b"y" * 200_000)
    packets = [parse(packet).core for packet in world.outgoing(world.a)]
    by_message = {seq: {core.generation for core in packets if core.seq == seq} for seq in (2, 3)}
    assert by_message == {2: {1}, 3: {2}}


def test_c37_out_of_order_arrival_across_a_shift() -> None:
    world = World(policy=Policy(on_peer_shift=False, max_peer_shifts=Rate(10, 60)))
    dialog = world.open()
    bodies = []
    for number in range(6):
        bodies.append(b"%d" % number)
        world.a.send(dialog, INIT, bodies[-1])
        world.clock.advance(2)
        world.a.shift(dialog, INIT)
    for packet in reversed(world.outgoing(world.a)):
        world.deliver(world.b, [packet])
    assert world.b.bodies(dialog, TARGET) == bodies
    with world.b.store.reading() as tx:
        assert sorted(event.generation for event in tx.shifts(dialog, TARGET)) == [2, 3, 4, 5, 6], "each once"
    assert world.b.state(dialog, TARGET).in_generation == 6


def test_c38_an_old_generation_after_the_first_sequence_number_of_the_next() -> None:
    """A holder of a leaked old key cannot speak any more (T6)."""
    world = World(policy=QUIET)
    dialog = world.open()
    old_state = world.a.state(dialog, INIT)
    with world.a.store.reading() as tx:
        old = world.a.engine._outbound.load(tx, old_state, 1, world.clock())
    assert old is not None
    world.a.send(dialog, INIT, b"parked later")
    world.outgoing(world.a)  # lost: sequence number 2 stays missing, so the old generation is still alive
    world.clock.advance(2)
    world.a.shift(dialog, INIT)
    world.a.send(dialog, INIT, b"under the new key")
    fresh = next(p for p in world.outgoing(world.a) if parse(p).core.generation == 2)
    world.deliver(world.b, [fresh])
    core = Core(
        dialog=dialog, direction=0, kind=1, seq=4, message_type="t", generation=1, dsk_id=old.dsk_id,
        suite=2, expiry=old_state.expires_at,
    ).encode()  # fmt: skip
    body = old.keys.seal(4, 0, b"\0forged", core)
    forged = assemble(core, Ext().encode(), body, old.keys.tag(tag_input(core, Ext().encode(), body)))
    world.deliver(world.b, [forged])
    assert [event.detail for event in world.events if event.name == "dropped"] == ["stale key"]
    world.clock.advance(100)
    world.settle()
    assert world.b.bodies(dialog, TARGET) == [b"parked later", b"under the new key"]


def test_c39_generation_gap_while_messages_are_missing() -> None:
    world = World(policy=QUIET)
    dialog = world.open()
    packets = []
    for number in range(10):
        world.a.send(dialog, INIT, b"%d" % number)
        world.clock.advance(2)
        world.a.shift(dialog, INIT)
        packets = world.outgoing(world.a) or packets
    world.clock.advance(100)
    packets = sorted(world.outgoing(world.a), key=lambda data: parse(data).core.seq)
    world.deliver(world.b, [packets[-1]])
    assert "too many generations ahead" in [event.detail for event in world.events]
    world.deliver(world.b, packets)
    world.clock.advance(100)
    world.settle()
    assert world.b.bodies(dialog, TARGET) == [b"%d" % number for number in range(10)]


def test_c40_kek_rotation_in_mid_dialog() -> None:
    world = World(policy=Policy(on_peer_shift=False, max_age=100, kek_max_age=1000))
    dialog = world.open()
    for _ in range(30):
        world.clock.advance(101)
        say(world, dialog, INIT)
    made = world.a.engine.counted["keks_made"]
    assert made == 4
    assert len(world.b.bodies(dialog, TARGET)) == 30
    with world.a.store.transaction() as tx:
        world.a.engine.rotate_kek(tx, world.b.name)
    world.clock.advance(101)
    say(world, dialog, INIT)
    assert world.a.engine.counted["keks_made"] == made + 1


def test_c40_kek_wrap_limit() -> None:
    world = World(policy=Policy(on_peer_shift=False, max_age=10, kek_max_wraps=3))
    dialog = world.open()
    for _ in range(6):
        world.clock.advance(11)
        say(world, dialog, INIT)
    assert world.a.engine.counted["keks_made"] == 3


def test_c41_operator_shift() -> None:
    world = World(policy=QUIET)
    dialog = world.open()
    shift(world, dialog, INIT)
    assert generations(world, dialog) == (2, 1)
    with pytest.raises(ShiftTooSoonError):
        world.a.shift(dialog, INIT)
    with world.a.store.reading() as tx:
        header = parse_dsk(tx.outbound_dsks(dialog, INIT)[-1].header)
    assert header.cause == Cause.OPERATOR


def test_c42_restart_keeps_windows_and_ages() -> None:
    world = World(
        policy=Policy(max_age=100, on_peer_shift=False),
        target_policy=Policy(on_peer_shift=False, max_peer_shifts=Rate(2, 1000)),
    )
    dialog = world.open()
    for _ in range(2):
        world.clock.advance(101)
        world.a.restart()
        world.b.restart()
        say(world, dialog, INIT)
    assert generations(world, dialog)[0] == 3
    assert failure(world.b, dialog, TARGET) is None
    world.b.restart()
    world.clock.advance(101)
    say(world, dialog, INIT)
    assert failure(world.b, dialog, TARGET) is Reason.POLICY_SHIFT_RATE


def test_c42_a_backward_clock_relaxes_no_rule_across_a_restart() -> None:
    world = World(policy=QUIET, target_policy=Policy(on_peer_shift=False, peer_must_shift=100))
    dialog = world.open()
    world.clock.advance(90)
    say(world, dialog, INIT)
    world.clock.now -= 5000
    world.b.restart()
    say(world, dialog, INIT)
    assert world.b.state(dialog, TARGET).clock_mark >= 1_800_000_090
    assert failure(world.b, dialog, TARGET) is None
    world.clock.advance(5011)
    say(world, dialog, INIT)
    assert failure(world.b, dialog, TARGET) is Reason.POLICY_SHIFT_MISSING


def test_impossible_policies_are_refused_at_the_start() -> None:
    for policy in (
        Policy(max_age=100, remote_must_shift=100),
        Policy(max_age=None, remote_must_shift=100),
        Policy(peer_shift_delay=31),
        Policy(max_peer_shifts=Rate(0, 1)),
        Policy(max_lifetime=31 * 86400),
        Policy(max_messages=0),
        Policy(max_age=nan),
        Policy(peer_must_shift=nan),
        Policy(remote_must_shift=nan),
        Policy(peer_shift_delay=nan),
        Policy(peer_count=Rate(1, nan)),
        Policy(max_peer_shifts=Rate(1, inf)),
        Policy(kek_max_age=nan),
        Policy(kek_max_age=inf),
        Policy(kek_max_wraps=0),
    ):
        with pytest.raises(ConfigurationError):
            policy.validate()
    Policy(max_age=99, remote_must_shift=100).validate()
