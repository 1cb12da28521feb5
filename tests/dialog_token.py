"""Puts the keys of the dialog tests' services into a real token."""

from __future__ import annotations

from typing import Any

from asn1crypto.core import OctetString
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from pkcs11 import Attribute

from dialog_keys import digest
from dialog_world import EC_OPENED, Service, World
from hsm_msl.backend.pkcs11.public import curve_parameters
from hsm_msl.backend.pkcs11.token import Token
from hsm_msl.dialog.identity import LocalService
from token_fixture import WRAP, KeyMaker

SIGN, UNWRAP, DERIVE = (Attribute.SIGN,), (Attribute.UNWRAP,), (Attribute.DERIVE,)


def put(keys: KeyMaker, key: Any, uses: tuple[Attribute, ...]) -> str:
    if isinstance(key, rsa.RSAPrivateKey):
        return keys.rsa(key, uses)
    point = key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    return keys.ec(key, curve_parameters(ec.SECP256R1()), OctetString(point).dump(), uses)


def in_token(service: Service, token: Token, keys: KeyMaker, *, resident: bool = False) -> None:
    """Move a service's keys into the token, its session keys too if they are ``resident``; certificates stay."""
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
        resident=token if resident else None,
    )
    service.restart()


def world_in_token(suite: int, token: Token, keys: KeyMaker, *, resident: bool = False) -> World:
    world = World(suite=suite)
    for service in (world.a, world.b):
        in_token(service, token, keys, resident=resident)
    return world
