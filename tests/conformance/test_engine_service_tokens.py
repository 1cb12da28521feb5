"""msl-engine section 21, conformance cases 101 to 110: service tokens and the client's state."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from hsm_msl.crypto.null import NullContext
from hsm_msl.crypto.symmetric import SymmetricContext
from hsm_msl.errors import ErrorCode, MslError, ResponseCode
from hsm_msl.msl.conversation import Message
from hsm_msl.msl.response import Requirements
from hsm_msl.msl.server import MslServer, Reply
from hsm_msl.msl.tokens.builder import ServiceTokenBuilder, ServiceTokenUpdate
from hsm_msl.msl.tokens.service_token import ServiceToken, make_service_token
from hsm_msl.wire import binary, codec
from msl_keys import symmetric_keys
from msl_messages import compose, corrupt, entity, issued_session, key_request_data, session, user_id_token
from msl_script import Script, answer, assert_refused, real
from msl_world import ADA, RENEWAL_WINDOW, Credentials, Device, Inbox, World, secret

Change = Callable[[ServiceTokenBuilder], object]


def doing(*changes: Change) -> ServiceTokenUpdate:
    def update(builder: ServiceTokenBuilder) -> None:
        for change in changes:
            assert change(builder), "the builder refused a change"

    return update


@pytest.fixture
def world() -> World:
    return World()


def serving(world: World, *changes: Change, inbox: Inbox | None = None) -> MslServer:
    """Return a server whose replies change the service tokens."""
    seen = Inbox() if inbox is None else inbox
    requirements = Requirements(service_tokens=doing(*changes))
    return world.server(lambda request: Reply(seen(request), requirements=requirements))


def stored(device: Device, user: Credentials | None = None) -> dict[str, ServiceToken]:
    held = device.state.newest()
    token = None if held is None else held.master_token
    users = None if user is None else device.state.user_id_token(user.email, token)
    return {known.name: known for known in device.state.service_tokens(token, users)}


def unbound(world: World, name: str = "st", data: bytes = b"value") -> ServiceToken:
    return make_service_token(name, data, world.service_token_keys[""])


@pytest.mark.parametrize(("change", "left"), [(None, ["st"]), ("exclude", []), ("delete", ["st"])])
def test_case_101_unbound_token_is_echoed_unless_excluded_or_deleted(
    world: World, change: str | None, left: list[str]
) -> None:
    token = unbound(world)
    server = world.server() if change is None else serving(world, lambda builder: getattr(builder, change)("st"))
    body = compose(entity(world.client("PSK")), servicetokens=[token.to_wire()])
    answered = answer(world, body, server=server)
    assert [known.name for known in answered.service_tokens] == left
    if change is None:
        assert answered.data["servicetokens"] == [token.to_wire()]
    if change == "delete":
        assert answered.service_tokens[0].data == b""
        assert answered.service_tokens[0].signature == ""


def test_case_102_empty_data_makes_the_client_forget(world: World) -> None:
    device, user = world.client("PSK"), Credentials()
    changes: list[Change] = [
        lambda builder: builder.add("unbound", b"1"),
        lambda builder: builder.add("bound", b"2", master_bound=True),
        lambda builder: builder.add("of-user", b"3", user_bound=True),
    ]
    device.ask(secret(user=user), serving(world, *changes).handle)
    assert stored(device, user).keys() == {"unbound", "bound", "of-user"}
    forget: list[Change] = [
        lambda builder: builder.delete("unbound"),
        lambda builder: builder.delete("of-user", user_bound=True),
    ]
    device.ask(secret(user=user), serving(world, *forget).handle)
    assert stored(device, user).keys() == {"bound"}
    device.ask(secret(user=user), serving(world, lambda builder: builder.delete("bound", master_bound=True)).handle)
    assert not stored(device, user)


def test_case_103_token_of_another_master_token(world: World) -> None:
    other = session(world.context, "psk-client", serialnumber=1)
    token = make_service_token("st", b"x", world.service_token_keys[""], master_token=other.token)
    body = compose(session(world.context, "psk-client", serialnumber=2), servicetokens=[token.to_wire()])
    refused = answer(world, body)
    assert_refused(refused, ErrorCode.SERVICETOKEN_MASTERTOKEN_MISMATCH, ResponseCode.FAIL)
    without = compose(entity(world.client("PSK")), servicetokens=[token.to_wire()])
    assert_refused(answer(world, without), ErrorCode.SERVICETOKEN_MASTERTOKEN_MISMATCH, ResponseCode.FAIL)


def test_case_103_token_of_another_user_id_token(world: World) -> None:
    held = session(world.context, "psk-client")
    mine = user_id_token(world.context, held.token, ADA, serialnumber=1)
    parsed = world.context.user_id_tokens.parse(
        user_id_token(world.context, held.token, ADA, serialnumber=2), held.token
    )
    keys = world.service_token_keys[""]
    token = make_service_token("st", b"x", keys, master_token=held.token, user_id_token=parsed)
    for carried in (mine, None):
        refused = answer(world, compose(held, servicetokens=[token.to_wire()], useridtoken=carried))
        assert_refused(refused, ErrorCode.SERVICETOKEN_USERIDTOKEN_MISMATCH, ResponseCode.FAIL)


def test_case_104_token_under_an_unknown_key_travels_as_it_is(world: World) -> None:
    inbox = Inbox()
    foreign = SymmetricContext(symmetric_keys(world.random), "elsewhere", world.random)
    token = make_service_token("st", b"x" * 300, foreign, algorithm="GZIP")
    body = compose(entity(world.client("PSK")), servicetokens=[token.to_wire()])
    answered = answer(world, body, server=world.server(inbox))
    assert answered.data["servicetokens"] == [token.to_wire()]
    assert inbox.requests[0].service_tokens[0].data is None


def test_case_104_a_client_without_keys_returns_tokens_byte_for_byte(world: World) -> None:
    device, inbox = world.client("PSK"), Inbox()
    device.ask(secret(), serving(world, lambda builder: builder.add("st", b"value")).handle)
    kept = stored(device)["st"]
    assert kept.data is None
    script = Script(world, [device], real(world.server(inbox)))
    device.ask(secret(), script)
    assert script.requests[0].data["servicetokens"] == [kept.to_wire()]
    assert inbox.requests[0].service_tokens[0].data == b"value"


def add_named(builder: ServiceTokenBuilder, data: bytes) -> bool:
    return builder.add("st", data)


def test_case_105_the_new_value_replaces_the_old(world: World) -> None:
    device = world.client("PSK", service_token_keys=world.service_token_keys)
    for value in (b"old", b"new"):
        device.ask(secret(), serving(world, partial(add_named, data=value)).handle)
    (kept,) = stored(device).values()
    assert kept.data == b"new"


def test_case_106_clients_never_see_each_others_tokens(world: World) -> None:
    server = serving(world, lambda builder: builder.add_if_absent("st", b"of the first"))
    plain = world.server()
    first, second = world.client("PSK", "first"), world.client("PSK", "second")
    first.ask(secret(), server.handle)
    assert stored(first).keys() == {"st"}
    second.ask(secret(), plain.handle)
    first.ask(secret(), plain.handle)
    second.ask(secret(), plain.handle)
    assert not stored(second)


def test_case_107_excluded_token_is_back_in_the_next_message(world: World) -> None:
    device = world.client("PSK")
    device.ask(secret(), serving(world, lambda builder: builder.add("st", b"value")).handle)
    script = Script(world, [device], real(world.server()))
    device.ask(Message(b"x", service_tokens=doing(lambda builder: builder.exclude("st"))), script)
    device.ask(secret(), script)
    carried = [[token.name for token in request.service_tokens] for request in script.requests]
    assert carried == [[], ["st"]]


@pytest.mark.parametrize("compression", [None, "GZIP", "LZW"])
@pytest.mark.parametrize("encrypted", [True, False])
@pytest.mark.parametrize("binding", ["unbound", "master", "user"])
@pytest.mark.parametrize("data", [b"x", b"compressible " * 50])
def test_every_kind_of_token_survives_the_round_trip(
    world: World, binding: str, encrypted: bool, compression: str | None, data: bytes
) -> None:
    """Section 13: binding, encryption and compression in all combinations; made by the client, seen by the server."""
    device, user = world.client("PSK", service_token_keys=world.service_token_keys), Credentials()
    server_inbox = Inbox()
    server = world.server(server_inbox)
    device.ask(secret(user=user), server.handle)

    def add(builder: ServiceTokenBuilder) -> bool:
        bound = {"master_bound": binding == "master", "user_bound": binding == "user"}
        return builder.add("st", data, encrypted=encrypted, compression=compression, **bound)

    device.ask(Message(b"x", user=user.email, user_auth=user, service_tokens=doing(add)), server.handle)
    device.ask(secret(user=user), server.handle)
    held = device.state.newest()
    assert held is not None
    for request in server_inbox.requests[1:]:
        (token,) = request.service_tokens
        assert token.data == data
        bound_to = token.master_token_serial_number, token.user_id_token_serial_number is not None
        assert bound_to == (None if binding == "unbound" else held.master_token.serial_number, binding == "user")
    inner = codec.decode(binary.decode(token.tokendata))
    assert inner["encrypted"] is encrypted
    assert ("compressionalgo" in inner) is (compression is not None and len(data) > 1)
    assert encrypted or compression or binary.decode(inner["servicedata"]) == data


def test_tokens_cannot_be_bound_to_what_is_not_there(world: World) -> None:
    """Section 13.3: the builder says no, and the message goes out without the token."""
    outcomes: list[bool] = []

    def attempt(builder: ServiceTokenBuilder) -> None:
        assert not builder.master_token_available
        assert not builder.user_id_token_available
        outcomes.append(builder.add("a", b"1", master_bound=True))
        outcomes.append(builder.add("b", b"1", user_bound=True))
        outcomes.append(builder.delete("c"))
        outcomes.append(builder.exclude("c"))
        outcomes.append(builder.add("d", b""))

    device = world.client("PSK", service_token_keys=world.service_token_keys)
    script = Script(world, [device], real(world.server()))
    device.ask(Message(b"x", service_tokens=attempt), script)
    assert not any(outcomes)
    assert "servicetokens" not in script.requests[0].data


def test_tokens_follow_a_renewed_master_token(world: World) -> None:
    """Section 7.5: renewal keeps the serial number, so bound tokens stay bound, and are echoed with the renewal."""
    device, user = world.client("PSK"), Credentials()
    device.ask(secret(user=user), serving(world, lambda builder: builder.add("st", b"v", user_bound=True)).handle)
    world.clock.advance(RENEWAL_WINDOW)
    script = Script(world, [device], real(world.server()))
    assert device.ask(secret(user=user), script).header.key_response is not None
    device.ask(secret(user=user), script)
    assert [[token.name for token in request.service_tokens] for request in script.requests] == [["st"], ["st"]]


def test_tokens_of_a_new_session_are_bound_to_it(world: World) -> None:
    """Section 13.2: with a key response, the new master token is what tokens are bound to."""
    device, user = world.client("PSK"), Credentials()
    device.ask(secret(user=user), serving(world, lambda builder: builder.add("st", b"v", user_bound=True)).handle)
    held = device.state.newest()
    assert held is not None
    assert stored(device, user)["st"].master_token_serial_number == held.master_token.serial_number


def test_damaged_token_is_opaque_and_an_empty_one_deleted(world: World) -> None:
    """Section 13.5: an unverified token is kept and echoed; empty data counts as deleted even if unverified."""
    inbox = Inbox()
    token = unbound(world).to_wire()
    damaged = {**token, "signature": binary.encode(b"x" * 32)}
    empty = make_service_token("gone", b"", NullContext(), encrypted=False).to_wire()
    body = compose(entity(world.client("PSK")), servicetokens=[damaged, empty])
    answered = answer(world, body, server=world.server(inbox))
    assert answered.data["servicetokens"] == [damaged, empty]
    assert [(known.data, known.deleted) for known in inbox.requests[0].service_tokens] == [(None, False), (b"", True)]


def test_a_broken_header_leaves_the_stored_tokens(world: World) -> None:
    """Section 16: nothing is stored from a reply that is refused."""
    device = world.client("PSK")
    device.ask(secret(), world.server().handle)
    server = serving(world, lambda builder: builder.add("st", b"value"))
    with pytest.raises(MslError):
        device.ask(secret(), lambda body: corrupt(server.handle(body)))
    assert not stored(device)


def test_key_requests_are_not_needed_to_be_echoed(world: World) -> None:
    """Section 7.5 in a fresh start: unbound tokens pass beside a key exchange."""
    token = unbound(world)
    offered = key_request_data(world)
    sender = entity(world.client("PSK"))
    body = compose(sender, renewable=True, keyrequestdata=offered, servicetokens=[token.to_wire()])
    answered = answer(world, body)
    assert answered.data["servicetokens"] == [token.to_wire()]
    held = issued_session(world.context, "psk-client")
    assert answer(world, compose(held, servicetokens=[token.to_wire()])).service_tokens[0].data == b"value"
