"""Messages of any length over real HTTP and real sockets: flat memory, truncation, several at once, no reply."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest
import uvicorn

from hsm_msl.errors import TruncatedMessageError
from hsm_msl.msl.application import Request
from hsm_msl.msl.conversation import Message
from hsm_msl.msl.message.capabilities import Capabilities
from hsm_msl.msl.server import MslServer
from hsm_msl.msl.streaming import StreamApplication, serve
from hsm_msl.service.byte_stream import ByteStreamClient, StreamClosedError, serve_connection
from hsm_msl.service.http_client import AsyncHttpClient, HttpClient, TransportError
from hsm_msl.service.http_stream import HttpStreamClient
from hsm_msl.service.peer_stream import PeerStream
from hsm_msl.service.streaming import StreamingMslApplication
from hsm_msl.wire.tokenizer import Tokenizer
from msl_messages import Observer, seal_chunk
from msl_peers import peer
from msl_world import Device, World

PIECE = bytes(range(256)) * 256
MEBI = 1 << 20


def echo(request: Request, pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield from pieces


def source(length: int) -> Iterator[bytes]:
    while length:
        piece = PIECE[:length]
        length -= len(piece)
        yield piece


def digest(length: int) -> str:
    found = hashlib.sha256()
    for piece in source(length):
        found.update(piece)
    return found.hexdigest()


class Sink:
    """Takes the pieces of a reply without keeping them."""

    def __init__(self) -> None:
        self.length = 0
        self._digest = hashlib.sha256()

    def __call__(self, piece: bytes) -> None:
        self.length += len(piece)
        self._digest.update(piece)

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()


@pytest.fixture
def world() -> World:
    return World()


@contextmanager
def http_server(server: MslServer, application: StreamApplication, seconds: float = 20) -> Iterator[str]:
    app = StreamingMslApplication(server, application, threads=4, seconds=seconds)
    running = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", timeout_keep_alive=1))
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    finally:
        running.should_exit = True
        thread.join(20)
        listening.close()
        assert not thread.is_alive()


@contextmanager
def socket_server(server: MslServer, application: StreamApplication) -> Iterator[tuple[str, int]]:
    listening = socket.create_server(("127.0.0.1", 0))
    failures: list[Exception] = []

    def run() -> None:
        try:
            while True:
                connection, _ = listening.accept()
                with connection:
                    serve_connection(server, connection, application)
        except OSError:
            return  # the listener was closed: the test is over
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield listening.getsockname()
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(20)
        assert not thread.is_alive()
        assert failures == []


def uncompressed(world: World) -> Device:
    """Return a client whose payloads go as they are, since what is measured is not compression."""
    return world.client(capabilities=Capabilities((), ("en",)))


def summarise(request: Request, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Read everything, then answer with length and digest: HTTP clients send to the end before they read."""
    sink = Sink()
    for piece in pieces:
        sink(piece)
    yield f"{sink.length} {sink.digest}".encode()


def produce(request: Request, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Answer with as many bytes as the request asks for."""
    yield from source(int(b"".join(pieces)))


def upload(world: World, url: str, length: int) -> None:
    client = HttpStreamClient(uncompressed(world).engine, url)
    answer: list[bytes] = []
    client.request(Message(lambda: source(length)), answer.append)
    client.close()
    assert b"".join(answer).decode() == f"{length} {digest(length)}"


def download(world: World, url: str, length: int) -> None:
    client = HttpStreamClient(uncompressed(world).engine, url)
    sink = Sink()
    client.request(Message(str(length).encode()), sink)
    client.close()
    assert (sink.length, sink.digest) == (length, digest(length))


DIRECTIONS = pytest.mark.parametrize(
    ("application", "transfer"), [(summarise, upload), (produce, download)], ids=["upload", "download"]
)
Transfer = Callable[[World, str, int], None]


@DIRECTIONS
def test_a_streamed_message_arrives_whole(world: World, application: StreamApplication, transfer: Transfer) -> None:
    with http_server(world.server(), application) as url:
        for length in (0, 1, 3 * MEBI + 17):
            transfer(world, url, length)


def peak_of(world: World, url: str, transfer: Transfer, length: int) -> int:
    """Return the most memory held during a transfer; both ends run in this process."""
    tracemalloc.reset_peak()
    transfer(world, url, length)
    return tracemalloc.get_traced_memory()[1]


@DIRECTIONS
def test_memory_is_flat_in_the_length_of_a_message(
    world: World, application: StreamApplication, transfer: Transfer
) -> None:
    with http_server(world.server(), application) as url:
        tracemalloc.start()
        try:
            peak_of(world, url, transfer, MEBI)
            short = peak_of(world, url, transfer, 2 * MEBI)
            long = peak_of(world, url, transfer, 16 * MEBI)
        finally:
            tracemalloc.stop()
    assert long < short + MEBI


def test_a_reply_may_begin_while_a_long_request_is_still_coming(world: World) -> None:
    """Full duplex on a plain connection: more than every buffer in between can hold, echoed as it comes."""
    length = 16 * MEBI
    with socket_server(world.server(), echo) as address:
        client = ByteStreamClient(uncompressed(world).engine, lambda: socket.create_connection(address, 20))
        sink = Sink()
        client.request(Message(lambda: source(length)), sink)
        client.close()
    assert (sink.length, sink.digest) == (length, digest(length))


def test_a_reply_that_breaks_off_is_seen_as_broken(world: World) -> None:
    def breaking(request: Request, pieces: Iterator[bytes]) -> Iterator[bytes]:
        yield PIECE
        raise RuntimeError("the application failed in the middle")

    with http_server(world.server(), breaking) as url:
        client = HttpStreamClient(uncompressed(world).engine, url)
        with pytest.raises((TransportError, TruncatedMessageError)):
            client.request(Message(b"x"), lambda piece: None)
        client.close()


def test_a_client_that_drips_is_given_up(world: World) -> None:
    """Its thread is needed for others, and a drop now and then is no progress."""
    with http_server(world.server(), echo, seconds=1.0) as url:
        port = int(url.rstrip("/").rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), 20) as connection:
            connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n{")
            connection.settimeout(0.2)
            answer, end = b"", time.monotonic() + 10
            while b"errordata" not in answer and time.monotonic() < end:
                connection.sendall(b" ")
                try:
                    answer += connection.recv(65536)
                except TimeoutError:
                    continue
            assert b"errordata" in answer


def test_several_messages_on_one_plain_connection(world: World) -> None:
    with socket_server(world.server(), echo) as address:
        opened = []

        def connect() -> socket.socket:
            opened.append(socket.create_connection(address, 20))
            return opened[-1]

        client = ByteStreamClient(uncompressed(world).engine, connect)
        for length in (1, 100_000, 0, 7):
            sink = Sink()
            client.request(Message(lambda length=length: source(length)), sink)
            assert (sink.length, sink.digest) == (length, digest(length))
        client.close()
        assert len(opened) == 1


def test_what_the_application_leaves_unread_does_not_disturb_the_next_message(world: World) -> None:
    def first_piece_only(request: Request, pieces: Iterator[bytes]) -> list[bytes]:
        return [next(pieces)[:3]]

    with socket_server(world.server(), first_piece_only) as address:
        client = ByteStreamClient(uncompressed(world).engine, lambda: socket.create_connection(address, 20))
        for _ in range(3):
            sink = Sink()
            client.request(Message(lambda: source(200_000)), sink)
            assert sink.length == 3
        client.close()


def test_garbage_on_a_plain_connection_gets_an_error_and_the_end(world: World) -> None:
    with socket_server(world.server(), echo) as address:
        with socket.create_connection(address, 20) as connection:
            connection.sendall(b"this is no message")
            connection.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.startswith(b'{"signature":')
        sink = Sink()
        client = ByteStreamClient(uncompressed(world).engine, lambda: socket.create_connection(address, 20))
        client.request(Message(b"still there"), sink)
        client.close()
        assert sink.length == 11


@pytest.mark.parametrize("length", [10, 8 * MEBI])
def test_what_a_server_refuses_is_sent_again_over_a_plain_connection(world: World, length: int) -> None:
    """The server ends the connection on which it refused a message, and may have read no more than its header."""
    server, device = world.server(), uncompressed(world)
    device.ask(Message(b"first"), server.handle)
    session = device.state.newest()
    assert session is not None
    world.revocations.master_tokens.add(session.master_token.serial_number)
    with socket_server(server, echo) as address:
        client = ByteStreamClient(device.engine, lambda: socket.create_connection(address, 20))
        sink = Sink()
        response = client.request(Message(lambda: source(length)), sink)
        client.close()
    assert (response.pairs, sink.length, sink.digest) == (2, length, digest(length))


def test_an_empty_chunk_behind_the_answer_to_a_handshake_is_passed_over(world: World) -> None:
    """Case 47: a handshake's answer has no chunk or an empty one, which may well come later than its header."""
    server, device = world.server(), world.client("NONE")
    observer = Observer([world.server_context()], [device])
    listening = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        for _ in range(2):
            connection, _ = listening.accept()
            with connection:
                exchange, answer = server.exchange(), b""
                for answer in serve(exchange, lambda here=connection: here.recv(65536), echo):
                    connection.sendall(answer)
                opened = observer.open(answer) if answer.startswith(b'{"headerdata') else None
                if opened is not None and not opened.chunks:
                    time.sleep(0.1)
                    chunk = seal_chunk(opened.payload_context, opened.message_id, 1, b"", endofmsg=True)
                    with suppress(OSError):
                        connection.sendall(chunk)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        client = ByteStreamClient(device.engine, lambda: socket.create_connection(listening.getsockname(), 20))
        sink = Sink()
        response = client.request(Message(b"after a handshake"), sink)
        client.close()
    finally:
        listening.close()
        thread.join(20)
    assert (response.pairs, sink.length) == (2, 17)


def test_white_space_between_two_messages_is_passed_over(world: World) -> None:
    """It may well come after the client has taken the message in front of it."""
    server = world.server()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = ByteStreamClient(
            uncompressed(world).engine, lambda: socket.create_connection(listening.getsockname(), 20)
        )
        taken: list[bytes] = []
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(client.request, Message(b"one"), taken.append)
            connection, _ = listening.accept()
            connection.settimeout(20)
            with connection:
                for space in (b" ", b"\r\n\t"):
                    connection.sendall(server.handle(_whole_message(connection)))
                    asked.result(20)
                    connection.sendall(space)
                    asked = pool.submit(client.request, Message(b"two"), taken.append)
                connection.sendall(server.handle(_whole_message(connection)))
                asked.result(20)
        client.close()
    assert taken == [b"one", b"two", b"two"]


def _whole_message(connection: socket.socket) -> bytes:
    """Read a request of a header and one chunk."""
    tokenizer, data = Tokenizer(), b""
    objects = 0
    while objects < 2:
        piece = connection.recv(65536)
        tokenizer.feed(piece)
        data += piece
        while tokenizer.next_object() is not None:
            objects += 1
    return data


@pytest.mark.soak
@DIRECTIONS
def test_one_gibibyte(world: World, application: StreamApplication, transfer: Transfer) -> None:
    with http_server(world.server(), application) as url:
        tracemalloc.start()
        try:
            peak = peak_of(world, url, transfer, 1 << 30)
        finally:
            tracemalloc.stop()
    assert peak < 16 * MEBI


SCHEMES = pytest.mark.parametrize("scheme", ["PSK", "NONE"])


class Heard:
    """A streaming application that answers with more than anybody reads, and keeps the lengths of what it heard."""

    def __init__(self) -> None:
        self.lengths: list[int] = []

    def __call__(self, request: Request, pieces: Iterator[bytes]) -> Iterator[bytes]:
        self.lengths.append(sum(map(len, pieces)))
        yield from source(MEBI)


@SCHEMES
def test_send_over_http(world: World, scheme: str) -> None:
    heard = Heard()
    with http_server(world.server(), heard) as url:
        with HttpClient(world.client(scheme, "whole").engine, url) as whole:
            sent = whole.send(Message(b"12345"))
            assert sent.requests[-1].handshake is False
        with HttpStreamClient(world.client(scheme, "stream").engine, url) as streamed:
            for _ in range(2):
                streamed.send(Message(lambda: source(3 * MEBI)))

        async def several() -> None:
            async with AsyncHttpClient(world.client(scheme, "async").engine, url) as client:
                await client.send(Message(b"123"))

        asyncio.run(several())
    assert heard.lengths == [5, 3 * MEBI, 3 * MEBI, 3]


@SCHEMES
def test_send_waits_for_a_server_that_answers_before_it_has_read(world: World, scheme: str) -> None:
    lengths: list[int] = []

    def early(request: Request, pieces: Iterator[bytes]) -> Iterator[bytes]:
        yield from source(MEBI)
        time.sleep(0.2)
        lengths.append(sum(map(len, pieces)))

    with (
        http_server(world.server(), early) as url,
        HttpStreamClient(world.client(scheme).engine, url) as client,
    ):
        client.send(Message(lambda: source(3 * MEBI)))
        assert lengths == [3 * MEBI]


@SCHEMES
def test_send_over_a_plain_connection(world: World, scheme: str) -> None:
    heard = Heard()
    with socket_server(world.server(), heard) as address:
        client = ByteStreamClient(world.client(scheme).engine, lambda: socket.create_connection(address, 20))
        client.send(Message(lambda: source(3 * MEBI)))
        client.send(Message(b"123"))
        pieces: list[bytes] = []
        client.request(Message(b"1"), pieces.append)
        client.close()
    assert sum(map(len, pieces)) == MEBI
    assert heard.lengths == [3 * MEBI, 3, 1]


def test_what_cannot_be_delivered_is_noticed(world: World) -> None:
    def broken() -> Iterator[bytes]:
        yield b"x" * 1000
        raise OSError("the file went away")

    here, there = socket.socketpair()
    with there, pytest.raises(StreamClosedError):
        ByteStreamClient(world.client().engine, lambda: here).send(Message(broken))
    with HttpClient(world.client().engine, "http://127.0.0.1:1/") as http, pytest.raises(TransportError):
        http.send(Message(b"x"))


class LateSocket(socket.socket):
    """Sends everything a moment late, so that the end of a handshake's answer comes when nobody waits for it."""

    def sendall(self, data: bytes, flags: int = 0) -> None:  # type: ignore[override]
        time.sleep(0.1)
        super().sendall(data, flags)


@pytest.mark.parametrize("lengths", [(3 * MEBI, 5), (5, 3)])
def test_send_between_peers(world: World, lengths: tuple[int, ...]) -> None:
    one, other = peer(world, "NONE", "peer-a"), peer(world, "RSA", "peer-b")
    here, there = socket.socketpair()
    there = LateSocket(fileno=there.detach())
    heard: list[int] = []

    def listen() -> None:
        with there:
            PeerStream(other.connect(), there).serve(lambda message, pieces: heard.append(sum(map(len, pieces))))

    thread = threading.Thread(target=listen)
    thread.start()
    stream = PeerStream(one.connect(), here)
    for length in lengths:
        stream.send(Message(lambda length=length: source(length)))
    stream.close()
    thread.join(60)
    assert heard == list(lengths)
