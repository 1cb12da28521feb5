"""Dialogs with every long-term key and every key exchange key inside a real token (dialog section 10)."""

from __future__ import annotations

import gc

import pytest
from pkcs11 import Attribute, ObjectClass

from dialog_token import world_in_token
from dialog_world import broken_kek
from hsm_msl.backend.pkcs11.binding import Handle
from hsm_msl.backend.pkcs11.token import Token
from hsm_msl.backend.pkcs11.wrapping import TokenWrappingKey
from hsm_msl.dialog.context import CacheSizes
from hsm_msl.dialog.names import Side
from hsm_msl.dialog.proving import prove_residence, prove_suites
from hsm_msl.errors import ConfigurationError, MechanismUnsupportedError
from token_fixture import KeyMaker

INIT, TARGET = Side.INITIATOR, Side.TARGET


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("suite", [2, 3])
def test_a_dialog_with_shifts_and_restarts(suite: int, resident: bool, hsm_token: Token, keys: KeyMaker) -> None:
    world = world_in_token(suite, hsm_token, keys, resident=resident)
    dialog = world.open()
    for turn in range(3):
        world.clock.advance(2)
        world.a.shift(dialog, INIT)
        world.b.shift(dialog, TARGET)
        world.a.send(dialog, INIT, b"%d" % turn, b"x" * 70_000)
        world.b.send(dialog, TARGET, b"%d" % turn)
        world.a.restart()
        world.b.restart()
        world.settle()
    assert [body[:1] for body in world.b.bodies(dialog, TARGET)] == [b"0", b"x", b"1", b"x", b"2", b"x"]
    assert world.a.bodies(dialog, INIT) == [b"0", b"1", b"2"]


@pytest.mark.parametrize("suite", [2, 3])
def test_a_session_key_under_a_broken_kek_is_refused_once(suite: int, hsm_token: Token, keys: KeyMaker) -> None:
    world = world_in_token(suite, hsm_token, keys)
    dialog = world.a.begin(world.b)
    world.a.send(dialog, INIT, b"x")
    (data,) = world.outgoing(world.a)
    for _ in range(3):
        world.deliver(world.b, [broken_kek(world, data)])
    assert "key_unusable" in world.names()
    world.deliver(world.b, [data])
    assert world.b.bodies(dialog, TARGET) == [b"x"]


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("suite", [2, 3])
def test_c60_cached_handles_heal_after_every_session_is_lost(
    suite: int, resident: bool, hsm_token: Token, keys: KeyMaker
) -> None:
    world = world_in_token(suite, hsm_token, keys, resident=resident)
    dialog = world.open()
    hsm_token.connection.module.reinitialize()
    for turn in range(3):
        world.clock.advance(70)
        world.a.shift(dialog, INIT)
        world.a.send(dialog, INIT, b"%d" % turn)
        world.settle()
    world.clock.advance(70)
    world.settle()
    assert world.b.bodies(dialog, TARGET) == [b"0", b"1", b"2"]


def test_suite_1_needs_a_token_that_wraps_with_oaep_sha_256(hsm_token: Token, keys: KeyMaker) -> None:
    """SoftHSMv2 does not (section 10): a named configuration error, and nothing accepted."""
    world = world_in_token(1, hsm_token, keys)
    dialog = world.a.begin(world.b)
    with pytest.raises(MechanismUnsupportedError):
        world.a.send(dialog, INIT, b"x")
    assert world.outgoing(world.a) == []


@pytest.mark.parametrize("suite", [2, 3])
def test_session_keys_that_stay_in_the_token_are_nowhere_in_this_process(
    suite: int, hsm_token: Token, keys: KeyMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Residency ``token``: no operation that yields key bytes is asked for, on either side."""
    world = world_in_token(suite, hsm_token, keys, resident=True)
    for service in (world.a, world.b):
        prove_residence(service.local, frozenset({suite}))

    def forbidden(*_: object, **__: object) -> bytes:
        raise AssertionError("a session key was asked for in plain")

    monkeypatch.setattr(TokenWrappingKey, "unwrap", forbidden)
    monkeypatch.setattr(TokenWrappingKey, "wrap", forbidden)
    dialog = world.open()
    for service, side in ((world.a, INIT), (world.b, TARGET)):
        service.restart()
        world.clock.advance(2)
        service.shift(dialog, side)
        service.send(dialog, side, b"more")
        world.settle()
    assert world.b.bodies(dialog, TARGET) == [b"more"]
    assert world.a.bodies(dialog, INIT) == [b"more"]


def test_evicted_session_keys_leave_the_token(hsm_token: Token, keys: KeyMaker) -> None:
    """A thousand generations do not fill the token: what a cache drops is destroyed."""
    world = world_in_token(2, hsm_token, keys, resident=True)
    for service in (world.a, world.b):
        service.sizes = CacheSizes(2, 2, 2, 2)
        service.restart()
    dialog = world.open()
    before = session_objects(hsm_token)
    for _ in range(20):
        world.clock.advance(10)
        world.a.shift(dialog, INIT)
        world.a.send(dialog, INIT, b"x")
        world.settle()
        world.b.bodies(dialog, TARGET)
    gc.collect()
    assert session_objects(hsm_token) <= before + 12


def session_objects(token: Token) -> int:
    """How many secret keys live in the sessions of this process."""

    def count(session: Handle) -> int:
        return len(list(session.get_objects({Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.TOKEN: False})))

    return token._random.call(count)


def test_suites_are_tried_before_anybody_sends(hsm_token: Token, keys: KeyMaker) -> None:
    """SoftHSMv2 has no OAEP with SHA-256: said at the start, by suite, and not with the first message."""
    for suite in (2, 3):
        prove_suites(world_in_token(suite, hsm_token, keys).a.local, {suite})
    with pytest.raises(ConfigurationError, match=r"suite 1 cannot be used: .*OAEP SHA-256.*take suite 2 or 3"):
        prove_suites(world_in_token(1, hsm_token, keys).a.local, {1})
    rsa = world_in_token(3, hsm_token, keys).a.local
    with pytest.raises(ConfigurationError, match="suite 2 cannot be used"):
        prove_suites(rsa, {2, 3})
