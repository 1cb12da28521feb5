"""Every dialog store keeps the same promises: transactions, locks, and a whole dialog over it (dialog section 8)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from database_fixture import url_of
from dialog_world import Service, World
from hsm_msl.dialog.names import Kind, Reason, Side, State
from hsm_msl.dialog.policy import Policy, Rate
from hsm_msl.errors import StoreError
from hsm_msl.ports.dialog_records import (
    BindingRow,
    DialogStore,
    InboundKekRow,
    InboxRow,
    OutboxRow,
    PeerCertificateRow,
    QueuedRow,
    ShiftEvent,
)
from hsm_msl.stores.dialog_memory import MemoryDialogStore
from hsm_msl.stores.dialog_sql import SqlDialogStore
from hsm_msl.stores.sql import Database

INIT, TARGET = Side.INITIATOR, Side.TARGET
D = bytes(16)


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def store(request: pytest.FixtureRequest) -> Iterator[DialogStore]:
    """Yield a store of each kind."""
    if request.param == "memory":
        yield MemoryDialogStore()
        return
    database = Database(url_of(request.param, request))
    yield SqlDialogStore(database)
    database.close()


def test_a_whole_dialog(store: DialogStore) -> None:
    """Fragments, disorder, loss, shifts by rule, restarts, ends and tombstones."""
    policy = Policy(max_messages=5, on_peer_shift=True)
    world = World(initiator_store=store, policy=policy)
    dialog = world.open(lifetime=100_000)
    chance = random.Random(4)
    sent: list[bytes] = []
    back: list[bytes] = []
    for turn in range(12):
        bodies = [chance.randbytes(chance.choice([10, 100_000])) for _ in range(4)]
        world.a.send(dialog, INIT, *bodies)
        sent += bodies
        world.b.send(dialog, TARGET, b"%d" % turn)
        back.append(b"%d" % turn)
        for service in (world.a, world.b):
            packets = world.outgoing(service)
            chance.shuffle(packets)
            kept = [packet for packet in packets if chance.random() > 0.3]
            world.deliver(service, world.deliver(world.other(service), kept))
        world.clock.advance(70)
        if turn == 6:
            world.a.restart()
    world.settle(rounds=200)
    for _ in range(4):
        world.clock.advance(100)
        world.settle(rounds=200)
    assert world.b.bodies(dialog, TARGET) == sent
    assert world.a.bodies(dialog, INIT) == back
    assert world.a.state(dialog, INIT).out_generation > 3
    world.a.end(dialog, INIT)
    world.b.end(dialog, TARGET)
    world.settle()
    assert world.a.state(dialog, INIT).state == State.CLOSED
    assert [message.kind for message in world.a.take(dialog, INIT)] == [Kind.END]
    world.clock.advance(200_000)
    world.a.engine.tick()
    with store.reading() as tx:
        assert tx.endpoint(dialog, INIT, lock=False) is None
        assert tx.tombstone(dialog, INIT) is None
        assert tx.inbound_dsks(dialog, INIT) == []


def test_policy_windows_and_failure(store: DialogStore) -> None:
    world = World(target_store=store, target_policy=Policy(on_peer_shift=False, max_peer_shifts=Rate(2, 60)))
    dialog = world.open()
    for _ in range(3):
        world.clock.advance(2)
        world.a.shift(dialog, INIT)
        world.a.send(dialog, INIT, b"x")
        world.settle()
        world.b.restart()
    assert [message.reason for message in world.b.take(dialog, TARGET)] == [None, None, Reason.POLICY_SHIFT_RATE]


def test_rollback_leaves_nothing(store: DialogStore) -> None:
    world = World(initiator_store=store)
    dialog = world.open()
    before = world.a.state(dialog, INIT)

    def half() -> None:
        with store.transaction() as tx:
            world.a.engine.send(tx, dialog, INIT, [("t", b"x")])
            tx.add_shift(dialog, INIT, ShiftEvent(9, 2, 1.0), 5)
            tx.set_incarnation("n", b"v")
            tx.put_binding(BindingRow("l", "r", False, b"{}"))
            raise InterruptedError

    with pytest.raises(InterruptedError):
        half()
    assert world.a.state(dialog, INIT) == before
    with store.transaction() as tx:
        assert tx.next_due(world.a.name) is None
        assert tx.shifts(dialog, INIT) == []
        assert tx.incarnation("n") is None
        assert tx.find_binding("l", "r") is None


def test_a_dialog_is_inserted_once(store: DialogStore) -> None:
    world = World(initiator_store=store)
    dialog = world.a.begin(world.b)
    state = world.a.state(dialog, INIT)

    def again() -> None:
        with store.transaction() as tx:
            tx.add_endpoint(state)

    with pytest.raises(StoreError):
        again()


def test_outbox_rows(store: DialogStore) -> None:
    world = World(initiator_store=store)
    dialog = world.a.begin(world.b)
    name = world.a.name
    with store.transaction() as tx:
        tx.add_outbox(
            [OutboxRow(dialog, 0, seq, 0, 1, b"c", b"b", 0, 100.0 if seq < 5 else None) for seq in range(1, 8)]
        )
    with store.transaction() as tx:
        assert [row.seq for row in tx.due(name, 100.0, 200.0, 3)] == [1, 2, 3]
        assert tx.due(name, 99.0, 200.0, 9) == []
        assert len(tx.due(name, 10.0, 99.0, 9)) == 4, "a clock that ran ahead"
        tx.reschedule([(dialog, 0, 1, 0, 500.0)])
        tx.acknowledge(dialog, 0, 2, [(3, 3)])
        tx.release(dialog, 0, 7, 100.0)
    with store.transaction() as tx:
        rows = tx.due(name, 100.0, 1e9, 9)
        assert [row.seq for row in rows] == [2, 4, 5, 6]
        assert tx.next_due(name) == 100.0
        tx.reschedule([(dialog, 0, row.seq, 0, 300.0) for row in rows])
        assert tx.next_due(name) == 300.0
        tx.hasten(dialog, 0, 50.0)
        assert [row.attempts for row in tx.due(name, 50.0, 1e9, 9)] == [1, 1, 1, 1]
        tx.clear_outbox(dialog, 0)
        assert tx.next_due(name) is None


def test_inbox_rows(store: DialogStore) -> None:
    with store.transaction() as tx:
        rows = [(1, 0, 1), (2, 0, 2), (2, 1, 2), (5, 0, 1)]
        tx.add_inbox(
            [
                InboxRow(D, 1, seq, frag, count, 1, 1, bytes([seq] * 32), 3, b"core", b"abc")
                for seq, frag, count in rows
            ]
        )
        assert [(row.seq, row.frag) for row in tx.messages(D, 1, 1, 2)] == [(1, 0), (2, 0), (2, 1)]
        assert [slot.seq for slot in tx.parked(D, 1, 3)] == [5]
        tx.empty(D, 1, 1, 1)
        assert [row.body for row in tx.messages(D, 1, 1, 2)] == [b"", b"abc", b"abc"]
        assert tx.digest(D, 1, 1, 0) == bytes([1] * 32)
        tx.trim(D, 1, 9)
        assert tx.digest(D, 1, 1, 0) is None
        assert tx.digest(D, 1, 2, 1) is not None, "not taken yet"
        tx.drop_parked(D, 1, 5)
        assert tx.digest(D, 1, 5, 0) is None


def test_queue_bindings_keys_and_incarnation(store: DialogStore) -> None:
    with store.transaction() as tx:
        for number in (3, 1, 2):
            tx.add_queued(QueuedRow(D, 0, number, 1, "t", b"k", b"c"))
        assert [row.number for row in tx.take_queued(D, 0, 2)] == [1, 2]
        assert [row.number for row in tx.take_queued(D, 0, 2)] == [3]
        for remote, prefix in (("urn:x:", True), ("urn:x:y:", True), ("urn:x:y:z", False)):
            tx.put_binding(BindingRow("me", remote, prefix, remote.encode()))
        found = {name: tx.find_binding("me", name) for name in ("urn:x:a", "urn:x:y:a", "urn:x:y:z", "urn:w")}
        documents = {name: row.document if row else None for name, row in found.items()}
        assert documents == {
            "urn:x:a": b"urn:x:",
            "urn:x:y:a": b"urn:x:y:",
            "urn:x:y:z": b"urn:x:y:z",
            "urn:w": None,
        }
        tx.drop_binding("me", "urn:x:")
        assert tx.find_binding("me", "urn:x:a") is None
        tx.put_inbound_kek(InboundKekRow(D, b"p", b"k", 5))
        tx.put_inbound_kek(InboundKekRow(D, b"other", b"k", 5))
        assert tx.inbound_kek(D) == InboundKekRow(D, b"p", b"k", 5)
        for number in range(6):
            tx.add_shift(D, 0, ShiftEvent(number, 2, float(number)), 3)
        assert [event.generation for event in tx.shifts(D, 0)] == [3, 4, 5]
        tx.set_incarnation("n", b"1")
        tx.set_incarnation("n", b"2")
        assert tx.incarnation("n") == b"2"


def test_presented_certificates(store: DialogStore) -> None:
    rows = [
        PeerCertificateRow("a", "b", bytes([number]) * 32, 100 + number, (b"x", b"%d" % number))
        for number in range(4)
    ]
    with store.transaction() as tx:
        for row in (*rows, PeerCertificateRow("a", "c", bytes(32), 50, (b"y",))):
            tx.put_peer_certificate(row, 3)
    with store.reading() as tx:
        assert sorted(tx.peer_certificates("a", "b"), key=lambda row: row.not_after) == rows[1:]
        assert len(tx.peer_certificates("a", "c")) == 1
        assert tx.peer_certificates("b", "a") == []


def test_waiting_names_what_the_application_has_not_taken(store: DialogStore) -> None:
    world = World(target_store=store)
    dialog = world.open()
    with store.reading() as tx:
        assert tx.waiting(world.b.name, 9) == []
    world.a.send(dialog, INIT, b"x")
    world.settle()
    with store.reading() as tx:
        assert tx.waiting(world.b.name, 9) == [(dialog, TARGET)]
        assert tx.waiting(world.b.name, 9, (dialog, INIT)) == [(dialog, TARGET)]
        assert tx.waiting(world.b.name, 9, (dialog, TARGET)) == []
    world.b.bodies(dialog, TARGET)
    world.b.fail(dialog, TARGET)
    with store.reading() as tx:
        assert tx.waiting(world.b.name, 9) == [(dialog, TARGET)]
    world.b.take(dialog, TARGET)
    with store.reading() as tx:
        assert tx.waiting(world.b.name, 9) == []
        assert [found.dialog for found in tx.endpoints(world.b.name, limit=9)] == [dialog]


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_sending_and_taking_inside_the_applications_own_transaction(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """What the application did and what it sent or took commit together or not at all."""
    database = Database(url_of(kind, request))
    store = SqlDialogStore(database)
    world = World(initiator_store=store)
    dialog = world.open()
    with database.transaction() as connection:
        connection.execute(text("CREATE TABLE orders (id INTEGER)"))

    def order(number: int, fail: bool) -> None:
        with database.transaction() as connection:
            connection.execute(text("INSERT INTO orders VALUES (:n)"), {"n": number})
            world.a.engine.send(store.join(connection), dialog, INIT, [("order", b"%d" % number)])
            if fail:
                raise InterruptedError

    order(1, False)
    with pytest.raises(InterruptedError):
        order(2, True)
    order(3, False)
    world.settle()
    assert world.b.bodies(dialog, TARGET) == [b"1", b"3"]
    with database.statements() as connection:
        assert connection.execute(text("SELECT id FROM orders ORDER BY id")).scalars().all() == [1, 3]
    database.close()


def test_two_services_may_share_one_store(store: DialogStore) -> None:
    world = World(initiator_store=store, target_store=store)
    world.open()


def test_store_outage_is_no_verdict(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'x.db'}")
    world = World(target_store=SqlDialogStore(database))
    dialog = world.open()
    world.a.send(dialog, INIT, b"x")
    packets = world.outgoing(world.a)
    with database.transaction() as connection:
        connection.execute(text("ALTER TABLE dialog_inbox RENAME TO hidden"))
    with pytest.raises(StoreError):
        world.b.engine.receive(packets)
    with database.transaction() as connection:
        connection.execute(text("ALTER TABLE hidden RENAME TO dialog_inbox"))
    world.deliver(world.b, packets)
    assert world.b.bodies(dialog, TARGET) == [b"x"]
    database.close()


def test_a_second_service_sees_nothing_of_the_first(store: DialogStore) -> None:
    world = World(initiator_store=store)
    dialog = world.open()
    other = Service("urn:test:other", 2, world.clock, store=store)
    with store.transaction() as tx:
        assert tx.attention(other.name, 1e12, 9) == []
        assert tx.open_sides(other.name) == []
        assert tx.waiting(other.name, 9) == []
        assert tx.open_sides(world.a.name) == [(dialog, INIT)]
