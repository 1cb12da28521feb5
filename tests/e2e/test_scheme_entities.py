"""Every entity authentication scheme between our client and our server, whose own private key may be in a token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from hsm_msl.crypto.public_key import PublicKey
from hsm_msl.errors import ErrorCode
from hsm_msl.msl.client import MslClient
from hsm_msl.msl.context import MslContext
from hsm_msl.msl.entityauth.base import EntityAuthData, EntityAuthSchemes, LocalEntity
from hsm_msl.msl.entityauth.defaults import SCHEMES, EntityParts, KeyPairs, entity_auth_schemes
from hsm_msl.msl.entityauth.ecc import ecc_data
from hsm_msl.msl.entityauth.mt_protected import mt_protected_data
from hsm_msl.msl.entityauth.none_suffixed import none_suffixed_data
from hsm_msl.msl.entityauth.provisioned import provisioned_data
from hsm_msl.msl.entityauth.psk import psk_data
from hsm_msl.msl.entityauth.psk_profile import psk_profile_data
from hsm_msl.msl.entityauth.rsa import rsa_data
from hsm_msl.msl.entityauth.trust_store import TrustStore
from hsm_msl.msl.entityauth.unauthenticated import none_data
from hsm_msl.msl.entityauth.x509 import x509_data
from hsm_msl.ports import PresharedKeys, SigningKey
from msl_keys import Lookup, rsa_key
from msl_messages import Observer, Sender, compose, password_data
from msl_world import ADA, PASSWORDS, SERVER, Device, Inbox, World, key_requests, secret
from scheme_certificates import ec_key, leaf, make
from scheme_places import Place, SoftwarePlace, entity_keys
from scheme_tokens import Names

KPE, KPH, KPW = bytes(range(16)), bytes(range(16, 48)), bytes(range(48, 64))
CLIENT = "client"
ROOT = make("root")
CERTIFICATES = {name: leaf(name, ROOT) for name in (SERVER, CLIENT)}


def pkcs8(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def public(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> PublicKey:
    return PublicKey(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


class Party:
    """One side: its schemes, with its private keys at ``place``."""

    def __init__(self, world: World, name: str, place: Place, context: MslContext, keys: PresharedKeys) -> None:
        self._place = place
        trust = TrustStore(world.clock)
        trust.add(ROOT.certificate)
        pairs = {
            kind: KeyPairs(
                Lookup({f"{owner}-{kind}": public(make_key(owner)) for owner in (SERVER, CLIENT)}),
                f"{name}-{kind}",
                self._signing(make_key(name)),
                {f"{owner}-{kind}": owner for owner in (SERVER, CLIENT)},
            )
            for kind, make_key in KINDS.items()
        }
        self.names = Names()
        self.schemes: EntityAuthSchemes = entity_auth_schemes(
            SCHEMES,
            EntityParts(
                world.grants,
                world.random,
                preshared=keys,
                rsa=pairs["RSA"],
                ecc=pairs["ECC"],
                trust=trust,
                certificate_keys={f"CN={name}": self._signing(CERTIFICATES[name].key)},
                identities=self.names,
                master_tokens=context.master_tokens,
            ),
        )

    def _signing(self, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> SigningKey:
        return self._place.signing(pkcs8(key))

    def local(self, data: EntityAuthData) -> LocalEntity:
        scheme = self.schemes[data.scheme]
        return LocalEntity(data, scheme.context(data), scheme.encrypts, scheme.protects_integrity)


KINDS: dict[str, Callable[[str], Any]] = {"RSA": lambda name: rsa_key(f"{name}-entity"), "ECC": ec_key}


class Network:
    """A server that authenticates by ``server_scheme`` with its keys at ``place``, and clients of any scheme."""

    def __init__(self, place: Place, server_scheme: str = "RSA") -> None:
        self.world = World()
        base = self.world.context
        known = Lookup({name: entity_keys(place, KPE, KPH, KPW) for name in (CLIENT, SERVER)})
        party = Party(self.world, SERVER, place, base, known)
        self.context = replace(base, local=party.local(data_of(server_scheme, SERVER)), entity_schemes=party.schemes)
        self.inbox = Inbox()
        self.server = self.world.server(self.inbox, context=self.context)

    def client(self, scheme: str) -> Device:
        device = self.world.client("NONE", CLIENT)
        own = Lookup({name: entity_keys(SoftwarePlace(), KPE, KPH, KPW) for name in (CLIENT, SERVER)})
        party = Party(self.world, CLIENT, SoftwarePlace(), device.context, own)
        local = self._hidden(party) if scheme == "MT_PROTECTED" else party.local(data_of(scheme, CLIENT))
        device.context = replace(device.context, local=local, entity_schemes=party.schemes)
        device.engine = MslClient(
            device.context, device.state, key_requests(device.context, ("DIFFIE_HELLMAN",)), lock=device.lock
        )
        return device

    def _hidden(self, party: Party) -> LocalEntity:
        """Hide PSK data under a session the client has with the server from before."""
        issuer = self.context.issuer
        assert issuer is not None
        token = issuer.create_master_token(CLIENT, self.context.vault.generate())
        assert token.context is not None
        inner = psk_data(CLIENT)
        scheme = party.schemes["MT_PROTECTED"]
        data = mt_protected_data(inner, token, token.context)
        return LocalEntity(data, scheme.context(data), scheme.encrypts, scheme.protects_integrity)


def data_of(scheme: str, name: str) -> EntityAuthData:
    return {
        "PSK": lambda: psk_data(name),
        "PSK_PROFILE": lambda: psk_profile_data(name, "profile"),
        "X509": lambda: x509_data(CERTIFICATES[name].certificate),
        "RSA": lambda: rsa_data(name, f"{name}-RSA"),
        "ECC": lambda: ecc_data(name, f"{name}-ECC"),
        "NONE": lambda: none_data(name),
        "NONE_SUFFIXED": lambda: none_suffixed_data(name, "suffix"),
        "PROVISIONED": provisioned_data,
    }[scheme]()


IDENTITIES = {
    "PSK": CLIENT,
    "PSK_PROFILE": f"{CLIENT}-profile",
    "X509": f"CN={CLIENT}",
    "RSA": CLIENT,
    "ECC": CLIENT,
    "NONE": CLIENT,
    "NONE_SUFFIXED": f"{CLIENT}.suffix",
    "MT_PROTECTED": CLIENT,
    "PROVISIONED": "device-1",
}


@pytest.mark.parametrize("scheme", IDENTITIES)
def test_a_client_of_every_scheme_is_known_by_its_identity(place: Place, scheme: str) -> None:
    network = Network(place)
    device = network.client(scheme)
    for payload in (b"first", b"second"):
        assert device.ask(secret(payload), network.server.handle).payload == payload
    assert [request.entity for request in network.inbox.requests] == [IDENTITIES[scheme]] * 2
    # One identity for the whole session, however many messages and pairs it took.
    assert len(device.pairs) <= 3


@pytest.mark.parametrize("scheme", ["RSA", "ECC", "X509", "PSK"])
def test_a_server_of_every_scheme_is_authenticated(place: Place, scheme: str) -> None:
    network = Network(place, scheme)
    device = network.client("PSK")
    assert device.ask(secret(b"hello"), network.server.handle).payload == b"hello"


@pytest.mark.parametrize("scheme", ["NONE", "NONE_SUFFIXED", "RSA", "ECC", "X509", "MT_PROTECTED", "PROVISIONED"])
def test_user_authentication_data_needs_a_scheme_that_encrypts(scheme: str) -> None:
    """Section 2.2: MT_PROTECTED does not count as encrypting, whatever it hides; 6042."""
    network = Network(SoftwarePlace())
    device = network.client(scheme)
    local = device.context.local
    sender = Sender({"entityauthdata": local.data.to_wire()}, local.context)
    answer = network.server.handle(compose(sender, userauthdata=password_data(ADA, PASSWORDS[ADA])))
    opened = Observer([network.context]).open(answer)
    assert opened.is_error
    assert opened.code is ErrorCode.UNENCRYPTED_MESSAGE_WITH_USERAUTHDATA
    assert network.inbox.requests == []


@pytest.mark.parametrize("scheme", ["PSK", "PSK_PROFILE", "RSA", "ECC", "X509"])
def test_a_message_of_another_key_is_refused(place: Place, scheme: str) -> None:
    network = Network(place)
    device = network.client(scheme)
    other = {"PSK": "NONE", "PSK_PROFILE": "NONE", "RSA": "ECC", "ECC": "RSA", "X509": "ECC"}[scheme]
    stranger = network.client(other).context.local.context
    sender = Sender({"entityauthdata": device.context.local.data.to_wire()}, stranger)
    opened = Observer([network.context]).open(network.server.handle(compose(sender)))
    assert opened.is_error
    assert opened.code is ErrorCode.MESSAGE_ENTITYDATABASED_VERIFICATION_FAILED
