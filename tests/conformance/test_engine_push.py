"""msl-engine section 21, conformance case 114: messages a server sends unasked."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from hsm_msl.errors import ErrorCode, MslError, TruncatedMessageError, UsageError
from hsm_msl.msl.conversation import Receive
from hsm_msl.msl.message_stream import Received
from hsm_msl.msl.push import PushReceiver
from hsm_msl.msl.response import Requirements
from hsm_msl.msl.server_exchange import ServerExchange, Stage
from msl_messages import Observer, compose, entity
from msl_world import ADA, RENEWAL_WINDOW, SERVER, Credentials, Device, World, body_of, secret


@pytest.fixture
def world() -> World:
    return World()


class Connection:
    """Bytes from a server, read in small pieces."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def run(self, receiving: Generator[Receive, bytes | None, Received | None]) -> Received | None:
        try:
            next(receiving)
            while True:
                piece, self._data = self._data[:100], self._data[100:]
                receiving.send(piece)
        except StopIteration as done:
            received: Received | None = done.value
            return received


def opened_by(world: World, body: bytes) -> ServerExchange:
    """Return the server's end of a connection that this request opened."""
    exchange = world.server().exchange()
    exchange.feed(body)
    exchange.end_input()
    assert exchange.receive() is Stage.REQUEST
    return exchange


def started(world: World) -> tuple[Device, ServerExchange]:
    device = world.client("PSK")
    device.ask(secret(user=Credentials()), world.server().handle)
    step = next(device.engine.request(secret(user=Credentials())))
    return device, opened_by(world, body_of(step))


def push(exchange: ServerExchange, payload: bytes, requirements: Requirements | None = None) -> bytes:
    head = exchange.push() if requirements is None else exchange.push(requirements)
    return head + exchange.write(payload) + exchange.close()


def test_case_114_three_messages_on_one_connection(world: World) -> None:
    device, exchange = started(world)
    payloads = [b"one", b"", b"three" * 20_000]
    connection = Connection(b"".join(push(exchange, payload) for payload in payloads))
    receiver = PushReceiver(device.context, device.state, user=ADA)
    received = [connection.run(receiver.receive()) for _ in range(4)]
    assert [message and message.payload for message in received] == [*payloads, None]
    request = exchange.header
    assert request is not None
    ids = {message.header.message_id for message in received if message is not None}
    assert len(ids) == 3
    assert request.message_id + 1 not in ids


def test_a_push_issues_and_renews_nothing(world: World) -> None:
    """Section 7.6: the user ID token is echoed as it is, and there is no key response."""
    device = world.client("PSK")
    device.ask(secret(user=Credentials()), world.server().handle)
    world.clock.advance(RENEWAL_WINDOW)
    exchange = opened_by(world, body_of(next(device.engine.request(secret(user=Credentials())))))
    assert exchange.header is not None
    assert exchange.header.key_requests
    sent = Observer([world.server_context()]).open(push(exchange, b"x"))
    assert "keyresponsedata" not in sent.data
    assert exchange.header.user_id_token is not None
    assert sent.data["useridtoken"] == exchange.header.user_id_token.to_wire()


def test_a_push_that_must_be_protected_needs_keys(world: World) -> None:
    """Section 8, push: step 2 of respond applies."""
    exchange = opened_by(world, compose(entity(world.client("NONE"))))
    with pytest.raises(MslError) as caught:
        exchange.push(Requirements(encrypted=True))
    assert caught.value.code is ErrorCode.RESPONSE_REQUIRES_ENCRYPTION


def test_pushed_service_tokens_are_kept(world: World) -> None:
    """Section 9 step 5, without a request."""
    device, exchange = started(world)

    def add(builder: object) -> None:
        assert hasattr(builder, "add")
        builder.add("st", b"value", master_bound=True)

    body = push(exchange, b"x", Requirements(service_tokens=add))
    assert Connection(body).run(PushReceiver(device.context, device.state, user=ADA).receive()) is not None
    held = device.state.newest()
    assert held is not None
    assert [token.name for token in device.state.service_tokens(held.master_token, None)] == ["st"]


def test_pushes_under_a_replaced_session_stay_readable(world: World) -> None:
    """Section 5 and case 100, for a connection that lives longer than a master token."""
    device, exchange = started(world)
    receiver = PushReceiver(device.context, device.state, user=ADA)
    assert Connection(push(exchange, b"before")).run(receiver.receive()) is not None
    world.clock.advance(RENEWAL_WINDOW)
    assert device.ask(secret(user=Credentials()), world.server().handle).header.key_response is not None
    late = Connection(push(exchange, b"after")).run(receiver.receive())
    assert late is not None
    assert late.payload == b"after"


def test_a_refused_push_leaves_the_next_one(world: World) -> None:
    device, exchange = started(world)
    stranger = World(seed=8)
    stranger_device = stranger.client("PSK")
    stranger_device.ask(secret(), stranger.server().handle)
    foreign = opened_by(stranger, body_of(next(stranger_device.engine.request(secret()))))
    connection = Connection(push(foreign, b"forged") + push(exchange, b"good"))
    receiver = PushReceiver(device.context, device.state, user=ADA)
    with pytest.raises(MslError) as caught:
        connection.run(receiver.receive())
    assert caught.value.code is ErrorCode.MASTERTOKEN_UNTRUSTED
    good = connection.run(receiver.receive())
    assert good is not None
    assert good.payload == b"good"


def test_a_push_cut_short(world: World) -> None:
    device, exchange = started(world)
    body = exchange.push() + exchange.write(b"half")
    with pytest.raises(TruncatedMessageError):
        Connection(body).run(PushReceiver(device.context, device.state, user=ADA).receive())


def test_another_server_than_expected(world: World) -> None:
    device = world.client("PSK")
    body = push(opened_by(world, compose(entity(device))), b"x")
    receiver = PushReceiver(device.context, device.state, expected_identity="server2")
    with pytest.raises(MslError) as caught:
        Connection(body).run(receiver.receive())
    assert caught.value.code is ErrorCode.MESSAGE_SENDER_MISMATCH
    fine = PushReceiver(device.context, device.state, expected_identity=SERVER)
    assert Connection(body).run(fine.receive()) is not None
    with pytest.raises(UsageError):
        world.server().exchange().push()
