"""The table of what schemes need: complete, printed in the documentation, true of a real token."""

from __future__ import annotations

from pathlib import Path

import hsm_msl.msl
from hsm_msl.backend.pkcs11.token import Token
from hsm_msl.msl.entityauth.defaults import SCHEMES as ENTITY_SCHEMES
from hsm_msl.msl.keyx.defaults import SCHEMES as KEY_EXCHANGES
from hsm_msl.msl.scheme_needs import EC_SIGN, KEY_UNWRAP, KEY_WRAP, NEEDS, SESSION_PACK, Kind, lines
from hsm_msl.msl.userauth.defaults import SCHEMES as USER_SCHEMES

PAGE = Path(hsm_msl.msl.__file__).with_name("SCHEMES.md")


def named(kind: Kind) -> set[str]:
    return {needs.scheme.split()[0] for needs in NEEDS if needs.kind is kind}


def test_every_scheme_has_its_row() -> None:
    assert named(Kind.ENTITY) == set(ENTITY_SCHEMES)
    assert named(Kind.USER) == set(USER_SCHEMES)
    assert named(Kind.EXCHANGE) == set(KEY_EXCHANGES)


def test_the_documentation_shows_the_table_of_the_running_code() -> None:
    shown = PAGE.read_text(encoding="utf-8").split("<!-- begin: hsm_msl.msl.scheme_needs -->\n")[1]
    assert shown.split("\n<!-- end -->")[0] == "\n".join(lines()).rstrip()


def test_a_softhsm_token_can_serve_every_scheme(hsm_token: Token) -> None:
    mechanisms = hsm_token.mechanisms()
    assert [needs.scheme for needs in NEEDS if needs.missing(mechanisms)] == []


def test_what_a_poorer_token_lacks_is_named(hsm_token: Token) -> None:
    poorer = hsm_token.mechanisms() - {"AES_KEY_WRAP", "ECDSA"}
    missing = {needs.scheme: needs.missing(poorer) for needs in NEEDS if needs.missing(poorer)}
    assert missing["ECC"] == (EC_SIGN,)
    assert missing["fleet store"] == (KEY_UNWRAP,)
    assert missing["SYMMETRIC_WRAPPED PSK, token residency"] == (KEY_UNWRAP,)  # the peer expects AES key wrap
    assert "ASYMMETRIC_WRAPPED RSA, token residency" not in missing  # packed under RSA
    packing = next(needs for needs in NEEDS if needs.scheme == "ASYMMETRIC_WRAPPED RSA, token residency")
    assert SESSION_PACK in packing.missing(poorer - {"RSA_PKCS_OAEP"})
    assert "JWK_LADDER" not in missing  # key wrap is built from blocks
    assert KEY_WRAP in next(n for n in NEEDS if n.scheme == "JWK_LADDER").missing(poorer - {"AES_ECB"})
    assert {needs.scheme for needs in NEEDS if not needs.missing(())} == {
        "NONE",
        "NONE_SUFFIXED",
        "PROVISIONED",
        "EMAIL_PASSWORD",
    }
