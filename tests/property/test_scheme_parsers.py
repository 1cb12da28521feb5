"""Whatever a peer puts into the objects of a scheme, the answer is a named refusal and nothing else."""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsm_msl.backend.software import SoftwareDhKey
from hsm_msl.crypto.jwe import JweTransport
from hsm_msl.crypto.sealing import HostVault, LocalWrappingKey
from hsm_msl.crypto.transport import RsaTransport, WrapTransport
from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.msl.entityauth.base import authenticate_entity, parse_entity_auth
from hsm_msl.msl.entityauth.certificate import parse_certificate
from hsm_msl.msl.entityauth.psk import PskScheme
from hsm_msl.msl.entityauth.trust_store import TrustStore
from hsm_msl.msl.keyx.base import PendingKeyRequest, Requester, parse_key_request
from hsm_msl.msl.keyx.defaults import PREFERENCE, ExchangeParts, key_exchanges
from hsm_msl.msl.keyx.dh_group import DhGroup, decode_group
from hsm_msl.msl.keyx.diffie_hellman import normal_form
from hsm_msl.msl.userauth.base import parse_user_auth
from hsm_msl.ports import KeyForm, RsaPadding, SymmetricKeys
from hsm_msl.wire import jose
from msl_keys import Lookup, Ring, RsaDecrypter, rsa_key
from scheme_certificates import leaf, make
from scheme_support import VECTORS, Hooks
from scheme_tokens import NOW, TokenWorld

WORLD = TokenWorld()
KEYS = SymmetricKeys(wrapping=LocalWrappingKey(bytes(16)))


class Ephemeral:
    """One-time keys of a tiny group, and one RSA key."""

    def agreement(self, prime: int, generator: int) -> SoftwareDhKey:
        return SoftwareDhKey(prime, generator, os.urandom)

    def decryption(self) -> RsaDecrypter:
        return RsaDecrypter(rsa_key("ephemeral"))


EXCHANGES = key_exchanges(
    PREFERENCE,
    ExchangeParts(
        HostVault(os.urandom),
        os.urandom,
        Ephemeral(),
        {"g": DhGroup(0xE27F4C79FC5AAC128490E9D83BB72F987D141CA9EAB8E647DB3D169553CF3407, 2)},
        psk=PskScheme(Lookup({"entity": KEYS}), Hooks(), os.urandom),
        ring=Ring(KEYS),
        own=LocalWrappingKey(bytes(16)),
    ),
)

# What could stand where a member is expected: the right kind, nearly right, and anything else.
RECORDED = [
    part
    for recorded in (*VECTORS["entity_auth_data"].values(), *VECTORS["user_auth_data"].values())
    for part in recorded["authdata"].values()
]
LEAVES = (
    st.sampled_from([*RECORDED, "RSA", "JWE_RSA", "PSK", "WRAP", "SESSION", "g", "entity"])
    | st.text(max_size=20)
    | st.binary(max_size=40).map(lambda data: base64.b64encode(data).decode())
    | st.integers()
    | st.booleans()
    | st.none()
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
MEMBERS = st.sampled_from(
    [
        *(name for recorded in VECTORS["entity_auth_data"].values() for name in recorded["authdata"]),
        *(name for recorded in VECTORS["user_auth_data"].values() for name in recorded["authdata"]),
        *(name for case in VECTORS["exchanges"].values() for name in case["request"]["keydata"]),
        *(name for case in VECTORS["exchanges"].values() for name in case["response"]["keydata"]),
        "parametersid",
        "pin",
    ]
)
OBJECTS = st.dictionaries(MEMBERS, VALUES, max_size=5)


def only_refusals(run: Callable[[], object]) -> None:
    """Run, and let nothing pass but an MSL refusal."""
    with contextlib.suppress(MslError):
        run()


@given(st.sampled_from(sorted(WORLD.entities)), OBJECTS)
def test_entity_authentication_data(scheme: str, authdata: dict[str, Any]) -> None:
    only_refusals(lambda: WORLD.authenticate_entity({"scheme": scheme, "authdata": authdata}))


@given(st.sampled_from(sorted(WORLD.users)), OBJECTS)
def test_user_authentication_data(scheme: str, authdata: dict[str, Any]) -> None:
    only_refusals(lambda: WORLD.authenticate_user({"scheme": scheme, "authdata": authdata}))


@given(st.dictionaries(st.sampled_from(["scheme", "authdata", "keydata"]), VALUES, max_size=3))
def test_containers(obj: dict[str, Any]) -> None:
    only_refusals(lambda: authenticate_entity(parse_entity_auth(obj, WORLD.entities), WORLD.entities))
    only_refusals(lambda: parse_user_auth(obj, WORLD.users))
    only_refusals(lambda: parse_key_request(obj, EXCHANGES))


@given(st.sampled_from(PREFERENCE), OBJECTS)
def test_key_requests(scheme: str, keydata: dict[str, Any]) -> None:
    exchange = EXCHANGES[scheme]
    only_refusals(lambda: exchange.answer(exchange.parse_request(keydata), Requester("entity")))


@pytest.mark.parametrize("name", [*VECTORS["exchanges"]])
@settings(max_examples=40)
@given(data=st.data())
def test_key_responses(name: str, data: st.DataObject) -> None:
    """A recorded request of ours, answered with something else."""
    case = VECTORS["exchanges"][name]
    exchange = EXCHANGES[case["request"]["scheme"]]
    pending = PendingKeyRequest(exchange.parse_request(case["request"]["keydata"]), RsaDecrypter(rsa_key("own")))
    keydata = {**case["response"]["keydata"], **data.draw(OBJECTS)}
    only_refusals(lambda: exchange.accept(pending, exchange.parse_response(keydata)))


@pytest.mark.parametrize("form", KeyForm)
@given(data=st.binary(max_size=80) | st.text(max_size=40).map(lambda text: b"{" + text.encode() + b"}"))
def test_opened_keys(form: KeyForm, data: bytes) -> None:
    class Open:
        def wrap(self, plaintext: bytes) -> bytes:
            return plaintext

        def unwrap(self, wrapped: bytes) -> bytes:
            return wrapped

    vault = HostVault(os.urandom)
    only_refusals(lambda: vault.receive(data, data, Open(), form))
    only_refusals(lambda: vault.receive_wrapping(data, Open(), form))


@given(st.binary(max_size=300))
def test_transports(data: bytes) -> None:
    wrap = WrapTransport(LocalWrappingKey(bytes(16)))
    rsa = RsaTransport(RsaPadding.OAEP_SHA1, b"", RsaDecrypter(rsa_key("own")))
    for transport in (wrap, rsa, JweTransport("A128KW", wrap, jose.encode_jwe_json, os.urandom)):
        with pytest.raises(MslError):
            transport.unwrap(data)


CERTIFICATE = leaf("device", make("root")).certificate.der
TRUST = TrustStore(lambda: NOW)
TRUST.add(make("root").certificate)


@settings(max_examples=400)
@given(
    st.lists(st.tuples(st.integers(0, len(CERTIFICATE) - 1), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(0, len(CERTIFICATE)),
)
def test_damaged_certificates(changes: list[tuple[int, int]], length: int) -> None:
    data = bytearray(CERTIFICATE)
    for position, value in changes:
        data[position] = value
    for damaged in (bytes(data), bytes(data[:length]), bytes(data) + b"\0"):
        only_refusals(lambda damaged=damaged: TRUST.check(parse_certificate(damaged)))  # type: ignore[misc]


def test_certificates_that_upset_the_library() -> None:
    """Found by changing bytes at random: an unknown version, and serial numbers that only a warning is about."""
    version = CERTIFICATE.index(b"\xa0\x03\x02\x01") + 4
    serial = version + 1
    for position, value in ((version, 0x62), (serial + 2, 0x80 | CERTIFICATE[serial + 2])):
        data = bytearray(CERTIFICATE)
        data[position] = value
        with pytest.raises(MslError) as caught:
            parse_certificate(bytes(data))
        assert caught.value.code is ErrorCode.X509CERT_PARSE_ERROR


@given(st.binary(max_size=60))
def test_bytes_that_are_no_certificate_or_group(data: bytes) -> None:
    with pytest.raises(MslError) as caught:
        parse_certificate(data)
    assert caught.value.code is ErrorCode.X509CERT_PARSE_ERROR
    only_refusals(lambda: decode_group(data))


@given(st.binary(max_size=40))
def test_normal_form_is_one_zero_and_the_number(data: bytes) -> None:
    """Section 7.1: any encoding of a number gives the same, and the number is kept."""
    form = normal_form(data)
    assert form[0] == 0
    assert form[1:2] != b"\0"
    assert int.from_bytes(form) == int.from_bytes(data)
    assert normal_form(b"\0" + data) == form == normal_form(form)
