"""Every row of msl-schemes section 2.3, and the order of its checks."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from hsm_msl.crypto.context import CryptoContext
from hsm_msl.crypto.null import NullContext
from hsm_msl.crypto.sealing import LocalAesKey, LocalHmacKey
from hsm_msl.crypto.symmetric import SymmetricContext
from hsm_msl.errors import ErrorCode, MslError, ResponseCode, StoreError
from hsm_msl.msl.entityauth.base import EntityAuthData, parse_entity_auth
from hsm_msl.msl.entityauth.certificate import Certificate
from hsm_msl.msl.entityauth.defaults import KeyPairs
from hsm_msl.msl.entityauth.ecc import ecc_data
from hsm_msl.msl.entityauth.mt_protected import MtProtectedScheme, mt_protected_data
from hsm_msl.msl.entityauth.none_suffixed import none_suffixed_data
from hsm_msl.msl.entityauth.provisioned import provisioned_data
from hsm_msl.msl.entityauth.psk import psk_data
from hsm_msl.msl.entityauth.psk_profile import psk_profile_data
from hsm_msl.msl.entityauth.rsa import rsa_data
from hsm_msl.msl.entityauth.trust_store import TrustStore
from hsm_msl.msl.entityauth.unauthenticated import none_data
from hsm_msl.msl.entityauth.x509 import x509_data
from hsm_msl.ports import SignatureScheme, SymmetricKeys
from hsm_msl.wire import binary, codec
from msl_keys import Lookup, RsaSigner, RsaVerifier, rsa_key, spki
from scheme_certificates import END, START, ec_key, leaf, make
from scheme_support import VECTORS, Hooks, refused
from scheme_tokens import ENTITY, NOW, TokenWorld

FAIL, REAUTH = ResponseCode.FAIL, ResponseCode.ENTITYDATA_REAUTH
ROOT = make("root")
DEVICE = leaf("device", ROOT).certificate
TRUSTED = KeyPairs(Lookup({"k": RsaVerifier(spki(rsa_key("k")))}))


def trust(now: float = NOW) -> TrustStore:
    store = TrustStore(lambda: NOW)
    store.add(ROOT.certificate)
    moved = TrustStore(lambda: now)
    moved._authorities = store._authorities  # added while the root was valid
    return moved


def world(hooks: Hooks | None = None, **parts: Any) -> TokenWorld:
    return TokenWorld(hooks, key_pairs=parts.pop("key_pairs", TRUSTED), trust=parts.pop("trust", trust()), **parts)


# What each scheme sends, and about whom the hooks are asked (section 2.2).
HOOKED: dict[str, tuple[EntityAuthData, str]] = {
    "PSK": (psk_data(ENTITY), ENTITY),
    "PSK_PROFILE": (psk_profile_data(ENTITY, "profile"), ENTITY),
    "X509": (x509_data(DEVICE), "CN=device"),
    "RSA": (rsa_data(ENTITY, "k"), ENTITY),
    "ECC": (ecc_data(ENTITY, "k"), ENTITY),
    "NONE": (none_data(ENTITY), ENTITY),
    "NONE_SUFFIXED": (none_suffixed_data("root", "suffix"), "root"),
}


@pytest.mark.parametrize("scheme", HOOKED)
def test_revocation_comes_first_then_permission_then_keys(scheme: str) -> None:
    data, subject = HOOKED[scheme]
    nothing_known = {"preshared": {}, "key_pairs": KeyPairs(Lookup({})), "trust": TrustStore(lambda: NOW)}
    both = Hooks(revoked=(subject,), entity=(subject,))
    with refused(ErrorCode.ENTITY_REVOKED, FAIL):
        world(both, **nothing_known).authenticate_entity(data.to_wire())
    assert both.asked == [("revoked", subject)]
    hooks = Hooks(entity=(subject,))
    with refused(ErrorCode.INCORRECT_ENTITYAUTH_DATA, FAIL):
        world(hooks, **nothing_known).authenticate_entity(data.to_wire())
    assert hooks.asked == [("revoked", subject), ("entity", subject, scheme)]


@pytest.mark.parametrize("scheme", HOOKED)
def test_whom_nobody_refuses_is_authenticated(scheme: str) -> None:
    data, _ = HOOKED[scheme]
    parsed, context = world().authenticate_entity(data.to_wire())
    assert parsed.identity == data.identity
    assert parsed.to_wire() == data.to_wire()
    assert isinstance(context, NullContext) is (scheme in ("NONE", "NONE_SUFFIXED"))


def test_hidden_data_is_judged_by_the_hooks_of_the_inner_scheme() -> None:
    hooks = Hooks(revoked=(ENTITY,))
    made = world(hooks)
    with refused(ErrorCode.ENTITY_REVOKED, FAIL):
        made.authenticate_entity(made.hidden())


def test_an_entity_without_identity_is_not_asked_about() -> None:
    """PROVISIONED: no hooks, another identity with each message, none while parsing."""
    hooks = Hooks()
    made = world(hooks)
    assert parse_entity_auth(provisioned_data().to_wire(), made.entities).identity == ""
    names = [made.authenticate_entity(provisioned_data().to_wire())[0].identity for _ in range(2)]
    assert names == ["device-1", "device-2"]
    assert hooks.asked == []
    hidden = made.hidden(provisioned_data())
    assert made.authenticate_entity(hidden)[0].identity == "device-3"


def test_an_identity_service_without_answer_is_no_refusal() -> None:
    made = world()
    made.names.assign = lambda: ""  # type: ignore[method-assign]  # a fault the real one cannot show
    with pytest.raises(StoreError):
        made.authenticate_entity(provisioned_data().to_wire())


Run = Callable[[], object]


def entity(scheme: str, authdata: object, made: TokenWorld | None = None) -> Run:
    return lambda: (made or world()).authenticate_entity({"scheme": scheme, "authdata": authdata})


def certificate(made: Certificate, now: float = NOW) -> Run:
    return lambda: world(trust=trust(now)).authenticate_entity(x509_data(made).to_wire())


def hidden_garbage() -> object:
    """MT_PROTECTED whose plaintext is no object."""
    made = world()
    token, context = made.session()
    protected = context.encrypt(b"garbage")
    authdata = {
        "mastertoken": token.to_wire(),
        "authdata": binary.encode(protected),
        "signature": binary.encode(context.sign(protected)),
    }
    return made.authenticate_entity({"scheme": "MT_PROTECTED", "authdata": authdata})


def hidden(inner: dict[str, Any]) -> Run:
    def run() -> object:
        made = world()
        token, context = made.session()
        protected = context.encrypt(codec.encode(inner))
        authdata = {
            "mastertoken": token.to_wire(),
            "authdata": binary.encode(protected),
            "signature": binary.encode(context.sign(protected)),
        }
        return made.authenticate_entity({"scheme": "MT_PROTECTED", "authdata": authdata})

    return run


UNTRUSTED = {"identity": ENTITY, "pubkeyid": "x"}
LOCAL = KeyPairs(Lookup({}), local_key_id="own")
EC_DEVICE = make("device", ROOT, ca=False, key=ec_key("device")).certificate

ROWS: list[tuple[str, Run, ErrorCode, ResponseCode]] = [
    ("PSK unknown", entity("PSK", {"identity": "nobody"}), ErrorCode.ENTITY_NOT_FOUND, FAIL),
    (
        "PSK_PROFILE unknown",
        entity("PSK_PROFILE", {"pskid": "nobody", "profile": "p"}),
        ErrorCode.ENTITY_NOT_FOUND,
        FAIL,
    ),
    (
        "RSA local private key",
        entity("RSA", {"identity": ENTITY, "pubkeyid": "own"}, world(key_pairs=LOCAL)),
        ErrorCode.RSA_PRIVATEKEY_NOT_FOUND,
        REAUTH,
    ),
    (
        "RSA public key",
        entity("RSA", {"identity": ENTITY, "pubkeyid": "x"}),
        ErrorCode.RSA_PUBLICKEY_NOT_FOUND,
        REAUTH,
    ),
    (
        "ECC local private key",
        entity("ECC", {"identity": ENTITY, "pubkeyid": "own"}, world(key_pairs=LOCAL)),
        ErrorCode.ECC_PRIVATEKEY_NOT_FOUND,
        REAUTH,
    ),
    (
        "ECC public key",
        entity("ECC", {"identity": ENTITY, "pubkeyid": "x"}),
        ErrorCode.ECC_PUBLICKEY_NOT_FOUND,
        REAUTH,
    ),
    ("X509 Base64", entity("X509", {"x509certificate": "%%%"}), ErrorCode.X509CERT_INVALID, REAUTH),
    ("X509 DER", entity("X509", {"x509certificate": "AAAA"}), ErrorCode.X509CERT_PARSE_ERROR, REAUTH),
    ("X509 empty", entity("X509", {"x509certificate": ""}), ErrorCode.X509CERT_PARSE_ERROR, REAUTH),
    (
        "X509 untrusted",
        certificate(leaf("device", make("stranger")).certificate),
        ErrorCode.X509CERT_VERIFICATION_FAILED,
        REAUTH,
    ),
    ("X509 expired", certificate(DEVICE, END + 1), ErrorCode.X509CERT_EXPIRED, REAUTH),
    ("X509 not yet valid", certificate(DEVICE, START - 1), ErrorCode.X509CERT_NOT_YET_VALID, REAUTH),
    ("X509 not RSA", certificate(EC_DEVICE), ErrorCode.INVALID_PUBLIC_KEY, FAIL),
    (
        "MT_PROTECTED token malformed",
        lambda: world().authenticate_hidden(mastertoken={"tokendata": "AAAA", "signature": ""}),
        ErrorCode.ENTITYAUTH_MASTERTOKEN_INVALID,
        FAIL,
    ),
    (
        "MT_PROTECTED token of others",
        lambda: world().authenticate_hidden(foreign=True),
        ErrorCode.ENTITYAUTH_MASTERTOKEN_NOT_DECRYPTED,
        FAIL,
    ),
    (
        "MT_PROTECTED signature",
        lambda: world().authenticate_hidden(signature=bytes(32)),
        ErrorCode.ENTITYAUTH_VERIFICATION_FAILED,
        REAUTH,
    ),
    ("MT_PROTECTED plaintext", hidden_garbage, ErrorCode.MSL_PARSE_ERROR, FAIL),
    (
        "MT_PROTECTED inner without factory",
        hidden({"scheme": "MIGRATION", "authdata": {}}),
        ErrorCode.ENTITYAUTH_FACTORY_NOT_FOUND,
        FAIL,
    ),
    (
        "MT_PROTECTED inner unknown",
        hidden({"scheme": "MGK", "authdata": {}}),
        ErrorCode.UNIDENTIFIED_ENTITYAUTH_SCHEME,
        FAIL,
    ),
    ("unknown scheme", entity("MGK", {"identity": "x"}), ErrorCode.UNIDENTIFIED_ENTITYAUTH_SCHEME, FAIL),
    ("known scheme without factory", entity("MIGRATION", {}), ErrorCode.ENTITYAUTH_FACTORY_NOT_FOUND, FAIL),
    ("authdata missing", entity("MIGRATION", None), ErrorCode.MSL_PARSE_ERROR, FAIL),
]
MANDATORY = {
    "PSK": ["identity"],
    "PSK_PROFILE": ["pskid", "profile"],
    "X509": ["x509certificate"],
    "RSA": ["identity", "pubkeyid"],
    "ECC": ["identity", "pubkeyid"],
    "NONE": ["identity"],
    "NONE_SUFFIXED": ["root", "suffix"],
    "MT_PROTECTED": ["mastertoken", "authdata", "signature"],
}


@pytest.mark.parametrize(("run", "code", "response"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_row(run: Run, code: ErrorCode, response: ResponseCode) -> None:
    with refused(code, response):
        run()


@pytest.mark.parametrize(("scheme", "member"), [(s, m) for s, members in MANDATORY.items() for m in members])
def test_members_are_mandatory_and_typed(scheme: str, member: str) -> None:
    made = world()
    obj = made.hidden() if scheme == "MT_PROTECTED" else HOOKED[scheme][0].to_wire()
    for wrong in (None, 7):
        authdata = {**obj["authdata"], member: wrong}
        with refused(ErrorCode.MSL_PARSE_ERROR, FAIL):
            made.authenticate_entity({"scheme": scheme, "authdata": authdata})


@pytest.mark.parametrize("scheme", [name for name in VECTORS["entity_auth_data"] if name != "MT_PROTECTED"])
def test_recorded_data_is_read_and_written_alike(scheme: str) -> None:
    recorded = VECTORS["entity_auth_data"][scheme]
    parsed = parse_entity_auth(recorded, world().entities)
    assert parsed.to_wire() == recorded


def test_recorded_hidden_data_opens_with_the_cached_session() -> None:
    """Section 2.5: the token is another server's, so the session must be known."""
    recorded = VECTORS["entity_auth_data"]["MT_PROTECTED"]
    secret = VECTORS["mt_protected_session_keys"]
    keys = SymmetricKeys(
        LocalAesKey(bytes.fromhex(secret["encryption"])), LocalHmacKey(bytes.fromhex(secret["hmac"]))
    )
    session: CryptoContext = SymmetricContext(keys, "PSK-ESN_3", os.urandom)
    made = world()
    scheme = MtProtectedScheme(made.entities, made.master_tokens, lambda token: session)
    data = scheme.parse(recorded["authdata"])
    assert data.identity == "inner"
    assert isinstance(data.parsed, EntityAuthData)
    assert data.parsed.to_wire() == secret["inner"]
    assert data.to_wire() == recorded
    assert isinstance(scheme.context(data), NullContext)


def test_hidden_data_yields_the_context_of_the_inner_scheme_and_counts_as_unprotected() -> None:
    made = world()
    data, context = made.authenticate_entity(made.hidden())
    assert data.identity == ENTITY
    direct = made.entities["PSK"].context(psk_data(ENTITY))
    assert direct.verify(b"data", context.sign(b"data"))
    scheme = made.entities["MT_PROTECTED"]
    assert not scheme.encrypts
    assert not scheme.protects_integrity


def test_hidden_data_is_verified_before_it_is_decrypted() -> None:
    made = world()
    token, context = made.session()
    outer = mt_protected_data(psk_data(ENTITY), token, context).to_wire()
    spoiled = dict(outer["authdata"])  # type: ignore[call-overload]  # an object by construction
    spoiled["authdata"] = binary.encode(b"no envelope at all")
    with refused(ErrorCode.ENTITYAUTH_VERIFICATION_FAILED, REAUTH):
        made.authenticate_entity({"scheme": "MT_PROTECTED", "authdata": spoiled})


@pytest.mark.parametrize("scheme", ["RSA", "ECC"])
def test_a_bound_key_speaks_for_its_identity_only(scheme: str) -> None:
    """A check the scheme itself does not make; keys without a binding keep their freedom."""
    keys = Lookup({name: RsaVerifier(spki(rsa_key("k"))) for name in ("bound", "free")})
    made = world(key_pairs=KeyPairs(keys, bound_identities={"bound": "owner"}))
    for identity, key_id in (("owner", "bound"), ("anyone", "free")):
        made.authenticate_entity({"scheme": scheme, "authdata": {"identity": identity, "pubkeyid": key_id}})
    with refused(ErrorCode.INCORRECT_ENTITYAUTH_DATA, FAIL):
        made.authenticate_entity({"scheme": scheme, "authdata": {"identity": "thief", "pubkeyid": "bound"}})


def test_local_entity_needs_only_its_private_key() -> None:
    pairs = KeyPairs(Lookup({}), local_key_id="own", signing=RsaSigner(rsa_key("own")))
    _, context = world(key_pairs=pairs).authenticate_entity(rsa_data("me", "own").to_wire())
    verifier = RsaVerifier(spki(rsa_key("own")))
    assert verifier.verify(b"data", context.sign(b"data"), SignatureScheme.RSA_PKCS1_SHA256)
    with pytest.raises(MslError, match="VERIFY_NOT_SUPPORTED"):
        context.verify(b"data", b"")
