"""A service that is told to stop does, also while a call into its token hangs."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest
from starlette.types import Message, Receive, Scope, Send

from hsm_msl.errors import HsmMslError
from hsm_msl.service.http_client import HttpClient
from hsm_msl.service.last_resort import SECONDS as LAST_SECONDS
from hsm_msl.service.last_resort import LastResort
from served_tokens import served_tokens
from service_world import SECONDS
from token_fixture import Forge

HERE = "[tokens.a]\nTOKEN-0\nPIN-0\n"
PATIENCE = 30.0


def test_a_hanging_token_does_not_keep_a_server_from_stopping(forge: Forge, tmp_path: Path) -> None:
    world = served_tokens(forge, tmp_path, 1)
    path = world.config(HERE, inline=False)
    path.write_text(path.read_text().replace("[server]\n", "[server]\ngrace = 1\n", 1))
    with world.serve(path) as server, closing(world.guest(0)) as client:

        def send() -> None:
            with suppress(HsmMslError), HttpClient(client.msl, server.url) as http:
                http.request(client.message(b"x"))

        server.process.send_signal(signal.SIGRTMIN + 1)
        sender = threading.Thread(target=send)
        sender.start()
        try:
            until = time.monotonic() + SECONDS
            while "a call hangs" not in server.log.read_text():
                assert time.monotonic() < until, server.log.read_text()
                time.sleep(0.05)
            server.process.terminate()
            assert server.process.wait(PATIENCE) == 1
        finally:
            server.process.kill()
            sender.join()
    assert f"not stopped in {LAST_SECONDS:g} s: a call hangs" in server.log.read_text()


@pytest.mark.parametrize("hangs", [True, False])
def test_only_a_stop_that_hangs_ends_the_process(hangs: bool) -> None:
    ended = threading.Event()
    statuses: list[int] = []

    def end(status: int) -> None:
        statuses.append(status)
        ended.set()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "lifespan.startup"
        assert (await receive())["type"] == "lifespan.shutdown"
        if hangs:
            assert await asyncio.to_thread(ended.wait, PATIENCE)

    messages = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> Message:
        return {"type": next(messages)}

    async def send(message: Message) -> None:
        raise AssertionError(message)

    asyncio.run(LastResort(app, 0.05 if hangs else PATIENCE, end)({"type": "lifespan"}, receive, send))
    for thread in threading.enumerate():
        if thread.name == "last-resort":
            thread.join(PATIENCE)
    assert statuses == ([1] if hangs else [])
