"""msl-engine section 21, conformance cases 1 to 13: message IDs and header members."""

from __future__ import annotations

import pytest

from hsm_msl.errors import ErrorCode, MslError, ResponseCode
from hsm_msl.msl.client import ErrorResponseError
from hsm_msl.msl.message.decode import HeaderDecoder
from hsm_msl.msl.message.header import MessageHeader
from hsm_msl.wire import codec
from hsm_msl.wire.limits import MAX_LONG
from msl_messages import (
    MESSAGE_ID,
    compose,
    entity,
    issued_session,
    key_request_data,
    session,
    user_id_token,
)
from msl_script import Script, accept, answer, assert_refused, real, refuse
from msl_world import ADA, START, Inbox, World, public, secret


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("request_id", [0, 1, MESSAGE_ID, MAX_LONG - 1])
def test_case_001_answer_id_is_request_id_plus_one(world: World, request_id: int) -> None:
    device = world.client("PSK")
    answered = answer(world, compose(entity(device), messageid=request_id))
    assert not answered.is_error
    assert answered.message_id == request_id + 1


def test_case_002_answer_id_wraps_to_zero(world: World) -> None:
    device = world.client("PSK")
    assert answer(world, compose(entity(device), messageid=MAX_LONG)).message_id == 0


@pytest.mark.parametrize("offset", [0, 2, -1])
def test_case_003_client_refuses_a_reply_with_another_id(world: World, offset: int) -> None:
    device = world.client("PSK")
    script = Script(world, [device], accept(world, offset=offset))
    with pytest.raises(MslError) as caught:
        device.ask(public(), script)
    assert caught.value.code is ErrorCode.UNEXPECTED_RESPONSE_MESSAGE_ID
    assert len(script.requests) == 1


@pytest.mark.parametrize("response", [ResponseCode.FAIL, ResponseCode.TRANSIENT_FAILURE])
def test_case_004_final_errors_are_accepted_with_any_id(world: World, response: ResponseCode) -> None:
    device = world.client("PSK")
    with pytest.raises(ErrorResponseError) as caught:
        device.ask(public(), Script(world, [device], refuse(world, response, offset=77)))
    assert caught.value.error.response is response


@pytest.mark.parametrize("response", [ResponseCode.ENTITY_REAUTH, ResponseCode.ENTITYDATA_REAUTH])
def test_case_004_entity_errors_are_accepted_with_any_id(world: World, response: ResponseCode) -> None:
    device = world.client("PSK", reauthenticate=lambda code: device.context.local)
    script = Script(world, [device], refuse(world, response, offset=77), real(world.server()))
    assert device.ask(public(b"again"), script).payload == b"again"
    assert script.requests[1].message_id == script.requests[0].message_id + 78


@pytest.mark.parametrize(
    "response",
    [
        ResponseCode.EXPIRED,
        ResponseCode.REPLAYED,
        ResponseCode.KEYX_REQUIRED,
        ResponseCode.USER_REAUTH,
        ResponseCode.USERDATA_REAUTH,
        ResponseCode.SSOTOKEN_REJECTED,
    ],
)
def test_case_005_other_errors_with_a_wrong_id_fail_locally(world: World, response: ResponseCode) -> None:
    device = world.client("PSK")
    script = Script(world, [device], refuse(world, response, offset=2))
    with pytest.raises(MslError) as caught:
        device.ask(public(), script)
    assert caught.value.code is ErrorCode.UNEXPECTED_RESPONSE_MESSAGE_ID
    assert len(script.requests) == 1


def test_case_006_master_token_wins_over_entity_authentication_data(world: World) -> None:
    other = world.client("PSK", "somebody-else")
    held = session(world.context, "holder")
    both = type(held)({**entity(other).outer, **held.outer}, held.context, held.token, held.keys)
    inbox = Inbox()
    answered = answer(world, compose(both), server=world.server(inbox))
    assert "mastertoken" in answered.outer
    assert inbox.requests[0].entity == "holder"
    header = HeaderDecoder(world.context).decode(codec.decode(compose(both, None)))
    assert isinstance(header, MessageHeader)
    assert header.entity_auth is None


def test_case_007_neither_identity_is_refused_with_a_random_id(world: World) -> None:
    bare = type(entity(world.context))({}, entity(world.context).context)
    assert_refused(answer(world, compose(bare)), ErrorCode.MESSAGE_ENTITY_NOT_FOUND, ResponseCode.FAIL, mid=False)


@pytest.mark.parametrize("message_id", [MAX_LONG + 1, -1])
def test_case_008_message_id_out_of_range(world: World, message_id: int) -> None:
    body = compose(entity(world.client("PSK")), payload=None, messageid=message_id)
    answered = answer(world, body)
    assert_refused(answered, ErrorCode.MESSAGE_ID_OUT_OF_RANGE, ResponseCode.FAIL, mid=False)
    assert 0 <= answered.message_id < MAX_LONG


def test_case_009_absent_handshake_means_false(world: World) -> None:
    device = world.client("PSK")
    offered = key_request_data(world)
    body = compose(entity(device), b"data", handshake=None, renewable=True, keyrequestdata=offered)
    answered = answer(world, body)
    assert answered.payload == b"data"


def test_case_010_absent_renewable_is_refused_with_the_next_id(world: World) -> None:
    body = compose(entity(world.client("PSK")), renewable=None)
    assert_refused(answer(world, body), ErrorCode.MSL_PARSE_ERROR, ResponseCode.FAIL, mid=True)


def test_case_011_absent_timestamp_is_accepted_and_leaves_the_clock(world: World) -> None:
    assert answer(world, compose(entity(world.client("PSK")), timestamp=None)).payload == b"data"
    device = world.client("PSK")
    device.state.update_remote_time(START + 1000, START)
    device.ask(public(), Script(world, [device], accept(world, timestamp=None)))
    assert device.state.remote_time(START) == START + 1000
    device.ask(public(), Script(world, [device], accept(world, timestamp=START + 5)))
    assert device.state.remote_time(START) == START + 5


def test_case_012_peer_members_are_ignored_among_trusted_services(world: World) -> None:
    held = issued_session(world.context, "holder")
    foreign = user_id_token(world.context, held.token, ADA, mtserialnumber=1)
    body = compose(
        held,
        peermastertoken={"tokendata": 5},
        peeruseridtoken=foreign,
        peerservicetokens=["no object"],
    )
    answered = answer(world, body)
    assert answered.payload == b"data"
    assert not {name for name in answered.data if name.startswith("peer")}


def test_case_013_unknown_compression_is_ignored(world: World) -> None:
    capabilities = {"compressionalgos": ["BROTLI", "LZW"], "languages": ["en-US"], "encoderformats": ["CBOR", "JSON"]}
    answered = answer(world, compose(entity(world.client("PSK")), capabilities=capabilities))
    assert answered.data["capabilities"]["compressionalgos"] == ["LZW"]
    assert answered.data["capabilities"]["encoderformats"] == ["JSON"]


def test_requests_begin_with_random_ids(world: World) -> None:
    """Section 19 rule 16: message IDs are unpredictable."""
    device = world.client("PSK")
    script = Script(world, [device], real(world.server()))
    for _ in range(4):
        device.ask(secret(), script)
    assert len({request.message_id for request in script.requests}) == 4
