"""Dialogs with every long-term key and every key exchange key inside a real token (dialog section 10)."""

from __future__ import annotations

from typing import Any

import pytest
from asn1crypto.core import OctetString
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from pkcs11 import Attribute

from dialog_keys import digest
from dialog_world import EC_OPENED, Service, World, broken_kek
from hsm_msl.backend.pkcs11.public import curve_parameters
from hsm_msl.backend.pkcs11.token import Token
from hsm_msl.dialog.identity import LocalService
from hsm_msl.dialog.names import Side
from hsm_msl.errors import MechanismUnsupportedError
from token_fixture import WRAP, KeyMaker

INIT, TARGET = Side.INITIATOR, Side.TARGET
SIGN, UNWRAP, DERIVE = (Attribute.SIGN,), (Attribute.UNWRAP,), (Attribute.DERIVE,)


def put(keys: KeyMaker, key: Any, uses: tuple[Attribute, ...]) -> str:
    if isinstance(key, rsa.RSAPrivateKey):
        return keys.rsa(key, uses)
    point = key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    return keys.ec(key, curve_parameters(ec.SECP256R1()), OctetString(point).dump(), uses)


def in_token(service: Service, token: Token, keys: KeyMaker) -> None:
    """Move a service's keys into the token; its certificates stay."""
    agreeing = service.suite in EC_OPENED
    label = put(keys, service.encryption, DERIVE if agreeing else UNWRAP)
    opener = token.agreement_key(label) if agreeing else token.unwrapping_key(label)
    service.local = LocalService(
        name=service.name,
        instance=service.local.instance,
        signing_key=token.signing_key(put(keys, service.signing, SIGN)),
        signing_cert=digest(service.signing_cert),
        encryption_keys={digest(service.encryption_cert): opener},
        encryption_cert=digest(service.encryption_cert),
        exchange=token.exchange_keys(),
        storage=token.wrapping_key(keys.aes(digest(service.name.encode()), WRAP)),
    )
    service.restart()


def world_in_token(suite: int, token: Token, keys: KeyMaker) -> World:
    world = World(suite=suite)
    for service in (world.a, world.b):
        in_token(service, token, keys)
    return world


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
