"""What is made from a configuration's names, and what is refused before a service starts."""

from __future__ import annotations

import os

import pytest

from hsm_msl.crypto.sealing import HostVault
from hsm_msl.errors import ConfigurationError, ErrorCode, ResponseCode
from hsm_msl.msl.entityauth.base import parse_entity_auth
from hsm_msl.msl.entityauth.defaults import SCHEMES as ENTITY_SCHEMES
from hsm_msl.msl.entityauth.defaults import EntityParts, entity_auth_schemes
from hsm_msl.msl.keyx.base import Requester, parse_key_request
from hsm_msl.msl.keyx.defaults import PREFERENCE, ExchangeParts, Residency, key_exchanges
from hsm_msl.msl.keyx.defaults import SCHEMES as KEY_EXCHANGES
from hsm_msl.msl.userauth.base import parse_user_auth
from hsm_msl.msl.userauth.defaults import SCHEMES as USER_SCHEMES
from hsm_msl.msl.userauth.defaults import UserParts, user_auth_schemes
from msl_keys import Ephemeral
from scheme_support import Hooks, refused
from scheme_tokens import TokenWorld

BARE_ENTITY = EntityParts(Hooks(), os.urandom)
BARE_USER = UserParts(Hooks())
BARE_EXCHANGE = ExchangeParts(HostVault(os.urandom), os.urandom)
NEED_NOTHING = {"NONE", "NONE_SUFFIXED", "SYMMETRIC_WRAPPED", "JWK_LADDER", "JWE_LADDER"}


def test_every_scheme_of_the_specification_is_there() -> None:
    assert set(ENTITY_SCHEMES) == {
        "PSK",
        "PSK_PROFILE",
        "X509",
        "RSA",
        "ECC",
        "NONE",
        "NONE_SUFFIXED",
        "MT_PROTECTED",
        "PROVISIONED",
    }
    assert set(USER_SCHEMES) == {"EMAIL_PASSWORD", "USER_ID_TOKEN"}
    assert set(KEY_EXCHANGES) == set(PREFERENCE)
    assert len(PREFERENCE) == 5


@pytest.mark.parametrize("name", ENTITY_SCHEMES)
def test_entity_schemes_bear_their_names_and_flags(name: str) -> None:
    """Section 2.2: what a header under the scheme counts as."""
    scheme = TokenWorld().entities[name]
    assert scheme.name == name
    assert scheme.encrypts is (name in ("PSK", "PSK_PROFILE"))
    assert scheme.protects_integrity is (name in ("PSK", "PSK_PROFILE", "X509", "RSA", "ECC"))


@pytest.mark.parametrize("name", sorted(set(ENTITY_SCHEMES) - NEED_NOTHING))
def test_an_entity_scheme_without_its_part(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} needs"):
        entity_auth_schemes([name], BARE_ENTITY)


@pytest.mark.parametrize("name", USER_SCHEMES)
def test_a_user_scheme_without_its_part(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} needs"):
        user_auth_schemes([name], BARE_USER)


@pytest.mark.parametrize("name", sorted(set(KEY_EXCHANGES) - NEED_NOTHING))
def test_a_key_exchange_without_its_part(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} needs"):
        key_exchanges([name], BARE_EXCHANGE)


def test_names_nobody_knows() -> None:
    for make in (
        lambda: entity_auth_schemes(["NOVEL"], BARE_ENTITY),
        lambda: user_auth_schemes(["NOVEL"], BARE_USER),
        lambda: key_exchanges(["NOVEL"], BARE_EXCHANGE),
    ):
        with pytest.raises(ConfigurationError, match="NOVEL"):
            make()


def test_the_order_of_names_is_the_order_of_preference() -> None:
    names = ("JWE_LADDER", "SYMMETRIC_WRAPPED", "JWK_LADDER")
    assert tuple(key_exchanges(names, BARE_EXCHANGE)) == names


def test_schemes_of_ones_own_stand_beside_the_standard_ones() -> None:
    world = TokenWorld()
    assert parse_user_auth({"scheme": "PRIVATE_PIN", "authdata": {"pin": "1"}}, world.users).scheme == "PRIVATE_PIN"


def test_a_ladder_of_an_entity_that_issues_nothing_answers_nothing() -> None:
    exchanges = key_exchanges(["JWK_LADDER"], BARE_EXCHANGE)
    request = parse_key_request({"scheme": "JWK_LADDER", "keydata": {"mechanism": "PSK"}}, exchanges)
    with refused(ErrorCode.UNSUPPORTED_KEYX_MECHANISM, ResponseCode.FAIL):
        exchanges["JWK_LADDER"].answer(request, Requester("x"))


@pytest.mark.parametrize(
    ("mechanisms", "message"),
    [(("JWK_RSA",), "mechanism JWK_RSA needs the bytes"), (("NOVEL",), "no mechanism 'NOVEL'")],
)
def test_mechanisms_that_cannot_be_served(mechanisms: tuple[str, ...], message: str) -> None:
    parts = ExchangeParts(
        HostVault(os.urandom),
        os.urandom,
        Ephemeral(os.urandom),
        mechanisms=mechanisms,
        residency=Residency.TOKEN,
    )
    with pytest.raises(ConfigurationError, match=message):
        key_exchanges(["ASYMMETRIC_WRAPPED"], parts)


def test_a_scheme_not_configured_has_no_factory() -> None:
    schemes = entity_auth_schemes(["NONE"], BARE_ENTITY)
    with refused(ErrorCode.ENTITYAUTH_FACTORY_NOT_FOUND, ResponseCode.FAIL):
        parse_entity_auth({"scheme": "PSK", "authdata": {}}, schemes)
