"""msl-engine section 21, conformance cases 96 to 100: one renewing exchange at a time, and those who wait for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hsm_msl.errors import MslError
from hsm_msl.msl.conversation import Conversation, Message, Response, Send, Wait
from hsm_msl.msl.renewal import RenewalLock
from hsm_msl.msl.server import MslServer
from hsm_msl.msl.tokens.builder import ServiceTokenBuilder
from msl_messages import Observer, Opened
from msl_world import RENEWAL_WINDOW, Credentials, Device, World, body_of, public, secret


@pytest.fixture
def world() -> World:
    return World()


class Exchange:
    """One conversation moved step by step."""

    def __init__(self, device: Device, server: MslServer, message: Message, world: World) -> None:
        self._server = server
        self._observer = Observer([world.server_context()], [device])
        self._conversation: Conversation = device.engine.request(message)
        self.step: Send | Wait = next(self._conversation)
        self.requests: list[Opened] = []
        self.response: Response | None = None
        self._note()

    def _note(self) -> None:
        if isinstance(self.step, Send):
            self.requests.append(self._observer.open(self.step.body))

    @property
    def waits(self) -> bool:
        return isinstance(self.step, Wait)

    def go_on(self, reply: bytes | None = None) -> None:
        """Answer what was sent, by the server unless given, or resume after a wait."""
        if isinstance(self.step, Send) and reply is None:
            reply = self._server.handle(self.step.body)
        try:
            self.step = self._conversation.send(reply)
        except StopIteration as done:
            self.response = done.value
        else:
            self._note()

    def finish(self) -> Response:
        while self.response is None:
            self.go_on()
        return self.response

    def fail(self, error: BaseException) -> None:
        self._conversation.throw(error)

    def abandon(self) -> None:
        self._conversation.close()


def resolved(step: Send | Wait) -> bool:
    assert isinstance(step, Wait)
    return step.ticket.resolved


def test_case_096_one_handshake_serves_all(world: World) -> None:
    device, server = world.client("NONE"), world.server()
    owner, *waiters = (Exchange(device, server, secret(bytes([n])), world) for n in range(3))
    assert [waiter.waits for waiter in waiters] == [True, True]
    assert not any(resolved(waiter.step) for waiter in waiters)
    owner.go_on()  # the handshake's answer
    assert owner.requests[0].data["handshake"] is True
    assert all(resolved(waiter.step) for waiter in waiters)
    for waiter in waiters:
        waiter.go_on()
        (request,) = waiter.requests
        assert request.master_token is not None
        assert (request.data["renewable"], request.data["handshake"]) == (False, False)
        assert waiter.finish().pairs == 1
    assert owner.finish().pairs == 2
    assert not device.lock.held


@pytest.mark.parametrize("how", ["refused", "unreadable", "abandoned", "cancelled"])
def test_case_097_a_waiter_takes_over_from_a_failed_exchange(world: World, how: str) -> None:
    device, server = world.client("NONE"), world.server()
    owner, waiter = (Exchange(device, server, secret(), world) for _ in range(2))
    assert waiter.waits
    if how == "abandoned":
        owner.abandon()
    elif how == "cancelled":
        with pytest.raises(KeyboardInterrupt):
            owner.fail(KeyboardInterrupt())
    else:
        world.grants.revoked.add("none-client")
        reply = server.handle(body_of(owner.step)) if how == "refused" else b"{"
        world.grants.revoked.clear()
        with pytest.raises(Exception, match=r"FAIL|PARSE"):
            owner.go_on(reply)
    assert resolved(waiter.step)
    waiter.go_on()
    assert waiter.requests[0].data["handshake"] is True
    assert device.lock.held
    assert waiter.finish().payload == b"secret"
    assert not device.lock.held


def test_case_098_nobody_waits_for_a_renewal_that_may_come_later(world: World) -> None:
    device, server = world.client("PSK"), world.server()
    Exchange(device, server, secret(), world).finish()
    world.clock.advance(RENEWAL_WINDOW)
    renewing, second = (Exchange(device, server, secret(), world) for _ in range(2))
    assert renewing.requests[0].data["renewable"] is True
    assert second.requests[0].data["renewable"] is False
    assert not second.requests[0].offers
    assert second.finish().pairs == 1
    assert renewing.finish().header.key_response is not None


def test_case_099_a_waiter_gives_up_without_sending(world: World) -> None:
    device, server = world.client("NONE"), world.server()
    owner, waiter = (Exchange(device, server, secret(), world) for _ in range(2))
    with pytest.raises(TimeoutError):
        waiter.fail(TimeoutError())
    assert not waiter.requests
    assert device.lock.held  # the owner's, which goes on as if nothing had happened
    assert owner.finish().payload == b"secret"
    assert not device.lock.held


def test_case_100_a_reply_under_the_old_token_stays_readable(world: World) -> None:
    device, server = world.client("PSK"), world.server()
    user = Credentials()
    Exchange(device, server, secret(user=user), world).finish()
    old = device.state.newest()
    assert old is not None
    in_flight = Exchange(device, server, secret(b"old", user=user), world)
    reply = server.handle(body_of(in_flight.step))
    world.clock.advance(RENEWAL_WINDOW)
    assert Exchange(device, server, secret(user=user), world).finish().header.key_response is not None
    assert device.state.find(old.master_token) is None
    in_flight.go_on(reply)
    assert in_flight.finish().payload == b"old"


def add_bound(builder: ServiceTokenBuilder) -> None:
    builder.add("st", b"1", user_bound=True)


def test_case_100_a_reply_under_a_token_dropped_meanwhile_stays_good(world: World) -> None:
    """Section 18: a session in use is only marked dead, so its reply is complete, tokens and all."""
    device, server = world.client("PSK", service_token_keys=world.service_token_keys), world.server()
    user = Credentials()
    bound = Message(
        b"old",
        user=user.email,
        user_auth=user,
        service_tokens=add_bound,
    )
    Exchange(device, server, secret(user=user), world).finish()
    old = device.state.newest()
    assert old is not None
    in_flight = Exchange(device, server, bound, world)
    reply = server.handle(body_of(in_flight.step))
    device.state.remove_session(old.master_token)  # as after ENTITY_REAUTH in another exchange
    Exchange(device, server, secret(user=user), world).finish()
    in_flight.go_on(reply)
    assert in_flight.finish().payload == b"old"
    newest = device.state.newest()
    assert newest is not None
    assert newest.master_token.serial_number != old.master_token.serial_number
    assert device.state.user_id_token(user.email, newest.master_token) is not None


class LateLock(RenewalLock):
    """Lets something happen between reading the tokens and owning the lock, as another thread would."""

    meanwhile: Callable[[], object] | None = None

    def try_acquire(self) -> bool:
        happening, self.meanwhile = self.meanwhile, None
        if happening is not None:
            happening()
        return super().try_acquire()


def test_an_owner_looks_again_at_the_tokens(world: World) -> None:
    """Section 18: re-check that the token is still the newest; a stale one is never renewed."""
    lock = LateLock()
    device, server = world.client("PSK", lock=lock), world.server()
    Exchange(device, server, secret(), world).finish()
    for _ in range(2):
        world.clock.advance(RENEWAL_WINDOW)
        lock.meanwhile = lambda: Exchange(device, server, secret(), world).finish()
        late = Exchange(device, server, secret(), world)
        (request,) = late.requests
        newest = device.state.newest()
        assert newest is not None
        assert newest.master_token.same_as(request.master_token)
        assert not request.offers
        assert late.finish().pairs == 1
        assert not lock.held


def test_waiters_compete_again_when_nothing_new_came(world: World) -> None:
    """Section 5: NULL is delivered when the renewing exchange brought no master token."""
    device, server = world.client("NONE"), world.server()
    owner, first, second = (Exchange(device, server, secret(), world) for _ in range(3))
    owner.abandon()
    first.go_on()
    second.go_on()
    assert (first.waits, second.waits) == (False, True)
    first.finish()
    assert second.finish().payload == b"secret"


def test_a_message_that_may_renew_never_waits(world: World) -> None:
    """Section 4.2: MAY tries the lock and goes on without it."""
    device, server = world.client("PSK"), world.server()
    first, second = (Exchange(device, server, public(), world) for _ in range(2))
    assert first.requests[0].data["renewable"] is True
    assert second.requests[0].data["renewable"] is False
    assert second.finish().pairs == first.finish().pairs == 1


def test_requesting_tokens_waits_for_them(world: World) -> None:
    """Rule M7: tokens are wanted, and somebody is getting them already."""
    device, server = world.client("PSK"), world.server()
    message = Message(b"x", encrypted=False, integrity=False, request_tokens=True)
    owner, waiter = (Exchange(device, server, message, world) for _ in range(2))
    assert waiter.waits
    owner.finish()
    waiter.go_on()
    assert waiter.requests[0].master_token is not None
    assert waiter.requests[0].data["renewable"] is False
    assert waiter.finish().pairs == 1


def test_an_exchange_never_started_holds_nothing(world: World) -> None:
    device = world.client("PSK")
    device.engine.request(secret()).close()
    assert not device.lock.held
    with pytest.raises(MslError):
        device.ask(secret(), lambda body: b"")
    assert not device.lock.held
