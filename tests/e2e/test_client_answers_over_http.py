"""Our clients against a server that answers as HTTP allows, or as it does not (msl-wire section 3)."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from hsm_msl.errors import HsmMslError, MslError, TruncatedMessageError, UsageError
from hsm_msl.msl.conversation import Message
from hsm_msl.service.http_client import AsyncHttpClient, HttpClient, TransportError, UrlError, WaitTimeoutError
from hsm_msl.service.http_stream import HttpStreamClient
from msl_world import World, secret

OK = b"HTTP/1.1 200 OK\r\n"
Shape = Callable[[bytes], bytes | Iterator[bytes]]
"""Makes what goes over the connection out of an answer, or its pieces; the connection is closed then."""


def plain(body: bytes, *headers: bytes, status: bytes = OK, length: int | None = None) -> bytes:
    size = b"Content-Length: %d\r\n" % (len(body) if length is None else length)
    return b"".join((status, size, *headers, b"\r\n", body))


def chunked(body: bytes, size: int) -> bytes:
    pieces = (body[place : place + size] for place in range(0, len(body), size))
    text = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return OK + b"Transfer-Encoding: chunked\r\n\r\n" + text + b"0\r\n\r\n"


def pretty(body: bytes) -> bytes:
    """Write each object with white space inside, and some between the objects."""
    text, out = body.decode(), ""
    while text:
        value, end = json.JSONDecoder().raw_decode(text)
        out += json.dumps(value, indent=2) + "\r\n\t "
        text = text[end:]
    return out.encode()


READ: dict[str, Shape] = {
    "as our server answers": plain,
    "HTTP 1.0, ended by closing": lambda body: b"HTTP/1.0 200 OK\r\n\r\n" + body,
    "chunked transfer": lambda body: chunked(body, 7),
    "chunked in one piece": lambda body: chunked(body, len(body)),
    "content encoding nobody asked for": lambda body: plain(gzip.compress(body), b"Content-Encoding: gzip\r\n"),
    "after an interim response": lambda body: b"HTTP/1.1 100 Continue\r\n\r\n" + plain(body),
    "another media type": lambda body: plain(body, b"Content-Type: text/html\r\n"),
    "white space in and between objects": lambda body: plain(pretty(body)),
    "a newline behind": lambda body: plain(body + b"\n"),
    "something behind": lambda body: plain(body + b"garbage"),
}

REFUSED: dict[str, tuple[type[HsmMslError], str, Shape]] = {
    "redirect": (TransportError, "HTTP 302", lambda body: plain(b"", status=b"HTTP/1.1 302 Found\r\n")),
    "server error": (
        TransportError,
        "HTTP 500: out of order",
        lambda body: plain(b"out of order\n", status=b"HTTP/1.1 500 X\r\n"),
    ),
    "no content": (TransportError, "HTTP 204", lambda body: b"HTTP/1.1 204 No Content\r\n\r\n"),
    "no answer": (TransportError, "no answer from", lambda body: b""),
    "no HTTP": (TransportError, "no answer from", lambda body: b"hello\r\n\r\n"),
    "shorter than announced": (TransportError, "no answer from", lambda body: plain(body[:-40], length=len(body))),
    "broken chunk": (
        TransportError,
        "no answer from",
        lambda body: chunked(body, 7).replace(b"\r\n7\r\n", b"\r\nzz\r\n", 1),
    ),
    "broken encoding": (TransportError, "no answer from", lambda body: plain(body, b"Content-Encoding: gzip\r\n")),
    "endless headers": (TransportError, "no answer from", lambda body: OK + b"X: " + b"x" * 300_000),
    "cut inside an object": (MslError, "ends inside a chunk", lambda body: b"HTTP/1.0 200 OK\r\n\r\n" + body[:-40]),
    "cut between objects": (
        TruncatedMessageError,
        "before the last chunk",
        lambda body: plain(body[: body.index(b"}{") + 1]),
    ),
    "empty": (MslError, "MESSAGE_DATA_MISSING", lambda body: plain(b"")),
    "byte order mark": (MslError, "MSL_PARSE_ERROR", lambda body: plain(b"\xef\xbb\xbf" + body)),
    "web page": (MslError, "MSL_PARSE_ERROR", lambda body: plain(b"<html></html>")),
}


@contextmanager
def server(world: World, shape: Shape) -> Iterator[str]:
    """Answer every request with what a real server says, in this shape; give the URL."""
    engine = world.server()

    def run() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            # A client that has seen enough closes before the answer ends.
            with connection, suppress(OSError):
                head, _, body = _until(connection, b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split()[0])
                while len(body) < length:
                    body += connection.recv(65536)
                answer = shape(engine.handle(body))
                for piece in [answer] if isinstance(answer, bytes) else answer:
                    connection.sendall(piece)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _until(connection: socket.socket, mark: bytes) -> tuple[bytes, bytes, bytes]:
    data = b""
    while mark not in data:
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionError
        data += piece
    return data.partition(mark)


def ask(world: World, url: str, timeout: float = 30) -> bytes:
    with HttpClient(world.client("PSK").engine, url, timeout=timeout) as http:
        return http.request(secret()).payload


def ask_on_a_loop(world: World, url: str, timeout: float = 30) -> bytes:
    async def run() -> bytes:
        async with AsyncHttpClient(world.client("PSK").engine, url, timeout=timeout) as http:
            return (await http.request(secret())).payload

    return asyncio.run(run())


@pytest.mark.parametrize("client", [ask, ask_on_a_loop])
@pytest.mark.parametrize("shape", READ.values(), ids=READ)
def test_answers_that_are_read(client: Callable[[World, str], bytes], shape: Shape) -> None:
    world = World()
    with server(world, shape) as url:
        assert client(world, url) == b"secret"


@pytest.mark.parametrize("client", [ask, ask_on_a_loop])
@pytest.mark.parametrize(("error", "text", "shape"), REFUSED.values(), ids=REFUSED)
def test_answers_that_are_refused_by_name(
    client: Callable[[World, str], bytes], error: type[HsmMslError], text: str, shape: Shape
) -> None:
    world = World()
    with server(world, shape) as url, pytest.raises(error, match=text):
        client(world, url)


def dripping(body: bytes) -> Iterator[bytes]:
    """Never stop, and never pause for as long as a client waits."""
    yield OK + b"Transfer-Encoding: chunked\r\n\r\n"
    for place in itertools.count():
        time.sleep(0.05)
        yield b"1\r\n%b\r\n" % body[place : place + 1].ljust(1)


@pytest.mark.parametrize("client", [ask, ask_on_a_loop])
def test_an_answer_that_drips_in_is_not_waited_for_without_end(client: Callable[[World, str, float], bytes]) -> None:
    world = World()
    with server(world, dripping) as url, pytest.raises(TransportError, match="did not end within 1 s"):
        client(world, url, 1.0)


def dripping_headers(body: bytes) -> Iterator[bytes]:
    yield OK
    for number in range(40):
        time.sleep(0.05)
        yield b"X-%d: y\r\n" % number


def ask_in_pieces(world: World, url: str, timeout: float = 30) -> bytes:
    pieces: list[bytes] = []
    with HttpStreamClient(world.client("PSK").engine, url, timeout=timeout) as http:
        http.request(secret(), pieces.append)
    return b"".join(pieces)


@pytest.mark.parametrize("client", [ask, ask_on_a_loop, ask_in_pieces])
def test_headers_that_drip_in_are_not_waited_for_without_end(client: Callable[[World, str, float], bytes]) -> None:
    world = World()
    with server(world, dripping_headers) as url, pytest.raises(TransportError, match="timed out"):
        client(world, url, 0.3)


def test_a_message_header_that_drips_in_is_not_waited_for_without_end() -> None:
    """HTTP has begun to answer, and MSL has not: whoever waits for the renewal would wait as long."""
    world = World()
    device = world.client("PSK")
    with (
        server(world, lambda body: itertools.islice(dripping(body), 40)) as url,
        HttpStreamClient(device.engine, url, timeout=0.3) as http,
        pytest.raises(TransportError, match="broke off: ReadTimeout"),
    ):
        http.request(secret(), bytes)
    assert not device.lock.held


def test_a_payload_takes_its_time() -> None:
    world = World()

    def slow(body: bytes) -> Iterator[bytes]:
        yield OK + b"Content-Length: %d\r\n\r\n" % len(body)
        yield body[:-9]
        for place in range(len(body) - 9, len(body)):
            time.sleep(0.1)
            yield body[place : place + 1]

    long = Message(bytes(100_000))
    pieces: list[bytes] = []
    with server(world, slow) as url, HttpStreamClient(world.client("PSK").engine, url, timeout=0.5) as http:
        http.request(long, pieces.append)
    assert b"".join(pieces) == long.payload


@contextmanager
def keeping(world: World) -> Iterator[tuple[str, list[int]]]:
    """Keep every connection open; give the URL and how many requests came over each."""
    engine = world.server()
    counts: list[int] = []

    def serve(connection: socket.socket, number: int) -> None:
        with connection, suppress(ConnectionError):
            while True:
                head, _, body = _until(connection, b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split()[0])
                while len(body) < length:
                    body += connection.recv(65536)
                counts[number] += 1
                connection.sendall(plain(engine.handle(body)))

    def run() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                counts.append(0)
                threads.append(threading.Thread(target=serve, args=(connection, len(counts) - 1)))
                threads[-1].start()

    threads = [threading.Thread(target=run)]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads[0].start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/", counts
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(20)


def test_a_kept_connection_waits_anew() -> None:
    """The time of an answer is over when the next request is sent, and does not count for it."""
    world = World()
    with keeping(world) as (url, counts), HttpClient(world.client("PSK").engine, url, timeout=0.5) as http:
        assert http.request(secret()).payload == b"secret"
        time.sleep(0.6)
        assert http.request(secret()).payload == b"secret"
    assert counts == [2]


def twice(world: World, url: str, pause: Callable[[], None]) -> None:
    with HttpClient(world.client("PSK").engine, url) as http:
        http.request(secret())
        pause()
        http.request(secret())


def twice_on_a_loop(world: World, url: str, pause: Callable[[], None]) -> None:
    async def run() -> None:
        async with AsyncHttpClient(world.client("PSK").engine, url) as http:
            await http.request(secret())
            pause()
            await http.request(secret())

    asyncio.run(run())


@pytest.mark.parametrize("client", [twice, twice_on_a_loop])
@pytest.mark.parametrize(("seconds", "expected"), [(1.0, [2]), (4.5, [1, 1])])
def test_a_connection_is_given_up_before_servers_close_it(
    monkeypatch: pytest.MonkeyPatch,
    client: Callable[[World, str, Callable[[], None]], None],
    seconds: float,
    expected: list[int],
) -> None:
    world = World()
    clock = time.monotonic
    with keeping(world) as (url, counts):
        client(world, url, lambda: monkeypatch.setattr(time, "monotonic", lambda: clock() + seconds))
    assert counts == expected


@pytest.mark.parametrize("kind", [HttpClient, AsyncHttpClient, HttpStreamClient])
@pytest.mark.parametrize("timeout", [None, "5", 0, -1, float("nan"), float("inf")])
def test_what_is_no_timeout_is_refused_at_once(kind: Callable[..., object], timeout: object) -> None:
    with pytest.raises(UsageError, match="seconds greater than 0"):
        kind(World().client().engine, "http://127.0.0.1/", timeout=timeout)


@pytest.mark.parametrize("kind", [HttpClient, AsyncHttpClient, HttpStreamClient])
@pytest.mark.parametrize("port", [0, 65536, 99999])
def test_what_is_no_port_is_refused_at_once(kind: Callable[..., object], port: int) -> None:
    with pytest.raises(UrlError, match="ports are 1 to 65535"):
        kind(World().client().engine, f"http://127.0.0.1:{port}/")


def test_a_waiter_whose_loop_is_gone_harms_nobody() -> None:
    """One engine, several threads, one of them with a loop of its own that ends while another renews."""
    world = World()
    device = world.client("NONE", mutex=threading.RLock())
    go_on = threading.Event()
    answers: list[bytes] = []

    def late(body: bytes) -> bytes:
        go_on.wait(20)
        return plain(body, b"Connection: close\r\n")

    def request(timeout: float) -> None:
        with HttpClient(device.engine, url, timeout=timeout) as http:
            answers.append(http.request(secret()).payload)

    async def wait_in_vain() -> None:
        async with AsyncHttpClient(device.engine, url, timeout=0.2) as http:
            await http.request(secret())

    with server(world, late) as url:
        threads = [threading.Thread(target=request, args=(20,)) for _ in range(2)]
        threads[0].start()
        while not device.lock.held:
            time.sleep(0.01)
        with pytest.raises(WaitTimeoutError):
            asyncio.run(wait_in_vain())
        threads[1].start()
        time.sleep(0.1)
        go_on.set()
        for thread in threads:
            thread.join(20)
    assert answers == [b"secret", b"secret"]


@pytest.mark.parametrize("length", [3, 1 << 20])
def test_the_length_of_a_short_message_is_said(length: int) -> None:
    """A server or proxy of HTTP 1.0 reads no transfer in chunks."""
    world = World()
    heads: list[bytes] = []
    answer = world.server().handle

    def run() -> None:
        connection, _ = listener.accept()
        with connection:
            head, _, body = _until(connection, b"\r\n\r\n")
            heads.append(head.lower())
            declared = head.lower().partition(b"content-length:")[2].split()
            while declared and len(body) < int(declared[0]):
                body += connection.recv(65536)
            while not declared and not body.endswith(b"\r\n0\r\n\r\n"):
                body += connection.recv(65536)
            connection.sendall(plain(answer(body)) if declared else plain(b"", status=b"HTTP/1.1 411 X\r\n"))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=run)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        taken: list[bytes] = []
        message = Message(lambda: iter([random.Random(0).randbytes(length)]))
        with HttpStreamClient(world.client().engine, url) as http, suppress(TransportError):
            http.request(message, taken.append)
        thread.join(20)
    assert (b"content-length:" in heads[0], b"transfer-encoding:" in heads[0]) == (length == 3, length != 3)
    assert bool(taken) is (length == 3)
