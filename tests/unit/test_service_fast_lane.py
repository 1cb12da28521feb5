"""Sessions earn the event loop by quick messages and lose it by slow ones."""

from __future__ import annotations

from hsm_msl.service.fast_lane import FastLane
from msl_world import Credentials, World, secret

QUICK, SLOW = 0.001, 0.5


def test_a_session_earns_the_loop_and_loses_it() -> None:
    lane = FastLane(seconds=0.005)
    assert not lane.admits(b"s")
    lane.took(b"s", SLOW)
    assert not lane.admits(b"s")
    lane.took(b"s", QUICK)
    assert lane.admits(b"s")
    assert not lane.admits(b"other")
    lane.took(b"s", SLOW)
    assert not lane.admits(b"s")


def test_what_shows_no_session_never_runs_on_the_loop() -> None:
    lane = FastLane()
    for body in (b"", b"garbage", b'{"entityauthdata":{}}', b'{"mastertoken":{"tokendata":"cut'):
        session = lane.session(body)
        lane.took(session, QUICK)
        assert not lane.admits(session)


def test_the_least_recently_used_session_is_forgotten() -> None:
    lane = FastLane(capacity=2)
    for name in (b"1", b"2"):
        lane.took(name, QUICK)
    assert lane.admits(b"1")
    lane.took(b"3", QUICK)
    assert [lane.admits(name) for name in (b"1", b"2", b"3")] == [True, False, True]


def test_messages_of_one_master_token_are_one_session() -> None:
    world = World()
    device, other, server, lane = world.client(), world.client(identity="another"), world.server(), FastLane()
    for _ in range(3):
        device.ask(secret(user=Credentials()), server.handle)
        other.ask(secret(user=Credentials()), server.handle)
    first, second, third = (lane.session(body) for body, _ in device.pairs)
    assert first is None
    assert second == third != lane.session(other.pairs[1][0])
