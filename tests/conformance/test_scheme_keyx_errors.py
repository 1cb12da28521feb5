"""Rows of msl-schemes sections 4 to 9 that no recording names, and what hardening adds to them."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hsm_msl.backend.software import SoftwareEphemeralKeys
from hsm_msl.crypto.jwe import JweTransport
from hsm_msl.crypto.sealing import HostVault, LocalWrappingKey
from hsm_msl.crypto.transport import RsaTransport, WrapTransport
from hsm_msl.errors import BackendUnavailableError, DataRejectedError, ErrorCode, ResponseCode
from hsm_msl.msl.entityauth.psk import PskScheme
from hsm_msl.msl.keyx.asymmetric_wrapped import AsymmetricWrapped
from hsm_msl.msl.keyx.base import KeyExchange, KeyResponse, PendingKeyRequest, Requester, respond
from hsm_msl.msl.keyx.base import accept as accept_response
from hsm_msl.msl.keyx.dh_group import STANDARD_GROUPS, DhGroup, decode_group, encode_group
from hsm_msl.msl.keyx.diffie_hellman import DiffieHellman
from hsm_msl.msl.keyx.jwe_ladder import jwe_ladder
from hsm_msl.msl.keyx.jwk_ladder import jwk_ladder
from hsm_msl.msl.keyx.ladder import IssuerSide, Ladder, RequesterSide
from hsm_msl.msl.keyx.symmetric_wrapped import SymmetricWrapped
from hsm_msl.msl.keyx.wrap_repository import LocalWrapRepository
from hsm_msl.ports import KeyForm, RsaPadding, SymmetricKeys
from hsm_msl.wire import binary, jose
from msl_keys import Ephemeral, Lookup, Ring, RsaDecrypter, rsa_key, spki
from scheme_support import Hooks, assert_keys, refused
from scheme_tokens import TokenWorld

FAIL = ResponseCode.FAIL
KPW, MSL_WRAP = bytes(range(16)), bytes(range(16, 32))
VAULT = HostVault(os.urandom)
EPHEMERAL = Ephemeral(os.urandom)
REQUESTER = Requester("entity")
LADDERS = {"JWK_LADDER": jwk_ladder, "JWE_LADDER": jwe_ladder}


def psk(hooks: Hooks | None = None, wrapping: LocalWrappingKey | None = None) -> PskScheme:
    known = {"entity": SymmetricKeys(wrapping=wrapping)}
    return PskScheme(Lookup(known), hooks or Hooks(), os.urandom)


def issuer(make: Callable[..., Ladder], scheme: PskScheme | None) -> Ladder:
    ring = Ring(SymmetricKeys(wrapping=LocalWrappingKey(MSL_WRAP)))
    return make(VAULT, os.urandom, issuer=IssuerSide(ring, scheme))


def anchored(
    hooks: Hooks | None = None, wrapping: LocalWrappingKey | None = None
) -> Mapping[str, Callable[[], object]]:
    """An answer of every exchange that is anchored in the pre-shared wrapping key."""
    scheme = psk(hooks, wrapping)
    symmetric = SymmetricWrapped(VAULT, scheme)
    answers: dict[str, Callable[[], object]] = {
        "SYMMETRIC_WRAPPED": lambda: symmetric.answer(symmetric.parse_request({"keyid": "PSK"}), REQUESTER)
    }
    for name, make in LADDERS.items():
        ladder = issuer(make, scheme)
        answers[name] = lambda ladder=ladder: ladder.answer(  # type: ignore[misc]  # one function per round
            ladder.parse_request({"mechanism": "PSK"}), REQUESTER
        )
    return answers


ANCHORED = ["SYMMETRIC_WRAPPED", "JWK_LADDER", "JWE_LADDER"]


@pytest.mark.parametrize("name", ANCHORED)
def test_the_hooks_of_psk_are_asked_before_its_keys(name: str) -> None:
    """Section 6: with scheme PSK, even if the entity authenticated by another scheme."""
    with refused(ErrorCode.ENTITY_REVOKED, FAIL):
        anchored(Hooks(revoked=("entity",)))[name]()
    hooks = Hooks(entity=("entity",))
    with refused(ErrorCode.INCORRECT_ENTITYAUTH_DATA, FAIL):
        anchored(hooks)[name]()
    assert hooks.asked[-1] == ("entity", "entity", "PSK")


@pytest.mark.parametrize("name", ANCHORED)
def test_an_entity_without_wrapping_key_cannot_anchor(name: str) -> None:
    with refused(ErrorCode.WRAP_NOT_SUPPORTED, FAIL):
        anchored()[name]()


@pytest.mark.parametrize("name", ["ASYMMETRIC_WRAPPED", "SYMMETRIC_WRAPPED", "DIFFIE_HELLMAN"])
def test_an_exchange_may_be_forbidden_to_an_identity(name: str) -> None:
    """Section 4.2: 7016."""
    exchanges: dict[str, Any] = {
        "ASYMMETRIC_WRAPPED": AsymmetricWrapped(EPHEMERAL, VAULT, os.urandom),
        "SYMMETRIC_WRAPPED": SymmetricWrapped(VAULT, psk(wrapping=LocalWrappingKey(KPW))),
        "DIFFIE_HELLMAN": DiffieHellman(STANDARD_GROUPS, EPHEMERAL, VAULT),
    }
    requests: dict[str, Any] = {
        "ASYMMETRIC_WRAPPED": lambda s: s.request("RSA").request,
        "SYMMETRIC_WRAPPED": lambda s: s.request().request,
        "DIFFIE_HELLMAN": lambda s: s.request("modp-2048").request,
    }
    made = TokenWorld()
    request = requests[name](exchanges[name])
    with refused(ErrorCode.KEYX_INCORRECT_DATA, FAIL):
        respond(exchanges, [request], REQUESTER, made.issuer, Hooks(exchanges=("entity",)))
    response = respond(exchanges, [request], REQUESTER, made.issuer, Hooks())
    assert response.master_token.identity == "entity"


def test_the_issuers_preference_decides_and_a_failing_candidate_is_passed_over() -> None:
    """Section 4.2, rules 3 and 4."""
    symmetric = SymmetricWrapped(VAULT, psk())  # fails: no wrapping key
    agreement = DiffieHellman(STANDARD_GROUPS, EPHEMERAL, VAULT)
    exchanges: dict[str, KeyExchange] = {symmetric.name: symmetric, agreement.name: agreement}
    offers = [agreement.request("modp-2048").request, symmetric.request().request]
    assert respond(exchanges, offers, REQUESTER, TokenWorld().issuer, Hooks()).scheme == "DIFFIE_HELLMAN"
    with refused(ErrorCode.WRAP_NOT_SUPPORTED, FAIL):
        respond(exchanges, offers[1:], REQUESTER, TokenWorld().issuer, Hooks())


def test_an_outage_ends_the_attempt_and_is_no_verdict() -> None:
    class Down(Lookup[SymmetricKeys]):
        def find(self, name: str) -> SymmetricKeys | None:
            raise BackendUnavailableError("token gone")

    symmetric = SymmetricWrapped(VAULT, PskScheme(Down(), Hooks(), os.urandom))
    agreement = DiffieHellman(STANDARD_GROUPS, EPHEMERAL, VAULT)
    offers = [symmetric.request().request, agreement.request("modp-2048").request]
    with pytest.raises(BackendUnavailableError):
        respond({s.name: s for s in (symmetric, agreement)}, offers, REQUESTER, TokenWorld().issuer, Hooks())


# --- section 5, requester ---

PUBLIC = spki(rsa_key("requester"))


def accept(mechanism: str, encryption: bytes, mac: bytes | None = None) -> object:
    scheme = AsymmetricWrapped(EPHEMERAL, VAULT, os.urandom)
    keydata = {"keypairid": "kp", "mechanism": mechanism, "publickey": binary.encode(PUBLIC)}
    pending = PendingKeyRequest(scheme.parse_request(keydata), RsaDecrypter(rsa_key("requester")))
    response = {
        "keypairid": "kp",
        "encryptionkey": binary.encode(encryption),
        "hmackey": binary.encode(encryption if mac is None else mac),
    }
    return scheme.accept(pending, scheme.parse_response(response))


def oaep(data: bytes) -> bytes:
    return RsaTransport(RsaPadding.OAEP_SHA1, PUBLIC).wrap(data)


def pkcs1(data: bytes) -> bytes:
    return rsa_key("requester").public_key().encrypt(data, padding.PKCS1v15())


def jwk(**changes: object) -> bytes:
    members = {"kty": "oct", "key_ops": ["encrypt", "decrypt"], "alg": "A128CBC", "k": "A" * 22} | changes
    return json.dumps({name: value for name, value in members.items() if value is not None}).encode()


def jwe_text(**changes: Any) -> bytes:
    """A JWE to the requester whose one part was changed."""
    content_key = changes.get("content_key", bytes(16))
    associated = jose.associated_data(
        changes.get("algorithm", "RSA-OAEP"), changes.get("encryption", "A128GCM"), oaep(content_key), bytes(12)
    )
    sealed = AESGCM(content_key).encrypt(bytes(12), jwk(), associated)
    tag = changes.get("tag", sealed[-16:])
    return jose.encode_jwe_compact(associated, changes.get("ciphertext", sealed[:-16]), tag)


REQUESTER_ROWS: list[tuple[str, Callable[[], object], ErrorCode]] = [
    ("more bytes than the modulus", lambda: accept("RSA", bytes(257)), ErrorCode.CIPHERTEXT_ILLEGAL_BLOCK_SIZE),
    ("fewer bytes than the modulus", lambda: accept("RSA", bytes(255)), ErrorCode.CIPHERTEXT_BAD_PADDING),
    ("raw key of another size", lambda: accept("RSA", oaep(bytes(15))), ErrorCode.SESSION_KEY_CREATION_FAILURE),
    ("not an object", lambda: accept("JWK_RSA", oaep(b"text")), ErrorCode.SESSION_KEY_CREATION_FAILURE),
    # One code for bad padding and for a plaintext that is no key: no oracle (section 5).
    ("PKCS#1 of no object", lambda: accept("JWK_RSAES", pkcs1(b"text")), ErrorCode.CIPHERTEXT_BAD_PADDING),
    ("key type", lambda: accept("JWK_RSA", oaep(jwk(kty="OCT"))), ErrorCode.UNIDENTIFIED_JWK_TYPE),
    ("key usage", lambda: accept("JWK_RSA", oaep(jwk(use="x"))), ErrorCode.UNIDENTIFIED_JWK_USAGE),
    ("key operation", lambda: accept("JWK_RSA", oaep(jwk(key_ops=["x"]))), ErrorCode.UNIDENTIFIED_JWK_KEYOP),
    ("key algorithm", lambda: accept("JWK_RSA", oaep(jwk(alg="x"))), ErrorCode.UNIDENTIFIED_JWK_ALGORITHM),
    ("key empty", lambda: accept("JWK_RSA", oaep(jwk(k=""))), ErrorCode.INVALID_JWK_KEYDATA),
    ("key absent", lambda: accept("JWK_RSA", oaep(jwk(k=None))), ErrorCode.MSL_PARSE_ERROR),
    ("key size", lambda: accept("JWK_RSA", oaep(jwk(k="AAAA"))), ErrorCode.SESSION_KEY_CREATION_FAILURE),
    ("no algorithm", lambda: accept("JWK_RSA", oaep(jwk(alg=None))), ErrorCode.SESSION_KEY_CREATION_FAILURE),
    ("JWE not five parts", lambda: accept("JWE_RSA", b"a.b.c"), ErrorCode.JWE_PARSE_ERROR),
    ("JWE empty", lambda: accept("JWE_RSA", b""), ErrorCode.JWE_PARSE_ERROR),
    ("JWE algorithm", lambda: accept("JWE_RSA", jwe_text(algorithm="A128KW")), ErrorCode.JWE_ALGORITHM_MISMATCH),
    ("JWE encryption", lambda: accept("JWE_RSA", jwe_text(encryption="A256GCM")), ErrorCode.JWE_ALGORITHM_MISMATCH),
    ("JWE tag", lambda: accept("JWE_RSA", jwe_text(tag=bytes(16))), ErrorCode.UNWRAP_ERROR),
    ("JWE tag length", lambda: accept("JWE_RSA", jwe_text(tag=bytes(12))), ErrorCode.INVALID_ALGORITHM_PARAMS),
    ("JWE key length", lambda: accept("JWE_RSA", jwe_text(content_key=bytes(32))), ErrorCode.INVALID_SYMMETRIC_KEY),
    ("JWE ciphertext", lambda: accept("JWEJS_RSA", jwe_text(ciphertext=b"xx")), ErrorCode.UNWRAP_ERROR),
]


@pytest.mark.parametrize(("run", "code"), [row[1:] for row in REQUESTER_ROWS], ids=[row[0] for row in REQUESTER_ROWS])
def test_a_requester_refuses(run: Callable[[], object], code: ErrorCode) -> None:
    with refused(code, FAIL):
        run()


@pytest.mark.parametrize("mechanism", ["JWE_RSA", "JWEJS_RSA"])
def test_either_jwe_form_is_read_whatever_the_mechanism(mechanism: str) -> None:
    """Section 9.2: the first byte decides."""
    plaintext = jwk(k=base64.urlsafe_b64encode(bytes(32)).rstrip(b"=").decode())
    assert accept(mechanism, jwe_text(), RsaJwe(jose.encode_jwe_json).wrap(plaintext)) is not None


class RsaJwe(JweTransport):
    """A JWE to the requester."""

    def __init__(self, serialize: Any) -> None:
        super().__init__("RSA-OAEP", RsaTransport(RsaPadding.OAEP_SHA1, PUBLIC), serialize, os.urandom)


def test_a_jwk_is_read_where_the_javascript_stack_writes_one() -> None:
    """Section 11 row 1: mechanism RSA, plaintext a JWK."""
    mac = base64.urlsafe_b64encode(bytes(range(32))).rstrip(b"=").decode()
    keys = accept("RSA", oaep(jwk()), oaep(jwk(key_ops=["sign"], alg="HS256", k=mac)))
    assert isinstance(keys, SymmetricKeys)
    assert_keys(keys, bytes(16), bytes(range(32)))


def test_a_mechanism_that_is_not_configured_is_answered_by_the_next_candidate() -> None:
    scheme = AsymmetricWrapped(EPHEMERAL, VAULT, os.urandom, ("RSA",))
    offers = [scheme.request(name).request for name in ("JWK_RSA", "RSA")]
    with refused(ErrorCode.UNSUPPORTED_KEYX_MECHANISM, FAIL):
        scheme.answer(offers[0], REQUESTER)
    response = respond({scheme.name: scheme}, offers, REQUESTER, TokenWorld().issuer, Hooks())
    assert len(base64.b64decode(str(response.keydata["encryptionkey"]))) == 256


# --- sections 6 and 8, requester ---


def test_symmetric_response_of_another_key_or_request() -> None:
    scheme = SymmetricWrapped(VAULT, psk(wrapping=LocalWrappingKey(KPW)), LocalWrappingKey(MSL_WRAP))
    pending = scheme.request()
    keydata = scheme.answer(pending.request, REQUESTER).keydata
    with refused(ErrorCode.UNWRAP_ERROR, FAIL):
        scheme.accept(pending, scheme.parse_response(keydata))
    assert scheme.accept(pending, scheme.parse_response({**keydata, "keyid": "SESSION"})) is None
    with refused(ErrorCode.UNWRAP_NOT_SUPPORTED, FAIL):
        scheme.accept(scheme.request("SESSION"), scheme.parse_response({**keydata, "keyid": "SESSION"}))
    with refused(ErrorCode.CIPHERTEXT_ILLEGAL_BLOCK_SIZE, FAIL):
        scheme.accept(pending, scheme.parse_response({**keydata, "encryptionkey": "AAAA"}))


@pytest.mark.parametrize("name", LADDERS)
def test_a_ladder_without_the_shared_key_or_a_handed_out_one(name: str) -> None:
    side = LADDERS[name](VAULT, os.urandom, requester=RequesterSide(LocalWrapRepository()))
    pending = side.request()
    keydata = issuer(LADDERS[name], psk(wrapping=LocalWrappingKey(KPW))).answer(pending.request, REQUESTER).keydata
    with refused(ErrorCode.UNWRAP_NOT_SUPPORTED, FAIL):
        side.accept(pending, side.parse_response(keydata))
    with refused(ErrorCode.KEYX_WRAPPING_KEY_MISSING, FAIL):
        side.request("WRAP")


@pytest.mark.parametrize("name", LADDERS)
def test_a_blob_that_stands_for_nothing(name: str) -> None:
    """Section 8: unwraps to nothing, 7013."""
    ladder = issuer(LADDERS[name], None)
    nothing = {"mechanism": "WRAP", "wrapdata": binary.encode(b"\xa6" * 8)}
    with refused(ErrorCode.KEYX_WRAPPING_KEY_MISSING, FAIL):
        ladder.answer(ladder.parse_request(nothing), REQUESTER)


@pytest.mark.parametrize("name", LADDERS)
@pytest.mark.parametrize("member", ["wrapkey", "wrapdata", "encryptionkey", "hmackey"])
def test_members_of_a_ladder_response_are_mandatory(name: str, member: str) -> None:
    ladder = issuer(LADDERS[name], psk(wrapping=LocalWrappingKey(KPW)))
    keydata = dict(ladder.answer(ladder.parse_request({"mechanism": "PSK"}), REQUESTER).keydata)
    del keydata[member]
    with refused(ErrorCode.MSL_PARSE_ERROR, FAIL):
        ladder.parse_response(keydata)


@pytest.mark.parametrize("name", LADDERS)
def test_a_ladder_may_be_climbed_again_after_a_lost_answer(name: str) -> None:
    server = issuer(LADDERS[name], psk(wrapping=LocalWrappingKey(KPW)))
    repository = LocalWrapRepository()
    side = LADDERS[name](VAULT, os.urandom, requester=RequesterSide(repository, LocalWrappingKey(KPW)))
    first = side.request()
    side.accept(first, side.parse_response(server.answer(first.request, REQUESTER).keydata))
    server.answer(side.request().request, REQUESTER)  # lost on the way
    again = side.request()
    assert side.accept(again, side.parse_response(server.answer(again.request, REQUESTER).keydata)) is not None
    assert side.request().request.keydata["mechanism"] == "WRAP"


def rotated(make: Callable[..., Ladder]) -> Ladder:
    """The issuer after its wrapping key was replaced: nothing handed out before opens any more."""
    ring = Ring(SymmetricKeys(wrapping=LocalWrappingKey(bytes(reversed(MSL_WRAP)))))
    return make(VAULT, os.urandom, issuer=IssuerSide(ring, psk(wrapping=LocalWrappingKey(KPW))))


@pytest.mark.parametrize("name", LADDERS)
@pytest.mark.parametrize("issuers", [("first", "first"), ("first", "rotated")], ids="-".join)
@pytest.mark.parametrize("backwards", [False, True])
def test_a_ladder_is_climbed_whichever_key_the_issuer_still_opens(
    name: str, issuers: tuple[str, str], backwards: bool
) -> None:
    """Section 4.4, rule 3: a ladder's response does not say which request it answers, so each is tried."""
    made = {"first": issuer(LADDERS[name], psk(wrapping=LocalWrappingKey(KPW))), "rotated": rotated(LADDERS[name])}
    side = LADDERS[name](VAULT, os.urandom, requester=RequesterSide(LocalWrapRepository(), LocalWrappingKey(KPW)))
    tokens = TokenWorld()
    mechanisms = []
    for answering in issuers:
        pending = side.offers()
        mechanisms.append([request.request.keydata["mechanism"] for request in pending])
        server = made[answering]
        offers = [request.request for request in pending]
        response = respond({name: server}, offers, REQUESTER, tokens.issuer, Hooks())
        received = KeyResponse(response.master_token, name, {}, side.parse_response(response.keydata))
        assert accept_response({name: side}, pending[::-1] if backwards else pending, received).mac is not None
    assert mechanisms == [["PSK"], ["WRAP", "PSK"]]


def test_a_response_no_request_opens_is_refused_with_the_last_failure() -> None:
    scheme = SymmetricWrapped(VAULT, psk(wrapping=LocalWrappingKey(KPW)), LocalWrappingKey(MSL_WRAP))
    pending = scheme.request()
    keydata = scheme.answer(pending.request, REQUESTER).keydata
    response = KeyResponse(TokenWorld().session()[0], scheme.name, keydata, scheme.parse_response(keydata))
    with refused(ErrorCode.UNWRAP_ERROR, FAIL):
        accept_response({scheme.name: scheme}, [pending, pending], response)
    with refused(ErrorCode.KEYX_RESPONSE_REQUEST_MISMATCH, FAIL):
        accept_response({scheme.name: scheme}, [], response)


@pytest.mark.parametrize("padding_at", ["after the opening brace", "after the closing brace"])
def test_jwk_padding_on_either_side_is_read(padding_at: str) -> None:
    """Section 8: Node pads after the closing brace; nobody pads before the opening one."""
    text = jwk()
    spaces = b" " * (-len(text) % 8)
    padded = text + spaces if padding_at == "after the closing brace" else jose.pad_jwk(text)
    transport = WrapTransport(LocalWrappingKey(KPW))
    wrapped = transport.wrap(padded)
    mac = transport.wrap(jose.pad_jwk(jwk(alg="HS256")))
    assert VAULT.receive(wrapped, mac, transport, KeyForm.JWK_KEY_OPS).encryption is not None
    with refused(ErrorCode.INVALID_JWK, FAIL):
        before = transport.wrap(b" " * 8 + jose.pad_jwk(text))
        VAULT.receive(before, mac, transport, KeyForm.JWK_KEY_OPS, malformed=ErrorCode.INVALID_JWK)


# --- section 7: groups, agreed or sent ---


def test_a_sent_group_is_used_where_policy_admits_it() -> None:
    group = STANDARD_GROUPS["ffdhe-2048"]
    client = DiffieHellman({}, EPHEMERAL, VAULT)
    pending = client.request("mine", group)
    server = DiffieHellman({}, EPHEMERAL, VAULT, admits=lambda sent: sent in STANDARD_GROUPS.values())
    answer = server.answer(server.parse_request(pending.request.keydata), REQUESTER)
    keys = client.accept(pending, client.parse_response(answer.keydata))
    assert keys is not None
    assert keys.mac is not None
    assert answer.keys.mac is not None
    assert keys.mac.sign(b"x") == answer.keys.mac.sign(b"x")


@pytest.mark.parametrize("admits", [None, lambda sent: False], ids=["not configured", "not admitted"])
def test_a_sent_group_is_otherwise_an_unknown_one(admits: Callable[[DhGroup], bool] | None) -> None:
    pending = DiffieHellman({}, EPHEMERAL, VAULT).request("mine", STANDARD_GROUPS["modp-2048"])
    server = DiffieHellman({}, EPHEMERAL, VAULT, admits=admits)
    with refused(ErrorCode.UNKNOWN_KEYX_PARAMETERS_ID, FAIL):
        server.answer(server.parse_request(pending.request.keydata), REQUESTER)


def test_an_agreed_group_is_never_replaced_by_a_sent_one() -> None:
    agreed, sent = STANDARD_GROUPS["modp-2048"], STANDARD_GROUPS["modp-3072"]
    server = DiffieHellman({"id": agreed}, EPHEMERAL, VAULT, admits=lambda group: True)
    pending = DiffieHellman({"id": agreed}, EPHEMERAL, VAULT).request("id")
    keydata = {**pending.request.keydata, "parameters": binary.encode(encode_group(sent))}
    answer = server.answer(server.parse_request(keydata), REQUESTER)
    assert len(base64.b64decode(str(answer.keydata["publickey"]))) <= agreed.size + 1


@pytest.mark.parametrize(
    "der", [b"", b"\x30\x00", encode_group(STANDARD_GROUPS["modp-2048"]) + b"x", encode_group(DhGroup(23, 1))]
)
def test_a_sent_group_that_is_none(der: bytes) -> None:
    with refused(ErrorCode.INVALID_ALGORITHM_PARAMS, FAIL):
        decode_group(der)


@pytest.mark.parametrize("name", STANDARD_GROUPS)
def test_standard_groups_are_safe_primes(name: str) -> None:
    """RFC 3526, RFC 7919: made from their formulas; p and (p - 1) / 2 are probable primes and 2 has order q."""
    group = STANDARD_GROUPS[name]
    half = group.prime >> 1
    assert group.prime.bit_length() == int(name.split("-")[1])
    assert pow(3, group.prime - 1, group.prime) == 1
    assert pow(3, half - 1, half) == 1
    assert pow(group.generator, half, group.prime) == 1
    assert decode_group(encode_group(group)) == group


def test_an_admitted_group_in_which_no_key_can_be_made() -> None:
    even = DhGroup(2**64, 3)
    server = DiffieHellman({}, SoftwareEphemeralKeys(os.urandom), VAULT, admits=lambda group: True)
    keydata = {"parametersid": "x", "publickey": "Aw==", "parameters": binary.encode(encode_group(even))}
    with refused(ErrorCode.INVALID_ALGORITHM_PARAMS, FAIL):
        server.answer(server.parse_request(keydata), REQUESTER)


def test_a_key_that_refuses_the_peers_value_is_7011() -> None:
    class Picky:
        public_value = b"\x02"

        def agree(self, peer: bytes) -> bytes:
            raise DataRejectedError("no")

    class Keys:
        def agreement(self, prime: int, generator: int) -> Picky:
            return Picky()

        def decryption(self) -> Any:
            raise AssertionError

    scheme = DiffieHellman({"g": DhGroup(23, 5)}, Keys(), VAULT)
    request = scheme.parse_request({"parametersid": "g", "publickey": binary.encode(b"\x00\x05")})
    with refused(ErrorCode.KEYX_INVALID_PUBLIC_KEY, FAIL):
        scheme.answer(request, REQUESTER)
