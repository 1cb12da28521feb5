"""msl-engine section 21, conformance cases 67 to 79: protection of responses, and replay."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from hsm_msl.errors import ErrorCode, ResponseCode, StoreError, UsageError
from hsm_msl.msl.response import Requirements
from hsm_msl.msl.server import MslServer, Reply
from hsm_msl.msl.tokens.issuer import TokenPolicy
from hsm_msl.msl.tokens.replay import judge
from hsm_msl.ports import ReplayState
from hsm_msl.wire.limits import MAX_LONG, NON_REPLAYABLE_WINDOW
from msl_messages import Session, compose, entity, issued_session, key_request_data, session
from msl_script import Script, answer, assert_refused, real
from msl_world import LIFETIME, RENEWAL_WINDOW, START, Inbox, World, public, secret

ENCRYPTED = Requirements(encrypted=True)
PROTECTED = Requirements(encrypted=True, integrity=True)


@pytest.fixture
def world() -> World:
    return World()


def renewing(world: World, **fields: Any) -> dict[str, Any]:
    return {"renewable": True, "keyrequestdata": key_request_data(world), **fields}


Making = Callable[[World, Requirements], tuple[MslServer, Inbox]]


def always(world: World, requirements: Requirements) -> tuple[MslServer, Inbox]:
    """Require it of every reply, known before the application is called."""
    inbox = Inbox()
    return world.server(inbox, requirements=requirements), inbox


def per_reply(world: World, requirements: Requirements) -> tuple[MslServer, Inbox]:
    """Require it of one reply, known only after the application was called."""
    inbox = Inbox()
    return world.server(lambda request: Reply(inbox(request), requirements=requirements)), inbox


@pytest.mark.parametrize("making", [always, per_reply])
@pytest.mark.parametrize("scheme", ["NONE", "RSA"])
@pytest.mark.parametrize("fields", [{}, {"renewable": True}])
def test_case_067_reply_that_must_be_encrypted(
    world: World, scheme: str, making: Making, fields: dict[str, Any]
) -> None:
    server, inbox = making(world, ENCRYPTED)
    refused = answer(world, compose(entity(world.client(scheme)), **fields), server=server)
    assert_refused(refused, ErrorCode.RESPONSE_REQUIRES_ENCRYPTION, ResponseCode.KEYX_REQUIRED)
    assert len(inbox.requests) == (making is per_reply)


@pytest.mark.parametrize("making", [always, per_reply])
def test_case_068_reply_that_must_be_protected_is_refused_before_encryption(making: Making) -> None:
    world = World(server_scheme="NONE")
    refused = answer(world, compose(entity(world.client("NONE"))), server=making(world, PROTECTED)[0])
    assert_refused(refused, ErrorCode.RESPONSE_REQUIRES_INTEGRITY_PROTECTION, ResponseCode.KEYX_REQUIRED)


@pytest.mark.parametrize("making", [always, per_reply])
@pytest.mark.parametrize("scheme", ["NONE", "RSA"])
def test_case_069_a_key_exchange_gives_the_protection(world: World, scheme: str, making: Making) -> None:
    body = compose(entity(world.client(scheme)), **renewing(world))
    answered = answer(world, body, server=making(world, PROTECTED)[0])
    assert answered.key_response_token is not None
    assert answered.payload_context is answered.key_response_token.context
    assert answered.payload == b"data"


def test_a_client_recovers_from_a_reply_that_must_be_encrypted(world: World) -> None:
    """Cases 67 and 69 from the client's side: it comes back with a key exchange."""
    device = world.client("NONE")
    server, inbox = always(world, PROTECTED)
    device.lock.try_acquire()  # so that the first message cannot be renewable
    script = Script(world, [device], real(server))

    def release_then_answer(body: bytes) -> bytes:
        if not script.requests:
            device.lock.release(None)
        return script(body)

    assert device.ask(public(b"data"), release_then_answer).payload == b"data"
    assert [bool(request.offers) for request in script.requests] == [False, True]
    assert len(inbox.requests) == 1


def test_case_070_non_replayable_id_without_master_token(world: World) -> None:
    refused = answer(world, compose(entity(world.client("PSK")), nonreplayableid=1))
    assert_refused(refused, ErrorCode.INCOMPLETE_NONREPLAYABLE_MESSAGE, ResponseCode.FAIL)


def test_case_071_the_same_id_twice(world: World) -> None:
    inbox = Inbox()
    server = world.server(inbox)
    body = compose(session(world.context, "psk-client"), nonreplayableid=1)
    assert answer(world, body, server=server).payload == b"data"
    assert_refused(answer(world, body, server=server), ErrorCode.MESSAGE_REPLAYED, ResponseCode.REPLAYED)
    assert len(inbox.requests) == 1


def with_largest(world: World, largest: int) -> Session:
    held = session(world.context, "psk-client")
    world.replays.advance("psk-client", held.token.serial_number, lambda old: ReplayState(largest))
    return held


def assert_verdict(world: World, held: Session, received: int, code: ErrorCode | None) -> None:
    answered = answer(world, compose(held, nonreplayableid=received))
    if code is None:
        assert answered.payload == b"data"
    else:
        replayed = code is ErrorCode.MESSAGE_REPLAYED
        assert_refused(answered, code, ResponseCode.REPLAYED if replayed else ResponseCode.ENTITY_REAUTH)


AGAIN, LOST = ErrorCode.MESSAGE_REPLAYED, ErrorCode.MESSAGE_REPLAYED_UNRECOVERABLE


@pytest.mark.parametrize("largest", [0, 1, 100, 10**12])
def test_case_072_ids_ahead_of_the_largest(world: World, largest: int) -> None:
    assert_verdict(world, with_largest(world, largest), largest + NON_REPLAYABLE_WINDOW + 1, LOST)
    assert_verdict(world, with_largest(world, largest), largest + NON_REPLAYABLE_WINDOW, None)


def test_case_073_ids_behind_the_largest(world: World) -> None:
    held = with_largest(world, 100)
    assert_verdict(world, held, 95, AGAIN)
    assert_verdict(world, held, 94, LOST)
    assert_verdict(world, held, 100, AGAIN)


def test_case_074_ids_wrap(world: World) -> None:
    held = with_largest(world, MAX_LONG)
    assert_verdict(world, held, 0, None)
    assert_verdict(world, held, 0, AGAIN)
    assert_verdict(world, held, 1, None)


def test_case_075_zero_as_the_first_id(world: World) -> None:
    assert_verdict(world, session(world.context, "psk-client"), 0, AGAIN)


@pytest.mark.parametrize("received", [-1, MAX_LONG + 1])
def test_id_out_of_range(world: World, received: int) -> None:
    """Section 6, row D9."""
    refused = answer(world, compose(session(world.context, "psk-client"), nonreplayableid=received))
    assert_refused(refused, ErrorCode.NONREPLAYABLE_ID_OUT_OF_RANGE, ResponseCode.FAIL)


@pytest.mark.parametrize(
    ("largest", "received", "verdict"),
    [
        (0, 0, AGAIN),
        (0, 1, None),
        (0, 65536, None),
        (0, 65537, LOST),
        *((100, received, AGAIN) for received in range(95, 101)),
        (100, 94, LOST),
        (100, 65636, None),
        (100, 65637, LOST),
        (MAX_LONG, 0, None),
        (MAX_LONG, 65535, None),
        (MAX_LONG, 65536, LOST),
        (MAX_LONG - 65536, 0, LOST),
        (MAX_LONG - 65535, 0, None),
        (MAX_LONG - 65535, 1, LOST),
        (2, MAX_LONG, LOST),
    ],
)
def test_reference_points(largest: int, received: int, verdict: ErrorCode | None) -> None:
    """Section 14, the measured points."""
    assert judge(largest, received) is verdict


def test_case_076_client_sends_again_with_the_next_id(world: World) -> None:
    device, inbox = world.client("PSK"), Inbox()
    server = world.server(inbox)
    device.ask(secret(), server.handle)
    token = device.state.newest()
    assert token is not None
    world.replays.advance(device.identity, token.master_token.serial_number, lambda old: ReplayState(2))
    script = Script(world, [device], real(server))
    assert device.ask(secret(b"once", non_replayable=True), script).payload == b"once"
    assert [request.data["nonreplayableid"] for request in script.requests] == [1, 2, 3]
    assert [request.message_id - script.requests[0].message_id for request in script.requests] == [0, 2, 4]
    assert [request.payload for request in inbox.requests[1:]] == [b"once"]


def test_case_077_ids_continue_under_a_renewed_master_token(world: World) -> None:
    device = world.client("PSK")
    script = Script(world, [device], real(world.server()))
    device.ask(secret(non_replayable=True), script)
    world.clock.advance(RENEWAL_WINDOW)
    renewed = device.ask(secret(non_replayable=True), script)
    assert renewed.header.key_response is not None
    device.ask(secret(non_replayable=True), script)
    assert [request.data.get("nonreplayableid") for request in script.requests] == [None, 1, 2, 3]


def test_case_077_ids_restart_under_a_new_serial_number(world: World) -> None:
    device = world.client("PSK")
    script = Script(world, [device], real(world.server()))
    device.ask(secret(non_replayable=True), script)
    first = device.state.newest()
    assert first is not None
    device.state.remove_session(first.master_token)
    device.ask(secret(non_replayable=True), script)
    ids = [request.data.get("nonreplayableid") for request in script.requests]
    assert ids == [None, 1, None, 1]


def test_case_077_a_new_master_token_does_not_make_old_messages_acceptable(world: World) -> None:
    """What was accepted under an earlier serial number stays refused, as long as that token is valid at all."""
    device, inbox = world.client("PSK"), Inbox()
    server = world.server(inbox)
    device.ask(secret(b"pay", non_replayable=True), server.handle)
    recorded = device.pairs[-1][0]
    first = device.state.newest()
    assert first is not None
    device.state.remove_session(first.master_token)
    device.ask(secret(b"other", non_replayable=True), server.handle)
    refused = answer(world, recorded, server=server)
    assert (refused.code, refused.response) == (ErrorCode.MESSAGE_REPLAYED, ResponseCode.REPLAYED)
    assert [request.payload for request in inbox.requests] == [b"pay", b"other"]


def test_case_078_two_servers_accept_an_id_once(world: World) -> None:
    inbox = Inbox()
    servers = [world.server(inbox, context=world.server_context()) for _ in range(2)]
    held = issued_session(world.context, "psk-client")
    for received in range(1, 40):
        body = compose(held, nonreplayableid=received)
        with ThreadPoolExecutor(2) as pool:
            replies = [*pool.map(lambda server, body=body: server.handle(body), servers)]
        assert sorted(b"errordata" in reply for reply in replies) == [False, True]
    assert len(inbox.requests) == 39


def test_case_079_expiry_is_reported_first_and_consumes_no_id(world: World) -> None:
    held = session(world.context, "psk-client", renewalwindow=START, expiration=START + 1)
    body = compose(held, nonreplayableid=1)
    server = world.server()
    assert answer(world, body, server=server).payload == b"data"
    world.clock.advance(1)
    for received in (1, 2):
        refused = answer(world, compose(held, nonreplayableid=received), server=server)
        assert_refused(refused, ErrorCode.MESSAGE_EXPIRED_NOT_RENEWABLE, ResponseCode.EXPIRED)
    world.clock.advance(-1)
    assert answer(world, compose(held, nonreplayableid=2), server=server).payload == b"data"


def test_an_outage_of_the_store_is_no_verdict(world: World) -> None:
    """Section 22: state unreachable means 9000 TRANSIENT_FAILURE for messages that need it; others go on."""

    class Broken:
        def advance(self, *arguments: object) -> None:
            raise StoreError("no answer")

    world.replays = Broken()
    inbox = Inbox()
    server = world.server(inbox, context=world.server_context())
    held = session(world.context, "psk-client")
    refused = answer(world, compose(held, nonreplayableid=1), server=server)
    assert_refused(refused, ErrorCode.INTERNAL_EXCEPTION, ResponseCode.TRANSIENT_FAILURE)
    assert answer(world, compose(held), server=server).payload == b"data"
    assert len(inbox.requests) == 1


def test_a_server_context_is_needed_for_a_server(world: World) -> None:
    """Section 1: a client of a trusted-services network has no token factory and cannot answer."""
    with pytest.raises(UsageError, match="issuer"):
        world.server(context=world.client("PSK").context)


def test_overtaken_messages_are_accepted_once_each_where_the_policy_says_so() -> None:
    """Section 14: a bounded window below the largest ID, so that concurrent messages need no second round trip."""
    world = World(policy=TokenPolicy(RENEWAL_WINDOW, LIFETIME, out_of_order=64))
    inbox = Inbox()
    server = world.server(inbox)
    held = session(world.context, "psk-client")
    bodies = {number: compose(held, nonreplayableid=number) for number in range(1, 71)}
    for number in (70, *range(69, 5, -1)):
        assert answer(world, bodies[number], server=server).payload == b"data"
    for number in (5, 6, 63):
        assert answer(world, bodies[number], server=server).code is LOST
    for number in (65, 70):
        assert answer(world, bodies[number], server=server).code is AGAIN
    assert len(inbox.requests) == 65
