"""msl-engine section 21, conformance cases 111 to 113 and 115 to 118: payload chunks as a stream."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from hsm_msl.errors import ErrorCode, MslError, RequestLostError, ResponseCode, TruncatedMessageError, UsageError
from hsm_msl.msl.conversation import Deliver, Message, Receive, Transmit
from hsm_msl.msl.message.capabilities import Capabilities
from hsm_msl.msl.message.reader import MessageReader
from hsm_msl.msl.server_exchange import Stage
from hsm_msl.msl.streaming import serve
from hsm_msl.wire import binary, compression, lzw
from hsm_msl.wire.limits import MAX_LONG
from hsm_msl.wire.tokenizer import read_all
from msl_messages import (
    MESSAGE_ID,
    Observer,
    Opened,
    Sender,
    Session,
    compose,
    entity,
    issued_session,
    key_request_data,
    seal_chunk,
)
from msl_script import Script, accept, answer, assert_refused
from msl_world import CAPABILITIES, Answer, Device, Inbox, World, secret

NOISE = random.Random(5).randbytes(5000)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def held(world: World) -> Session:
    return issued_session(world.context, "psk-client")


def with_chunks(held: Session, *chunks: dict[str, Any]) -> bytes:
    """Write a message with these chunks; a chunk's members are those of ``seal_chunk``."""
    made = [{"message_id": MESSAGE_ID, "sequence": n + 1, "data": b"x", **chunk} for n, chunk in enumerate(chunks)]
    return compose(held, None) + b"".join(seal_chunk(held.context, **chunk) for chunk in made)


LAST = {"endofmsg": True}

BAD_CHUNKS: list[tuple[str, list[dict[str, Any]], ErrorCode]] = [
    ("case 111: numbers 1, 3", [{}, {"sequence": 3, **LAST}], ErrorCode.PAYLOAD_SEQUENCE_NUMBER_MISMATCH),
    ("number 0 first", [{"sequence": 0, **LAST}], ErrorCode.PAYLOAD_SEQUENCE_NUMBER_MISMATCH),
    ("the same number twice", [{}, {"sequence": 1, **LAST}], ErrorCode.PAYLOAD_SEQUENCE_NUMBER_MISMATCH),
    ("case 111: another message", [{"message_id": MESSAGE_ID + 1, **LAST}], ErrorCode.PAYLOAD_MESSAGE_ID_MISMATCH),
    ("another message and number", [{"message_id": 1, "sequence": 9}], ErrorCode.PAYLOAD_MESSAGE_ID_MISMATCH),
    ("case 112: empty but not last", [{"data": b""}, LAST], ErrorCode.PAYLOAD_DATA_MISSING),
    ("number too large", [{"sequence": MAX_LONG + 1}], ErrorCode.PAYLOAD_SEQUENCE_NUMBER_OUT_OF_RANGE),
    ("number negative", [{"sequence": -1}], ErrorCode.PAYLOAD_SEQUENCE_NUMBER_OUT_OF_RANGE),
    ("id too large", [{"message_id": MAX_LONG + 1}], ErrorCode.PAYLOAD_MESSAGE_ID_OUT_OF_RANGE),
    ("id negative", [{"message_id": -1}], ErrorCode.PAYLOAD_MESSAGE_ID_OUT_OF_RANGE),
    ("no number", [{"sequencenumber": None}], ErrorCode.MSL_PARSE_ERROR),
    ("end is no boolean", [{"endofmsg": 1}], ErrorCode.MSL_PARSE_ERROR),
    ("unknown compression", [{"compressionalgo": "gzip"}], ErrorCode.UNIDENTIFIED_COMPRESSION),
    ("compression without name", [{"compressionalgo": ""}], ErrorCode.UNIDENTIFIED_COMPRESSION),
    ("corrupt compression", [{"compressionalgo": "GZIP"}], ErrorCode.UNCOMPRESSION_ERROR),
]


@pytest.mark.parametrize(("chunks", "code"), [case[1:] for case in BAD_CHUNKS], ids=[case[0] for case in BAD_CHUNKS])
def test_case_111_112_bad_chunks_at_a_server(
    world: World, held: Session, chunks: list[dict[str, Any]], code: ErrorCode
) -> None:
    inbox = Inbox()
    refused = answer(world, with_chunks(held, *chunks), server=world.server(inbox))
    assert_refused(refused, code, ResponseCode.FAIL)
    assert not inbox.requests


@pytest.mark.parametrize(("chunks", "code"), [case[1:] for case in BAD_CHUNKS], ids=[case[0] for case in BAD_CHUNKS])
def test_case_111_112_bad_chunks_at_a_client(world: World, chunks: list[dict[str, Any]], code: ErrorCode) -> None:
    device = world.client("PSK")
    device.ask(secret(), world.server().handle)

    def bad(body: bytes, request: Opened) -> bytes:
        reply_id = request.message_id + 1
        numbered = [{"message_id": reply_id, "sequence": n + 1, "data": b"x", **c} for n, c in enumerate(chunks)]
        for chunk in numbered:
            if chunk["message_id"] == MESSAGE_ID + 1:
                chunk["message_id"] = reply_id + 1
        head = compose(request.sender, None, messageid=reply_id)
        return head + b"".join(seal_chunk(request.context, **chunk) for chunk in numbered)

    script = Script(world, [device], bad)
    with pytest.raises(MslError) as caught:
        device.ask(secret(), script)
    assert caught.value.code is code
    assert len(script.requests) == 1  # nothing is sent about a bad reply


def test_chunk_under_another_key(world: World, held: Session) -> None:
    """Section 6, payload errors: 6006 before anything in the chunk is looked at."""
    other = issued_session(world.context, "psk-client")
    body = compose(held, None) + seal_chunk(other.context, MESSAGE_ID, 1, b"x", endofmsg=True)
    assert_refused(answer(world, body), ErrorCode.PAYLOAD_VERIFICATION_FAILED, ResponseCode.FAIL)


def test_case_113_truncation_is_visible_at_a_client(world: World) -> None:
    device = world.client("PSK")
    device.ask(secret(), world.server().handle)

    def cut(body: bytes, request: Opened) -> bytes:
        reply_id = request.message_id + 1
        head = compose(request.sender, None, messageid=reply_id)
        return head + seal_chunk(request.context, reply_id, 1, b"half of it")

    delivered: list[bytes] = []
    with pytest.raises(TruncatedMessageError):
        streamed(device, Message(b"x"), Script(world, [device], cut), delivered)
    assert delivered == [b"half of it"]


def test_case_113_truncation_is_visible_at_a_server(world: World, held: Session) -> None:
    inbox = Inbox()
    refused = answer(world, with_chunks(held, {}), server=world.server(inbox))
    assert_refused(refused, ErrorCode.MSL_PARSE_ERROR, ResponseCode.FAIL)
    assert not inbox.requests
    exchange = world.server().exchange()
    exchange.feed(with_chunks(held, {}))
    assert exchange.receive() is Stage.REQUEST
    assert exchange.read() == b"x"
    assert (exchange.read(), exchange.complete) == (None, False)
    exchange.end_input()
    with pytest.raises(TruncatedMessageError):
        exchange.read()


def streamed(device: Device, message: Message, server: Answer, delivered: list[bytes], piece: int = 7) -> None:
    """Run a conversation in pieces: bodies go over whole, replies come back a few bytes at a time."""
    conversation = device.engine.stream(message)
    reply = b""
    with suppress(StopIteration):
        step = next(conversation)
        while True:
            data: bytes | None = None
            if isinstance(step, Transmit):
                reply = server(b"".join(step.pieces))
            elif isinstance(step, Receive):
                data, reply = reply[:piece], reply[piece:]
            elif isinstance(step, Deliver):
                delivered.append(step.data)
            step = conversation.send(data)


@pytest.mark.parametrize("piece", [1, 7, 100_000])
def test_replies_are_delivered_as_they_arrive(world: World, piece: int) -> None:
    """Section 12: the reader returns data across chunks, whatever pieces the transport delivers."""
    device = world.client("PSK")
    server = world.server()
    delivered: list[bytes] = []
    payload = NOISE * 8
    streamed(device, Message(payload), server.handle, delivered, piece)
    assert b"".join(delivered) == payload
    assert len(delivered) > 1


def test_a_server_answers_while_the_request_still_comes_in(world: World, held: Session) -> None:
    """Section 12, full duplex: chunks flow in both directions at once."""
    body = with_chunks(held, {"data": b"one"}, {"data": b"two"}, {"data": b"three", **LAST})
    exchange = world.server().exchange()
    pieces = [body[place : place + 11] for place in range(0, len(body), 11)]
    sent, read = b"", []
    stage = Stage.MORE_INPUT
    while pieces and stage is Stage.MORE_INPUT:
        exchange.feed(pieces.pop(0))
        stage = exchange.receive()
    sent += exchange.respond()
    while not exchange.complete:
        data = exchange.read()
        if data is None:
            exchange.feed(pieces.pop(0))
            continue
        read.append(data)
        sent += exchange.write(data.upper()) + exchange.flush()
        early = len(pieces)
    sent += exchange.close()
    assert read == [b"one", b"two", b"three"]
    opened = Observer([world.server_context()]).open(sent)
    assert [binary.decode(chunk["data"]) for chunk in opened.chunks] == [b"ONE", b"TWO", b"THREE", b""]
    assert not early


def test_a_second_message_stays_in_the_stream(world: World, held: Session) -> None:
    """Section 12: after the last chunk nothing of this message follows, and what follows is the next message."""
    first, second = compose(held, b"first"), compose(held, b"second", messageid=9)
    reader = MessageReader(world.context)
    reader.feed(first + second)
    reader.end_input()
    assert reader.header() is not None
    assert reader.payload() == b"first"
    following = MessageReader(world.context, tokenizer=reader.tokenizer)
    following.end_input()
    assert following.header() is not None
    assert following.payload() == b"second"


GZIP = {"compressionalgos": ["GZIP"], "languages": [], "encoderformats": ["JSON"]}


def test_case_115_incompressible_data_is_sent_as_it_is(world: World, held: Session) -> None:
    answered = answer(world, compose(held, NOISE, capabilities=GZIP))
    assert answered.payload == NOISE
    assert "compressionalgo" not in answered.chunks[0]
    squeezed = answer(world, compose(held, b"the same again " * 50, capabilities=GZIP))
    assert squeezed.chunks[0]["compressionalgo"] == "GZIP"
    assert squeezed.payload == b"the same again " * 50


@pytest.mark.parametrize("algorithm", ["GZIP", "LZW"])
def test_case_116_data_inflating_beyond_the_ratio(world: World, held: Session, algorithm: str) -> None:

    packed = gzip.compress(bytes(200_000)) if algorithm == "GZIP" else lzw.compress(bytes(200_000), 200_000)
    assert packed is not None
    assert 200 * len(packed) < 200_000
    refused = answer(world, with_chunks(held, {"data": packed, "compressionalgo": algorithm, **LAST}))
    assert_refused(refused, ErrorCode.UNCOMPRESSION_ERROR, ResponseCode.FAIL)


def test_case_116_the_writer_does_not_send_what_a_reader_would_refuse(world: World, held: Session) -> None:
    data = bytes(30_000)
    answered = answer(world, compose(held, data, capabilities=GZIP))
    assert answered.payload == data
    assert "compressionalgo" not in answered.chunks[0]


@pytest.mark.parametrize(
    "capabilities",
    [None, {}, {"compressionalgos": []}, {"compressionalgos": ["BROTLI"], "encoderformats": ["JSON"]}],
)
def test_case_117_no_common_compression(world: World, held: Session, capabilities: dict[str, Any] | None) -> None:
    answered = answer(world, compose(held, b"compressible " * 50, capabilities=capabilities))
    assert answered.payload == b"compressible " * 50
    assert "compressionalgo" not in answered.chunks[0]
    assert ("capabilities" in answered.data) is (capabilities is not None)


def test_case_117_a_server_without_capabilities(world: World) -> None:
    device = world.client("PSK", capabilities=None)
    reply = device.ask(secret(b"compressible " * 50), world.server().handle)
    assert reply.header.capabilities is None
    assert reply.payload == b"compressible " * 50


@pytest.mark.parametrize("offered", [("GZIP", "LZW"), ("LZW", "GZIP"), ("LZW",)])
def test_the_best_common_compression_is_used(world: World, offered: tuple[str, ...]) -> None:
    """Section 12: GZIP, then LZW."""
    device = world.client("PSK", capabilities=Capabilities(offered))
    script = Script(world, [device], accept(world))
    device.ask(Message(b"compressible " * 50), script)
    best = next(name for name in compression.ALGORITHMS if name in offered)
    assert script.requests[0].chunks[0]["compressionalgo"] == best
    assert CAPABILITIES.preferred_compression() == "GZIP"


def test_case_118_nothing_to_say_is_one_empty_final_chunk(world: World, held: Session) -> None:
    device = world.client("PSK")
    script = Script(world, [device], lambda body, request: world.server().handle(body))
    reply = device.ask(secret(b""), script)
    assert [(chunk["endofmsg"], chunk["data"]) for chunk in script.requests[0].chunks] == [(True, "")]
    assert reply.payload == b""
    answered = answer(world, compose(held, b""))
    assert [(chunk["endofmsg"], chunk["data"]) for chunk in answered.chunks] == [(True, "")]


def test_case_118_a_second_close_is_nothing_and_writing_after_it_is_refused(world: World, held: Session) -> None:
    exchange = world.server().exchange()
    with pytest.raises(UsageError):
        exchange.write(b"too early")
    exchange.feed(compose(held, b"x"))
    assert exchange.receive() is Stage.REQUEST
    exchange.respond()
    assert exchange.flush() == b""
    assert len(read_all(exchange.close())) == 1
    assert exchange.close() == b""
    with pytest.raises(UsageError):
        exchange.write(b"too late")


def test_large_messages_are_cut_into_chunks(world: World) -> None:
    """Section 12: chunks are numbered from 1, and only the last one ends the message."""
    device = world.client("PSK")
    script = Script(world, [device], lambda body, request: world.server().handle(body))
    device.ask(Message(lambda: iter([NOISE] * 20)), script)
    chunks = script.requests[0].chunks
    assert [chunk["sequencenumber"] for chunk in chunks] == list(range(1, len(chunks) + 1))
    assert [chunk.get("endofmsg", False) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert script.requests[0].payload == NOISE * 20


def test_a_streamed_payload_is_opened_anew_for_a_repetition(world: World) -> None:
    """Section 12, resend: the same application payload, complete, in every attempt."""
    device = world.client("NONE")
    opened: list[int] = []

    def payload() -> Iterator[bytes]:
        opened.append(1)
        return iter([b"a" * 40_000, b"b" * 40_000])

    server = world.server()
    device.ask(secret(), server.handle)
    world.revocations.entities.add("none-client")
    script = Script(world, [device], lambda body, request: server.handle(body))

    def forgiving(body: bytes) -> bytes:
        reply = script(body)
        world.revocations.entities.clear()
        return reply

    reply = device.ask(Message(payload), forgiving)
    assert reply.payload == b"a" * 40_000 + b"b" * 40_000
    assert len(opened) == 2
    assert [bool(request.chunks) for request in script.requests] == [True, False, True]


def test_offers_with_a_bad_first_chunk_get_an_error(world: World) -> None:
    """Section 6: the first chunk is looked at before an unflagged message counts as a request or a handshake."""
    device = world.client("PSK")
    offered = key_request_data(world)
    head = compose(entity(device), None, handshake=None, renewable=True, keyrequestdata=offered)
    body = head + seal_chunk(entity(device).context, MESSAGE_ID, 2, b"x", endofmsg=True)
    assert_refused(answer(world, body), ErrorCode.PAYLOAD_SEQUENCE_NUMBER_MISMATCH, ResponseCode.FAIL)


def test_the_chunk_of_a_reply_is_verified(world: World) -> None:
    """Section 19 rule 1: a reply's payload is under the session keys, and a changed one is refused."""
    device = world.client("PSK")
    device.ask(secret(), world.server().handle)

    def forge(body: bytes, request: Opened) -> bytes:
        head = compose(request.sender, None, messageid=request.message_id + 1)
        stranger = issued_session(World(seed=5).context, "psk-client")
        return head + seal_chunk(stranger.context, request.message_id + 1, 1, b"forged", endofmsg=True)

    with pytest.raises(MslError) as caught:
        device.ask(secret(), Script(world, [device], forge))
    assert caught.value.code is ErrorCode.PAYLOAD_VERIFICATION_FAILED


@pytest.mark.parametrize(
    "rest",
    [
        lambda sender: b"",
        lambda sender: seal_chunk(sender.context, MESSAGE_ID, 3, b"out of order", endofmsg=True),
        lambda sender: b"garbage",
    ],
    ids=["cut short", "another number", "no object"],
)
def test_a_reply_stands_whatever_is_wrong_with_what_nobody_read(
    world: World, rest: Callable[[Sender], bytes]
) -> None:
    """Section 6: a bad later chunk is a local read error only."""
    sender = entity(world.client())
    body = compose(sender, None) + seal_chunk(sender.context, MESSAGE_ID, 1, b"read") + rest(sender)
    arriving = iter([body])
    exchange = world.server().exchange()
    answer = b"".join(serve(exchange, lambda: next(arriving, b""), lambda request, pieces: [next(pieces)]))
    assert Observer([world.context]).open(answer).payload == b"read"
    assert not exchange.complete


def test_a_transport_that_fails_is_told_as_such(world: World) -> None:
    """Section 8: an I/O error is MSL_COMMS_FAILURE, no defect of the server."""

    def broken() -> bytes:
        raise RequestLostError("the client is gone")

    answer = b"".join(serve(world.server().exchange(), broken, lambda request, pieces: pieces))
    opened = Observer([world.context]).open(answer)
    assert (opened.code, opened.response) == (ErrorCode.MSL_COMMS_FAILURE, ResponseCode.FAIL)
