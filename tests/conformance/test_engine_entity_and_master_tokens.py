"""msl-engine section 21, conformance cases 14 to 36: entity authentication and master tokens at the server."""

from __future__ import annotations

from typing import Any

import pytest

from hsm_msl.errors import ErrorCode, ResponseCode
from hsm_msl.msl.tokens.issuer import TokenPolicy
from hsm_msl.ports import RenewalState
from hsm_msl.stores.memory import MemoryRenewalStore
from hsm_msl.wire.limits import MAX_LONG
from msl_keys import Ring, symmetric_keys
from msl_messages import (
    Observer,
    Opened,
    Sender,
    compose,
    corrupt,
    entity,
    issued_session,
    key_request_data,
    session,
)
from msl_script import Script, answer, assert_refused, real
from msl_world import LIFETIME, RENEWAL_WINDOW, START, Inbox, World, secret


@pytest.fixture
def world() -> World:
    return World()


def renewing(world: World, **fields: Any) -> dict[str, Any]:
    return {"renewable": True, "keyrequestdata": key_request_data(world), **fields}


def test_case_014_master_token_of_an_unknown_issuer(world: World) -> None:
    stranger = World(seed=1)
    body = compose(session(stranger.context, "psk-client"))
    assert_refused(answer(world, body), ErrorCode.MASTERTOKEN_UNTRUSTED, ResponseCode.ENTITY_REAUTH, mid=False)


def test_case_014_master_token_with_a_changed_signature(world: World) -> None:
    """Section 20 trap 21: nothing cached lets a damaged signature pass."""
    held = issued_session(world.context, "psk-client")
    server = world.server()
    assert not answer(world, compose(held), server=server).is_error
    damaged = {**held.wire, "signature": corrupt_text(str(held.wire["signature"]))}
    body = compose(Sender({"mastertoken": damaged}, held.context))
    refused = answer(world, body, server=server)
    assert_refused(refused, ErrorCode.MASTERTOKEN_UNTRUSTED, ResponseCode.ENTITY_REAUTH, mid=False)


def corrupt_text(text: str) -> str:
    return ("B" if text[0] == "A" else "A") + text[1:]


def test_case_015_corrupt_signature_under_a_master_token(world: World) -> None:
    body = corrupt(compose(session(world.context, "psk-client")))
    refused = answer(world, body)
    code = ErrorCode.MESSAGE_MASTERTOKENBASED_VERIFICATION_FAILED
    assert_refused(refused, code, ResponseCode.ENTITY_REAUTH, mid=False)


@pytest.mark.parametrize("scheme", ["PSK", "RSA"])
def test_case_016_corrupt_signature_under_entity_authentication(world: World, scheme: str) -> None:
    body = corrupt(compose(entity(world.client(scheme))))
    refused = answer(world, body)
    code = ErrorCode.MESSAGE_ENTITYDATABASED_VERIFICATION_FAILED
    assert_refused(refused, code, ResponseCode.ENTITYDATA_REAUTH, mid=False)


def test_case_017_unknown_psk_identity(world: World) -> None:
    body = compose(entity(world.client("PSK", "ghost")))
    del world.preshared["ghost"]
    assert_refused(answer(world, body), ErrorCode.ENTITY_NOT_FOUND, ResponseCode.FAIL, mid=False)


def test_case_018_unknown_rsa_key(world: World) -> None:
    body = compose(entity(world.client("RSA", "ghost")))
    del world.public_keys["ghost-key"]
    refused = answer(world, body)
    assert_refused(refused, ErrorCode.RSA_PUBLICKEY_NOT_FOUND, ResponseCode.ENTITYDATA_REAUTH, mid=False)


@pytest.mark.parametrize("scheme", ["PSK", "RSA", "NONE"])
def test_case_019_revoked_entity(world: World, scheme: str) -> None:
    device = world.client(scheme)
    body = compose(entity(device))
    world.grants.revoked.add(device.identity)
    assert_refused(answer(world, body), ErrorCode.ENTITY_REVOKED, ResponseCode.FAIL, mid=False)


@pytest.mark.parametrize(
    ("scheme", "code"),
    [("X509", ErrorCode.ENTITYAUTH_FACTORY_NOT_FOUND), ("MAGIC", ErrorCode.UNIDENTIFIED_ENTITYAUTH_SCHEME)],
)
def test_case_020_scheme_without_factory_or_name(world: World, scheme: str, code: ErrorCode) -> None:
    sender = Sender({"entityauthdata": {"scheme": scheme, "authdata": {}}}, entity(world.client("NONE")).context)
    assert_refused(answer(world, compose(sender)), code, ResponseCode.FAIL, mid=False)


def test_case_021_revoked_master_token(world: World) -> None:
    held = session(world.context, "psk-client")
    world.revocations.master_tokens.add(held.token.serial_number)
    refused = answer(world, compose(held))
    assert_refused(refused, ErrorCode.MASTERTOKEN_IDENTITY_REVOKED, ResponseCode.ENTITY_REAUTH)


def test_case_021_revocation_is_seen_although_the_token_is_cached(world: World) -> None:
    held, server = session(world.context, "psk-client"), world.server()
    assert not answer(world, compose(held), server=server).is_error
    world.revocations.master_tokens.add(held.token.serial_number)
    refused = answer(world, compose(held), server=server)
    assert_refused(refused, ErrorCode.MASTERTOKEN_IDENTITY_REVOKED, ResponseCode.ENTITY_REAUTH)


def test_case_022_expired_master_token_in_a_message_that_is_not_renewable(world: World) -> None:
    held = session(world.context, "psk-client")
    world.clock.advance(LIFETIME)
    body = compose(held, keyrequestdata=key_request_data(world))
    refused = answer(world, body)
    assert_refused(refused, ErrorCode.MESSAGE_EXPIRED_NOT_RENEWABLE, ResponseCode.EXPIRED)


def test_case_023_expired_master_token_without_key_request(world: World) -> None:
    held = session(world.context, "psk-client")
    world.clock.advance(LIFETIME)
    refused = answer(world, compose(held, renewable=True))
    assert_refused(refused, ErrorCode.MESSAGE_EXPIRED_NO_KEYREQUEST_DATA, ResponseCode.EXPIRED)


def test_case_024_expired_master_token_that_the_factory_does_not_renew(world: World) -> None:
    first = issued_session(world.context, "psk-client")
    server = world.server()
    world.clock.advance(RENEWAL_WINDOW)
    second = answer(world, compose(first, **renewing(world)), server=server).key_response_token
    assert second is not None
    assert second.context is not None
    held = Sender({"mastertoken": second.to_wire()}, second.context)
    world.clock.advance(RENEWAL_WINDOW)
    assert answer(world, compose(held, **renewing(world)), server=server).key_response_token is not None
    world.clock.advance(LIFETIME)
    # The first sequence number is neither the last issued nor the last used: a copy of the token is about.
    refused = answer(world, compose(first, **renewing(world)), server=server)
    assert_refused(refused, ErrorCode.MASTERTOKEN_SEQUENCE_NUMBER_OUT_OF_SYNC, ResponseCode.ENTITY_REAUTH)


@pytest.mark.parametrize("age", [LIFETIME, LIFETIME + 10_000])
def test_case_025_expired_master_token_is_renewed_under_the_old_one(world: World, age: int) -> None:
    held = issued_session(world.context, "psk-client")
    world.clock.advance(age)
    renewed = answer(world, compose(held, **renewing(world)))
    assert_renewed(renewed, held.token.serial_number, 0, 1)
    assert renewed.payload == b"data"


def assert_renewed(answered: Opened, serial: int, old: int, new: int) -> None:
    """The header is under the old token, the payload under the new session keys (section 7.4)."""
    assert not answered.is_error
    assert answered.master_token is not None
    assert answered.key_response_token is not None
    assert (answered.master_token.serial_number, answered.master_token.sequence_number) == (serial, old)
    assert (answered.key_response_token.serial_number, answered.key_response_token.sequence_number) == (serial, new)
    assert answered.payload_context is answered.key_response_token.context


def test_case_026_master_token_inside_its_window_is_renewed(world: World) -> None:
    held = issued_session(world.context, "psk-client")
    world.clock.advance(RENEWAL_WINDOW)
    assert_renewed(answer(world, compose(held, **renewing(world))), held.token.serial_number, 0, 1)


def test_case_027_no_renewal_when_the_message_is_not_renewable(world: World) -> None:
    held = issued_session(world.context, "psk-client")
    world.clock.advance(RENEWAL_WINDOW)
    assert_not_renewed(answer(world, compose(held, keyrequestdata=key_request_data(world))))


def test_case_028_no_renewal_without_key_request(world: World) -> None:
    held = issued_session(world.context, "psk-client")
    world.clock.advance(RENEWAL_WINDOW)
    assert_not_renewed(answer(world, compose(held, renewable=True)))


def test_case_029_no_renewal_before_the_window(world: World) -> None:
    held = issued_session(world.context, "psk-client")
    world.clock.advance(RENEWAL_WINDOW - 1)
    assert_not_renewed(answer(world, compose(held, **renewing(world))))


def assert_not_renewed(answered: Opened) -> None:
    assert not answered.is_error
    assert "keyresponsedata" not in answered.data
    assert "mastertoken" in answered.outer
    assert answered.payload == b"data"


@pytest.mark.parametrize("scheme", ["PSK", "RSA", "NONE"])
def test_case_030_first_keys_under_the_servers_entity_authentication(world: World, scheme: str) -> None:
    device = world.client(scheme)
    answered = answer(world, compose(entity(device), **renewing(world)))
    assert answered.outer["entityauthdata"]["scheme"] == "RSA"
    assert answered.key_response_token is not None
    assert answered.key_response_token.identity == device.identity
    assert (answered.key_response_token.sequence_number, answered.key_response_token.serial_number > 0) == (0, True)
    # ``Observer`` opened the payload with the new keys; the server's own context would not have.
    assert answered.payload_context is answered.key_response_token.context
    assert answered.payload == b"data"


def test_case_031_no_keys_when_the_message_is_not_renewable(world: World) -> None:
    device = world.client("PSK")
    answered = answer(world, compose(entity(device), keyrequestdata=key_request_data(world)))
    assert "keyresponsedata" not in answered.data
    assert answered.outer["entityauthdata"]["scheme"] == "RSA"
    assert answered.payload == b"data"


def test_case_032_no_common_key_exchange() -> None:
    world = World(exchanges=["ASYMMETRIC_WRAPPED"])
    offered = key_request_data(World(), "DIFFIE_HELLMAN")
    body = compose(entity(world.client("PSK")), renewable=True, keyrequestdata=offered)
    assert_refused(answer(world, body), ErrorCode.KEYX_FACTORY_NOT_FOUND, ResponseCode.FAIL)


def test_case_033_second_choice_serves_when_the_first_fails(world: World) -> None:
    offered = key_request_data(world, "DIFFIE_HELLMAN", "ASYMMETRIC_WRAPPED")
    offered[0]["keydata"] = {**as_object(offered[0]["keydata"]), "parametersid": "no-such-group"}
    body = compose(entity(world.client("PSK")), renewable=True, keyrequestdata=offered)
    assert answer(world, body).data["keyresponsedata"]["scheme"] == "ASYMMETRIC_WRAPPED"


def test_case_033_second_choice_serves_when_the_first_is_not_permitted(world: World) -> None:
    world.grants.denied_exchanges.add(("psk-client", "DIFFIE_HELLMAN"))
    offered = key_request_data(world, "DIFFIE_HELLMAN", "ASYMMETRIC_WRAPPED")
    body = compose(entity(world.client("PSK")), renewable=True, keyrequestdata=offered)
    assert answer(world, body).data["keyresponsedata"]["scheme"] == "ASYMMETRIC_WRAPPED"


def test_case_033_the_last_error_stands_when_all_fail(world: World) -> None:
    world.grants.denied_exchanges.update({("psk-client", "DIFFIE_HELLMAN"), ("psk-client", "ASYMMETRIC_WRAPPED")})
    offered = key_request_data(world, "DIFFIE_HELLMAN", "ASYMMETRIC_WRAPPED")
    body = compose(entity(world.client("PSK")), renewable=True, keyrequestdata=offered)
    assert_refused(answer(world, body), ErrorCode.KEYX_INCORRECT_DATA, ResponseCode.FAIL)


def test_case_033_the_servers_order_of_preference_decides(world: World) -> None:
    offered = key_request_data(world, "ASYMMETRIC_WRAPPED", "DIFFIE_HELLMAN")
    body = compose(entity(world.client("PSK")), renewable=True, keyrequestdata=offered)
    assert answer(world, body).data["keyresponsedata"]["scheme"] == "DIFFIE_HELLMAN"


def as_object(value: object) -> dict[str, Any]:
    assert isinstance(value, dict)
    return value


def test_case_034_one_unknown_scheme_fails_the_message(world: World) -> None:
    offered = [*key_request_data(world), {"scheme": "TELEPATHY", "keydata": {}}]
    body = compose(entity(world.client("PSK")), renewable=True, keyrequestdata=offered)
    assert_refused(answer(world, body), ErrorCode.UNIDENTIFIED_KEYX_SCHEME, ResponseCode.FAIL)


def test_case_035_sequence_number_wraps_on_renewal(world: World) -> None:
    held = session(world.context, "psk-client", sequencenumber=MAX_LONG, renewalwindow=START)
    renewed = answer(world, compose(held, **renewing(world)))
    assert_renewed(renewed, held.token.serial_number, MAX_LONG, 0)


def test_case_036_client_goes_on_with_the_renewed_token(world: World) -> None:
    device = world.client("PSK")
    script = Script(world, [device], real(world.server()))
    device.ask(secret(), script)
    world.clock.advance(RENEWAL_WINDOW)
    renewal = device.ask(secret(), script)
    assert renewal.header.master_token is not None
    assert renewal.header.master_token.sequence_number == 0
    device.ask(secret(), script)
    used = [request.master_token.sequence_number for request in script.requests if request.master_token]
    assert used == [0, 1]
    assert [request.data["renewable"] for request in script.requests] == [True, True, False]


def test_renewal_is_put_off_where_policy_says_so() -> None:
    """Issue 4, deferral under load: inside the window the server may simply not renew."""
    world = World()
    busy: set[str] = set()
    world.policy = type(world.policy)(RENEWAL_WINDOW, LIFETIME, renews=lambda identity: identity not in busy)
    world.context = world.server_context()
    device = world.client("PSK")
    script = Script(world, [device], real(world.server()))
    device.ask(secret(), script)
    busy.add("psk-client")
    world.clock.advance(RENEWAL_WINDOW)
    put_off = device.ask(secret(b"put off"), script)
    assert (put_off.payload, put_off.header.key_response) == (b"put off", None)
    busy.clear()
    assert device.ask(secret(), script).header.key_response is not None


def test_rotated_token_keys_open_old_tokens_and_make_new_ones(world: World) -> None:
    """Section 22: a new signing pair is added while old ones stay verify-only."""
    held = issued_session(world.context, "psk-client")
    world.ring.versions.insert(0, symmetric_keys(world.random))
    inbox = Inbox()
    world.clock.advance(RENEWAL_WINDOW)
    server = world.server(inbox, context=world.server_context())
    renewed = answer(world, compose(held, **renewing(world)), server=server)
    assert_renewed(renewed, held.token.serial_number, 0, 1)
    assert inbox.requests[0].entity == "psk-client"
    old_keys_only = World()
    old_keys_only.ring = Ring(world.ring.versions[1])
    assert renewed.key_response_token is not None
    parsed = old_keys_only.server_context().master_tokens.parse(renewed.key_response_token.to_wire())
    assert not parsed.verified


def test_lost_answers_are_tolerated_up_to_the_limit(world: World) -> None:
    """Section 17: the sequence last issued or last used to renew is accepted, within a limit."""
    held = issued_session(world.context, "psk-client")
    world.clock.advance(RENEWAL_WINDOW)
    server = world.server()
    issued = []
    for _ in range(world.policy.unanswered_limit + 1):
        renewed = answer(world, compose(held, **renewing(world)), server=server).key_response_token
        assert renewed is not None
        issued.append(renewed.sequence_number)
    assert issued == list(range(1, world.policy.unanswered_limit + 2))
    refused = answer(world, compose(held, **renewing(world)), server=server)
    assert_refused(refused, ErrorCode.MASTERTOKEN_SEQUENCE_NUMBER_OUT_OF_SYNC, ResponseCode.ENTITY_REAUTH)


def test_observer_needs_the_issuers_keys(world: World) -> None:
    """The harness opens what it should open only: another world's observer cannot read these messages."""
    body = world.server().handle(compose(entity(world.client("PSK")), **renewing(world)))
    with pytest.raises(KeyError):
        Observer([World(seed=9, server_scheme="PSK").server_context()]).open(body)


def test_a_renewal_that_must_fail_fails_before_the_application_is_asked(world: World) -> None:
    """Section 8: what a client sends again must not have been consumed; inside the window as for expired tokens."""
    held = issued_session(world.context, "psk-client")
    inbox = Inbox()
    server = world.server(inbox)
    world.clock.advance(RENEWAL_WINDOW)
    renewed = answer(world, compose(held, **renewing(world)), server=server).key_response_token
    assert renewed is not None
    assert renewed.context is not None
    world.clock.advance(RENEWAL_WINDOW - 1)
    world.renewals.renew("psk-client", held.token.serial_number, lambda state: RenewalState(9, 8, 0))
    newer = Sender({"mastertoken": renewed.to_wire()}, renewed.context)
    world.clock.advance(1)
    refused = answer(world, compose(newer, nonreplayableid=1, **renewing(world)), server=server)
    assert_refused(refused, ErrorCode.MASTERTOKEN_SEQUENCE_NUMBER_OUT_OF_SYNC, ResponseCode.ENTITY_REAUTH)
    assert len(inbox.requests) == 1
    assert answer(world, compose(newer, nonreplayableid=1), server=server).payload == b"data"


@pytest.mark.parametrize("age", [RENEWAL_WINDOW, LIFETIME], ids=["in its window", "expired"])
@pytest.mark.parametrize("accepted", [True, False])
def test_a_copy_of_an_older_token_is_renewed_only_where_unknown_ones_are(age: int, accepted: bool) -> None:
    """Sections 17 and 22: the entity has started anew, so nothing is stored of the serial number it left."""
    world = World(policy=TokenPolicy(RENEWAL_WINDOW, LIFETIME, renews_unknown=accepted))
    server, inbox = world.server(), Inbox()
    stolen = issued_session(world.context, "psk-client")
    newest = issued_session(world.context, "psk-client")
    world.clock.advance(age)
    answered = answer(world, compose(stolen, **renewing(world)), server=world.server(inbox))
    if accepted:
        assert answered.key_response_token is not None
    else:
        assert_refused(answered, ErrorCode.MASTERTOKEN_SEQUENCE_NUMBER_OUT_OF_SYNC, ResponseCode.ENTITY_REAUTH)
        assert inbox.requests == []
    assert answer(world, compose(newest, **renewing(world)), server=server).key_response_token is not None


def test_a_client_whose_state_was_lost_starts_anew_by_itself() -> None:
    world = World(policy=TokenPolicy(RENEWAL_WINDOW, LIFETIME, renews_unknown=False))
    device = world.client("PSK")
    device.ask(secret(), world.server().handle)
    world.renewals = MemoryRenewalStore()
    server = world.server(context=world.server_context())
    world.clock.advance(RENEWAL_WINDOW)
    reply = device.ask(secret(), server.handle)
    assert reply.pairs == 2
    assert reply.payload == b"secret"
    assert reply.requests[1].master_token is None
