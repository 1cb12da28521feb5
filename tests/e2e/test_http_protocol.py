"""HTTP itself, on a real socket: clients that stop in the middle, stop sending, or offer another protocol."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from hsm_msl.service import http_protocol
from hsm_msl.service.asgi import MslApplication
from hsm_msl.service.http_protocol import HttpProtocol
from hsm_msl.service.load import Load
from hsm_msl.service.streaming import StreamingMslApplication
from hsm_msl.service.watch.health import Report
from hsm_msl.service.watch.message_counts import MessageCounts
from msl_world import World, body_of, secret

PATIENCE = 0.5
OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
LIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n"
IS_LIVE = b'{"status":"live"}'


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def body(world: World) -> bytes:
    return body_of(next(world.client().engine.request(secret(b"x" * 1000))))


@contextmanager
def serving(app: uvicorn.config.ASGIApplication) -> Iterator[int]:
    config = uvicorn.Config(app, http=HttpProtocol, ws="none", log_level="error", timeout_keep_alive=1)
    running = uvicorn.Server(config)
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        running.should_exit = True
        thread.join(20)
        listening.close()
        assert not thread.is_alive()


def whole(world: World) -> MslApplication:
    return MslApplication(
        world.server(),
        load=Load(0),
        counts=MessageCounts(time.time),
        ready=lambda: Report((), 0.0),
        close=lambda: None,
        max_request=100_000,
        seconds=PATIENCE,
    )


@pytest.fixture(params=["whole", "streaming"])
def port(request: pytest.FixtureRequest, world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", PATIENCE)
    app: uvicorn.config.ASGIApplication = whole(world)
    if request.param == "streaming":
        app = StreamingMslApplication(
            world.server(), lambda asked, pieces: pieces, whole=whole(world), seconds=PATIENCE
        )
    with serving(app) as port:
        yield port


def exchanged(port: int, *sent: bytes, pause: float = 0.0, half_close: bool = False) -> bytes:
    """Send pieces and return all that comes until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        for piece in sent:
            connection.sendall(piece)
            time.sleep(pause)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def post(body: bytes, fields: bytes = b"") -> bytes:
    return b"POST / HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n%s" % (fields, len(body), body)


@pytest.mark.parametrize(
    "sent",
    [
        (),
        (b"POST / HTTP/1.1\r\nHost:",),
        (LIVE + b"\r\n", b"GET /heal"),
        (LIVE + b"\r\n", b"\r\n"),
    ],
    ids=["nothing", "part of a head", "part of a second head", "an empty line after a request"],
)
def test_who_never_says_what_he_wants_is_given_up(port: int, sent: tuple[bytes, ...]) -> None:
    answer = exchanged(port, *sent, pause=0.1)
    assert answer.count(b"HTTP/1.1 200 OK") == (len(sent) > 1)


def test_a_body_that_never_ends_is_given_up(port: int) -> None:
    answer = exchanged(port, post(b"{}" * 100)[:-1])
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert answer.endswith(b"the request did not come in within 0.5 seconds\n")


def test_a_whole_request_is_answered_to_who_stops_sending(port: int, body: bytes) -> None:
    answer = exchanged(port, post(body), half_close=True)
    assert answer.count(b"HTTP/1.1 200 OK") == 1
    assert b"headerdata" in answer


def test_a_part_of_a_request_ends_with_its_connection(port: int, body: bytes) -> None:
    assert exchanged(port, post(body)[:-1], half_close=True) == b""


@pytest.mark.parametrize("size", [1 << 20, 700, 41])
def test_offers_of_another_protocol_are_ignored(port: int, body: bytes, size: int) -> None:
    """Each request is answered in HTTP/1.1 and the connection goes on; the bytes may arrive in any cut."""
    chunked = b"POST / HTTP/1.1\r\nHost: x\r\n%sTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n"
    last = LIVE + b"Connection: close, Upgrade\r\nUpgrade: websocket\r\n\r\n"
    sent = post(body, OFFER) + chunked % (OFFER, len(body), body) + post(body, b"Expect: 100-continue\r\n") + last
    answer = exchanged(port, *(sent[start : start + size] for start in range(0, len(sent), size)))
    assert answer.count(b"HTTP/1.1 200 OK") == 4
    assert answer.count(b"headerdata") == 3
    assert answer.endswith(IS_LIVE)


def test_a_thousand_offers_in_one_piece(port: int) -> None:
    """However many there are, they are taken one after the other and not one within the other."""
    sent = (LIVE + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n") * 1500 + LIVE + b"Connection: close\r\n\r\n"
    assert exchanged(port, sent).count(IS_LIVE) == 1501


@pytest.mark.parametrize(
    "framing",
    [b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"Content-Length: 5\r\nContent-Length: 6\r\n"],
    ids=["two framings", "two lengths"],
)
def test_framing_that_could_be_read_in_two_ways_is_refused(port: int, framing: bytes) -> None:
    sent = b"POST / HTTP/1.1\r\nHost: x\r\n%s%s\r\n0\r\n\r\n" % (framing, OFFER)
    assert exchanged(port, sent).startswith(b"HTTP/1.1 400 ")


def test_an_answer_comes_with_the_next_request_half_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The patience with the second request must not cost the answer to the first."""
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", PATIENCE)

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await asyncio.sleep(3 * PATIENCE)
            await PlainTextResponse("at last")(scope, receive, send)

    with serving(slow) as port:
        answer = exchanged(port, LIVE + b"\r\n" + b"GET /heal")
    assert answer.endswith(b"at last")
