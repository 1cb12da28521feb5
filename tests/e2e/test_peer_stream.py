"""Peers over real sockets: messages of any length both ways in flat memory, truncation, errors, keys on the way."""

from __future__ import annotations

import hashlib
import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from hsm_msl.errors import ErrorCode, MslError, ResponseCode, TruncatedMessageError, UsageError
from hsm_msl.msl.application import RejectedError
from hsm_msl.msl.conversation import ErrorResponseError
from hsm_msl.msl.message.capabilities import Capabilities
from hsm_msl.msl.message_stream import Received
from hsm_msl.msl.peer import PeerConnection
from hsm_msl.msl.peer_message import PeerMessage
from hsm_msl.service.byte_stream import StreamClosedError
from hsm_msl.service.peer_stream import PeerApplication, PeerStream
from msl_peers import Peer, peer
from msl_world import ADA, Credentials, World

PIECE = bytes(range(256)) * 256
MEBI = 1 << 20
SECONDS = 60


def source(length: int) -> Iterator[bytes]:
    while length:
        piece = PIECE[:length]
        length -= len(piece)
        yield piece


class Sink:
    """Takes the pieces of a message without keeping them."""

    def __init__(self) -> None:
        self.length = 0
        self._digest = hashlib.sha256()

    def __call__(self, piece: bytes) -> None:
        self.length += len(piece)
        self._digest.update(piece)

    def summary(self) -> bytes:
        return f"{self.length} {self._digest.hexdigest()}".encode()


def summary(length: int) -> bytes:
    sink = Sink()
    for piece in source(length):
        sink(piece)
    return sink.summary()


def plain(payload: bytes | Callable[[], Iterator[bytes]]) -> PeerMessage:
    return PeerMessage(payload, encrypted=False, integrity=False)


def summarise(message: Received, pieces: Iterator[bytes]) -> PeerMessage:
    sink = Sink()
    for piece in pieces:
        sink(piece)
    return PeerMessage(sink.summary())


def produce(message: Received, pieces: Iterator[bytes]) -> PeerMessage:
    length = int(b"".join(pieces))
    return PeerMessage(lambda: source(length))


def echo(message: Received, pieces: Iterator[bytes]) -> PeerMessage:
    """Answer with each piece as it comes."""
    return PeerMessage(lambda: pieces)


class Ends:
    """Two peers on a socket pair; the second serves in a thread of its own."""

    def __init__(self, world: World, first: str = "PSK", second: str = "PSK") -> None:
        # What is measured is not compression.
        self.asking, self.answering = (
            replace(made, context=replace(made.context, capabilities=Capabilities((), ("en",))))
            for made in (peer(world, first, "peer-a"), peer(world, second, "peer-b"))
        )
        self.failures: list[Exception] = []
        self.held = None

    @contextmanager
    def line(self, application: PeerApplication) -> Iterator[tuple[PeerStream, socket.socket]]:
        here, there = socket.socketpair()
        for end in (here, there):
            end.settimeout(SECONDS)
        serving = PeerStream(_connection(self.answering), there)

        def run() -> None:
            try:
                serving.serve(application)
            except Exception as error:
                self.failures.append(error)
            finally:
                serving.close()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield PeerStream(_connection(self.asking), here, seconds=SECONDS), here
        finally:
            here.close()
            thread.join(SECONDS)
            assert not thread.is_alive()


def _connection(end: Peer) -> PeerConnection:
    return end.connect()


@pytest.fixture
def ends() -> Ends:
    return Ends(World())


def send(stream: PeerStream, length: int) -> None:
    answer: list[bytes] = []
    stream.request(PeerMessage(lambda: source(length)), answer.append)
    assert b"".join(answer) == summary(length)


def fetch(stream: PeerStream, length: int) -> None:
    sink = Sink()
    stream.request(PeerMessage(b"%d" % length), sink)
    assert sink.summary() == summary(length)


DIRECTIONS = pytest.mark.parametrize(
    ("application", "transfer"), [(summarise, send), (produce, fetch)], ids=["to-the-peer", "from-the-peer"]
)
Transfer = Callable[[PeerStream, int], None]


def peak_of(stream: PeerStream, transfer: Transfer, length: int) -> int:
    """Return the most memory held during a transfer; both ends run in this process."""
    tracemalloc.reset_peak()
    transfer(stream, length)
    return tracemalloc.get_traced_memory()[1]


@DIRECTIONS
def test_memory_is_flat_in_the_length_of_a_message(
    ends: Ends, application: PeerApplication, transfer: Transfer
) -> None:
    with ends.line(application) as (stream, _):
        transfer(stream, 0)
        tracemalloc.start()
        try:
            short = peak_of(stream, transfer, MEBI)
            long = peak_of(stream, transfer, 8 * MEBI)
        finally:
            tracemalloc.stop()
    assert long < short + MEBI
    assert ends.failures == []


@pytest.mark.soak
@DIRECTIONS
def test_a_quarter_of_a_gibibyte(ends: Ends, application: PeerApplication, transfer: Transfer) -> None:
    with ends.line(application) as (stream, _):
        transfer(stream, 0)
        tracemalloc.start()
        try:
            peak = peak_of(stream, transfer, 256 * MEBI)
        finally:
            tracemalloc.stop()
    assert peak < 4 * MEBI
    assert ends.failures == []


def test_an_answer_is_made_of_the_message_while_it_comes(ends: Ends) -> None:
    """More than every buffer in between can hold, echoed as it comes; both hold tokens from the message before."""
    with ends.line(summarise) as (stream, _):
        send(stream, 10)
    with ends.line(echo) as (stream, _):
        for length in (4 * MEBI, 0, 3):
            sink = Sink()
            stream.request(PeerMessage(lambda length=length: source(length)), sink)
            assert sink.summary() == summary(length)
    assert ends.failures == []


def test_an_answer_that_has_to_wait_for_keys_is_not_made_of_a_message_passed_over() -> None:
    """The answering peer wants encryption, and has no keys of its own for it yet (msl-engine section 11)."""
    ends = Ends(World(), "PSK", "RSA")
    with ends.line(echo) as (stream, _), pytest.raises((TruncatedMessageError, StreamClosedError, MslError)):
        stream.request(PeerMessage(lambda: source(MEBI)), lambda piece: None)
    (failure,) = ends.failures
    assert isinstance(failure, UsageError)
    # With the message read first, it gets its answer.
    ends = Ends(World(), "PSK", "RSA")
    with ends.line(summarise) as (stream, _):
        send(stream, MEBI)
    assert ends.failures == []


def test_what_the_application_leaves_unread_does_not_disturb_the_next_message(ends: Ends) -> None:
    def first_piece_only(message: Received, pieces: Iterator[bytes]) -> PeerMessage:
        return PeerMessage(next(pieces)[:3])

    with ends.line(first_piece_only) as (stream, _):
        for _ in range(3):
            sink = Sink()
            stream.request(PeerMessage(lambda: source(MEBI)), sink)
            assert sink.length == 3
    assert ends.failures == []


def test_a_message_cut_short_is_told_apart_from_one_that_ended(ends: Ends) -> None:
    def broken() -> Iterator[bytes]:
        yield PIECE
        raise OSError("the file went away")

    seen: list[bytes] = []

    def collect(message: Received, pieces: Iterator[bytes]) -> PeerMessage:
        for piece in pieces:
            seen.append(piece)
        return plain(b"")

    with ends.line(collect) as (stream, _), pytest.raises(ErrorResponseError) as refused:
        stream.request(PeerMessage(broken), lambda piece: None)
    assert refused.value.error.response is ResponseCode.FAIL
    assert [type(failure) for failure in ends.failures] == [TruncatedMessageError]


def test_an_answer_cut_short_is_told_apart_from_one_that_ended(ends: Ends) -> None:
    def breaking(message: Received, pieces: Iterator[bytes]) -> PeerMessage:
        def broken() -> Iterator[bytes]:
            yield PIECE
            raise OSError("the file went away")

        # A connection closed with something unread is reset, which is seen as well, but as another error.
        b"".join(pieces)
        return PeerMessage(broken)

    sink = Sink()
    with ends.line(breaking) as (stream, _), pytest.raises(TruncatedMessageError):
        stream.request(PeerMessage(b"x"), sink)
    assert [type(failure) for failure in ends.failures] == [OSError]


def test_a_wrong_password_is_mended_on_the_same_connection(ends: Ends) -> None:
    """The refused message is passed over and sent again, however long it is."""
    user = Credentials(ADA, password="guess")
    user.renewed_password = "correct-horse"
    answer: list[bytes] = []
    with ends.line(summarise) as (stream, _):
        message = PeerMessage(lambda: source(MEBI), user=ADA, user_auth=user)
        stream.request(message, answer.append)
    assert b"".join(answer) == summary(MEBI)
    assert ends.failures == []


@pytest.mark.parametrize("subject", ["entity", "user"])
def test_an_application_rejects(ends: Ends, subject: str) -> None:
    def reject(message: Received, pieces: Iterator[bytes]) -> PeerMessage:
        raise RejectedError(subject)

    with ends.line(reject) as (stream, _), pytest.raises(ErrorResponseError) as refused:
        stream.request(PeerMessage(b"x"), lambda piece: None)
    codes = {"entity": ErrorCode.ENTITY_REJECTED_BY_APP, "user": ErrorCode.USER_REJECTED_BY_APP}
    assert refused.value.error.internal_code == codes[subject].value
    assert ends.failures == []


def test_a_defect_of_the_application_is_told_and_kept_apart(ends: Ends) -> None:
    def defect(message: Received, pieces: Iterator[bytes]) -> PeerMessage:
        raise KeyError("a defect")

    with ends.line(defect) as (stream, _), pytest.raises(ErrorResponseError) as refused:
        stream.request(PeerMessage(b"x"), lambda piece: None)
    assert refused.value.error.response is ResponseCode.TRANSIENT_FAILURE
    assert [type(failure) for failure in ends.failures] == [KeyError]


def test_garbage_ends_the_connection(ends: Ends) -> None:
    with ends.line(summarise) as (_, connection):
        connection.sendall(b"this is no message")
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b'{"signature":')
    (failure,) = ends.failures
    assert isinstance(failure, MslError)
    assert failure.code is ErrorCode.MSL_PARSE_ERROR
