"""C68, the claim table (dialog section 11): one test per claim, by number, over real engines."""

from __future__ import annotations

import importlib
import zipfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from dialog_world import World
from hsm_msl.dialog import inbound, outbound, receiving, sending
from hsm_msl.dialog.headers import kek_id, parse_dsk, parse_kek, parse_pair
from hsm_msl.dialog.names import Cause, Kind, Reason, Side
from hsm_msl.dialog.packet import Packet, parse
from hsm_msl.dialog.policy import Policy, Rate
from hsm_msl.errors import DataRejectedError

INIT, TARGET = Side.INITIATOR, Side.TARGET
QUIET = Policy(on_peer_shift=False)


def first(world: World) -> Packet:
    dialog = world.a.begin(world.b)
    world.a.send(dialog, INIT, b"claim")
    (data,) = world.outgoing(world.a)
    world.deliver(world.b, [data])
    return parse(data)


def shifted(policy: Policy, rounds: int, step: float, *, shifts: bool = True) -> tuple[World, bytes]:
    """A dialog whose target is under ``policy`` while the initiator shifts every ``step`` seconds."""
    world = World(policy=QUIET, target_policy=policy)
    dialog = world.open()
    for _ in range(rounds):
        world.clock.advance(step)
        if shifts:
            world.a.shift(dialog, INIT)
        world.a.send(dialog, INIT, b"x")
        world.settle()
        if world.b.state(dialog, TARGET).state != "FAILED":
            world.b.send(dialog, TARGET, b"y")
            world.settle()
    return world, dialog


def test_claim_01_each_side_generates_the_key_of_what_it_sends_and_shifts_it_alone() -> None:
    world = World(policy=QUIET)
    dialog = world.open()
    world.clock.advance(2)
    before = len(world.log)
    world.a.shift(dialog, INIT)
    assert len(world.log) == before, "no negotiation, no notice"
    assert world.a.state(dialog, INIT).out_generation == 2
    assert world.b.state(dialog, TARGET).out_generation == 1
    world.a.send(dialog, INIT, b"under the new key")
    world.settle()
    assert world.b.bodies(dialog, TARGET) == [b"under the new key"]


def test_claim_02_signature_key_exchange_key_session_key_and_body_are_nested() -> None:
    world = World(suite=3)
    packet = first(world)
    public = world.a.signing.public_key()
    assert isinstance(public, rsa.RSAPublicKey)
    pair = parse_pair(packet.ext.pair or b"")
    assert public.recover_data_from_signature(pair.signature, padding.PKCS1v15(), None)  # private key of the sender
    assert world.b.token.done["private"] == 1  # KEK: public key of the receiver
    assert world.b.token.done["kek unwrap"] == 1  # session key: KEK
    assert b"claim" not in packet.body  # body: session key


@pytest.mark.parametrize(("suite", "size"), [(1, 32), (2, 32), (3, 16), (4, 32)])
def test_claims_03_04_kek_is_a_symmetric_key_of_128_bits_or_more(suite: int, size: int) -> None:
    packet = first(World(suite=suite))
    assert parse_kek(packet.ext.kek or b"").size == size


def test_claim_05_kek_is_unique_to_the_pair() -> None:
    one, other = World(), World()
    other.a.name = "urn:test:other"
    packet = first(one)
    header = parse_kek(packet.ext.kek or b"")
    assert (header.sender, header.receiver) == (one.a.name, one.b.name)
    back = one.b.engine
    assert kek_id(packet.ext.kek or b"") in back.context.caches.inbound_keks._entries


def test_claim_06_receiver_opens_in_order_and_only_what_it_has_not_cached() -> None:
    world = World(suite=3)
    dialog = world.open()
    world.clock.advance(2)
    world.a.shift(dialog, INIT)
    world.a.send(dialog, INIT, b"x")
    world.settle()
    assert world.b.token.done["private"] == 1
    assert world.b.token.done["kek unwrap"] == 2
    world.a.send(dialog, INIT, b"y")
    world.settle()
    assert world.b.token.done["kek unwrap"] == 2


def test_claim_07_the_policy_engine_decides_when_keys_change() -> None:
    world = World(policy=Policy(max_messages=1, on_peer_shift=False))
    dialog = world.open()
    for _ in range(3):
        world.clock.advance(2)
        world.a.send(dialog, INIT, b"x")
        world.settle()
    assert world.a.state(dialog, INIT).out_generation == 4


@pytest.mark.parametrize("claim", [8, 14, 15])
def test_claims_08_14_15_shift_by_time(claim: int) -> None:
    world = World(policy=Policy(max_age=claim * 10.0, on_peer_shift=False))
    dialog = world.open()
    world.clock.advance(claim * 10.0)
    world.a.send(dialog, INIT, b"x")
    assert world.a.state(dialog, INIT).out_generation == 2


@pytest.mark.parametrize("claim", [9, 16])
def test_claims_09_16_shift_because_the_peer_shifted(claim: int) -> None:
    world, dialog = shifted(Policy(on_peer_shift=True), 1, float(claim))
    assert world.b.state(dialog, TARGET).out_generation == 2


def test_claim_10_policy_fails_the_dialog() -> None:
    world, dialog = shifted(Policy(on_peer_shift=False, peer_must_shift=5), 1, 6.0, shifts=False)
    assert world.b.take(dialog, TARGET)[-1].reason is Reason.POLICY_SHIFT_MISSING
    assert world.a.take(dialog, INIT)[-1].reason is Reason.POLICY_SHIFT_MISSING


def test_claim_11_too_many_shifts_in_a_period_fail_the_dialog() -> None:
    world, dialog = shifted(Policy(on_peer_shift=False, max_peer_shifts=Rate(2, 60)), 3, 2.0)
    assert world.b.take(dialog, TARGET)[-1].reason is Reason.POLICY_SHIFT_RATE


def test_claim_12_a_missing_shift_fails_the_dialog() -> None:
    world, dialog = shifted(Policy(on_peer_shift=False, peer_must_shift=100), 2, 60.0, shifts=False)
    assert world.b.take(dialog, TARGET)[-1].reason is Reason.POLICY_SHIFT_MISSING


def test_claim_13_method_of_sending_and_receiving_under_separate_keys() -> None:
    world = World()
    world.open()
    ids = {parse(data).core.dsk_id for _, data in world.log if parse(data).core.kind == Kind.APP}
    assert len(ids) == 2


def test_claim_17_shift_on_a_count_of_the_peers_shifts() -> None:
    world, dialog = shifted(Policy(on_peer_shift=False, peer_count=Rate(3, 100)), 2, 2.0)
    assert world.b.state(dialog, TARGET).out_generation == 1
    world, dialog = shifted(Policy(on_peer_shift=False, peer_count=Rate(3, 100)), 3, 2.0)
    assert world.b.state(dialog, TARGET).out_generation == 2


def test_claim_18_the_session_key_travels_wrapped_under_the_kek_in_the_message() -> None:
    world = World()
    packet = first(world)
    header = parse_dsk(packet.ext.dsk or b"")
    assert header.cause == Cause.START
    with world.b.store.reading() as tx:
        (row,) = tx.inbound_dsks(packet.core.dialog, TARGET)
    entry = world.b.engine.context.caches.inbound_keks.get(header.kek_id, world.clock())
    assert entry is not None
    assert row.header == packet.ext.dsk
    assert len(entry.handle.unwrap(header.wrapped)) == 32
    with pytest.raises(DataRejectedError):
        entry.handle.unwrap(header.wrapped[:-1] + bytes([header.wrapped[-1] ^ 1]))


def test_claim_19_the_program_is_distributed_as_a_package(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    sources = sorted((root / "hsm_msl" / "dialog").glob("*.py"))
    archive = tmp_path / "engine.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for source in sources:
            packed.write(source, source.relative_to(root))
    with zipfile.ZipFile(archive) as packed:
        assert "hsm_msl/dialog/engine.py" in packed.namelist()
    assert 'include = ["hsm_msl*"' in (root / "pyproject.toml").read_text()


def test_claim_20_packet_with_kek_header_key_header_and_body_is_answered_under_another_key() -> None:
    world = World()
    packet = first(world)
    assert packet.ext.kek
    assert packet.ext.dsk
    assert packet.body
    world.b.send(packet.core.dialog, TARGET, b"answer")
    (answer,) = world.outgoing(world.b)
    assert parse(answer).ext.dsk
    assert parse(answer).core.dsk_id != packet.core.dsk_id


def test_claim_21_the_components_are_modules_of_their_own() -> None:
    for module, name in (
        (sending, "Sender"),
        (receiving, "Receiver"),
        (inbound, "InboundKeys"),
        (outbound, "OutboundKeys"),
        (importlib.import_module("hsm_msl.dialog.policy"), "Policy"),
    ):
        assert getattr(module, name).__module__ == module.__name__


def test_claim_22_means_for_generating_receiving_and_decrypting_work_as_one_running_service() -> None:
    world = World()
    dialog = world.open()
    world.a.send(dialog, INIT, b"x")
    world.settle()
    assert world.b.bodies(dialog, TARGET) == [b"x"]
