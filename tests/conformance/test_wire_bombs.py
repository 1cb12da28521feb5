"""Small messages that would grow large, at a server and at a client (msl-engine section 19 rule 15)."""

from __future__ import annotations

import pytest

from hsm_msl.errors import ErrorCode, MslError, ResponseCode
from hsm_msl.msl.message import reader
from hsm_msl.wire import binary, codec, compression
from hsm_msl.wire.limits import MAX_KEY_REQUESTS, MAX_SERVICE_TOKENS, MAX_VALUES
from msl_messages import (
    MESSAGE_ID,
    Opened,
    Sender,
    compose,
    entity,
    key_request_data,
    seal_chunk,
    seal_header,
    sign_token,
)
from msl_script import Script, answer, assert_refused
from msl_world import Inbox, Message, World

PIECE = bytes(3000)
LIMIT = 20_000


def chunks(sender: Sender, message_id: int, algorithm: str, count: int) -> bytes:
    """Write chunks that each hold ``PIECE`` well below the ratio."""
    packed = compression.compress(algorithm, PIECE)
    assert packed is not None
    return b"".join(
        seal_chunk(
            sender.context,
            message_id,
            number,
            packed,
            compressionalgo=algorithm,
            **({"endofmsg": True} if number == count else {}),
        )
        for number in range(1, count + 1)
    )


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_INFLATED_BYTES", LIMIT)


@pytest.mark.parametrize("algorithm", compression.ALGORITHMS)
def test_many_chunks_that_each_keep_the_ratio(algorithm: str, small_limit: None) -> None:
    """What one chunk may inflate to is no matter for one and too much for all of them."""
    world, inbox = World(), Inbox()
    sender = entity(world.client("NONE"))
    server = world.server(inbox)
    fitting = compose(sender, None) + chunks(sender, MESSAGE_ID, algorithm, LIMIT // len(PIECE))
    answer(world, fitting, server=server)
    assert [len(request.payload) for request in inbox.requests] == [LIMIT // len(PIECE) * len(PIECE)]
    bomb = compose(sender, None) + chunks(sender, MESSAGE_ID, algorithm, 10)
    assert_refused(answer(world, bomb, server=server), ErrorCode.UNCOMPRESSION_ERROR, ResponseCode.FAIL, mid=True)
    assert len(inbox.requests) == 1


def test_a_large_payload_that_came_as_large_is_no_bomb(small_limit: None) -> None:
    world, inbox = World(), Inbox()
    sender = entity(world.client("NONE"))
    payload = bytes(2 * LIMIT)
    answer(world, compose(sender, payload), server=world.server(inbox))
    assert inbox.requests[0].payload == payload


def test_a_reply_that_grows(small_limit: None) -> None:
    world = World()
    client = world.client("NONE")

    def bomb(body: bytes, opened: Opened) -> bytes:
        source = entity(world.context)
        header = {"messageid": opened.message_id + 1, "renewable": False, "handshake": False}
        return seal_header(source, codec.encode(header)) + chunks(source, opened.message_id + 1, "GZIP", 10)

    with pytest.raises(MslError) as caught:
        client.ask(Message(b"x", encrypted=False, integrity=False), Script(world, [client], bomb))
    assert caught.value.code is ErrorCode.UNCOMPRESSION_ERROR


def test_more_key_requests_than_schemes_exist() -> None:
    world = World()
    sender = entity(world.client("PSK"))
    offers = key_request_data(world) * (MAX_KEY_REQUESTS + 1)
    refused = answer(world, compose(sender, renewable=True, keyrequestdata=offers))
    assert_refused(refused, ErrorCode.MSL_PARSE_ERROR, ResponseCode.FAIL, mid=True)
    accepted = answer(world, compose(sender, renewable=True, keyrequestdata=offers[:-1]))
    assert not accepted.is_error


def test_more_service_tokens_than_anybody_keeps() -> None:
    world = World()
    sender = entity(world.client("PSK"))
    tokens = [
        sign_token(world.context, {"name": f"st{number}", "encrypted": False, "servicedata": binary.encode(b"x")})
        for number in range(MAX_SERVICE_TOKENS + 1)
    ]
    refused = answer(world, compose(sender, servicetokens=tokens))
    assert_refused(refused, ErrorCode.MSL_PARSE_ERROR, ResponseCode.FAIL, mid=True)
    assert len(answer(world, compose(sender, servicetokens=tokens[:-1])).data["servicetokens"]) == MAX_SERVICE_TOKENS


def test_an_object_of_very_many_values() -> None:
    """Refused before it is read: what reading it would cost is what the limit is for."""
    world = World()
    sender = entity(world.client("PSK"))
    body = compose(sender, None)[:-1] + b',"x":[' + b"{}," * MAX_VALUES + b"{}]}"
    assert_refused(answer(world, body), ErrorCode.MSL_PARSE_ERROR, ResponseCode.FAIL, mid=False)
