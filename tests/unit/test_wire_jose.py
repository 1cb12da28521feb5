"""JWK and draft-era JWE shapes: msl-schemes sections 8, 9.1, 9.2, 10.4 and 10.5."""

from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap

from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.wire import jose
from vector_files import load

SCHEMES = load("msl-schemes-vectors.json")
JWES = load("primitives/jwe.json")
KPW = bytes.fromhex(SCHEMES["psk"]["kpw"])
KEY = bytes(range(16))
OCT = '{"kty":"oct","k":"AAECAwQFBgcICQoLDA0ODw"'


def code_of(text: str) -> ErrorCode:
    with pytest.raises(MslError) as caught:
        jose.decode_jwk(text.encode())
    return caught.value.code


def recorded(name: str) -> int:
    return 100000 + int(SCHEMES["error_codes"][name].split()[0])


@pytest.mark.parametrize(
    ("jwk", "text"),
    [
        (
            jose.Jwk(key_ops=("encrypt", "decrypt"), alg="A128CBC", k=KEY),
            '{"kty":"oct","extractable":false,"key_ops":["encrypt","decrypt"],"k":"AAECAwQFBgcICQoLDA0ODw","alg":"A128CBC"}',
        ),
        (
            jose.Jwk(use="enc", alg="A128CBC", k=KEY),
            '{"kty":"oct","use":"enc","extractable":false,"k":"AAECAwQFBgcICQoLDA0ODw","alg":"A128CBC"}',
        ),
        (
            jose.Jwk(use="wrap", alg="A128KW", kid="-2144193097707360397", k=KEY),
            '{"kty":"oct","use":"wrap","extractable":false,"kid":"-2144193097707360397","k":"AAECAwQFBgcICQoLDA0ODw","alg":"A128KW"}',
        ),
        (
            jose.Jwk("rsa", use="sig", alg="RSA1_5", n=b"\xff\x01", e=b"\x01\x00\x01", d=b"\x05"),
            '{"kty":"rsa","use":"sig","extractable":false,"n":"_wE","e":"AQAB","d":"BQ","alg":"RSA1_5"}',
        ),
    ],
)
def test_jwk_texts_9_1(jwk: jose.Jwk, text: str) -> None:
    assert jose.encode_jwk(jwk) == text.encode()
    assert jose.decode_jwk(text.encode()) == jwk


@pytest.mark.parametrize(
    ("form", "lengths"),
    [({"use": ("enc", "sig")}, (90, 109)), ({"key_ops": (("encrypt", "decrypt"), ("sign", "verify"))}, (110, 125))],
    ids=["use", "key_ops"],
)
def test_typical_lengths_5(form: dict[str, tuple[object, object]], lengths: tuple[int, int]) -> None:
    [(name, (encryption, mac))] = form.items()
    written = (
        jose.encode_jwk(jose.Jwk(alg="A128CBC", k=bytes(16), **{name: encryption})),  # type: ignore[arg-type]  # by name
        jose.encode_jwk(jose.Jwk(alg="HS256", k=bytes(32), **{name: mac})),  # type: ignore[arg-type]  # by name
    )
    assert tuple(map(len, written)) == lengths


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('{"kty":"OCT","k":"AA"}', "jwkparse.type"),
        ('{"kty":"RSA","n":"AQ","e":"AQ"}', "jwkparse.rfcRSA"),
        (OCT + ',"use":"ENC"}', "jwkparse.use"),
        (OCT + ',"key_ops":["encrypt","wrap"]}', "jwkparse.ops"),
        (OCT + ',"alg":"A256KW"}', "jwkparse.alg"),
        ('{"kty":"oct","k":""}', "jwkparse.emptyk"),
        ('{"kty":"oct"}', "jwkparse.nok"),
    ],
)
def test_recorded_jwk_errors(text: str, name: str) -> None:
    assert code_of(text) == recorded(name)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('{"k":"AA"}', ErrorCode.MSL_PARSE_ERROR),
        ('{"kty":5,"k":"AA"}', ErrorCode.MSL_PARSE_ERROR),
        (OCT + ',"use":5}', ErrorCode.MSL_PARSE_ERROR),
        (OCT + ',"key_ops":"encrypt"}', ErrorCode.MSL_PARSE_ERROR),
        (OCT + ',"key_ops":[5]}', ErrorCode.MSL_PARSE_ERROR),
        (OCT + ',"alg":5}', ErrorCode.MSL_PARSE_ERROR),
        (OCT + ',"extractable":"false"}', ErrorCode.MSL_PARSE_ERROR),
        (OCT + ',"kid":5}', ErrorCode.MSL_PARSE_ERROR),
        ('{"kty":"oct","k":"AA=="}', ErrorCode.MSL_PARSE_ERROR),
        ('{"kty":"rsa","e":"AQAB"}', ErrorCode.MSL_PARSE_ERROR),
        ('{"kty":"rsa","n":"AQ"}', ErrorCode.MSL_PARSE_ERROR),
        ('{"kty":"rsa","n":"","e":"AQ"}', ErrorCode.INVALID_JWK_KEYDATA),
        ('{"kty":"rsa","n":"AQ","d":""}', ErrorCode.INVALID_JWK_KEYDATA),
        ("", ErrorCode.INVALID_JWK),
        (" " + OCT + "}", ErrorCode.INVALID_JWK),
        ("[]", ErrorCode.INVALID_JWK),
    ],
)
def test_other_jwk_errors(text: str, code: ErrorCode) -> None:
    assert code_of(text) is code


def test_text_that_is_no_object_gets_the_callers_code() -> None:
    with pytest.raises(MslError) as caught:
        jose.decode_jwk(b"\x01\x02", ErrorCode.SESSION_KEY_CREATION_FAILURE)
    assert caught.value.code is ErrorCode.SESSION_KEY_CREATION_FAILURE


def test_a_standard_webcrypto_jwk_is_read() -> None:
    text = OCT + ',"ext":true,"key_ops":["decrypt","encrypt"],"alg":"A128CBC"}'
    assert jose.decode_jwk(text.encode()) == jose.Jwk(key_ops=("decrypt", "encrypt"), alg="A128CBC", k=KEY)


def test_rsa_keys_need_one_exponent() -> None:
    assert jose.decode_jwk(b'{"kty":"rsa","n":"AQ","e":"AQAB"}').d is None
    assert jose.decode_jwk(b'{"kty":"rsa","n":"AQ","d":"AQAB"}').e is None


def test_secrets_stay_out_of_the_representation() -> None:
    shown = repr(jose.Jwk(k=b"SECRET-KEY", n=b"modulus", d=b"SECRET-EXPONENT"))
    assert "SECRET" not in shown
    assert "modulus" in shown


@pytest.mark.parametrize("length", range(90, 99))
def test_padding_stands_after_the_opening_brace_8(length: int) -> None:
    text = b'{"kty":"oct","k":"' + b"A" * (length - 20) + b'"}'
    padded = jose.pad_jwk(text)
    assert len(text) == length
    assert len(padded) % 8 == 0
    assert len(padded) - length < 8
    assert padded == b"{" + b" " * (len(padded) - length) + text[1:]
    assert json.loads(padded) == json.loads(text)


def test_padding_after_the_closing_brace_is_read_and_before_the_opening_one_is_not_8() -> None:
    text = OCT.encode() + b',"alg":"A128CBC"}'
    assert jose.decode_jwk(text + b"   ") == jose.decode_jwk(jose.pad_jwk(text))
    assert code_of("  " + text.decode()) is ErrorCode.INVALID_JWK


def test_recorded_jwk_ladder_10_4() -> None:
    keydata = SCHEMES["exchanges"]["jwk.PSK"]["response"]["keydata"]
    text = aes_key_unwrap(KPW, base64.b64decode(keydata["wrapkey"]))
    wrapping = jose.decode_jwk(text)
    assert (wrapping.kid, wrapping.alg, wrapping.key_ops) == ("wrapKeyId", "A128KW", ("unwrapKey", "wrapKey"))
    assert jose.pad_jwk(jose.encode_jwk(wrapping)) == text
    assert wrapping.k is not None
    text = aes_key_unwrap(wrapping.k, base64.b64decode(keydata["encryptionkey"]))
    assert jose.decode_jwk(text).k == bytes.fromhex("5c811c5454f145f830175ab8a24290e7")
    assert jose.pad_jwk(jose.encode_jwk(jose.decode_jwk(text))) == text


def test_recorded_jwe_ladder_10_5() -> None:
    keydata = SCHEMES["exchanges"]["jwe.PSK"]["response"]["keydata"]
    anchor = KPW
    for member in ("wrapkey", "encryptionkey"):
        jwe = jose.decode_jwe(base64.b64decode(keydata[member]))
        jwe.require("A128KW", "A128GCM")
        content_key = aes_key_unwrap(anchor, jwe.encrypted_key)
        text = AESGCM(content_key).decrypt(jwe.iv, jwe.ciphertext + jwe.tag, jwe.associated)
        key = jose.decode_jwk(text).k
        assert key is not None
        anchor = key
    assert anchor == bytes.fromhex("eb3710d7092a329715b6cb1841860a42")


@pytest.mark.parametrize(
    "case", JWES["cases"], ids=lambda case: "-".join((case["format"], case["cek_protection"], case["encryption"]))
)
def test_recorded_jwes_are_taken_apart_and_put_together(case: dict[str, str]) -> None:
    data = case["wrapped"].encode()
    jwe = jose.decode_jwe(data)
    jwe.require(case["cek_protection"], case["encryption"])
    associated = jose.associated_data(jwe.algorithm, jwe.encryption, jwe.encrypted_key, jwe.iv)
    assert associated == jwe.associated
    write = jose.encode_jwe_json if case["format"] == "JWE_JS" else jose.encode_jwe_compact
    assert write(jwe.associated, jwe.ciphertext, jwe.tag) == data
    if case["cek_protection"] == "A128KW":
        content_key = aes_key_unwrap(bytes.fromhex(JWES["aeskw_key_hex"]), jwe.encrypted_key)
        plain = AESGCM(content_key).decrypt(jwe.iv, jwe.ciphertext + jwe.tag, associated)
        assert plain == bytes.fromhex(case["plain_hex"])


@pytest.mark.parametrize(
    ("algorithm", "encryption"), [("A128KW", "A256GCM"), ("RSA-OAEP", "A128GCM"), ("dir", "none")]
)
def test_another_pair_is_a_mismatch_9_2(algorithm: str, encryption: str) -> None:
    jwe = jose.decode_jwe(jose.encode_jwe_compact(jose.associated_data("A128KW", "A128GCM", b"k", b"i"), b"c", b"t"))
    with pytest.raises(MslError) as caught:
        jwe.require(algorithm, encryption)
    assert caught.value.code is ErrorCode.JWE_ALGORITHM_MISMATCH
    assert caught.value.code == recorded("jwe_ladder.alg_swapped")


HEADER = "eyJlbmMiOiJBMTI4R0NNIiwiYWxnIjoiQTEyOEtXIn0"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "garbage",
        f"{HEADER}.AA.AA.AA",
        f"{HEADER}.AA.AA.AA.AA.AA",
        f"{HEADER}.AA.AA.AA.",
        f"{HEADER}..AA.AA.AA",
        f"{HEADER}.A.AA.AA.AA",
        f"{HEADER}.A+.AA.AA.AA",
        f"{HEADER}.\u00e9A.AA.AA.AA",
        ".AA.AA.AA.AA",
        "AAAA.AA.AA.AA.AA",
        "e30.AA.AA.AA.AA",
        "{",
        "{}",
        '{"recipients":[],"initialization_vector":"AA","ciphertext":"AA"}',
        '{"recipients":[5],"initialization_vector":"AA","ciphertext":"AA"}',
        f'{{"recipients":[{{"header":"{HEADER}","encrypted_key":"AA"}}],"initialization_vector":"AA","ciphertext":"AA"}}',
        f'{{"recipients":[{{"header":"{HEADER}","encrypted_key":"AA","integrity_value":"AA"}}],"ciphertext":"AA"}}',
    ],
)
def test_malformed_jwes_9_2(text: str) -> None:
    with pytest.raises(MslError) as caught:
        jose.decode_jwe(text.encode())
    assert caught.value.code is ErrorCode.JWE_PARSE_ERROR
    assert caught.value.code == recorded("jwe_ladder.garbage")


def test_the_authenticated_text_is_the_received_one() -> None:
    """Unused bits and members in another order survive: the text is not written anew."""
    header = base64.urlsafe_b64encode(b'{ "alg":"A128KW", "enc":"A128GCM" }').decode().rstrip("=")
    jwe = jose.decode_jwe(f"{header}.AB.AD.AA.AA".encode())
    assert jwe.associated == f"{header}.AB.AD".encode()
    assert (jwe.algorithm, jwe.encryption, jwe.encrypted_key, jwe.iv) == ("A128KW", "A128GCM", b"\x00", b"\x00")


def test_only_the_first_recipient_counts_9_2() -> None:
    parts = {"header": HEADER, "encrypted_key": "AQ", "integrity_value": "Ag"}
    data = {"recipients": [parts, {"header": "junk"}], "initialization_vector": "Aw", "ciphertext": "BA"}
    jwe = jose.decode_jwe(json.dumps(data).encode())
    assert (jwe.encrypted_key, jwe.tag, jwe.iv, jwe.ciphertext) == (b"\x01", b"\x02", b"\x03", b"\x04")
