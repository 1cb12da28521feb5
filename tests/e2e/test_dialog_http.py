"""Two nodes over real HTTP and real databases: conversation, outages, transactions, two instances on PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from sqlalchemy import text

from dialog_world import Clock, Service
from hsm_msl.dialog.engine import DialogEngine
from hsm_msl.dialog.errors import DialogClosedError
from hsm_msl.dialog.names import MEDIA_TYPE, STREAM_MEDIA_TYPE, Kind
from hsm_msl.dialog.policy import Policy
from hsm_msl.dialog.session import Message
from hsm_msl.errors import LimitExceededError, TruncatedMessageError
from hsm_msl.service.dialog.frames import MAX_PACKETS, frame, unframe
from hsm_msl.service.dialog.http import DialogApplication, HttpTransport
from hsm_msl.service.dialog.node import Dialog, DialogNode
from hsm_msl.stores.dialog_sql import SqlDialogStore, SqlDialogTransaction
from hsm_msl.stores.sql import Database

POLICY = Policy(on_peer_shift=True, max_messages=10)


class Running:
    """A node behind a real HTTP server on a free port of the loopback interface."""

    def __init__(self, name: str, url: str, *, port: int = 0) -> None:
        self.database = Database(url)
        self.store = SqlDialogStore(self.database)
        self.service = Service(f"urn:test:{name}", 2, Clock(), store=self.store)
        self.engine = DialogEngine(
            self.service.local, self.store, lambda: time.time() % 1000 + 1_800_000_000, secrets.token_bytes
        )
        self.socket = socket.create_server(("127.0.0.1", port))
        self.port = self.socket.getsockname()[1]
        self.node = DialogNode(self.engine, self.store, HttpTransport())

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[DialogNode]:
        config = uvicorn.Config(DialogApplication(self.node), log_config=None, lifespan="on")
        server = uvicorn.Server(config)
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]  # older versions call it
        task = asyncio.create_task(server.serve(sockets=[self.socket]))
        while not server.started and not task.done():
            await asyncio.sleep(0.01)
        try:
            yield self.node
        finally:
            server.should_exit = True
            await task
            self.socket.close()
            self.database.close()


def bind(one: Running, other: Running) -> None:
    for here, there in ((one, other), (other, one)):
        binding = here.service.binding(there.service, POLICY, url=f"http://127.0.0.1:{there.port}/dialog")
        here.service.bind(binding)


async def within(awaitable: Awaitable[object], seconds: float = 30) -> None:
    await asyncio.wait_for(awaitable, seconds)


async def collect(dialog: Dialog, count: int) -> list[Message]:
    found: list[Message] = []
    async for message in dialog:
        found.append(message)
        if len(found) == count:
            return found
    return found


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    while not await condition():
        await asyncio.sleep(0.02)


def test_conversation_over_http(tmp_path: Path) -> None:
    async def run() -> None:
        a = Running("a", f"sqlite:///{tmp_path / 'a.db'}")
        b = Running("b", f"sqlite:///{tmp_path / 'b.db'}")
        bind(a, b)
        async with a.serving() as here, b.serving() as there:
            dialog = await here.begin("urn:test:b", contract="orders")
            for number in range(25):
                await dialog.send("order", b"%d" % number)
            await dialog.send("large", b"x" * 300_000)

            async def serve() -> None:
                async for incoming in there.arrivals():
                    async for message in incoming:
                        if message.kind is Kind.APP:
                            await incoming.send("answer", message.body[:10])
                    await incoming.end()
                    return

            messages: list[Message] = []

            async def read() -> None:
                async for message in dialog:
                    messages.append(message)
                    if len(messages) == 26:
                        await dialog.end()

            await within(asyncio.gather(serve(), read()), 90)
            assert [message.body for message in messages[:25]] == [b"%d" % number for number in range(25)]
            assert messages[25].body == b"x" * 10
            assert messages[26].kind is Kind.END

            async def closed() -> bool:
                state = await dialog.state()
                return state is not None and state.state == "CD" and state.out_generation >= 2

            await within(until(closed))
            with pytest.raises(DialogClosedError):
                await dialog.send("late", b"x")

    asyncio.run(run())


def test_an_unreachable_peer_is_no_error(tmp_path: Path) -> None:
    """Messages wait in the outbox; the peer gets them after it comes up."""

    async def run() -> None:
        a = Running("a", f"sqlite:///{tmp_path / 'a.db'}")
        b = Running("b", f"sqlite:///{tmp_path / 'b.db'}")
        bind(a, b)
        b.socket.close()
        async with a.serving() as here:
            dialog = await here.begin("urn:test:b")
            await dialog.send("t", b"early")

            async def tried() -> bool:
                with a.store.reading() as tx:
                    row = next(iter(tx.due("urn:test:a", 3e9, 4e9, 1)), None)
                return row is not None and row.attempts > 0

            await within(until(tried))
            b.database.close()
            again = Running("b", f"sqlite:///{tmp_path / 'b.db'}", port=b.port)
            async with again.serving() as there:
                incoming = there.dialog(dialog.identifier, 1)

                async def arrived() -> bool:
                    return bool(await there.waiting())

                await within(until(arrived))
                assert [message.body for message in await collect(incoming, 1)] == [b"early"]

    asyncio.run(run())


def test_the_applications_transaction_and_a_consumer_that_dies(tmp_path: Path) -> None:
    async def run() -> None:
        a = Running("a", f"sqlite:///{tmp_path / 'a.db'}")
        b = Running("b", f"sqlite:///{tmp_path / 'b.db'}")
        bind(a, b)
        async with a.serving() as here, b.serving() as there:
            dialog = await here.begin("urn:test:b")
            with a.database.transaction() as connection:
                connection.execute(text("CREATE TABLE orders (id INTEGER)"))
                connection.execute(text("INSERT INTO orders VALUES (1)"))
                dialog.send_within(connection, "order", b"1")
            here.wake()
            await dialog.send("order", b"2")
            incoming = there.dialog(dialog.identifier, 1)

            async def arrived() -> bool:
                return bool(await there.waiting())

            await within(until(arrived))

            async def dies() -> None:
                async with contextlib.aclosing(incoming.__aiter__()) as messages:
                    async for message in messages:
                        assert message.body == b"1"
                        raise InterruptedError

            with pytest.raises(InterruptedError):
                await dies()
            assert [message.body for message in await collect(incoming, 2)] == [b"1", b"2"]
            with b.database.transaction() as connection:
                taken = incoming.take_within(connection)
            assert [message.body for message in taken] == [b"2"], "the loop ended before asking for another"

    asyncio.run(run())


def test_messages_sent_at_the_same_time_share_commits_and_keep_their_order(tmp_path: Path) -> None:
    async def run() -> None:
        a = Running("a", f"sqlite:///{tmp_path / 'a.db'}")
        b = Running("b", f"sqlite:///{tmp_path / 'b.db'}")
        bind(a, b)
        commits = 0

        @contextlib.contextmanager
        def counted() -> Iterator[SqlDialogTransaction]:
            nonlocal commits
            commits += 1
            with SqlDialogStore.transaction(a.store) as tx:
                yield tx

        dialogs = [await a.node.begin("urn:test:b") for _ in range(3)]
        over = await a.node.begin("urn:test:b")
        await over.end()
        a.store.transaction = counted  # type: ignore[method-assign]  # to count
        sends = [dialogs[number % 3].send("n", b"%d" % number) for number in range(90)]
        assert sorted(await asyncio.gather(*sends)) == sorted([*range(1, 31)] * 3)
        assert commits <= 4, "the first alone, then as many together as there are"
        mixed = [dialogs[0].send("n", b"90"), over.send("n", b"late"), dialogs[0].send("n", b"91")]
        first, refused, last = await asyncio.gather(*mixed, return_exceptions=True)
        assert (first, last) == (31, 32)
        assert isinstance(refused, DialogClosedError)
        given_up = asyncio.create_task(dialogs[1].send("n", b"92"))
        await asyncio.sleep(0)
        given_up.cancel()
        await a.node.accepting.finish()
        assert await dialogs[1].send("n", b"93") == 32
        with a.store.reading() as tx:
            rows = tx.due("urn:test:a", 3e9, 4e9, 200)
        assert len([row for row in rows if row.dialog == dialogs[2].identifier]) == 30
        await a.node.stop()
        for side in (a, b):
            side.socket.close()
            side.database.close()

    asyncio.run(run())


def test_two_instances_on_one_postgresql_share_the_load(postgres_url: str, tmp_path: Path) -> None:
    """Issue 7: order is kept whichever instance receives, sends or answers."""

    async def run() -> None:
        a = Running("a", f"sqlite:///{tmp_path / 'a.db'}")
        b1, b2 = Running("b", postgres_url), Running("b", postgres_url)
        bind(a, b1)
        turns: list[int] = []

        class Alternating(HttpTransport):
            async def deliver(self, url: str, packets: list[bytes]) -> list[bytes]:  # type: ignore[override]  # list is enough here
                turns.append(len(packets))
                port = (b1, b2)[len(turns) % 2].port
                return await super().deliver(f"http://127.0.0.1:{port}/dialog", packets)

        a.node._transport = Alternating()
        async with a.serving() as here, b1.serving() as one, b2.serving() as two:
            dialogs = [await here.begin("urn:test:b") for _ in range(3)]
            for number in range(40):
                for dialog in dialogs:
                    await dialog.send("n", b"%d" % number)
            answered: dict[bytes, list[bytes]] = {dialog.identifier: [] for dialog in dialogs}
            shares = {"one": 0, "two": 0}

            async def work(name: str, node: DialogNode) -> None:
                while sum(map(len, answered.values())) < 120:
                    for incoming in await node.waiting():

                        def step(incoming: Dialog = incoming) -> list[bytes]:
                            with node.store.transaction() as tx:
                                engine = node.engine
                                taken = engine.take(tx, incoming.identifier, incoming.side, 3)
                                if taken:
                                    replies = [("r", message.body) for message in taken]
                                    engine.send(tx, incoming.identifier, incoming.side, replies)
                                    answered[incoming.identifier] += [message.body for message in taken]
                                return [message.body for message in taken]

                        shares[name] += len(await asyncio.to_thread(step))
                        node.wake()
                    await asyncio.sleep(0.005)

            await within(asyncio.gather(work("one", one), work("two", two)), 60)
            expected = [b"%d" % number for number in range(40)]
            assert all(bodies == expected for bodies in answered.values())
            for dialog in dialogs:
                replies = await asyncio.wait_for(collect(dialog, 40), 60)
                assert [message.body for message in replies] == expected
            assert min(shares.values()) > 0, shares
            assert len(turns) > 1

    asyncio.run(run())


def test_http_refuses_what_is_not_packets(tmp_path: Path) -> None:
    async def run() -> None:
        a = Running("a", f"sqlite:///{tmp_path / 'a.db'}")
        async with a.serving(), httpx.AsyncClient(base_url=f"http://127.0.0.1:{a.port}") as client:
            assert (await client.get("/health/live")).status_code == 200
            assert (await client.get("/health/ready")).status_code == 200
            assert (await client.get("/dialog")).status_code == 405
            assert (await client.get("/else")).status_code == 404
            kinds = {"text/plain": 415, MEDIA_TYPE: 204, STREAM_MEDIA_TYPE: 400}
            for kind, status in kinds.items():
                answer = await client.post("/dialog", content=b"\0\0\0\x09abc", headers={"content-type": kind})
                assert answer.status_code == status, kind

    asyncio.run(run())


def test_frames() -> None:
    for packets in ([], [b"a"], [b"a", b"bc", b""]):
        assert unframe(*frame(packets)) == packets
    with pytest.raises(TruncatedMessageError):
        unframe(STREAM_MEDIA_TYPE, b"\0\0\0\x02a")
    with pytest.raises(LimitExceededError):
        unframe(STREAM_MEDIA_TYPE, b"\xff\0\0\x02a")
    many = [b"a"] * (MAX_PACKETS + 1)
    assert unframe(*frame(many[1:])) == many[1:]
    with pytest.raises(LimitExceededError):
        unframe(*frame(many))
    assert threading.active_count() >= 1


@pytest.mark.parametrize("turns", range(4))
def test_a_service_stops_though_work_arrives_at_that_moment(tmp_path: Path, turns: int) -> None:
    """A cancellation that met the event its task waited for was lost, and the service never ended."""

    async def run() -> None:
        running = Running("a", f"sqlite:///{tmp_path / 'a.db'}")
        async with running.serving() as node:
            await asyncio.sleep(0.2)
            node._outgoing.set()
            node._timers.set()
            for _ in range(turns):
                await asyncio.sleep(0)
            await within(node.stop(), 10)

    asyncio.run(run())
