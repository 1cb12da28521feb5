"""msl-engine section 21, conformance cases 37 to 47: handshakes and one-shot starts."""

from __future__ import annotations

import pytest

from hsm_msl.errors import ErrorCode, MslError, ResponseCode
from hsm_msl.msl.conversation import Message
from msl_messages import Opened, compose, entity, issued_session, key_request_data, seal_chunk
from msl_script import Script, answer, assert_refused, exchange_keys, real
from msl_world import RENEWAL_WINDOW, Credentials, Device, Inbox, World, public, secret


@pytest.fixture
def world() -> World:
    return World()


def test_case_037_handshake_that_is_not_renewable(world: World) -> None:
    offered = key_request_data(world)
    body = compose(entity(world.client("PSK")), None, handshake=True, keyrequestdata=offered)
    assert_refused(answer(world, body), ErrorCode.HANDSHAKE_DATA_MISSING, ResponseCode.FAIL)


def test_case_038_handshake_without_key_request(world: World) -> None:
    body = compose(entity(world.client("PSK")), None, handshake=True, renewable=True)
    assert_refused(answer(world, body), ErrorCode.HANDSHAKE_DATA_MISSING, ResponseCode.FAIL)


def scripted(world: World, device: Device, inbox: Inbox | None = None) -> Script:
    return Script(world, [device], real(world.server() if inbox is None else world.server(inbox)))


def assert_handshake(request: Opened) -> None:
    assert request.data["handshake"] is True
    assert request.data["renewable"] is True
    assert request.offers
    assert not request.chunks
    assert not {"userauthdata", "useridtoken", "nonreplayableid"} & request.data.keys()


def test_case_039_secret_data_without_keys_begins_with_a_handshake(world: World) -> None:
    device, user = world.client("NONE"), Credentials()
    script = scripted(world, device)
    device.ask(secret(user=user), script)
    assert_handshake(script.requests[0])
    assert len(script.requests) == 2


def test_case_040_application_sees_nothing_of_a_handshake(world: World) -> None:
    device, inbox = world.client("NONE"), Inbox()
    script = scripted(world, device, inbox)
    device.ask(secret(b"data", user=Credentials()), script)
    assert [request.payload for request in inbox.requests] == [b"data"]
    assert len(script.requests) == 2


def test_case_041_after_the_handshake_come_master_token_user_and_data(world: World) -> None:
    device = world.client("NONE")
    script = scripted(world, device)
    reply = device.ask(secret(b"data", user=Credentials()), script)
    first, second = script.requests
    assert second.message_id == first.message_id + 2
    assert second.master_token is not None
    assert "userauthdata" in second.data
    assert second.payload == b"data"
    assert reply.header.user_id_token is not None


def test_case_042_one_shot_start_with_an_encrypting_scheme(world: World) -> None:
    device, inbox = world.client("PSK"), Inbox()
    script = scripted(world, device, inbox)
    reply = device.ask(secret(b"data", user=Credentials()), script)
    (request,) = script.requests
    assert request.outer["entityauthdata"]["scheme"] == "PSK"
    assert request.data["renewable"] is True
    assert request.data["handshake"] is False
    assert request.offers == ["DIFFIE_HELLMAN"]
    assert "userauthdata" in request.data
    assert request.payload == b"data"
    assert (reply.payload, reply.pairs) == (b"data", 1)
    assert reply.header.key_response is not None
    assert reply.header.user_id_token is not None
    assert (inbox.requests[0].entity, inbox.requests[0].user) == ("psk-client", "ada@example.org")


def test_case_043_public_data_goes_out_at_once_and_asks_for_keys(world: World) -> None:
    device = world.client("NONE")
    script = scripted(world, device)
    device.ask(public(b"data"), script)
    (request,) = script.requests
    assert request.payload == b"data"
    assert request.data["renewable"] is True
    assert request.offers == ["DIFFIE_HELLMAN"]
    assert device.state.newest() is not None


def test_case_044_integrity_alone_does_not_carry_a_user(world: World) -> None:
    device = world.client("RSA")
    script = scripted(world, device)
    message = Message(b"data", user="ada", user_auth=Credentials(), encrypted=False)
    device.ask(message, script)
    assert_handshake(script.requests[0])
    assert "userauthdata" in script.requests[1].data
    assert len(script.requests) == 2


@pytest.mark.parametrize("scheme", ["PSK", "RSA", "NONE"])
def test_case_045_non_replayable_data_waits_for_a_master_token(world: World, scheme: str) -> None:
    device = world.client(scheme)
    script = scripted(world, device)
    device.ask(secret(b"once", non_replayable=True), script)
    first, second = script.requests
    assert_handshake(first)
    assert second.data["nonreplayableid"] == 1
    assert second.data["nonreplayable"] is True
    assert second.payload == b"once"


def test_case_046_legacy_handshake_without_the_flag(world: World) -> None:
    inbox = Inbox()
    fields = {"handshake": None, "renewable": True, "keyrequestdata": key_request_data(world)}
    answered = answer(world, compose(entity(world.client("PSK")), b"", **fields), server=world.server(inbox))
    assert answered.key_response_token is not None
    assert not answered.chunks
    assert not inbox.requests


def test_case_046_an_empty_message_that_says_it_is_no_handshake_is_for_the_application(world: World) -> None:
    device, inbox = world.client("PSK"), Inbox()
    reply = device.ask(secret(b""), world.server(inbox).handle)
    assert (reply.payload, reply.pairs, len(inbox.requests)) == (b"", 1, 1)
    assert reply.header.key_response is not None


def test_case_046_an_empty_message_that_offers_no_keys_is_for_the_application(world: World) -> None:
    inbox = Inbox()
    held = issued_session(world.context, "psk-client")
    answered = answer(world, compose(held, b"", renewable=True, handshake=None), server=world.server(inbox))
    assert len(inbox.requests) == 1
    assert len(answered.chunks) == 1


@pytest.mark.parametrize("chunks", [0, 1])
def test_case_047_handshake_response_with_no_chunk_or_an_empty_one(world: World, chunks: int) -> None:
    device = world.client("NONE")
    server = world.server()

    def shake_hands(body: bytes, request: Opened) -> bytes:
        response = exchange_keys(world.context, request)
        fields = {"messageid": request.message_id + 1, "keyresponsedata": response.to_wire()}
        head = compose(entity(world.context), None, **fields)
        if not chunks:
            return head
        session = response.master_token.context
        assert session is not None
        return head + seal_chunk(session, request.message_id + 1, 1, b"", endofmsg=True)

    script = Script(world, [device], shake_hands, real(server))
    assert device.ask(secret(b"data"), script).payload == b"data"
    assert len(script.requests) == 2


def test_a_handshake_is_repeated_when_the_server_gives_no_keys(world: World) -> None:
    """Section 10.5: six pairs at most, and then a named error rather than a loop."""
    device = world.client("NONE")

    def without_keys(body: bytes, request: Opened) -> bytes:
        return compose(entity(world.context), None, messageid=request.message_id + 1)

    script = Script(world, [device], without_keys)
    with pytest.raises(MslError) as caught:
        device.ask(secret(), script)
    assert caught.value.code is ErrorCode.KEYX_MASTER_TOKEN_MISSING
    assert len(script.requests) == 6
    assert not device.lock.held


def test_renewal_by_number_of_messages(world: World) -> None:
    """Issue 4: keys may be worn out by messages as well as by time."""
    device = world.client("PSK", renew_after_messages=3)
    script = scripted(world, device)
    for _ in range(8):
        device.ask(secret(), script)
    # Counted from the first message under the token; the server does not renew before its window.
    assert [bool(request.offers) for request in script.requests] == [True, *[False] * 3, True, *[False] * 2, True]
    world.clock.advance(RENEWAL_WINDOW)
    device.ask(secret(), script)
    device.ask(secret(), script)
    assert [bool(request.offers) for request in script.requests[8:]] == [True, False]
