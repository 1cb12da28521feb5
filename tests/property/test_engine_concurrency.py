"""Many messages by many threads across renewals: none fails, and what is forged or replayed is refused (issue 4)."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.msl.conversation import Response, Wait
from hsm_msl.msl.server import MslServer, Request
from hsm_msl.wire import binary
from msl_messages import Sender, compose, corrupt, issued_session
from msl_script import answer
from msl_world import ADA, RENEWAL_WINDOW, Credentials, Device, World, body_of, secret

THREADS = 8
PATIENCE = 60.0


def ask(device: Device, server: MslServer, payload: bytes, *, once: bool) -> Response:
    """Drive one conversation in this thread, waiting for other threads where it must."""
    conversation = device.engine.request(secret(payload, user=Credentials(ADA), non_replayable=once))
    try:
        step = next(conversation)
        while True:
            if isinstance(step, Wait):
                resolved = threading.Event()
                step.ticket.subscribe(resolved.set)
                assert resolved.wait(PATIENCE), "a renewal lock was never let go"
                step = conversation.send(None)
            else:
                step = conversation.send(server.handle(body_of(step)))
    except StopIteration as done:
        response: Response = done.value
        return response


def flood(scheme: str, messages: int) -> None:
    """Send that many messages through two servers while the clock passes renewal windows."""
    world = World()
    seen: Counter[bytes] = Counter()
    counting = threading.Lock()
    in_order = threading.Lock()

    def application(request: Request) -> bytes:
        with counting:
            seen[request.payload] += 1
        assert request.user == ADA
        return request.payload

    servers = [world.server(application, context=world.server_context()) for _ in range(2)]
    device = world.client(scheme, mutex=threading.RLock())
    renewals: set[tuple[int, int]] = set()

    def one(number: int) -> None:
        with counting:
            # Slowly, so that a message under way meets an old token now and then but never an expired one.
            world.clock.advance(8 * RENEWAL_WINDOW / messages)
        payload = b"%d" % number
        if number % 50 == 0:
            # One at a time: those that are overtaken by more than six others make the client start anew (section 14).
            with in_order:
                response = ask(device, servers[number % 2], payload, once=True)
        else:
            response = ask(device, servers[number % 2], payload, once=False)
        assert response.payload == payload
        if response.header.key_response is not None:
            token = response.header.key_response.master_token
            renewals.add((token.serial_number, token.sequence_number))

    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(one, number) for number in range(messages)]:
            done.result()
    assert len(seen) == messages
    assert set(seen.values()) == {1}
    assert len(renewals) >= 5
    assert len({serial for serial, _ in renewals}) == 1, "a client that started anew although it could renew"
    assert not device.lock.held


@pytest.mark.parametrize("scheme", ["PSK", "NONE"])
def test_no_message_fails_across_renewals(scheme: str) -> None:
    flood(scheme, 480)


@pytest.mark.soak
@pytest.mark.parametrize("scheme", ["PSK", "RSA", "NONE"])
def test_ten_thousand_messages_across_renewals(scheme: str) -> None:
    flood(scheme, 10_000)


def test_forged_and_replayed_messages_are_refused_in_the_midst_of_good_ones() -> None:
    world = World()
    inbox: list[Request] = []

    def application(request: Request) -> bytes:
        inbox.append(request)
        return request.payload

    server = world.server(application)
    device = world.client("PSK", mutex=threading.RLock())
    held = issued_session(world.context, device.identity)
    once = compose(held, b"once", nonreplayableid=1)
    forged_token = {**held.wire, "signature": binary.encode(bytes(32))}
    forged = compose(Sender({"mastertoken": forged_token}, held.context), b"forged")
    assert answer(world, once, server=server).payload == b"once"

    def attack(number: int) -> ErrorCode:
        return answer(world, (once, forged, corrupt(once))[number % 3], server=server).code

    def good(number: int) -> bytes:
        return ask(device, server, b"good %d" % number, once=False).payload

    with ThreadPoolExecutor(4) as pool:
        attacks, goods = pool.map(attack, range(60)), pool.map(good, range(60))
        assert {*attacks} == {
            ErrorCode.MESSAGE_REPLAYED,
            ErrorCode.MASTERTOKEN_UNTRUSTED,
            ErrorCode.MESSAGE_MASTERTOKENBASED_VERIFICATION_FAILED,
        }
        assert sorted(goods) == sorted(b"good %d" % number for number in range(60))
    assert Counter(request.payload for request in inbox)[b"once"] == 1
    assert not any(request.payload == b"forged" for request in inbox)


def test_a_forged_error_stops_one_exchange_and_no_other() -> None:
    world = World()
    server = world.server()
    device = world.client("RSA", mutex=threading.RLock())
    ask(device, server, b"first", once=False)
    world.revocations.entities.add(device.identity)
    refusal = server.handle(compose(issued_session(world.context, device.identity)))
    world.revocations.entities.clear()
    before = device.state.newest()
    with pytest.raises(MslError) as caught:
        device.ask(secret(), lambda body: corrupt(refusal))
    assert caught.value.code is ErrorCode.MESSAGE_VERIFICATION_FAILED
    assert device.state.newest() == before
    assert ask(device, server, b"next", once=True).pairs == 1
