"""Messages for which no reply is read (msl-engine section 4.6): they go out as they were asked for, or not at all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hsm_msl.errors import ErrorCode, MslError, ResponseCode, UsageError
from hsm_msl.msl.conversation import ErrorResponseError, Message, SendConversation, Sent, Wait
from hsm_msl.msl.message_stream import Received
from hsm_msl.msl.peer_message import PeerMessage
from msl_messages import compose, entity
from msl_peers import Line, Program, Silent, peer
from msl_script import Script, real, refuse
from msl_world import (
    ADA,
    LIFETIME,
    RENEWAL_WINDOW,
    Answer,
    Credentials,
    Device,
    Inbox,
    World,
    body_of,
    public,
    secret,
)


@pytest.fixture
def world() -> World:
    return World()


def send(device: Device, message: Message, answer: Answer) -> Sent:
    """Run the conversation to its end; the answer to its last message is made, and not looked at."""
    conversation: SendConversation = device.engine.send(message)
    try:
        step = next(conversation)
        while True:
            step = conversation.send(answer(body_of(step)))
    except StopIteration as done:
        sent: Sent = done.value
        return sent
    finally:
        conversation.close()


@pytest.mark.parametrize("scheme", ["PSK", "RSA", "NONE"])
def test_a_public_message_goes_out_at_once_and_asks_for_nothing(world: World, scheme: str) -> None:
    """Section 4.6: the reference asks for tokens here and never reads the answer; who does not ask loses nothing."""
    device, inbox = world.client(scheme), Inbox()
    script = Script(world, [device], real(world.server(inbox)))
    sent = send(device, public(), script)
    (request,) = script.requests
    assert (request.data["renewable"], request.offers, request.data["handshake"]) == (False, [], False)
    assert [header.message_id for header in sent.requests] == [request.message_id]
    assert [received.payload for received in inbox.requests] == [b"public"]
    assert device.state.newest() is None
    assert not device.lock.held


def test_one_message_where_the_scheme_encrypts(world: World) -> None:
    device, inbox = world.client("PSK"), Inbox()
    script = Script(world, [device], real(world.server(inbox)))
    user = Credentials(ADA)
    send(device, secret(b"told", user=user), script)
    assert len(script.requests) == 1
    assert [(received.payload, received.user) for received in inbox.requests] == [(b"told", ADA)]


@pytest.mark.parametrize("scheme", ["RSA", "NONE"])
def test_a_handshake_first_where_it_does_not(world: World, scheme: str) -> None:
    """Section 4.6: a reply is read for the handshake only."""
    device, inbox = world.client(scheme), Inbox()
    script = Script(world, [device], real(world.server(inbox)))
    sent = send(device, secret(b"told", user=Credentials(ADA)), script)
    assert [request.data["handshake"] for request in script.requests] == [True, False]
    assert script.requests[1].master_token is not None
    assert script.requests[1].data["renewable"] is False
    assert script.requests[1].message_id == script.requests[0].message_id + 2
    assert len(sent.requests) == 2
    assert [(received.payload, received.user) for received in inbox.requests] == [(b"told", ADA)]
    send(device, secret(b"again"), script)
    assert len(script.requests) == 3


def test_once_only_messages_have_their_id_under_a_master_token(world: World) -> None:
    """Case 45, without a reply."""
    device, inbox = world.client("PSK"), Inbox()
    script = Script(world, [device], real(world.server(inbox)))
    for _ in range(2):
        send(device, secret(non_replayable=True), script)
    assert [request.data.get("nonreplayableid") for request in script.requests] == [None, 1, 2]
    assert len(inbox.requests) == 2


def test_an_expired_master_token_is_renewed_by_a_handshake_and_not_by_the_message(world: World) -> None:
    device, inbox = world.client("PSK"), Inbox()
    script = Script(world, [device], real(world.server(inbox)))
    device.ask(secret(), script)
    world.clock.advance(RENEWAL_WINDOW)
    send(device, secret(b"in the window"), script)
    assert script.requests[-1].data["renewable"] is False, "it can do without"
    world.clock.advance(LIFETIME)
    send(device, secret(b"expired"), script)
    assert [request.data["handshake"] for request in script.requests[-2:]] == [True, False]
    newest = device.state.newest()
    assert newest is not None
    assert newest.master_token.sequence_number == 1
    assert [received.payload for received in inbox.requests[1:]] == [b"in the window", b"expired"]


def test_tokens_asked_for_are_not_asked_for_without_a_reply(world: World) -> None:
    """The send-only context of section 1."""
    device = world.client("PSK")
    script = Script(world, [device], real(world.server()))
    send(device, replace(secret(), request_tokens=True), script)
    assert script.requests[0].offers == []


def test_a_refused_message_is_not_noticed_and_a_refused_handshake_is(world: World) -> None:
    device = world.client("PSK")
    send(device, secret(), Script(world, [device], refuse(world, ResponseCode.FAIL)))
    guest = world.client("NONE")
    with pytest.raises(ErrorResponseError):
        send(guest, secret(), Script(world, [guest], refuse(world, ResponseCode.FAIL)))
    assert not guest.lock.held


def test_a_handshake_that_brings_no_keys_ends_with_a_name(world: World) -> None:
    device = world.client("NONE")

    def without_keys(body: bytes, request: object) -> bytes:
        return compose(entity(world.context), None, messageid=script.requests[-1].message_id + 1)

    script = Script(world, [device], without_keys)
    with pytest.raises(MslError) as caught:
        send(device, secret(), script)
    assert caught.value.code is ErrorCode.KEYX_MASTER_TOKEN_MISSING
    assert len(script.requests) == 6
    assert not device.lock.held


def test_a_sender_waits_for_a_renewal_it_cannot_do_without(world: World) -> None:
    device = world.client("NONE")
    server = world.server()
    first = device.engine.request(secret(b"first"))
    body = body_of(next(first))
    second = device.engine.send(secret(b"second"))
    assert isinstance(next(second), Wait)
    first.send(server.handle(body))
    step = second.send(None)
    assert b"mastertoken" in body_of(step)
    second.close()
    first.close()


@pytest.mark.parametrize("schemes", [("PSK", "PSK"), ("NONE", "RSA"), ("RSA", "PSK")])
def test_between_peers(world: World, schemes: tuple[str, str]) -> None:
    one, other = peer(world, schemes[0], "peer-a"), peer(world, schemes[1], "peer-b")
    line = Line(one, other)
    here, there = one.connect(), other.connect()

    def tell() -> Silent:
        for payload in (b"one", b"two"):
            yield from here.send(PeerMessage(payload))

    def listen() -> Program:
        heard = []
        for _ in range(2):
            message = yield from there.receive()
            assert isinstance(message, Received)
            heard.append(message.payload)
        return heard

    _, heard = line.run(tell(), listen())
    assert heard == [b"one", b"two"]
    sent = [name for name, _ in line.passed]
    assert sent == (["A", "A"] if schemes[0] == "PSK" else ["A", "B", "A", "A"])
    assert not one.lock.held


@pytest.mark.parametrize("payload", ["text", bytearray(b"x"), memoryview(b"x"), [b"x"], iter([b"x"]), None])
def test_what_is_no_payload_is_refused_before_anything_is_sent(payload: Any) -> None:
    with pytest.raises(UsageError, match=f"a payload is bytes, or a function .* no {type(payload).__name__}"):
        Message(payload)


def test_a_function_may_give_the_payload_at_once() -> None:
    world = World()

    def whole() -> Any:
        return b"at once"

    assert world.client().ask(Message(whole), world.server().handle).payload == b"at once"
