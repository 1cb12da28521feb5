"""PKCS#11 URIs (RFC 7512): what they select, what they refuse, and that no PIN is ever printed."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm_msl.backend.pkcs11.connection import TokenSelector
from hsm_msl.backend.uri import Pkcs11Uri, parse_uri
from hsm_msl.errors import BackendConfigurationError, ConfigurationError


@pytest.mark.parametrize(
    ("text", "expected"),
    [  # RFC 7512 section 3
        ("pkcs11:", Pkcs11Uri()),
        ("pkcs11:object=my-pubkey;type=public", Pkcs11Uri(object="my-pubkey", type="public")),
        (
            "pkcs11:object=my-key;type=private?pin-source=file:/etc/token",
            Pkcs11Uri(object="my-key", type="private", pin_source="file:/etc/token"),
        ),
        (
            "pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.;model=1.0;"
            "object=my-certificate;type=cert;id=%69%95%3E%5C%F4%BD%EC%91;serial=?pin-source=file:/etc/token_pin",
            Pkcs11Uri(
                token="The Software PKCS#11 Softtoken",
                manufacturer="Snake Oil, Inc.",
                model="1.0",
                object="my-certificate",
                type="cert",
                id=bytes.fromhex("69953e5cf4bdec91"),
                serial="",
                pin_source="file:/etc/token_pin",
            ),
        ),
        (
            "pkcs11:object=my-sign-key;type=private?module-name=mypkcs11",
            Pkcs11Uri(object="my-sign-key", type="private", module_name="mypkcs11"),
        ),
        (
            "pkcs11:object=my-sign-key;type=private?module-path=/mnt/libmypkcs11.so.1",
            Pkcs11Uri(object="my-sign-key", type="private", module_path="/mnt/libmypkcs11.so.1"),
        ),
        (
            "pkcs11:token=Software%20PKCS%2311%20softtoken;manufacturer=Snake%20Oil,%20Inc.?pin-source=file:/p",
            Pkcs11Uri(token="Software PKCS#11 softtoken", manufacturer="Snake Oil, Inc.", pin_source="file:/p"),
        ),
        ("pkcs11:slot-description=Sun%20Metaslot", Pkcs11Uri(slot_description="Sun Metaslot")),
        ("pkcs11:library-version=3.2;slot-id=7", Pkcs11Uri(library_version="3.2", slot_id=7)),
        ("PKCS11:token=%C3%A9", Pkcs11Uri(token="é")),
    ],
)
def test_examples_of_the_rfc(text: str, expected: Pkcs11Uri) -> None:
    assert parse_uri(text) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "starts with pkcs11:"),
        ("pkcs12:token=a", "starts with pkcs11:"),
        ("pkcs11:token=a b", "printable"),
        ("pkcs11:token=é", "printable"),
        ("pkcs11:token=a\n", "printable"),
        ("pkcs11:token", "knows no attribute 'token'"),
        ("pkcs11:token=a;", "knows no attribute ''"),
        ("pkcs11:tokken=a", "knows no attribute 'tokken'"),
        ("pkcs11:token=a;token=b", "gives token twice"),
        ("pkcs11:token=a?module-name=x&module-name=y", "gives module-name twice"),
        ("pkcs11:module-name=a", "belongs after"),
        ("pkcs11:?token=a", "belongs before"),
        ("pkcs11:token=100%", "starts no escape"),
        ("pkcs11:token=%zz", "starts no escape"),
        ("pkcs11:token=%ff", "not UTF-8"),
        ("pkcs11:token=a%00", "zero byte"),
        ("pkcs11:type=key", "type is one of"),
        ("pkcs11:slot-id=-1", "is a number"),
        ("pkcs11:library-version=new", "number such as"),
        ("pkcs11:?module-path=lib.so", "absolute"),
        ("pkcs11:token=" + "a" * 5000, "printable"),
    ],
)
def test_what_is_refused_and_how_it_is_told(text: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        parse_uri(text)


@pytest.mark.parametrize("text", ["pkcs11:?pin-value=1234", "pkcs11:pin-value=12", "pkcs11:token=a?pin-value=%3334"])
def test_a_pin_in_the_uri_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ConfigurationError, match="must not hold the PIN") as refusal:
        parse_uri(text)
    assert "12" not in str(refusal.value)
    assert "34" not in str(refusal.value)


def test_the_pin_source_is_not_printed() -> None:
    uri = parse_uri("pkcs11:token=a?pin-source=exec:/bin/opener%20--key%20hunter2&module-name=softhsm")
    assert str(uri) == "pkcs11:token=a?module-name=softhsm"
    assert "hunter2" not in repr(uri)


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)


@given(
    token=st.none() | texts,
    serial=st.none() | texts,
    label=st.none() | texts,
    identifier=st.none() | st.binary(max_size=20),
    name=st.none() | texts,
    slot=st.none() | st.integers(0, 2**31),
)
def test_what_is_printed_reads_back(
    token: str | None,
    serial: str | None,
    label: str | None,
    identifier: bytes | None,
    name: str | None,
    slot: int | None,
) -> None:
    uri = Pkcs11Uri(token=token, serial=serial, object=label, id=identifier, module_name=name, slot_id=slot)
    assert parse_uri(str(uri)) == uri


@given(st.text(max_size=80))
def test_garbage_is_a_uri_or_a_configuration_error(text: str) -> None:
    for candidate in (text, f"pkcs11:{text}"):
        with contextlib.suppress(ConfigurationError):
            assert parse_uri(str(parse_uri(candidate)))


def test_a_token_is_selected_by_what_does_not_move() -> None:
    uri = parse_uri("pkcs11:token=a;serial=1;manufacturer=m;model=n;object=key")
    assert TokenSelector.of_uri(uri) == TokenSelector("a", "1", "m", "n")
    for moving in ("slot-id=1", "slot-description=x", "library-version=2.6"):
        with pytest.raises(BackendConfigurationError, match=moving.partition("=")[0]):
            TokenSelector.of_uri(parse_uri(f"pkcs11:token=a;{moving}"))
