"""msl-engine section 21, conformance cases 48 to 66: users, user ID tokens, and an application's refusals."""

from __future__ import annotations

from typing import Any

import pytest

from hsm_msl.errors import ErrorCode, ResponseCode
from hsm_msl.msl.response import Requirements
from hsm_msl.msl.server import RejectedError, Reply, Request
from hsm_msl.msl.tokens.builder import ServiceTokenBuilder, ServiceTokenUpdate
from msl_messages import (
    Opened,
    Sender,
    compose,
    entity,
    issued_session,
    key_request_data,
    password_data,
    session,
    user_id_token,
)
from msl_script import answer, assert_refused
from msl_world import ADA, BOB, LIFETIME, PASSWORDS, RENEWAL_WINDOW, START, Inbox, World

GOOD = password_data(ADA, PASSWORDS[ADA])


@pytest.fixture
def world() -> World:
    return World()


def renewing(world: World, **fields: Any) -> dict[str, Any]:
    return {"renewable": True, "keyrequestdata": key_request_data(world), **fields}


@pytest.mark.parametrize("scheme", ["NONE", "RSA"])
def test_case_048_credentials_in_an_unencrypted_header(world: World, scheme: str) -> None:
    refused = answer(world, compose(entity(world.client(scheme)), userauthdata=GOOD))
    assert_refused(refused, ErrorCode.UNENCRYPTED_MESSAGE_WITH_USERAUTHDATA, ResponseCode.FAIL)
    assert world.users.asked == 0


def test_case_049_wrong_password(world: World) -> None:
    refused = answer(world, compose(entity(world.client("PSK")), userauthdata=password_data(ADA, "guess")))
    assert_refused(refused, ErrorCode.EMAILPASSWORD_INCORRECT, ResponseCode.USERDATA_REAUTH)


@pytest.mark.parametrize(("email", "password"), [("", "x"), (ADA, ""), (" \t", "x"), (ADA, "  ")])
def test_case_049_blank_credentials(world: World, email: str, password: str) -> None:
    refused = answer(world, compose(entity(world.client("PSK")), userauthdata=password_data(email, password)))
    assert_refused(refused, ErrorCode.EMAILPASSWORD_BLANK, ResponseCode.USERDATA_REAUTH)


@pytest.mark.parametrize(
    ("scheme", "code"),
    [
        ("USER_ID_TOKEN", ErrorCode.USERAUTH_FACTORY_NOT_FOUND),
        ("TELEPATHY", ErrorCode.UNIDENTIFIED_USERAUTH_SCHEME),
    ],
)
def test_case_050_user_scheme_without_factory_or_name(world: World, scheme: str, code: ErrorCode) -> None:
    body = compose(entity(world.client("PSK")), userauthdata=password_data(ADA, "x", scheme))
    assert_refused(answer(world, body), code, ResponseCode.FAIL)


def test_case_051_user_id_token_is_issued_for_credentials(world: World) -> None:
    held = session(world.context, "psk-client")
    answered = answer(world, compose(held, renewable=True, userauthdata=GOOD))
    token = answered.user_id_token
    assert token is not None
    assert (token.user, token.master_token_serial_number) == (ADA, held.token.serial_number)


def test_case_052_no_user_id_token_when_the_message_is_not_renewable(world: World) -> None:
    inbox = Inbox()
    held = session(world.context, "psk-client")
    answered = answer(world, compose(held, userauthdata=GOOD), server=world.server(inbox))
    assert inbox.requests[0].user == ADA
    assert "useridtoken" not in answered.data


def test_case_053_user_id_token_is_bound_to_the_new_master_token(world: World) -> None:
    answered = answer(world, compose(entity(world.client("PSK")), **renewing(world, userauthdata=GOOD)))
    assert answered.user_id_token is not None
    assert answered.key_response_token is not None
    assert answered.user_id_token.user == ADA
    assert answered.user_id_token.is_bound_to(answered.key_response_token)


def test_case_054_no_user_id_token_without_a_master_token(world: World) -> None:
    inbox = Inbox()
    body = compose(entity(world.client("PSK")), renewable=True, userauthdata=GOOD)
    answered = answer(world, body, server=world.server(inbox))
    assert inbox.requests[0].user == ADA
    assert not {"useridtoken", "keyresponsedata"} & answered.data.keys()


def test_case_055_token_and_credentials_of_different_users(world: World) -> None:
    held = session(world.context, "psk-client")
    bobs = user_id_token(world.context, held.token, BOB)
    refused = answer(world, compose(held, useridtoken=bobs, userauthdata=GOOD))
    assert_refused(refused, ErrorCode.USERIDTOKEN_USERAUTH_DATA_MISMATCH, ResponseCode.USER_REAUTH)


def test_case_056_token_bound_to_another_master_token(world: World) -> None:
    held = session(world.context, "psk-client")
    foreign = user_id_token(world.context, held.token, ADA, mtserialnumber=held.token.serial_number + 1)
    refused = answer(world, compose(held, useridtoken=foreign))
    assert_refused(refused, ErrorCode.USERIDTOKEN_MASTERTOKEN_MISMATCH, ResponseCode.USER_REAUTH)


def test_case_057_token_without_master_token(world: World) -> None:
    held = session(world.context, "psk-client")
    body = compose(entity(world.client("PSK")), useridtoken=user_id_token(world.context, held.token, ADA))
    refused = answer(world, body)
    assert_refused(refused, ErrorCode.USERIDTOKEN_MASTERTOKEN_MISMATCH, ResponseCode.USER_REAUTH)


@pytest.mark.parametrize("by", ["serial", "user"])
def test_case_058_revoked_user_id_token(world: World, by: str) -> None:
    held = session(world.context, "psk-client")
    if by == "serial":
        world.revocations.user_id_tokens.add(88)
    else:
        world.revocations.users.add(ADA)
    refused = answer(world, compose(held, useridtoken=user_id_token(world.context, held.token, ADA)))
    assert_refused(refused, ErrorCode.USERIDTOKEN_REVOKED, ResponseCode.USER_REAUTH)


def test_case_059_forged_user_id_token(world: World) -> None:
    held = session(world.context, "psk-client")
    forged = user_id_token(World(seed=1).context, held.token, ADA)
    inbox = Inbox()
    refused = answer(world, compose(held, useridtoken=forged), server=world.server(inbox))
    assert_refused(refused, ErrorCode.USERIDTOKEN_NOT_DECRYPTED, ResponseCode.USER_REAUTH)
    assert not inbox.requests


def test_case_059_revoked_and_forged_user_id_tokens_do_not_pass_beside_a_key_response(world: World) -> None:
    """A key response makes its master token the verification token; the user ID token is checked all the same."""
    held = issued_session(world.context, "psk-client")
    response = {"mastertoken": held.wire, "scheme": "DIFFIE_HELLMAN", "keydata": diffie_hellman_answer(world)}
    world.revocations.user_id_tokens.add(88)
    device = world.client("PSK")
    forged = user_id_token(World(seed=1).context, held.token, ADA)
    revoked = user_id_token(world.context, held.token, ADA)
    for token, code in [
        (revoked, ErrorCode.USERIDTOKEN_REVOKED),
        (forged, ErrorCode.USERIDTOKEN_NOT_DECRYPTED),
    ]:
        inbox = Inbox()
        body = compose_keyed(entity(device), held, useridtoken=token, keyresponsedata=response)
        refused = answer(world, body, server=world.server(inbox))
        assert not inbox.requests
        assert_refused(refused, code, ResponseCode.USER_REAUTH)


def test_key_response_with_a_master_token_that_a_header_may_not_carry(world: World) -> None:
    """Section 6, row E3 by way of E1: another entity's, revoked or expired tokens are refused there as well."""
    device = world.client("PSK")
    mine, others = issued_session(world.context, device.identity), issued_session(world.context, "other")
    cases = [
        (others, ErrorCode.KEYX_RESPONSE_REQUEST_MISMATCH, ResponseCode.FAIL),
        (mine, ErrorCode.MESSAGE_EXPIRED_NOT_RENEWABLE, ResponseCode.EXPIRED),
        (mine, ErrorCode.MASTERTOKEN_IDENTITY_REVOKED, ResponseCode.ENTITY_REAUTH),
    ]
    good = {"mastertoken": mine.wire, "scheme": "DIFFIE_HELLMAN", "keydata": diffie_hellman_answer(world)}
    assert answer(world, compose_keyed(entity(device), mine, keyresponsedata=good)).payload == b"data"
    world.clock.advance(LIFETIME)
    for held, code, response in cases:
        if code is ErrorCode.MASTERTOKEN_IDENTITY_REVOKED:
            world.revocations.master_tokens.add(held.token.serial_number)
        body = compose_keyed(entity(device), held, keyresponsedata={**good, "mastertoken": held.wire})
        assert_refused(answer(world, body), code, response)


def diffie_hellman_answer(world: World) -> dict[str, object]:
    return dict(key_request_data(world)[0]["keydata"])  # type: ignore[call-overload,no-any-return]  # JSON object


def compose_keyed(sender: Sender, keys: Sender, **fields: Any) -> bytes:
    """Write a message whose payload is under other keys than its header."""
    head = compose(sender, None, **fields)
    whole = compose(keys, b"data", **fields)
    return head + whole[len(compose(keys, None, **fields)) :]


def test_case_060_expired_user_id_token_is_renewed_although_the_message_is_not_renewable(world: World) -> None:
    held = session(world.context, "psk-client")
    inbox = Inbox()
    expired = user_id_token(world.context, held.token, ADA, renewalwindow=START - 2, expiration=START - 1)
    answered = answer(world, compose(held, useridtoken=expired), server=world.server(inbox))
    assert inbox.requests[0].user == ADA
    token = answered.user_id_token
    assert token is not None
    assert (token.serial_number, token.expiration, token.user) == (88, START + LIFETIME, ADA)


def test_case_061_user_id_token_in_its_window_is_renewed_on_request(world: World) -> None:
    held = session(world.context, "psk-client")
    old = user_id_token(world.context, held.token, ADA, renewalwindow=START)
    renewed = answer(world, compose(held, renewable=True, useridtoken=old)).user_id_token
    assert renewed is not None
    assert (renewed.serial_number, renewed.renewal_window) == (88, START + RENEWAL_WINDOW)
    echoed = answer(world, compose(held, useridtoken=old))
    assert echoed.data["useridtoken"] == old


def test_case_061_user_id_token_before_its_window_is_echoed(world: World) -> None:
    held = session(world.context, "psk-client")
    token = user_id_token(world.context, held.token, ADA)
    assert answer(world, compose(held, renewable=True, useridtoken=token)).data["useridtoken"] == token


def test_case_062_user_id_token_follows_a_renewed_master_token(world: World) -> None:
    held = issued_session(world.context, "psk-client")
    token = user_id_token(world.context, held.token, ADA)
    world.clock.advance(RENEWAL_WINDOW)
    answered = answer(world, compose(held, **renewing(world, useridtoken=token)))
    assert answered.user_id_token is not None
    assert answered.key_response_token is not None
    assert answered.user_id_token.is_bound_to(answered.key_response_token)
    assert answered.user_id_token.user == ADA


def test_case_063_bad_credentials_are_reported_before_an_expired_master_token(world: World) -> None:
    held = session(world.context, "psk-client", renewalwindow=START - 2, expiration=START - 1)
    refused = answer(world, compose(held, userauthdata=password_data(ADA, "guess")))
    assert_refused(refused, ErrorCode.EMAILPASSWORD_INCORRECT, ResponseCode.USERDATA_REAUTH)


def rejecting(subject: str) -> Any:
    def application(request: Request) -> bytes:
        raise RejectedError(subject)

    return application


@pytest.mark.parametrize(
    ("with_token", "code"),
    [(True, ErrorCode.USERIDTOKEN_REJECTED_BY_APP), (False, ErrorCode.USER_REJECTED_BY_APP)],
)
def test_case_064_application_rejects_the_user(world: World, with_token: bool, code: ErrorCode) -> None:
    held = session(world.context, "psk-client")
    token = user_id_token(world.context, held.token, ADA) if with_token else None
    refused = answer(world, compose(held, useridtoken=token), server=world.server(rejecting("user")))
    assert_refused(refused, code, ResponseCode.USERDATA_REAUTH)


def test_case_065_application_rejects_the_entity_of_a_master_token(world: World) -> None:
    body = compose(session(world.context, "psk-client"))
    refused = answer(world, body, server=world.server(rejecting("entity")))
    assert_refused(refused, ErrorCode.MASTERTOKEN_REJECTED_BY_APP, ResponseCode.ENTITY_REAUTH)


def test_case_065_application_rejects_the_entity_of_authentication_data(world: World) -> None:
    body = compose(entity(world.client("PSK")))
    refused = answer(world, body, server=world.server(rejecting("entity")))
    assert_refused(refused, ErrorCode.ENTITY_REJECTED_BY_APP, ResponseCode.ENTITYDATA_REAUTH)


def test_case_066_attaching_a_user_needs_a_master_token(world: World) -> None:
    requirements = Requirements(user=ADA)
    server = world.server(lambda request: Reply(request.payload, requirements=requirements))
    device = world.client("PSK")
    refused = answer(world, compose(entity(device)), server=server)
    assert_refused(refused, ErrorCode.RESPONSE_REQUIRES_MASTERTOKEN, ResponseCode.KEYX_REQUIRED)
    attached: list[Opened] = [
        answer(world, compose(entity(device), **renewing(world)), server=server),
        answer(world, compose(session(world.context, "psk-client")), server=server),
    ]
    assert [opened.user_id_token and opened.user_id_token.user for opened in attached] == [ADA, ADA]


def test_users_of_other_entities_are_refused(world: World) -> None:
    """Section 6, row D7: permission for the entity, then the password, then permission for entity and user."""
    device = world.client("PSK")
    world.grants.denied_user_schemes.add((device.identity, ADA))
    refused = answer(world, compose(entity(device), userauthdata=GOOD))
    assert_refused(refused, ErrorCode.USERAUTH_ENTITYUSER_INCORRECT_DATA, ResponseCode.USERDATA_REAUTH)
    world.grants.denied_user_schemes.add((device.identity, None))
    refused = answer(world, compose(entity(device), userauthdata=GOOD))
    assert_refused(refused, ErrorCode.USERAUTH_ENTITY_INCORRECT_DATA, ResponseCode.FAIL)


def test_what_every_reply_needs_joins_what_one_reply_needs(world: World) -> None:
    def adding(name: str) -> ServiceTokenUpdate:
        def update(builder: ServiceTokenBuilder) -> None:
            assert builder.add(name, b"x", encrypted=False)

        return update

    every = Requirements(user=ADA, service_tokens=adding("every"))
    one = Requirements(service_tokens=adding("one"))
    server = world.server(
        lambda request: Reply(b"", requirements=one if request.payload else Requirements()), requirements=every
    )
    for payload, names in ((b"", ["every"]), (b"x", ["every", "one"])):
        opened = answer(world, compose(session(world.context, "psk-client"), payload), server=server)
        assert opened.user_id_token is not None
        assert opened.user_id_token.user == ADA
        assert [token.name for token in opened.service_tokens] == names
