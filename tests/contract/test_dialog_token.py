"""Dialogs with every long-term key and every key exchange key inside a real token (dialog section 10)."""

from __future__ import annotations

import pytest

from dialog_token import world_in_token
from dialog_world import broken_kek
from hsm_msl.backend.pkcs11.token import Token
from hsm_msl.dialog.names import Side
from hsm_msl.errors import MechanismUnsupportedError
from token_fixture import KeyMaker

INIT, TARGET = Side.INITIATOR, Side.TARGET


@pytest.mark.parametrize("suite", [2, 3])
def test_a_dialog_with_shifts_and_restarts(suite: int, hsm_token: Token, keys: KeyMaker) -> None:
    world = world_in_token(suite, hsm_token, keys)
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


@pytest.mark.parametrize("suite", [2, 3])
def test_c60_cached_handles_heal_after_every_session_is_lost(suite: int, hsm_token: Token, keys: KeyMaker) -> None:
    world = world_in_token(suite, hsm_token, keys)
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
