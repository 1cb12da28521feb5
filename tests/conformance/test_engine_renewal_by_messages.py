"""Renewal by number of messages: what clients ask, and what servers of either kind answer (sections 4.2 and 7.1)."""

from __future__ import annotations

import pytest

from hsm_msl.errors import ErrorCode, ResponseCode
from hsm_msl.msl.conversation import Response
from hsm_msl.msl.peer_message import PeerMessage
from hsm_msl.msl.tokens.issuer import TokenPolicy
from msl_messages import compose, issued_session, key_request_data
from msl_peers import Line, answering, peer
from msl_script import Script, answer, assert_refused, real
from msl_world import ADA, LIFETIME, RENEWAL_WINDOW, Credentials, Device, Inbox, World, secret


def early(**policy: bool) -> World:
    return World(
        policy=TokenPolicy(
            RENEWAL_WINDOW,
            LIFETIME,
            renews=lambda identity: policy.get("renews", True),
            renews_early=lambda identity: identity.startswith("psk"),
            defers=lambda: policy.get("defers", False),
        )
    )


def sequences(device: Device, world: World, count: int) -> list[int | None]:
    """Send messages and return the sequence number each went out under."""
    server = world.server()
    replies: list[Response] = [device.ask(secret(), server.handle) for _ in range(count)]
    tokens = [reply.requests[-1].master_token for reply in replies]
    return [None if token is None else token.sequence_number for token in tokens]


def test_a_server_that_grants_it_renews_before_the_window() -> None:
    world = early()
    device = world.client("PSK", renew_after_messages=3)
    assert sequences(device, world, 12) == [None, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2]


def test_a_server_of_the_deployed_kind_declines_and_is_not_asked_with_every_message() -> None:
    """Case 29: an answer under the same token; the client keeps it and goes on."""
    world = World()
    device, inbox = world.client("PSK", renew_after_messages=3), Inbox()
    script = Script(world, [device], real(world.server(inbox)))
    replies = [device.ask(secret(), script) for _ in range(12)]
    assert [reply.pairs for reply in replies] == [1] * 12
    assert [bool(request.offers) for request in script.requests].count(True) == 1 + 11 // 3
    assert all(reply.header.key_response is None for reply in replies[1:])
    assert not device.lock.held
    assert len(inbox.requests) == 12


def test_only_the_entities_of_the_policy_are_renewed_early() -> None:
    world = early()
    device = world.client("PSK", "other", renew_after_messages=3)
    assert set(sequences(device, world, 9)) == {None, 0}


@pytest.mark.parametrize("policy", [{"renews": False}, {"defers": True}], ids=["never", "under load"])
def test_what_else_stands_in_the_way_of_a_renewal_does_so_here(policy: dict[str, bool]) -> None:
    world = early(**policy)
    device = world.client("PSK", renew_after_messages=3)
    assert set(sequences(device, world, 9)) == {None, 0}


def test_the_rules_for_sequence_numbers_hold_for_early_renewals() -> None:
    """Section 17: an older number is refused, before the application is asked."""
    world = early()
    inbox = Inbox()
    server = world.server(inbox)
    first = issued_session(world.context, "psk-client")
    asking = {"renewable": True, "keyrequestdata": key_request_data(world)}
    for _ in range(2):
        # The first answer may have been lost, so the same token renews again.
        assert answer(world, compose(first, **asking), server=server).key_response_token is not None
    for _ in range(4):
        answer(world, compose(first, **asking), server=server)
    refused = answer(world, compose(first, **asking), server=server)
    assert_refused(refused, ErrorCode.MASTERTOKEN_SEQUENCE_NUMBER_OUT_OF_SYNC, ResponseCode.ENTITY_REAUTH)
    assert len(inbox.requests) == 6
    assert answer(world, compose(first), server=server).payload == b"data"


def test_users_and_once_only_messages_survive_early_renewals() -> None:
    world = early()
    device, inbox = world.client("PSK", renew_after_messages=2), Inbox()
    server = world.server(inbox)
    user = Credentials(ADA)
    for _ in range(10):
        device.ask(secret(user=user, non_replayable=True), server.handle)
    assert [request.user for request in inbox.requests] == [ADA] * 10
    assert user.asked.count((None, True)) <= 2


def test_peers_renew_by_number_of_messages() -> None:
    world = World(policy=TokenPolicy(RENEWAL_WINDOW, LIFETIME, renews_early=lambda identity: True))
    one, other = peer(world, "PSK", "peer-a"), peer(world, "PSK", "peer-b")
    there = other.connect()
    here = one.connect(renew_after_messages=3)
    line = Line(one, other)
    for _ in range(10):
        line.run(here.request(PeerMessage(b"x")), answering(there, lambda received: PeerMessage(b"y")))
    held = one.state.newest()
    assert held is not None
    assert held.master_token.sequence_number >= 2
