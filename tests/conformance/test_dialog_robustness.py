"""Conformance cases C56-C67: bad bytes, dead tokens, threads, clusters, secrets (dialog section 13)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import cbor2
import msgspec
import pytest

from database_fixture import url_of
from dialog_keys import SoftWrappingKey
from dialog_world import Service, World, broken_kek
from hsm_msl.dialog.context import CacheSizes
from hsm_msl.dialog.encoding import decode
from hsm_msl.dialog.errors import PacketError
from hsm_msl.dialog.headers import dsk_id, parse_dsk, parse_kek, parse_pair
from hsm_msl.dialog.names import Kind, Side
from hsm_msl.dialog.packet import NO_TAG, Ack, Ext, assemble, parse
from hsm_msl.dialog.policy import Policy
from hsm_msl.errors import BackendUnavailableError
from hsm_msl.ports.dialog_records import DialogStore
from hsm_msl.stores.dialog_memory import MemoryDialogStore
from hsm_msl.stores.dialog_sql import SqlDialogStore
from hsm_msl.stores.sql import Database

INIT, TARGET = Side.INITIATOR, Side.TARGET


def packet_of(world: World, dialog: bytes, body: bytes = b"x") -> bytes:
    world.a.send(dialog, INIT, body)
    (packet,) = world.outgoing(world.a)
    return packet


NOT_DETERMINISTIC = {
    "indefinite array": "9f01ff",
    "indefinite bytes": "5f4101ff",
    "indefinite map": "bf0101ff",
    "duplicate key": "a201020103",
    "long integer": "1801",
    "long length": "580100",
    "unsorted keys": "a202010102",
    "float": "f93c00",
    "tag": "c11a5f000000",
    "shared reference": "d81c8100",
    "bignum": "c24101",
    "trailing byte": "0100",
    "truncated": "820",
    "too deep": "81" * 12 + "00",
    "text key": "a1616101",
    "undefined": "f7",
}


@pytest.mark.parametrize("name", sorted(NOT_DETERMINISTIC))
def test_c56_anything_but_the_one_encoding_is_refused(name: str) -> None:
    text = NOT_DETERMINISTIC[name]
    with pytest.raises(PacketError):
        decode(bytes.fromhex(text + "0" * (len(text) % 2))[: len(text) // 2])


def test_c56_too_many_entries() -> None:
    with pytest.raises(PacketError):
        decode(cbor2.dumps(dict.fromkeys(range(65), 0), canonical=True))
    assert decode(cbor2.dumps(dict.fromkeys(range(64), 0), canonical=True))


def test_c56_truncated_and_oversized_packets() -> None:
    world = World()
    data = packet_of(world, world.a.begin(world.b))
    for length in range(len(data)):
        with pytest.raises(PacketError):
            parse(data[:length])
    with pytest.raises(PacketError):
        parse(data + b"\0")
    with pytest.raises(PacketError):
        parse(bytes(5 * 1024 * 1024))
    assert world.deliver(world.b, [data[:100], b"", data]) != []
    assert world.names().count("malformed") == 2


def test_c56_unsorted_core_and_unknown_fields() -> None:
    world = World()
    packet = parse(packet_of(world, world.a.begin(world.b)))
    fields = cbor2.loads(packet.core_bytes)
    unsorted = cbor2.dumps(dict(reversed(list(fields.items()))))
    unknown = cbor2.dumps({**fields, 99: 1}, canonical=True)
    for core in (unsorted, unknown):
        with pytest.raises(PacketError):
            parse(assemble(core, packet.ext_bytes, packet.body, packet.tag))
    with pytest.raises(PacketError):
        parse(assemble(packet.core_bytes, cbor2.dumps({99: b"x"}), packet.body, packet.tag))


def test_c57_every_bit_flip_is_detected() -> None:
    world = World()
    dialog = world.open()
    data = packet_of(world, dialog)
    before = world.b.state(dialog, TARGET)
    for position in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        for reply in world.deliver(world.b, [bytes(damaged)]):
            assert parse(reply).core.kind == Kind.NEED_KEYS
    after = world.b.state(dialog, TARGET)
    assert msgspec.structs.asdict(parse(data).core)["seq"] == before.next_in
    assert (after.next_in, after.parked, after.base_out) == (before.next_in, before.parked, before.base_out)
    world.deliver(world.b, [data])
    assert world.b.bodies(dialog, TARGET) == [b"x"]


def test_c57_bit_flips_in_a_first_packet() -> None:
    world = World()
    data = packet_of(world, world.a.begin(world.b))
    for position in range(0, len(data) * 8, 7):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        world.deliver(world.b, [bytes(damaged)])
    with world.b.store.reading() as tx:
        assert tx.endpoints(world.b.name, limit=5) == []


def test_c58_forged_acknowledgements() -> None:
    world = World()
    dialog = world.open()
    data = packet_of(world, dialog)
    (reply,) = world.deliver(world.b, [data])
    ack = parse(reply)
    for forged in (Ack(4), Ack(3, ((5, 9),))):
        ext = msgspec.structs.replace(ack.ext, ack=forged)
        world.deliver(world.a, [assemble(ack.core_bytes, ext.encode(), b"", ack.tag)])
        world.deliver(world.a, [assemble(ack.core_bytes, ext.encode(), b"", NO_TAG)])
    assert world.a.state(dialog, INIT).base_out == 2
    world.deliver(world.a, [reply])
    assert world.a.state(dialog, INIT).base_out == 3


@pytest.mark.parametrize("ranges", ["[[3,2]]", "[[1,4]]", "[[5,6],[6,7]]", "nine"])
def test_c58_malformed_ranges(ranges: str) -> None:
    world = World()
    dialog = world.open()
    (reply,) = world.deliver(world.b, [packet_of(world, dialog)])
    packet = parse(reply)
    fields = cbor2.loads(packet.ext_bytes)
    made = [[10 * n + 5, 10 * n + 6] for n in range(9)] if ranges == "nine" else msgspec.json.decode(ranges)
    fields[4] = [3, made]
    with pytest.raises(PacketError):
        parse(assemble(packet.core_bytes, cbor2.dumps(fields, canonical=True), b"", packet.tag))


def test_c59_token_down_while_unwrapping_is_no_verdict() -> None:
    world = World()
    dialog = world.a.begin(world.b)
    data = packet_of(world, dialog)
    world.b.token.up = False
    (reply,) = world.deliver(world.b, [data])
    assert parse(reply).core.kind == Kind.RETRY_LATER
    assert "backend" in world.names()
    assert len(world.b.engine.context.caches.failures) == 0
    world.b.token.up = True
    world.clock.advance(10)
    world.settle()
    assert world.b.bodies(dialog, TARGET) == [b"x"]


def test_c60_token_lost_in_mid_run_stops_nothing_that_is_cached() -> None:
    world = World()
    dialog = world.open()
    world.a.token.up = world.b.token.up = False
    for number in range(3):
        world.a.send(dialog, INIT, b"%d" % number)
        world.settle()
    assert world.b.bodies(dialog, TARGET) == [b"0", b"1", b"2"]
    assert world.b.token.done["private"] == 1


def test_c61_token_locked_at_the_sender_accepts_nothing_and_loses_nothing() -> None:
    world = World()
    dialog = world.open()
    world.a.restart()
    world.a.token.up = False
    with pytest.raises(BackendUnavailableError):
        world.a.send(dialog, INIT, b"refused")
    assert world.outgoing(world.a) == []
    world.a.token.up = True
    world.a.send(dialog, INIT, b"accepted")
    world.settle()
    assert world.b.bodies(dialog, TARGET) == [b"accepted"]


def damaged(field: str) -> Callable[[World, bytes], bytes]:
    def change(world: World, data: bytes) -> bytes:
        packet = parse(data)
        ext, body, core = packet.ext, packet.body, packet.core
        if field == "key wrap":
            header = parse_dsk(ext.dsk or b"")
            broken = msgspec.structs.replace(header, wrapped=bytes(40)).encode()
            core = msgspec.structs.replace(core, dsk_id=dsk_id(broken))
            ext = msgspec.structs.replace(ext, dsk=broken)
        if field == "body":
            body = body[:-1] + bytes([body[-1] ^ 1])
        return assemble(core.encode(), ext.encode(), body, packet.tag)

    return change


def test_c62_replies_do_not_tell_why_a_key_could_not_be_opened() -> None:
    """OAEP, key wrap and tag failures: the peer learns at most that keys are wanted."""
    seen = {}
    for name, change in {"oaep": broken_kek, "key wrap": damaged("key wrap")}.items():
        world = World(suite=1)
        data = packet_of(world, world.a.begin(world.b))
        (reply,) = world.deliver(world.b, [change(world, data)])
        packet = parse(reply)
        seen[name] = (packet.core.kind, packet.ext, packet.tag, len(reply))
    assert seen["oaep"] == seen["key wrap"]
    world = World(suite=1)
    data = packet_of(world, world.a.begin(world.b))
    assert world.deliver(world.b, [damaged("body")(world, data)]) == []


def test_c62_an_injected_key_header_cannot_fail_a_dialog() -> None:
    """A header that is not signed is not held against the peer, however often it fails."""
    world = World()
    dialog = world.open()
    world.clock.advance(2)
    world.a.shift(dialog, INIT)
    for number in range(4):
        world.a.send(dialog, INIT, b"%d" % number)
    for packet in world.outgoing(world.a):
        world.deliver(world.b, [damaged("key wrap")(world, packet)])
    world.clock.advance(100)
    world.settle()
    assert world.b.bodies(dialog, TARGET) == [b"0", b"1", b"2", b"3"]


def test_c63_bare_requests_for_keys_are_rate_limited_both_ways() -> None:
    world = World()
    dialog = world.open()
    world.b = Service("urn:test:b", 2, world.clock)  # knows nothing any more
    world.b.bind(world.b.binding(world.a))
    data = packet_of(world, dialog)
    replies = [reply for _ in range(20) for reply in world.deliver(world.b, [data])]
    assert len(replies) == 4
    assert all(parse(reply).bare for reply in replies)
    sends = 0
    for _ in range(20):
        world.deliver(world.a, [replies[0]])
        sends += len(world.outgoing(world.a))
    assert sends == 4
    state = world.a.state(dialog, INIT)
    assert (state.state, state.out_generation) == ("CO", 1)


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def store(request: pytest.FixtureRequest) -> Iterator[DialogStore]:
    """Yield a store of each kind."""
    if request.param == "memory":
        yield MemoryDialogStore()
        return
    database = Database(url_of(request.param, request))
    yield SqlDialogStore(database)
    database.close()


def test_c64_threads_that_send_on_one_dialog_keep_order(store: DialogStore) -> None:
    world = World(initiator_store=store)
    dialog = world.open()
    order: list[tuple[int, int]] = []

    def work(thread: int) -> None:
        for number in range(20):
            order.append((world.a.send(dialog, INIT, b"%d:%d" % (thread, number)), thread))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    world.settle()
    bodies = world.b.bodies(dialog, TARGET)
    assert sorted(seq for seq, _ in order) == list(range(2, 62))
    for thread in range(3):
        mine = [body for body in bodies if body.startswith(b"%d:" % thread)]
        assert mine == [b"%d:%d" % (thread, number) for number in range(20)]


def test_c65_two_postgresql_workers_never_take_the_same_row(postgres_url: str) -> None:
    databases = [Database(postgres_url), Database(postgres_url)]
    stores = [SqlDialogStore(database) for database in databases]
    world = World(initiator_store=stores[0])
    second = Service("urn:test:a", 2, world.clock, store=stores[1], seed="2")
    dialogs = [world.open() for _ in range(4)]
    for dialog in dialogs:
        world.a.send(dialog, INIT, *[b"%d" % number for number in range(30)])
    taken: list[list[bytes]] = [[], []]
    gate = threading.Barrier(2)

    def work(index: int, service: Service) -> None:
        gate.wait(20)
        while packets := service.engine.transmit(7):
            taken[index] += [out.packet for out in packets]

    threads = [
        threading.Thread(target=work, args=(index, service)) for index, service in enumerate((world.a, second))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    keys = [(parse(p).core.dialog, parse(p).core.seq) for p in taken[0] + taken[1]]
    assert len(keys) == len(set(keys)) == 120
    assert taken[0]
    assert taken[1]
    world.deliver(world.b, taken[1] + taken[0])
    for dialog in dialogs:
        assert world.b.bodies(dialog, TARGET) == [b"%d" % number for number in range(30)]
    for database in databases:
        database.close()


def test_c65_both_nodes_allocate_and_receive_on_one_dialog(postgres_url: str) -> None:
    """Two instances of one service share a dialog; no number is given twice and order is kept."""
    databases = [Database(postgres_url), Database(postgres_url)]
    nodes_of_b = [SqlDialogStore(database) for database in databases]
    world = World(target_store=nodes_of_b[0])
    second = Service("urn:test:b", 2, world.clock, store=nodes_of_b[1], seed="2")
    dialog = world.open()
    errors: list[BaseException] = []

    def work(service: Service, thread: int) -> None:
        try:
            for number in range(25):
                service.send(dialog, TARGET, b"%d:%d" % (thread, number))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=pair) for pair in ((world.b, 0), (second, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    world.a.send(dialog, INIT, *[b"%d" % number for number in range(40)])
    for index, packet in enumerate(world.outgoing(world.a)):
        world.deliver((world.b, second)[index % 2], [packet])
    assert second.bodies(dialog, TARGET) == [b"%d" % number for number in range(40)]
    for service in (second, world.b):
        world.deliver(world.a, [out.packet for out in service.engine.transmit()])
    bodies = world.a.bodies(dialog, INIT)
    assert len(bodies) == len(set(bodies)) == 50
    for thread in range(2):
        mine = [body for body in bodies if body.startswith(b"%d:" % thread)]
        assert mine == [b"%d:%d" % (thread, number) for number in range(25)]
    for database in databases:
        database.close()


def soak(dialogs: int) -> None:
    world = World(sizes=CacheSizes(8, 100, 8))
    ids = [world.a.begin(world.b) for _ in range(dialogs)]
    for turn in range(2):
        for dialog in ids:
            world.a.send(dialog, INIT, b"%d" % turn)
        world.settle(rounds=dialogs)
    assert all(world.b.bodies(dialog, TARGET) == [b"0", b"1"] for dialog in ids)
    for service in (world.a, world.b):
        assert len(service.engine.context.caches.session_keys) <= 100
        assert service.engine.counted["keks_made"] <= 1
    assert world.b.token.done["private"] == 1


def test_c66_more_dialogs_than_cache() -> None:
    soak(400)


@pytest.mark.soak
def test_c66_ten_thousand_dialogs() -> None:
    soak(10_000)


def test_c67_no_key_and_no_body_in_plain_in_database_log_or_repr(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secrets: list[bytes] = []
    original = SoftWrappingKey.wrap

    def listening(self: SoftWrappingKey, data: bytes, *, pad: bool = False) -> bytes:
        secrets.append(data)
        return original(self, data, pad=pad)

    databases = {name: Database(f"sqlite:///{tmp_path / name}.db") for name in ("a", "b")}
    patch = pytest.MonkeyPatch()
    patch.setattr(SoftWrappingKey, "wrap", listening)
    world = World(
        initiator_store=SqlDialogStore(databases["a"]),
        target_store=SqlDialogStore(databases["b"]),
        policy=Policy(on_peer_shift=True),
    )
    dialog = world.a.begin(world.b)
    world.a.send(dialog, INIT, b"attack at dawn, " * 10)
    world.settle()
    world.clock.advance(2)
    world.a.shift(dialog, INIT)
    world.a.send(dialog, INIT, b"attack at dusk, " * 10)
    world.b.send(dialog, TARGET, b"the eagle lands, " * 10)
    world.outgoing(world.b)
    unbound = Service("urn:test:c", 2, world.clock)
    waiting = world.a.begin(unbound)
    world.a.send(waiting, INIT, b"attack at noon, " * 10)
    patch.undo()
    files = b"".join(path.read_bytes() for path in sorted(tmp_path.iterdir()))
    derived = []
    for service in (world.a, world.b):
        for _, session in service.engine.context.caches.session_keys._entries.values():
            derived += [session.keys._env, session.keys._sys]
            assert session.keys._env.hex() not in repr(session)
            secrets.append(session.keys._env)
    assert len(secrets) > 6
    for secret in [*secrets, *derived, b"attack at", b"eagle lands"]:
        assert secret not in files
        assert secret.hex() not in files.decode("latin1")
        assert secret.hex() not in caplog.text
        for event in world.events:
            assert secret.hex() not in repr(event)
    assert b"urn:test:b" in files, "the search finds what is there"
    message = world.b.take(dialog, TARGET)[0]
    assert "attack" not in repr(message)
    for database in databases.values():
        database.close()


def test_headers_show_their_fields_and_no_key() -> None:
    world = World()
    packet = parse(packet_of(world, world.a.begin(world.b)))
    for shown in (
        parse_pair(packet.ext.pair or b""),
        parse_kek(packet.ext.kek or b""),
        parse_dsk(packet.ext.dsk or b""),
    ):
        assert repr(shown)
    assert packet.ext != Ext()
