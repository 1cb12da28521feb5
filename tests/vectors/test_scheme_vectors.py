"""Scheme vectors recorded from the reference stack, with long-term keys in this process and in a token.

msl-schemes sections 9 and 10; the files are tests/vectors/msl-schemes-vectors.json and tests/vectors/primitives.
"""

from __future__ import annotations

import base64
from typing import Any

import pytest

from hsm_msl.crypto.asymmetric import SignatureContext
from hsm_msl.crypto.jwe import JweTransport
from hsm_msl.crypto.public_key import PublicKey
from hsm_msl.crypto.sealing import LocalWrappingKey
from hsm_msl.crypto.symmetric import SymmetricContext
from hsm_msl.crypto.transport import RsaTransport, WrapTransport
from hsm_msl.errors import ErrorCode, MechanismUnsupportedError, MslError
from hsm_msl.msl.entityauth.certificate import parse_certificate
from hsm_msl.msl.entityauth.x500_name import x500_text
from hsm_msl.msl.tokens import replay
from hsm_msl.msl.tokens.master_token import MasterToken
from hsm_msl.ports import ReplayState, RsaPadding, SignatureScheme, SymmetricKeys
from hsm_msl.wire import codec, jose
from hsm_provision.key_material import derive_wrapping_key
from scheme_places import Place
from scheme_support import VECTORS, Draws
from vector_files import load


def unneeded(count: int) -> bytes:
    raise AssertionError("nothing is drawn here")


# --- section 9.3, 10.1, 10.2: the wrapping key, AES key wrap, MACs and signatures ---


@pytest.mark.parametrize("case", VECTORS["wrap_key_derivation"]["cases"])
def test_wrapping_key_is_derived_as_the_reference_does(case: dict[str, str]) -> None:
    assert derive_wrapping_key(bytes.fromhex(case["kpe"]), bytes.fromhex(case["kph"])).hex() == case["kpw"]


@pytest.mark.parametrize("case", load("primitives/psk_wrap_key.json"))
def test_wrapping_key_of_a_running_stack(case: dict[str, str]) -> None:
    derived = derive_wrapping_key(bytes.fromhex(case["enc_key_hex"]), bytes.fromhex(case["hmac_key_hex"]))
    assert derived.hex() == case["wrap_key_hex"]


@pytest.mark.parametrize("case", VECTORS["aes_key_wrap"]["cases"])
def test_aes_key_wrap(place: Place, case: dict[str, str]) -> None:
    transport = WrapTransport(place.wrapping(bytes.fromhex(VECTORS["aes_key_wrap"]["kek"])))
    plain, wrapped = bytes.fromhex(case["plain"]), bytes.fromhex(case["wrapped"])
    assert transport.wrap(plain) == wrapped
    assert transport.unwrap(wrapped) == plain


@pytest.mark.parametrize("case", load("primitives/aeskw.json"), ids=lambda case: str(len(case.get("plain_hex", ""))))
def test_aes_key_wrap_of_a_running_stack(place: Place, case: dict[str, str]) -> None:
    transport = WrapTransport(place.wrapping(bytes.fromhex(case["key_hex"])))
    if "wrap_error" in case:
        with pytest.raises(MslError) as caught:
            transport.wrap(bytes.fromhex(case["plain_hex"]))
        assert case["wrap_error"].endswith(str(caught.value.code.value))
    elif "unwrap_error" in case:
        with pytest.raises(MslError) as caught:
            transport.unwrap(bytes.fromhex(case["wrapped_hex"]))
        assert case["unwrap_error"].endswith(str(caught.value.code.value))
    elif len(case["plain_hex"]) == 16 and place.name == "token":
        # RFC 3394 begins at two units; the reference wraps one too, though no exchange ever needs it.
        with pytest.raises(MechanismUnsupportedError):
            transport.wrap(bytes.fromhex(case["plain_hex"]))
    else:
        assert transport.wrap(bytes.fromhex(case["plain_hex"])).hex() == case["wrapped_hex"]
        assert transport.unwrap(bytes.fromhex(case["wrapped_hex"])).hex() == case["plain_hex"]


def test_psk_signature_is_the_bare_mac(place: Place) -> None:
    """Section 10.2, last line."""
    kph = bytes(range(0x10, 0x30))
    context = SymmetricContext(SymmetricKeys(mac=place.mac(kph)), "PSK-ESN", unneeded)
    assert context.sign(b"abc").hex() == "a4fb9dfea46c2df5e6120f580df156a32078a09a3d89715ddc47bb92a9d00fec"


def test_rsa_signature(place: Place) -> None:
    vector = VECTORS["rsa"]
    public = PublicKey(bytes.fromhex(vector["spki"]))
    context = SignatureContext(
        SignatureScheme.RSA_PKCS1_SHA256, signing=place.signing(bytes.fromhex(vector["pkcs8"])), verifying=public
    )
    recorded = bytes.fromhex(vector["sha256_rsa_signature_of_abc"])
    assert context.sign(b"abc") == recorded
    assert context.verify(b"abc", recorded)
    assert not context.verify(b"abd", recorded)


def test_ecdsa_signature_is_emitted_as_der_and_accepted_as_der_or_raw(place: Place) -> None:
    """Section 11 row 10."""
    vector = VECTORS["ecc"]
    public = PublicKey(bytes.fromhex(vector["spki"]))
    signing = place.signing(bytes.fromhex(vector["pkcs8"]))
    assert signing.public_key == public.public_key
    context = SignatureContext(SignatureScheme.ECDSA_SHA256, signing=signing, verifying=public)
    recorded = bytes.fromhex(vector["der_signature_of_abc"])
    assert context.verify(b"abc", recorded)
    emitted = context.sign(b"abc")
    assert emitted[0] == 0x30
    assert context.verify(b"abc", emitted)
    r = recorded[4 : 4 + recorded[3]]
    s = recorded[6 + recorded[3] :]
    raw = r.lstrip(b"\0").rjust(32, b"\0") + s.lstrip(b"\0").rjust(32, b"\0")
    assert context.verify(b"abc", raw)
    assert not context.verify(b"abc", raw[:-1] + bytes([raw[-1] ^ 1]))
    assert not context.verify(b"abc", raw + b"\0")


ASYMMETRIC = load("primitives/asymmetric.json")
PADDINGS = {"ENCRYPT_DECRYPT_OAEP": RsaPadding.OAEP_SHA1, "ENCRYPT_DECRYPT_PKCS1": RsaPadding.PKCS1}


@pytest.mark.parametrize("mode", PADDINGS)
def test_rsa_decryption_of_a_running_stack(place: Place, mode: str) -> None:
    (case,) = [case for case in ASYMMETRIC["rsa"] if case["mode"] == mode]
    key = place.decryption(base64.b64decode(ASYMMETRIC["rsa_pkcs8_b64"]))
    ciphertext = base64.b64decode(load_envelope(case["encrypted"])["ciphertext"])
    assert RsaTransport(PADDINGS[mode], b"", key).unwrap(ciphertext).hex() == case["data_hex"]


def test_signatures_of_a_running_stack(place: Place) -> None:
    (case,) = [case for case in ASYMMETRIC["rsa"] if case["mode"] == "SIGN_VERIFY"]
    signing = place.signing(base64.b64decode(ASYMMETRIC["rsa_pkcs8_b64"]))
    rsa = SignatureContext(
        SignatureScheme.RSA_PKCS1_SHA256,
        signing=signing,
        verifying=PublicKey(base64.b64decode(ASYMMETRIC["rsa_spki_b64"])),
    )
    data = bytes.fromhex(case["data_hex"])
    assert rsa.sign(data).hex() == case["signature_hex"]
    assert rsa.encrypt(data) == data  # signing contexts pass data through
    (case,) = [case for case in ASYMMETRIC["ecc"] if case["mode"] == "SIGN_VERIFY"]
    ecc = SignatureContext(
        SignatureScheme.ECDSA_SHA256, verifying=PublicKey(base64.b64decode(ASYMMETRIC["ec_spki_b64"]))
    )
    assert ecc.verify(bytes.fromhex(case["data_hex"]), bytes.fromhex(case["signature_hex"]))


def load_envelope(text: str) -> dict[str, str]:
    return codec.decode(text.encode())


# --- section 9.2: the draft-era JWE ---

JWE = load("primitives/jwe.json")


def jwe_transport(place: Place, case: dict[str, Any]) -> JweTransport:
    carrier: Any
    if case["cek_protection"] == "RSA-OAEP":
        carrier = RsaTransport(RsaPadding.OAEP_SHA1, b"", place.decryption(base64.b64decode(JWE["rsa_pkcs8_b64"])))
    else:
        carrier = WrapTransport(place.wrapping(bytes.fromhex(JWE["aeskw_key_hex"])))
    form = jose.encode_jwe_json if case["format"] == "JWE_JS" else jose.encode_jwe_compact
    return JweTransport(case["cek_protection"], carrier, form, unneeded, case["encryption"])


@pytest.mark.parametrize("case", JWE["cases"], ids=lambda c: f"{c['cek_protection']}-{c['encryption']}-{c['format']}")
def test_jwe_of_a_running_stack(place: Place, case: dict[str, Any]) -> None:
    assert jwe_transport(place, case).unwrap(case["wrapped"].encode()).hex() == case["plain_hex"]


@pytest.mark.parametrize(
    "case",
    [case for case in JWE["cases"] if case["cek_protection"] == "A128KW"],
    ids=lambda c: f"{c['encryption']}-{c['format']}",
)
def test_jwe_is_written_byte_for_byte(place: Place, case: dict[str, Any]) -> None:
    """With the recorded content key and IV the text is the recorded one, whichever place wraps the content key."""
    jwe = jose.decode_jwe(case["wrapped"].encode())
    content_key = LocalWrappingKey(bytes.fromhex(JWE["aeskw_key_hex"])).unwrap(jwe.encrypted_key)
    reader = jwe_transport(place, case)
    writer = JweTransport(
        reader.algorithm, reader.carrier, reader.serialize, Draws(content_key, jwe.iv), reader.encryption
    )
    written = writer.wrap(bytes.fromhex(case["plain_hex"]))
    if case["format"] == "JWE_CS":
        assert written.decode() == case["wrapped"]
    assert jose.decode_jwe(written) == jwe


# --- sections 2.4, 13.3 and 13.5 ---


@pytest.mark.parametrize("case", VECTORS["x509_identity"], ids=lambda case: case["identity"][:30])
def test_certificate_subject_is_printed_as_the_reference_does(case: dict[str, str]) -> None:
    assert parse_certificate(bytes.fromhex(case["cert_der"])).subject == case["identity"]


@pytest.mark.parametrize("case", load("x500-names.json")["names"], ids=lambda case: case["text"][:24])
def test_names_are_printed_as_java_prints_them(case: dict[str, str]) -> None:
    assert x500_text(bytes.fromhex(case["der"])) == case["text"]


class LargestId:
    """A ``ReplayStore`` of one entity."""

    def __init__(self, largest: int) -> None:
        self.largest = largest

    def advance(self, identity: str, serial: int, decide: Any) -> None:
        accepted = decide(ReplayState(self.largest))
        self.largest = self.largest if accepted is None else accepted.largest


def test_non_replayable_id_decisions() -> None:
    """Section 13.3: all 254 recorded combinations."""
    for case in VECTORS["non_replayable_id"]:
        store = LargestId(case["largest"])
        try:
            replay.accept(store, "entity", 1, case["id"], until=1)
            result = "OK"
        except MslError as error:
            outside = error.code is ErrorCode.NONREPLAYABLE_ID_OUT_OF_RANGE
            result = ("EXC" if outside else "") + str(error.code.value - 100000)
        assert (result, store.largest) == (case["result"], case["largest_after"]), case


@pytest.mark.parametrize("case", VECTORS["is_newer_than"], ids=lambda case: f"{case['this']}-{case['that']}")
def test_newer_master_token(case: dict[str, Any]) -> None:
    """Section 13.5."""
    this, that = (MasterToken("", "", 0, 0, case[name], 1) for name in ("this", "that"))
    assert this.is_newer_than(that) is case["newer"]
