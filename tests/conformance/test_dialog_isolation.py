"""What is wrong with one dialog, or with one caller, stays with it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dialog_keys import SoftWrappingKey
from dialog_world import Clock, Service, World
from hsm_msl.dialog.names import Side, State
from hsm_msl.dialog.policy import Policy
from hsm_msl.errors import StoreError
from hsm_msl.service.dialog.http import HttpTransport
from hsm_msl.service.dialog.node import DialogNode
from hsm_msl.stores.dialog_sql import SqlDialogStore, SqlDialogTransaction
from hsm_msl.stores.sql import Database


def test_a_message_too_large_for_a_later_binding_stops_no_other_dialog() -> None:
    world = World(bound=False)
    dialog = world.a.begin(world.b)
    world.a.send(dialog, Side.INITIATOR, b"x" * 5000)
    other = world.a.begin(world.b, lifetime=100)
    world.a.bind(world.a.binding(world.b, max_body=1000))
    world.clock.advance(200)
    events = world.a.engine.tick().events
    assert ("waits", dialog) in [(event.name, event.dialog) for event in events]
    assert world.a.state(other, Side.INITIATOR).state == State.FAILED
    world.a.bind(world.a.binding(world.b))
    world.b.bind(world.b.binding(world.a))
    world.clock.advance(5)
    world.settle()
    assert world.b.bodies(dialog, Side.TARGET) == [b"x" * 5000]


def test_an_own_key_that_cannot_be_opened_stops_no_other_dialog() -> None:
    world = World(policy=Policy(peer_must_shift=1000.0, active=True, on_peer_shift=False))
    world.open()
    other = world.a.begin(world.b, lifetime=100)
    object.__setattr__(world.a.local, "storage", SoftWrappingKey(b"n" * 32, world.a.token, "storage"))
    world.a.restart()
    world.clock.advance(800)
    world.a.engine.tick()
    assert world.a.state(other, Side.INITIATOR).state == State.FAILED


@pytest.fixture
def node(tmp_path: Path) -> Iterator[DialogNode]:
    database = Database(f"sqlite:///{tmp_path / 'a.db'}")
    service = Service("urn:test:a", 2, Clock(), store=SqlDialogStore(database))
    service.bind(service.binding(Service("urn:test:b", 2, service.clock)))
    assert isinstance(service.store, SqlDialogStore)
    yield DialogNode(service.engine, service.store, HttpTransport())
    database.close()


def test_a_wrong_argument_is_told_to_its_caller_alone(node: DialogNode) -> None:
    async def run() -> None:
        async with node:
            dialog = await node.begin("urn:test:b")
            wrong: bytes = "text"  # type: ignore[assignment]
            sends = [dialog.send("t", wrong if number == 3 else b"x") for number in range(150)]
            results = await asyncio.wait_for(asyncio.gather(*sends, return_exceptions=True), 30)
            assert [result for result in results if isinstance(result, int)] == list(range(1, 150))
            assert isinstance(results[3], TypeError)

    asyncio.run(run())


def test_what_may_have_been_committed_is_not_sent_again(node: DialogNode, monkeypatch: pytest.MonkeyPatch) -> None:
    real, lost = node.store.transaction, [True]

    @contextmanager
    def transaction() -> Iterator[SqlDialogTransaction]:
        before = 0
        with real() as tx:
            yield tx
            before = len(tx.due("urn:test:a", 2e9, 3e9, 9))
        if before > 1 and lost:
            lost.clear()
            raise StoreError("the connection was lost during the commit")

    async def run() -> None:
        dialog = await node.begin("urn:test:b")
        monkeypatch.setattr(node.store, "transaction", transaction)
        results = await asyncio.gather(*(dialog.send("t", b"x") for _ in range(3)), return_exceptions=True)
        state = await dialog.state()
        assert state is not None
        assert state.next_out == 4
        assert any(isinstance(result, StoreError) for result in results)

    asyncio.run(run())
