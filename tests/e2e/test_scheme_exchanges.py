"""Every key exchange between our client and our server, with the server's long-term keys on the host and in a token.

A session is begun, used, and renewed inside its window, which climbs the ladders; ``token`` residency keeps the
session keys of the exchanges that allow it in the token from beginning to end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from hsm_msl.backend.pkcs11.aes import TokenAesKey
from hsm_msl.backend.pkcs11.mac import TokenMacKey
from hsm_msl.backend.pkcs11.token import Token
from hsm_msl.backend.software import SoftwareEphemeralKeys, SoftwareWrappingKey
from hsm_msl.backend.token_vault import TokenVault
from hsm_msl.crypto.sealing import HostVault
from hsm_msl.errors import ConfigurationError
from hsm_msl.msl.client import MslClient
from hsm_msl.msl.context import MslContext
from hsm_msl.msl.entityauth.psk import PskScheme
from hsm_msl.msl.keyx.base import PendingKeyRequest
from hsm_msl.msl.keyx.defaults import PREFERENCE, ExchangeParts, Residency, key_exchanges
from hsm_msl.msl.keyx.dh_group import STANDARD_GROUPS
from hsm_msl.ports import SessionVault, SymmetricKeys
from msl_keys import Ring
from msl_world import RENEWAL_WINDOW, Device, World, secret
from scheme_places import Place, SoftwarePlace, TokenPlace, entity_keys

CLIENT = "psk-client"
KPE, KPH, KPW = bytes(range(16)), bytes(range(16, 48)), bytes(range(48, 64))
TOKEN_KEYS = bytes(range(100, 116)), bytes(range(100, 132)), bytes(range(200, 216))


@dataclass(frozen=True)
class Offer:
    """What a client offers, and by which scheme the answer must come."""

    scheme: str
    arguments: tuple[str, ...] = ()

    def request(self, context: MslContext) -> PendingKeyRequest:
        exchange: Any = context.key_exchanges[self.scheme]
        pending: PendingKeyRequest = exchange.request(*self.arguments)
        return pending

    def __str__(self) -> str:
        return "-".join((self.scheme, *self.arguments))


OFFERS = [
    *(Offer("ASYMMETRIC_WRAPPED", (name,)) for name in ("RSA", "JWE_RSA", "JWEJS_RSA", "JWK_RSA", "JWK_RSAES")),
    Offer("DIFFIE_HELLMAN", ("group",)),
    Offer("SYMMETRIC_WRAPPED"),
    Offer("JWK_LADDER"),
    Offer("JWE_LADDER"),
]
IN_TOKEN = [OFFERS[0], Offer("SYMMETRIC_WRAPPED")]


class Network:
    """A server whose token keys and pre-shared keys are at ``place``, and one client.

    Args:
        place: where the server's long-term keys are.
        vault: makes the server's session keys; by default they are on the host.
    """

    def __init__(self, place: Place, vault: Callable[[Ring], SessionVault] | None = None) -> None:
        self.world = World()
        self.ring = Ring(entity_keys(place, *TOKEN_KEYS))
        self.world.ring = self.ring
        # The client's side; the server finds the same keys at its place.
        self.device_keys = entity_keys(SoftwarePlace(), KPE, KPH, KPW)
        self.server_keys = entity_keys(place, KPE, KPH, KPW)
        self.vault = HostVault(self.world.random) if vault is None else vault(self.ring)
        self.residency = Residency.HOST if vault is None else Residency.TOKEN

    def server_context(self) -> MslContext:
        world = self.world
        world.preshared[CLIENT] = self.server_keys
        host, world.vault = world.vault, self.vault  # type: ignore[assignment]  # the world knows one kind
        context = world.server_context()
        world.vault = host
        psk = PskScheme(world.preshared, world.grants, world.random)
        names = PREFERENCE if self.residency is Residency.HOST else ("SYMMETRIC_WRAPPED", "ASYMMETRIC_WRAPPED")
        parts = ExchangeParts(
            self.vault,
            world.random,
            SoftwareEphemeralKeys(world.random),
            {"group": STANDARD_GROUPS["modp-1536"]},
            psk=psk,
            ring=self.ring,
            residency=self.residency,
        )
        return replace(context, key_exchanges=key_exchanges(names, parts))

    def client(self, *offers: Offer) -> Device:
        world = self.world
        world.preshared[CLIENT] = self.device_keys
        device = world.client("PSK", CLIENT)
        parts = ExchangeParts(
            HostVault(world.random),
            world.random,
            SoftwareEphemeralKeys(world.random),
            {"group": STANDARD_GROUPS["modp-1536"]},
            own=SoftwareWrappingKey(KPW),
        )
        context = replace(device.context, key_exchanges=key_exchanges(PREFERENCE, parts))
        device.context = context
        device.engine = MslClient(
            context, device.state, lambda: [offer.request(context) for offer in offers], lock=device.lock
        )
        return device


def talk(network: Network, offer: Offer) -> list[SymmetricKeys]:
    """Begin a session, use it on another server, renew it and use that; return the keys as both servers hold them."""
    device = network.client(offer)
    contexts = [network.server_context() for _ in range(2)]
    servers = [network.world.server(context=context) for context in contexts]
    assert device.ask(secret(b"first"), servers[0].handle).payload == b"first"
    assert device.ask(secret(b"second"), servers[1].handle).payload == b"second"
    network.world.clock.advance(RENEWAL_WINDOW + 1)
    assert device.ask(secret(b"third"), servers[0].handle).payload == b"third"
    assert device.ask(secret(b"fourth"), servers[1].handle).payload == b"fourth"
    found = []
    for context in contexts:
        session = device.state.newest()
        assert session is not None
        opened = context.master_tokens.parse(session.master_token.to_wire())
        assert opened.session is not None
        assert opened.sequence_number == 1
        found.append(opened.session.keys)
    return found


@pytest.mark.parametrize("offer", OFFERS, ids=str)
def test_a_session_is_begun_used_and_renewed(place: Place, offer: Offer) -> None:
    talk(Network(place), offer)


def test_the_first_of_the_servers_preference_answers(place: Place) -> None:
    network = Network(place)
    device = network.client(*OFFERS)
    context = network.server_context()
    assert device.ask(secret(), network.world.server(context=context).handle).payload == b"secret"
    # Only an answer of the first, the JWK ladder, hands out a key for the next step of that ladder.
    ladders: Any = device.context.key_exchanges
    assert ladders["JWK_LADDER"].requester.repository.latest() is not None
    assert ladders["JWE_LADDER"].requester.repository.latest() is None


@pytest.mark.parametrize("offer", IN_TOKEN, ids=str)
def test_session_keys_stay_in_the_token(request: pytest.FixtureRequest, offer: Offer) -> None:
    token: Token = request.getfixturevalue("hsm_token")
    place = TokenPlace(token, request.getfixturevalue("keys"))
    network = Network(place, lambda ring: TokenVault(token, ring))
    for keys in talk(network, offer):
        assert isinstance(keys.encryption, TokenAesKey)
        assert isinstance(keys.mac, TokenMacKey)


@pytest.mark.parametrize("name", ["DIFFIE_HELLMAN", "JWK_LADDER", "JWE_LADDER"])
def test_other_exchanges_are_a_wrong_configuration_there(name: str) -> None:
    parts = ExchangeParts(HostVault(bytes), bytes, SoftwareEphemeralKeys(bytes), residency=Residency.TOKEN)
    with pytest.raises(ConfigurationError, match=f"{name} needs the bytes of session keys"):
        key_exchanges([name], parts)
