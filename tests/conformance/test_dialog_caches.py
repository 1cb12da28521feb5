"""Conformance cases C16-C24: a hit skips private-key work, a loss changes no result (dialog sections 5 and 13)."""

from __future__ import annotations

import msgspec
import pytest

from dialog_world import Service, World, broken_kek
from hsm_msl.dialog.cache import Cache, RateLimit
from hsm_msl.dialog.context import CacheSizes
from hsm_msl.dialog.headers import parse_kek
from hsm_msl.dialog.names import Kind, Reason, Side, State
from hsm_msl.dialog.packet import assemble, parse
from hsm_msl.stores.dialog_memory import MemoryDialogStore

INIT, TARGET = Side.INITIATOR, Side.TARGET
NOTHING = CacheSizes(0, 0, 0)


def rebuilt(data: bytes, **changes: object) -> bytes:
    packet = parse(data)
    ext = msgspec.structs.replace(packet.ext, **changes)
    return assemble(packet.core_bytes, ext.encode(), packet.body, packet.tag)


def opened(service: Service) -> tuple[int, int]:
    """Private-key operations and session key unwraps so far."""
    counted = service.engine.counted
    return service.token.done["private"], counted["session_keys_unwrapped"]


def test_c16_both_miss_costs_one_unwrap_each() -> None:
    world = World()
    world.open()
    assert opened(world.b) == (1, 1)


def test_c17_kek_hit_costs_a_session_key_unwrap_only() -> None:
    world = World()
    world.open()
    world.open()
    assert opened(world.b) == (1, 2)


def test_c18_both_hit_opens_no_header_even_when_present() -> None:
    world = World()
    dialog = world.a.begin(world.b)
    for number in range(3):
        world.a.send(dialog, INIT, b"%d" % number)
    packets = world.outgoing(world.a)
    assert all(parse(packet).ext.kek for packet in packets)
    for packet in packets:
        world.deliver(world.b, [packet])
    assert opened(world.b) == (1, 1)
    assert world.b.token.done["kek unwrap"] == 1


@pytest.mark.parametrize("suite", [1, 2, 3, 4])
def test_c19_cache_size_0_works(suite: int) -> None:
    world = World(suite=suite, sizes=NOTHING)
    dialog = world.open()
    for number in range(3):
        world.a.send(dialog, INIT, b"%d" % number)
        world.b.send(dialog, TARGET, b"%d" % number)
        world.settle()
    assert world.b.bodies(dialog, TARGET) == world.a.bodies(dialog, INIT) == [b"0", b"1", b"2"]
    assert opened(world.b)[0] > 3


def test_c20_after_eviction_stored_headers_reopen() -> None:
    world = World()
    dialog = world.open()
    world.b.restart()
    world.a.send(dialog, INIT, b"without headers")
    (packet,) = world.outgoing(world.a)
    assert parse(packet).ext.dsk is None
    world.deliver(world.b, [packet])
    assert world.b.bodies(dialog, TARGET) == [b"without headers"]
    assert opened(world.b) == (2, 1)


def test_c21_headers_lost_on_the_receiver_are_asked_for() -> None:
    world = World()
    dialog = world.open()
    world.b.restart()
    with world.b.store.transaction() as tx:
        tx.drop_inbound_dsks(dialog, TARGET, 99)
    world.a.send(dialog, INIT, b"again please")
    (packet,) = world.outgoing(world.a)
    replies = world.deliver(world.b, [packet])
    assert [parse(reply).core.kind for reply in replies] == [Kind.NEED_KEYS]
    assert not parse(replies[0]).bare  # the target owns a key and signs for the request
    world.deliver(world.a, replies)
    world.settle()
    assert world.b.bodies(dialog, TARGET) == [b"again please"]
    assert "need_keys" in world.names()


def test_c21_a_wiped_receiver_fails_the_dialog_rather_than_skip_messages() -> None:
    world = World()
    dialog = world.open()
    world.b = Service("urn:test:b", 2, world.clock)
    world.b.bind(world.b.binding(world.a))
    world.a.send(dialog, INIT, b"the first one is gone for ever")
    for _ in range(3):
        world.clock.advance(70)
        world.settle()
    assert world.b.state(dialog, TARGET).state == "FAILED"
    assert world.a.state(dialog, INIT).state == "FAILED"


def test_c22_a_second_node_handles_packet_two() -> None:
    store = MemoryDialogStore()
    world = World(target_store=store)
    dialog = world.open()
    second = Service("urn:test:b", 2, world.clock, store=store, seed="node 2")
    world.a.send(dialog, INIT, b"two")
    world.deliver(second, world.outgoing(world.a))
    assert second.bodies(dialog, TARGET) == [b"two"]
    assert opened(second) == (1, 1)


@pytest.mark.parametrize("suite", [1, 2, 3])
def test_c23_negative_cache_stops_repeated_unwraps(suite: int) -> None:
    world = World(suite=suite)
    dialog = world.a.begin(world.b)
    world.a.send(dialog, INIT, b"x")
    (data,) = world.outgoing(world.a)
    bad = broken_kek(world, data)
    for _ in range(5):
        world.deliver(world.b, [bad])
    assert world.b.token.done["private"] == 1
    assert world.b.engine.counted["negative_hits"] == 4
    world.deliver(world.b, [data])
    assert world.b.bodies(dialog, TARGET) == [b"x"]


def test_only_a_second_header_that_cannot_be_opened_fails_the_dialog() -> None:
    world = World()
    dialog = world.open()
    world.clock.advance(2)
    world.a.shift(dialog, INIT)
    world.a.send(dialog, INIT, b"x")
    (data,) = world.outgoing(world.a)
    for _ in range(3):
        world.deliver(world.b, [broken_kek(world, data)])
        world.clock.advance(61)  # as long as the failure is remembered
    assert world.b.state(dialog, TARGET).state == State.CONVERSING
    world.deliver(world.b, [broken_kek(world, data, b"\2")])
    assert world.b.state(dialog, TARGET).reason == Reason.KEY_UNUSABLE


def test_c24_a_forged_header_does_not_poison_the_cache() -> None:
    """Ids are digests of content: a header that claims another's id is not taken for it."""
    world = World()
    dialog = world.a.begin(world.b)
    world.a.send(dialog, INIT, b"x")
    (data,) = world.outgoing(world.a)
    packet = parse(data)
    forged = msgspec.structs.replace(parse_kek(packet.ext.kek or b""), epoch=1).encode()
    world.deliver(world.b, [rebuilt(data, kek=forged)])
    dsk = bytearray(packet.ext.dsk or b"")
    dsk[-1] ^= 1
    world.deliver(world.b, [rebuilt(data, dsk=bytes(dsk))])
    world.deliver(world.b, [data])
    assert world.b.bodies(dialog, TARGET) == [b"x"]


def test_cache_bounds_and_expiry() -> None:
    cache: Cache[bytes, int] = Cache(2)
    for number in range(4):
        cache.put(b"%d" % number, number, 100.0)
    assert len(cache) == 2
    assert cache.get(b"3", 99.0) == 3
    assert cache.get(b"3", 101.0) is None
    assert cache.get(b"0", 0.0) is None
    assert (cache.hits, cache.misses) == (1, 2)


def test_rate_limit_fills_again() -> None:
    limit = RateLimit(2, 10.0)
    assert [limit.allow(b"k", at) for at in (0, 1, 2, 10.5, 10.6, 11.5)] == [True, True, False, True, True, False]
    assert limit.allow(b"another", 11.5)
