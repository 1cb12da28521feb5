"""msl-engine section 21, conformance cases 80 to 95: what a client does about errors and bad replies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hsm_msl.errors import ErrorCode, MslError, ResponseCode
from hsm_msl.msl.client import ErrorResponseError
from hsm_msl.msl.client_state import Session
from hsm_msl.msl.conversation import Message, Wait
from hsm_msl.msl.entityauth.base import LocalEntity
from hsm_msl.msl.tokens.builder import ServiceTokenBuilder
from hsm_msl.msl.tokens.master_token import MasterToken
from msl_messages import (
    Opened,
    Sender,
    corrupt,
    entity,
    error_message,
    issued_session,
    key_request_data,
)
from msl_script import Script, accept, exchange_keys, real, refuse
from msl_world import LIFETIME, RENEWAL_WINDOW, Credentials, Device, World, body_of, public, secret

RECOVERABLE = [code for code in ResponseCode if code not in (ResponseCode.FAIL, ResponseCode.TRANSIENT_FAILURE)]


@pytest.fixture
def world() -> World:
    return World()


def add_service_tokens(builder: ServiceTokenBuilder) -> None:
    builder.add("unbound", b"1")
    builder.add("bound", b"2", master_bound=True)
    builder.add("of-user", b"3", user_bound=True)


def started(world: World, **options: Any) -> tuple[Device, Credentials]:
    """Return a client with a master token, a user ID token and service tokens of every binding."""
    device = world.client("PSK", service_token_keys=world.service_token_keys, **options)
    user = Credentials()
    server = world.server()
    device.ask(secret(user=user), server.handle)
    message = Message(b"x", user=user.email, user_auth=user, service_tokens=add_service_tokens)
    device.ask(message, server.handle)
    device.pairs.clear()
    user.asked.clear()
    assert names(device, user) == {"unbound", "bound", "of-user"}
    return device, user


def newest(device: Device) -> MasterToken:
    held = device.state.newest()
    assert held is not None
    return held.master_token


def names(device: Device, user: Credentials) -> set[str]:
    held = device.state.newest()
    token = None if held is None else held.master_token
    tokens = device.state.service_tokens(token, device.state.user_id_token(user.email, token))
    return {token.name for token in tokens}


def carried(request: Opened) -> set[str]:
    return {token.name for token in request.service_tokens}


def test_case_080_entity_reauth_drops_what_the_master_token_carried(world: World) -> None:
    device, user = started(world)
    failed = newest(device)
    script = Script(world, [device], refuse(world, ResponseCode.ENTITY_REAUTH, offset=500), real(world.server()))
    reply = device.ask(secret(b"again", user=user), script)
    first, second = script.requests
    assert first.master_token is not None
    assert first.master_token.same_as(failed)
    assert reply.payload == b"again"
    assert second.outer["entityauthdata"]["scheme"] == "PSK"
    assert second.message_id == first.message_id + 501
    assert "useridtoken" not in second.data
    assert carried(first) == {"unbound", "bound", "of-user"}
    assert carried(second) == {"unbound"}
    assert newest(device).serial_number != failed.serial_number
    assert device.state.find(failed) is None
    assert names(device, user) == {"unbound"}


def test_case_081_no_new_entity_data(world: World) -> None:
    device, user = started(world)
    script = Script(world, [device], refuse(world, ResponseCode.ENTITYDATA_REAUTH))
    with pytest.raises(ErrorResponseError) as caught:
        device.ask(secret(user=user), script)
    assert caught.value.error.response is ResponseCode.ENTITYDATA_REAUTH
    assert len(script.requests) == 1
    assert device.state.newest() is None  # section 10.3: cleaned up whether or not there is another attempt


def test_case_081_new_entity_data_is_asked_for_with_the_code(world: World) -> None:
    asked: list[ResponseCode] = []
    other = world.client("PSK", "second-identity")

    def reauthenticate(code: ResponseCode) -> LocalEntity:
        asked.append(code)
        return other.context.local

    device, user = started(world, reauthenticate=reauthenticate)
    script = Script(world, [device, other], refuse(world, ResponseCode.ENTITYDATA_REAUTH), real(world.server()))
    assert device.ask(secret(b"again", user=user), script).payload == b"again"
    assert asked == [ResponseCode.ENTITYDATA_REAUTH]
    assert script.requests[1].outer["entityauthdata"]["authdata"]["identity"] == "second-identity"


@pytest.mark.parametrize("code", [ResponseCode.USERDATA_REAUTH, ResponseCode.SSOTOKEN_REJECTED])
def test_case_082_new_user_data_is_asked_for_with_the_code(world: World, code: ResponseCode) -> None:
    device, user = started(world)
    token = newest(device)
    script = Script(world, [device], refuse(world, code), real(world.server()))
    assert device.ask(secret(b"again", user=user), script).payload == b"again"
    first, second = script.requests
    assert "useridtoken" in first.data
    assert "useridtoken" not in second.data
    assert "userauthdata" in second.data
    assert second.master_token is not None
    assert second.master_token.same_as(token)
    assert user.asked == [(None, False), (code, True), (None, True)]
    assert carried(second) == {"unbound", "bound"}


def test_case_083_no_new_user_data(world: World) -> None:
    device, user = started(world)
    user.renewed_password = None
    script = Script(world, [device], refuse(world, ResponseCode.USERDATA_REAUTH))
    with pytest.raises(ErrorResponseError):
        device.ask(secret(user=user), script)
    assert len(script.requests) == 1
    assert device.state.user_id_token(user.email, newest(device)) is None


def test_case_084_user_reauth_sends_the_same_credentials_again(world: World) -> None:
    device, user = started(world)
    token = newest(device)
    script = Script(world, [device], refuse(world, ResponseCode.USER_REAUTH), real(world.server()))
    assert device.ask(secret(b"again", user=user), script).payload == b"again"
    second = script.requests[1]
    assert "useridtoken" not in second.data
    assert "userauthdata" in second.data
    assert second.master_token is not None
    assert second.master_token.same_as(token)
    assert user.asked == [(None, False), (None, True)]
    assert carried(second) == {"unbound", "bound"}


def test_case_085_keyx_required_starts_anew(world: World) -> None:
    device, user = started(world)
    script = Script(world, [device], refuse(world, ResponseCode.KEYX_REQUIRED), real(world.server()))
    assert device.ask(secret(b"again", user=user), script).payload == b"again"
    second = script.requests[1]
    assert "entityauthdata" in second.outer
    assert second.data["renewable"] is True
    assert second.offers == ["DIFFIE_HELLMAN"]


def test_case_085_keyx_required_goes_on_with_a_token_another_exchange_delivered(world: World) -> None:
    device = world.client("PSK")
    script = Script(world, [device], refuse(world, ResponseCode.KEYX_REQUIRED), real(world.server()))
    waiting = device.engine.request(secret(b"waiter"))
    busy = device.engine.request(secret(b"owner"))
    owner_step = next(busy)
    first_step = next(waiting)
    after_error = waiting.send(script(body_of(first_step)))
    assert isinstance(after_error, Wait)
    with pytest.raises(StopIteration):
        busy.send(script(body_of(owner_step)))
    resent = next(waiting)
    request = script(body_of(resent)) and script.requests[-1]
    assert isinstance(request, Opened)
    assert request.master_token is not None
    assert not request.offers


def test_case_086_expired_newest_token_is_renewed(world: World) -> None:
    device, user = started(world)
    token = newest(device)
    world.clock.advance(LIFETIME)
    device.state.update_remote_time(int(world.clock()) - LIFETIME, world.clock())  # the client's idea is behind
    script = Script(world, [device], real(world.server()))
    reply = device.ask(secret(b"again", user=user), script)
    first, second = script.requests
    assert first.data["renewable"] is False
    assert second.master_token is not None
    assert second.master_token.same_as(token)
    assert second.data["renewable"] is True
    assert second.offers == ["DIFFIE_HELLMAN"]
    assert second.message_id == first.message_id + 2
    assert "useridtoken" in second.data
    assert reply.header.key_response is not None


def test_case_086_the_server_need_not_say_its_time(world: World) -> None:
    """An error without timestamp does not tell the client that its token is old; the error code does."""
    device, user = started(world)
    sender = entity(world.context)

    def expired(body: bytes, request: Opened) -> bytes:
        return error_message(sender, request.message_id + 1, ResponseCode.EXPIRED)

    script = Script(world, [device], expired, real(world.server()))
    assert device.ask(secret(b"again", user=user), script).payload == b"again"
    assert script.requests[1].offers == ["DIFFIE_HELLMAN"]


def test_the_time_of_an_error_is_believed(world: World) -> None:
    """Section 9 step 6: an error sets the remote clock as a reply does."""
    device, _ = started(world)
    device.state.update_remote_time(5, world.clock())
    with pytest.raises(ErrorResponseError):
        device.ask(secret(), Script(world, [device], refuse(world, ResponseCode.USERDATA_REAUTH)))
    assert device.state.remote_time(world.clock()) == world.clock()


def test_case_087_expired_token_that_was_replaced_meanwhile(world: World) -> None:
    device, user = started(world)
    server = world.server()
    conversation = device.engine.request(secret(b"again", user=user))
    step = next(conversation)
    world.clock.advance(RENEWAL_WINDOW)
    device.ask(secret(user=user), server.handle)
    renewed = newest(device)
    script = Script(world, [device], refuse(world, ResponseCode.EXPIRED), real(server))
    resent = conversation.send(script(body_of(step)))
    with pytest.raises(StopIteration):
        conversation.send(script(body_of(resent)))
    second = script.requests[1]
    assert second.master_token is not None
    assert second.master_token.same_as(renewed)
    assert second.data["renewable"] is False


@pytest.mark.parametrize("response", [ResponseCode.FAIL, ResponseCode.TRANSIENT_FAILURE])
def test_case_088_final_errors_are_not_answered(world: World, response: ResponseCode) -> None:
    device, user = started(world)
    script = Script(world, [device], refuse(world, response))
    with pytest.raises(ErrorResponseError) as caught:
        device.ask(secret(user=user), script)
    assert caught.value.error.response is response
    assert len(script.requests) == 1
    assert not device.lock.held


@pytest.mark.parametrize("response", RECOVERABLE)
def test_case_089_six_requests_at_most(world: World, response: ResponseCode) -> None:
    device = world.client("PSK", reauthenticate=lambda code: device.context.local)
    user = Credentials()
    device.ask(secret(user=user), world.server().handle)
    script = Script(world, [device], refuse(world, response))
    with pytest.raises(ErrorResponseError) as caught:
        device.ask(secret(user=user), script)
    assert caught.value.error.response is response
    assert len(script.requests) == 6
    assert [r.message_id - script.requests[0].message_id for r in script.requests] == [0, 2, 4, 6, 8, 10]
    assert not device.lock.held


def test_case_090_unknown_error_code_is_a_failure(world: World) -> None:
    device, user = started(world)
    script = Script(world, [device], refuse(world, 99, offset=7))
    with pytest.raises(ErrorResponseError) as caught:
        device.ask(secret(user=user), script)
    assert caught.value.error.response is ResponseCode.FAIL
    assert len(script.requests) == 1


def test_case_091_forged_error(world: World) -> None:
    device, user = started(world)
    token = newest(device)
    refusal = refuse(world, ResponseCode.ENTITY_REAUTH)
    script = Script(world, [device], lambda body, request: corrupt(refusal(body, request)))
    with pytest.raises(MslError) as caught:
        device.ask(secret(user=user), script)
    assert caught.value.code is ErrorCode.MESSAGE_VERIFICATION_FAILED
    assert len(script.requests) == 1
    assert newest(device).same_as(token)
    assert not device.lock.held


def test_case_091_error_of_a_stranger(world: World) -> None:
    """Somebody with another key who calls himself the server is not believed either."""
    device, user = started(world)
    impostor = entity(world.client("RSA", "impostor"))
    forged = Sender(entity(world.context).outer, impostor.context)
    script = Script(world, [device], refuse(world, ResponseCode.ENTITY_REAUTH, sender=forged))
    with pytest.raises(MslError) as caught:
        device.ask(secret(user=user), script)
    assert caught.value.code is ErrorCode.MESSAGE_VERIFICATION_FAILED


@pytest.mark.parametrize("error", [True, False])
def test_case_092_another_sender_than_expected(world: World, error: bool) -> None:
    device = world.client("PSK", expected_identity="server2")
    step = refuse(world, ResponseCode.KEYX_REQUIRED) if error else accept(world)
    script = Script(world, [device], step)
    with pytest.raises(MslError) as caught:
        device.ask(public(), script)
    assert caught.value.code is ErrorCode.MESSAGE_SENDER_MISMATCH
    assert len(script.requests) == 1
    assert device.state.newest() is None


@pytest.mark.parametrize("error", [True, False])
def test_the_message_id_is_checked_before_the_sender(world: World, error: bool) -> None:
    """Section 9, steps 1 and 2."""
    device = world.client("PSK", expected_identity="server2")
    step = refuse(world, ResponseCode.KEYX_REQUIRED, offset=2) if error else accept(world, offset=2)
    with pytest.raises(MslError) as caught:
        device.ask(public(), Script(world, [device], step))
    assert caught.value.code is ErrorCode.UNEXPECTED_RESPONSE_MESSAGE_ID


def test_case_092_the_expected_sender(world: World) -> None:
    device = world.client("PSK", expected_identity="server1")
    server = world.server()
    assert device.ask(public(b"a"), server.handle).payload == b"a"
    assert device.ask(secret(b"b"), server.handle).payload == b"b"


def test_case_093_key_response_nobody_asked_for(world: World) -> None:
    device = world.client("PSK")
    device.ask(secret(), world.server().handle)
    token = newest(device)
    offered = key_request_data(world)

    def unasked(body: bytes, request: Opened) -> bytes:
        asked = {**request.data, "keyrequestdata": offered}
        response = exchange_keys(world.context, replace(request, data=asked))
        return accept(world, keyresponsedata=response.to_wire())(body, request)

    with pytest.raises(MslError) as caught:
        device.ask(secret(), Script(world, [device], unasked))
    assert caught.value.code is ErrorCode.KEYX_RESPONSE_REQUEST_MISMATCH
    assert newest(device).same_as(token)


def test_case_094_key_response_of_another_scheme(world: World) -> None:
    device = world.client("PSK", offers=["DIFFIE_HELLMAN"])
    offered = key_request_data(world, "ASYMMETRIC_WRAPPED")

    def other(body: bytes, request: Opened) -> bytes:
        asked = {**request.data, "keyrequestdata": offered}
        response = exchange_keys(world.context, replace(request, data=asked))
        return accept(world, keyresponsedata=response.to_wire())(body, request)

    with pytest.raises(MslError) as caught:
        device.ask(secret(), Script(world, [device], other))
    assert caught.value.code is ErrorCode.KEYX_RESPONSE_REQUEST_MISMATCH
    assert device.state.newest() is None


def test_case_094_several_offers_find_their_answer(world: World) -> None:
    """Section 19 rule 12: the response is matched to its own request among several."""
    for exchanges in (["DIFFIE_HELLMAN"], ["ASYMMETRIC_WRAPPED"]):
        network = World(exchanges=[*exchanges])
        device = network.client("PSK", offers=["DIFFIE_HELLMAN", "ASYMMETRIC_WRAPPED"])
        network.context = network.server_context()
        server = World(exchanges=["DIFFIE_HELLMAN", "ASYMMETRIC_WRAPPED"])
        server.preshared = network.preshared
        server.exchanges = [*exchanges, *({"DIFFIE_HELLMAN", "ASYMMETRIC_WRAPPED"} - {*exchanges})]
        context = server.server_context()
        reply = device.ask(secret(b"data"), server.server(context=context).handle)
        assert reply.header.key_response is not None
        assert (reply.payload, reply.header.key_response.scheme) == (b"data", exchanges[0])


def test_case_095_reply_under_an_expired_master_token(world: World) -> None:
    device = world.client("PSK")
    held = issued_session(world.context, device.identity)
    opaque = device.context.master_tokens.parse(held.wire)
    device.state.add_session(Session(opaque, held.context), None)
    conversation = device.engine.request(secret())
    step = next(conversation)
    world.clock.advance(LIFETIME + 1)
    script = Script(world, [device], accept(world, b"late"))
    with pytest.raises(StopIteration) as done:
        conversation.send(script(body_of(step)))
    assert done.value.value.payload == b"late"


def test_a_reply_that_breaks_off_is_an_error(world: World) -> None:
    """Section 20 row 6: an unparsable reply is an exception of the application's, and nothing is sent about it."""
    device = world.client("PSK")
    server = world.server()
    for cut in (0, 1, 50):
        with pytest.raises(MslError):
            device.ask(secret(), lambda body, cut=cut: server.handle(body)[:cut])  # type: ignore[misc]  # default
        assert not device.lock.held
    assert device.ask(secret(b"fine"), server.handle).payload == b"fine"
