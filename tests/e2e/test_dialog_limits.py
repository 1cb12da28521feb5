"""What other services and other consumers cannot do to a node, and what the console finds."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import create_engine
from starlette.types import Message

from dialog_world import Clock, Service
from hsm_msl.dialog.names import MAX_PACKET, STREAM_MEDIA_TYPE, Kind, Side
from hsm_msl.dialog.session import Outgoing
from hsm_msl.errors import StoreError
from hsm_msl.printable import printable
from hsm_msl.service.dialog.console import DialogConsole
from hsm_msl.service.dialog.http import DialogApplication, HttpTransport
from hsm_msl.service.dialog.node import BATCH, QUEUE, DialogNode
from hsm_msl.service.dialog.view import _time
from hsm_msl.stores.dialog_sql import SqlDialogStore
from hsm_msl.stores.sql import Database

A, B = "urn:test:a", "urn:test:b"


class Wire:
    """Carries packets between two nodes of one process."""

    def __init__(self) -> None:
        self.nodes: dict[str, DialogNode] = {}

    async def deliver(self, url: str, packets: Sequence[bytes]) -> list[bytes]:
        return await self.nodes[url].receive(packets)

    async def close(self) -> None:
        pass


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[DialogNode, DialogNode]]:
    wire, clock, services, databases = Wire(), Clock(), {}, []
    for name in (A, B):
        databases.append(Database(f"sqlite:///{tmp_path / name[-1]}.db"))
        services[name] = Service(name, 2, clock, store=SqlDialogStore(databases[-1]))
        store = services[name].store
        assert isinstance(store, SqlDialogStore)
        wire.nodes[name] = DialogNode(services[name].engine, store, wire)
    for name, other in ((A, B), (B, A)):
        services[name].bind(services[name].binding(services[other], url=other))
    yield wire.nodes[A], wire.nodes[B]
    for database in databases:
        database.close()


async def arrived(node: DialogNode, dialog: bytes, next_in: int) -> None:
    async with asyncio.timeout(30):
        while True:
            state = await node.dialog(dialog, Side.TARGET).state()
            if state is not None and state.next_in == next_in:
                return
            await asyncio.sleep(0.02)


def test_two_consumers_of_one_dialog_lose_nothing(nodes: tuple[DialogNode, DialogNode]) -> None:
    async def run() -> None:
        here, there = nodes
        async with here, there:
            dialog = await here.begin(B)
            for number in range(2):
                await dialog.send("n", b"%d" % number)
            await arrived(there, dialog.identifier, 3)
            one, two = (aiter(there.dialog(dialog.identifier, Side.TARGET)) for _ in range(2))
            seen = [(await anext(each)).body for each in (one, two, one, two)]
            for number in range(2, 5):
                await dialog.send("n", b"%d" % number)
            await arrived(there, dialog.identifier, 6)
            seen += [(await anext(each)).body for each in (one, two, one)]
            left = await there.transact(lambda tx: there.engine.take(tx, dialog.identifier, Side.TARGET, 9))
            assert {*seen, *(message.body for message in left)} == {b"%d" % number for number in range(5)}

    asyncio.run(run())


def test_a_loop_over_a_dialog_that_has_ended_ends(nodes: tuple[DialogNode, DialogNode]) -> None:
    async def run() -> None:
        here, there = nodes
        async with here, there:
            dialog = await here.begin(B)
            await dialog.send("n", b"x")
            await dialog.end()
            await arrived(there, dialog.identifier, 3)
            mine = there.dialog(dialog.identifier, Side.TARGET)
            async with asyncio.timeout(30):
                assert [message.kind async for message in mine] == [Kind.APP, Kind.END]
                assert [message async for message in mine] == []
                await mine.end()
                assert [message async for message in mine] == []

    asyncio.run(run())


def test_a_service_that_hangs_holds_no_more_and_more_packets(nodes: tuple[DialogNode, DialogNode]) -> None:
    class Hanging(Wire):
        async def deliver(self, url: str, packets: Sequence[bytes]) -> list[bytes]:
            await asyncio.sleep(60)
            return []

    async def run() -> None:
        node, _ = nodes
        node._transport = Hanging()
        async with node:
            for _ in range(5 * QUEUE):
                node._deliver([Outgoing(B, b"x")])
            assert len(node._flights) == QUEUE

    asyncio.run(run())


@contextlib.contextmanager
def answering(head: str, parts: Iterator[bytes]) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(
                        f"HTTP/1.1 200 OK\r\ncontent-type: {STREAM_MEDIA_TYPE}\r\n{head}\r\n\r\n".encode()
                    )
                    for part in parts:
                        connection.sendall(part)

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    thread.join()


def delivered(url: str, seconds: float) -> list[bytes]:
    async def run() -> list[bytes]:
        transport = HttpTransport(timeout=1.0)
        try:
            async with asyncio.timeout(seconds):
                return await transport.deliver(url, [b"x"])
        finally:
            await transport.close()

    return asyncio.run(run())


def test_an_answer_without_end_is_not_read_to_its_end() -> None:
    sent: list[int] = []

    def parts() -> Iterator[bytes]:
        for number in range(200):
            sent.append(number)
            yield bytes(1 << 20)

    with answering(f"content-length: {200 << 20}", parts()) as url:
        assert delivered(url, 20) == []
    assert len(sent) < 5 * MAX_PACKET // (1 << 20) + 10


def test_an_answer_that_drips_is_given_up() -> None:
    stop = threading.Event()

    def parts() -> Iterator[bytes]:
        while not stop.wait(0.2):
            yield b"x"

    with answering("content-length: 1000", parts()) as url:
        assert delivered(url, 10) == []
        stop.set()


def test_the_console_finds_every_dialog(nodes: tuple[DialogNode, DialogNode]) -> None:
    node, _ = nodes
    with node.store.transaction() as tx:
        ids = sorted(node.engine.begin(tx, B).dialog.hex() for _ in range(1100))
    composed = SimpleNamespace(engine=node.engine, store=node.store)
    console = DialogConsole(composed)  # type: ignore[arg-type]  # all the console uses
    assert [name for name, _ in console.show("")] == ids
    for identifier in (ids[0], ids[-1]):
        assert next(iter(console.show(identifier))) == ("dialog", identifier)


def test_the_console_takes_what_is_read_and_no_more(nodes: tuple[DialogNode, DialogNode]) -> None:
    async def run() -> None:
        here, there = nodes
        async with here, there:
            dialog = await here.begin(B)
            for number in range(4):
                await dialog.send("n", b"%d" % number)
            await arrived(there, dialog.identifier, 5)
            composed = SimpleNamespace(engine=there.engine, store=there.store)
            messages = DialogConsole(composed).receive("", 4, 0.0)  # type: ignore[arg-type]  # all the console uses
            assert next(messages).body == b"0"
            left = await there.transact(lambda tx: there.engine.take(tx, dialog.identifier, Side.TARGET, 9))
            assert [message.body for message in left] == [b"1", b"2", b"3"]

    asyncio.run(run())


def test_what_strangers_write_stays_on_its_line() -> None:
    assert printable("urn:a\x1b[2J\nkind app") == r"urn:a\x1b[2J\nkind app"
    assert _time(2**62) == f"{2**62} seconds after 1970"
    assert _time(0) == datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC).isoformat(timespec="seconds")


class Stalled:
    """A request to a node's application, part of whose body has come."""

    def __init__(self, application: DialogApplication, body: bytes) -> None:
        self._body = body
        self._rest = asyncio.Event()
        self.sent: list[Message] = []
        self.task = asyncio.create_task(self._ask(application))

    async def _ask(self, application: DialogApplication) -> Message:
        scope = {"type": "http", "method": "POST", "path": "/dialog", "query_string": b"", "headers": [
            (b"content-type", STREAM_MEDIA_TYPE.encode())]}  # fmt: skip

        async def receive() -> Message:
            if self._body:
                body, self._body = self._body, b""
                return {"type": "http.request", "body": body, "more_body": True}
            await self._rest.wait()
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            self.sent.append(message)

        await application(scope, receive, send)
        return self.sent[0]

    async def finish(self) -> Message:
        self._rest.set()
        return await self.task


def test_bodies_in_work_have_bounded_room_and_time(nodes: tuple[DialogNode, DialogNode]) -> None:
    async def run() -> None:
        application = DialogApplication(nodes[0], held=100)
        first = Stalled(application, bytes(60))
        await asyncio.sleep(0)
        second = await Stalled(application, bytes(60)).task
        assert second["status"] == 503
        assert (b"retry-after", b"1") in second["headers"]
        assert (await first.finish())["status"] == 204
        assert (await Stalled(application, bytes(60)).finish())["status"] == 204, "there is room again"
        late = await Stalled(DialogApplication(nodes[0], seconds=0.01), b"x").task
        assert late["status"] == 408

    asyncio.run(asyncio.wait_for(run(), 30))


def test_a_tick_goes_on_while_dialogs_are_due(
    nodes: tuple[DialogNode, DialogNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hsm_msl.service.dialog.node.TICK", 3600.0)
    here = nodes[0]
    with here.store.transaction() as tx:
        for _ in range(200):
            here.engine.begin(tx, B, lifetime=10)
    clock = here.engine.context.clock()

    def left() -> int:
        with here.store.reading() as tx:
            return len(tx.endpoints(A, limit=1000))

    async def run(seconds: float) -> None:
        object.__setattr__(here.engine.context, "clock", lambda: clock + seconds)
        here.wake()
        async with asyncio.timeout(30):
            while left() if seconds > 20 else here.engine.counted["failed"] < 200:
                await asyncio.sleep(0.02)

    async def both() -> None:
        async with here:
            await run(20)  # their lifetime is over
            await run(1000)  # nobody asks for them any more

    asyncio.run(both())


def test_dialogs_nobody_takes_from_keep_no_other_from_arriving(nodes: tuple[DialogNode, DialogNode]) -> None:
    async def run() -> None:
        here, there = nodes
        async with here, there:
            begun = {(await here.begin(B)).identifier for _ in range(BATCH + 5)}
            for identifier in begun:
                await here.dialog(identifier, Side.INITIATOR).send("n", b"x")
                await arrived(there, identifier, 2)
            turns = [[dialog.identifier for dialog in await there.waiting()] for _ in range(2)]
            assert set(turns[0] + turns[1]) == begun
            assert all(len(set(turn)) == BATCH for turn in turns)

    asyncio.run(run())


def test_an_own_connection_that_gives_no_answer_is_a_store_error(nodes: tuple[DialogNode, DialogNode]) -> None:
    dialog = nodes[0].dialog(bytes(16), Side.INITIATOR)
    engine = create_engine("sqlite://")  # a database without the tables of dialogs
    for work in (
        lambda connection: dialog.send_within(connection, "n", b"x"),
        dialog.take_within,
        dialog.end_within,
    ):
        with engine.begin() as connection, pytest.raises(StoreError, match="no such table"):
            work(connection)
    engine.dispose()
