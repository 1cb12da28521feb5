"""Key exchanges recorded from the reference stack, with long-term keys in this process and in a token.

msl-schemes sections 5 to 8 and 10; the files are tests/vectors/msl-schemes-vectors.json and tests/vectors/primitives.
"""

from __future__ import annotations

import base64
import os
from typing import Any

import pytest

from hsm_msl.crypto.jwe import JweTransport
from hsm_msl.crypto.sealing import HostVault, LocalWrappingKey
from hsm_msl.crypto.transport import WrapTransport
from hsm_msl.errors import ErrorCode, ResponseCode
from hsm_msl.msl.entityauth.psk import PskScheme
from hsm_msl.msl.keyx.asymmetric_wrapped import AsymmetricWrapped
from hsm_msl.msl.keyx.base import PendingKeyRequest, Requester
from hsm_msl.msl.keyx.dh_group import DhGroup
from hsm_msl.msl.keyx.diffie_hellman import DiffieHellman, normal_form
from hsm_msl.msl.keyx.jwe_ladder import jwe_ladder
from hsm_msl.msl.keyx.jwk_ladder import jwk_ladder
from hsm_msl.msl.keyx.ladder import IssuerSide, Ladder, RequesterSide
from hsm_msl.msl.keyx.symmetric_wrapped import SymmetricWrapped
from hsm_msl.msl.keyx.wrap_repository import LocalWrapRepository
from hsm_msl.ports import SymmetricKeys
from hsm_msl.wire import jose
from msl_keys import DhAgreement, Ephemeral, Lookup, Ring
from scheme_places import Place, entity_keys
from scheme_support import VECTORS, Draws, Hooks, assert_keys, refused
from vector_files import load

EXCHANGES: dict[str, Any] = VECTORS["exchanges"]
PSK = VECTORS["psk"]
KPE, KPH, KPW = (bytes.fromhex(PSK[name]) for name in ("kpe", "kph", "kpw"))
MSL_WRAP_KEY = bytes.fromhex(VECTORS["msl_wrap_key"])
IDENTITY = PSK["identity"]


def unneeded(count: int) -> bytes:
    raise AssertionError("nothing is drawn here")


def session_of(case: dict[str, Any]) -> tuple[bytes, bytes]:
    return bytes.fromhex(case["session_encryption_key"]), bytes.fromhex(case["session_hmac_key"])


def response_field(case: dict[str, Any], name: str) -> bytes:
    return base64.b64decode(case["response"]["keydata"][name])


# --- section 5: ASYMMETRIC_WRAPPED ---

MECHANISMS = [name for name in EXCHANGES if name.startswith("aw.")]


def asymmetric_wrapped() -> AsymmetricWrapped:
    return AsymmetricWrapped(Ephemeral(os.urandom), HostVault(os.urandom), os.urandom)


@pytest.mark.parametrize("name", MECHANISMS)
def test_recorded_asymmetric_response_opens_with_the_private_key(place: Place, name: str) -> None:
    case = EXCHANGES[name]
    scheme = asymmetric_wrapped()
    request = scheme.parse_request(case["request"]["keydata"])
    pending = PendingKeyRequest(request, place.decryption(bytes.fromhex(VECTORS["rsa"]["pkcs8"])))
    keys = scheme.accept(pending, scheme.parse_response(case["response"]["keydata"]))
    assert_keys(keys, *session_of(case))


@pytest.mark.parametrize("name", MECHANISMS)
def test_recorded_asymmetric_request_is_answered_so_that_its_key_opens_it(place: Place, name: str) -> None:
    case = EXCHANGES[name]
    scheme = asymmetric_wrapped()
    request = scheme.parse_request(case["request"]["keydata"])
    answer = scheme.answer(request, Requester(IDENTITY))
    assert list(answer.keydata) == ["hmackey", "encryptionkey", "keypairid"]
    pending = PendingKeyRequest(request, place.decryption(bytes.fromhex(VECTORS["rsa"]["pkcs8"])))
    keys = scheme.accept(pending, scheme.parse_response(answer.keydata))
    assert keys is not None
    assert answer.keys.encryption is not None
    assert keys.encryption is not None
    assert keys.encryption.encrypt_ecb(bytes(16)) == answer.keys.encryption.encrypt_ecb(bytes(16))


# --- section 6: SYMMETRIC_WRAPPED ---


def psk_scheme(place: Place) -> PskScheme:
    return PskScheme(Lookup({IDENTITY: entity_keys(place, KPE, KPH, KPW)}), Hooks(), unneeded)


def test_recorded_symmetric_response_opens_with_the_preshared_key(place: Place) -> None:
    case = EXCHANGES["sw.PSK"]
    scheme = SymmetricWrapped(HostVault(unneeded), own=place.wrapping(KPW))
    pending = PendingKeyRequest(scheme.parse_request(case["request"]["keydata"]), None)
    assert_keys(scheme.accept(pending, scheme.parse_response(case["response"]["keydata"])), *session_of(case))


def test_recorded_symmetric_request_is_answered_byte_for_byte(place: Place) -> None:
    case = EXCHANGES["sw.PSK"]
    scheme = SymmetricWrapped(HostVault(Draws(b"".join(session_of(case)))), psk_scheme(place))
    answer = scheme.answer(scheme.parse_request(case["request"]["keydata"]), Requester(IDENTITY))
    assert answer.keydata == case["response"]["keydata"]
    assert list(answer.keydata) == ["hmackey", "keyid", "encryptionkey"]


# --- section 8: the ladders ---

LADDERS = {"jwk": jwk_ladder, "jwe": jwe_ladder}


def next_key(case: dict[str, Any]) -> bytes:
    """The wrapping key a response hands out, recovered with the recorded MSL wrap key."""
    return LocalWrappingKey(MSL_WRAP_KEY).unwrap(response_field(case, "wrapdata"))


def requester(name: str, place: Place, repository: LocalWrapRepository) -> Ladder:
    return LADDERS[name](HostVault(unneeded), unneeded, requester=RequesterSide(repository, place.wrapping(KPW)))


@pytest.mark.parametrize("name", LADDERS)
def test_recorded_ladder_is_climbed_by_a_requester(place: Place, name: str) -> None:
    """Sections 10.4 and 10.5: anchored in the pre-shared key, then in the key handed out; which is then spent."""
    repository = LocalWrapRepository()
    ladder = requester(name, place, repository)
    for step in ("PSK", "WRAP"):
        case = EXCHANGES[f"{name}.{step}"]
        request = ladder.request()
        assert request.request.keydata == case["request"]["keydata"]
        keys = ladder.accept(request, ladder.parse_response(case["response"]["keydata"]))
        assert_keys(keys, *session_of(case))
        assert repository.latest() == response_field(case, "wrapdata")
    with refused(ErrorCode.KEYX_WRAPPING_KEY_MISSING, ResponseCode.FAIL):
        ladder.accept(request, ladder.parse_response(EXCHANGES[f"{name}.WRAP"]["response"]["keydata"]))


def jwe_parts(text: bytes, kek: bytes) -> tuple[bytes, bytes]:
    jwe = jose.decode_jwe(text)
    return LocalWrappingKey(kek).unwrap(jwe.encrypted_key), jwe.iv


def ladder_draws(name: str, case: dict[str, Any], anchor: bytes) -> tuple[Draws, Draws]:
    """What the recorded issuer drew: for the keys, and for key IDs, content keys and IVs."""
    kwrap = next_key(case)
    keys = Draws(kwrap, b"".join(session_of(case)))
    if name == "jwk":
        return keys, Draws()
    wrapkey = response_field(case, "wrapkey")
    transport = JweTransport("A128KW", WrapTransport(LocalWrappingKey(anchor)), jose.encode_jwe_json, unneeded)
    key_id = jose.decode_jwk(transport.unwrap(wrapkey)).kid
    assert key_id is not None
    return keys, Draws(
        int(key_id).to_bytes(8, signed=True),
        *jwe_parts(wrapkey, anchor),
        *jwe_parts(response_field(case, "encryptionkey"), kwrap),
        *jwe_parts(response_field(case, "hmackey"), kwrap),
    )


@pytest.mark.parametrize("step", ["PSK", "WRAP"])
@pytest.mark.parametrize("name", LADDERS)
def test_recorded_ladder_request_is_answered_byte_for_byte(place: Place, name: str, step: str) -> None:
    case = EXCHANGES[f"{name}.{step}"]
    anchor = KPW if step == "PSK" else next_key(EXCHANGES[f"{name}.PSK"])
    keys, draws = ladder_draws(name, case, anchor)
    ring = Ring(SymmetricKeys(wrapping=place.wrapping(MSL_WRAP_KEY)))
    ladder = LADDERS[name](HostVault(keys), draws, issuer=IssuerSide(ring, psk_scheme(place)))
    answer = ladder.answer(ladder.parse_request(case["request"]["keydata"]), Requester(IDENTITY))
    assert answer.keydata == case["response"]["keydata"]
    assert list(answer.keydata) == ["wrapdata", "hmackey", "encryptionkey", "wrapkey"]
    assert_keys(answer.keys, *session_of(case))
    assert keys.left == draws.left == 0


def test_ladder_blob_of_an_older_token_key_still_anchors(place: Place) -> None:
    case = EXCHANGES["jwk.WRAP"]
    versions = [SymmetricKeys(wrapping=place.wrapping(key)) for key in (bytes(range(16)), MSL_WRAP_KEY)]
    ladder = jwk_ladder(HostVault(lambda n: bytes(n)), unneeded, issuer=IssuerSide(Ring(*versions)))
    answer = ladder.answer(ladder.parse_request(case["request"]["keydata"]), Requester(IDENTITY))
    anchor = LocalWrappingKey(next_key(EXCHANGES["jwk.PSK"]))
    text = anchor.unwrap(base64.b64decode(str(answer.keydata["wrapkey"])))
    assert jose.decode_jwk(text).k == bytes(16)


# --- section 7: DIFFIE_HELLMAN ---

DH: dict[str, Any] = VECTORS["diffie_hellman"]
GROUP = DhGroup(int(DH["p"], 16), int(DH["g"]))


class FixedExponent:
    """``EphemeralKeys`` with the recorded private value."""

    def __init__(self, exponent: str) -> None:
        self._exponent = int(exponent, 16)

    def agreement(self, prime: int, generator: int) -> DhAgreement:
        return DhAgreement(prime, generator, self._exponent)

    def decryption(self) -> Any:
        raise AssertionError("no RSA here")


@pytest.mark.parametrize("case", DH["cases"], ids=lambda case: case["name"])
def test_recorded_agreement_from_both_sides(case: dict[str, Any]) -> None:
    """Section 10.6: secrets with 0, 1 and 2 leading zero bytes."""
    groups = {DH["parametersid"]: GROUP}
    expected = session_of(case)
    client = DiffieHellman(groups, FixedExponent(case["client_x"]), HostVault(unneeded))
    pending = client.request(DH["parametersid"])
    if "request" in case:
        assert pending.request.keydata == case["request"]["keydata"]
    server = DiffieHellman(groups, FixedExponent(case["server_x"]), HostVault(unneeded))
    answer = server.answer(server.parse_request(pending.request.keydata), Requester(IDENTITY))
    assert answer.keydata == DH["cases"][0]["response_keydata"]  # the same exponent in every case
    assert_keys(answer.keys, *expected)
    assert_keys(client.accept(pending, client.parse_response(answer.keydata)), *expected)


@pytest.mark.parametrize(("value", "encoded"), VECTORS["public_key_encoding"].items())
def test_public_value_normal_form(value: str, encoded: str) -> None:
    for zeros in ("", "00", "0000"):
        assert normal_form(bytes.fromhex(zeros + value)).hex() == encoded


@pytest.mark.parametrize("case", load("primitives/dh.json")["null_byte_normalisation"], ids=lambda c: c["in_hex"])
def test_normal_form_of_a_running_stack(case: dict[str, str]) -> None:
    assert normal_form(bytes.fromhex(case["in_hex"])).hex() == case["out_hex"]


@pytest.mark.parametrize("case", load("primitives/dh.json")["derivation"], ids=lambda c: c["enc_key_hex"][:8])
def test_agreement_of_a_running_stack(case: dict[str, Any]) -> None:
    group = DhGroup(int(case["p_hex"], 16), int(case["g_hex"], 16))
    scheme = DiffieHellman({"g": group}, FixedExponent(case["my_x_hex"]), HostVault(unneeded))
    pending = scheme.request("g")
    public = base64.b64decode(str(pending.request.keydata["publickey"]))
    # The file drops the leading zero where two's complement does; on the wire it is always there (section 7.1).
    assert public == normal_form(bytes.fromhex(case["my_y_wire_hex"]))
    peer = base64.b64encode(bytes.fromhex(case["peer_y_wire_hex"])).decode()
    keys = scheme.accept(pending, scheme.parse_response({"parametersid": "g", "publickey": peer}))
    assert_keys(keys, bytes.fromhex(case["enc_key_hex"]), bytes.fromhex(case["hmac_key_hex"]))
