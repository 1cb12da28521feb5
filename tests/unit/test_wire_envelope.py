"""Ciphertext and signature envelopes: msl-wire sections 4.2 and 4.3, examples 14.1 and 14.2."""

from __future__ import annotations

import base64
import json

import pytest

from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.wire import codec, envelope
from vector_files import load

RECORDED = load("primitives/envelopes.json")
EXAMPLES = load("msl-wire-vectors.json")["vectors"]
IV = bytes(range(16))
IV_TEXT = base64.b64encode(IV).decode()


def assert_refused(data: bytes) -> None:
    with pytest.raises(MslError) as caught:
        envelope.decode_ciphertext(data)
    assert caught.value.code is ErrorCode.CIPHERTEXT_ENVELOPE_PARSE_ERROR


@pytest.mark.parametrize("case", RECORDED["ciphertext"], ids=lambda case: f"{case['len']}-bytes")
def test_recorded_version_1_envelopes_are_reproduced(case: dict[str, str]) -> None:
    iv, ciphertext = bytes.fromhex(case["iv_hex"]), bytes.fromhex(case["ciphertext_hex"])
    written = envelope.encode_ciphertext(envelope.key_id_json(case["keyid"]), iv, ciphertext)
    assert written == case["envelope_v1"].encode()
    assert envelope.decode_ciphertext(written) == (iv, ciphertext)


@pytest.mark.parametrize("case", RECORDED["ciphertext"], ids=lambda case: f"{case['len']}-bytes")
def test_version_2_ciphertext_envelopes_are_refused(case: dict[str, str]) -> None:
    assert case["java_symmetric_context_decrypt_of_v2"] == "MslError 100012"
    assert_refused(case["envelope_v2"].encode())


@pytest.mark.parametrize("case", RECORDED["ciphertext_parse_and_decrypt"], ids=lambda case: case["result"][:40])
def test_recorded_malformed_envelopes(case: dict[str, str]) -> None:
    data = case["envelope"].encode()
    if case["result"] == "MslError 100012":
        assert_refused(data)
    else:
        # Length, padding and the missing IV are the crypto context's to judge.
        iv, ciphertext = envelope.decode_ciphertext(data)
        assert (iv is None) is ("iv" not in json.loads(data))
        assert ciphertext == base64.b64decode(json.loads(data)["ciphertext"])


def test_worked_examples_14_1() -> None:
    iv = bytes(range(0x10, 0x20))
    ciphertext = bytes.fromhex("6b8241ee79e00acc46ec6f543756dd5c")
    written = envelope.encode_ciphertext(envelope.key_id_json("device-001"), iv, ciphertext)
    assert written == base64.b64decode(EXAMPLES["env_v1_hello"])
    empty = base64.b64decode(EXAMPLES["env_v1_empty"])
    assert envelope.decode_ciphertext(empty) == (bytes(range(0x20, 0x30)), b"")
    assert_refused(base64.b64decode(EXAMPLES["env_v2_hello"]))


@pytest.mark.parametrize("key_id", ["", 'a"b\\c', "\u00e9\U0001f600", "x" * 500, "urn:a:b"])
def test_any_key_id_is_written_as_ascii_and_read(key_id: str) -> None:
    data = envelope.encode_ciphertext(envelope.key_id_json(key_id), IV, b"data")
    assert data.isascii()
    assert codec.decode(data)["keyid"] == key_id
    assert envelope.decode_ciphertext(data) == (IV, b"data")


def test_envelope_without_iv_as_rsa_contexts_write_it() -> None:
    data = envelope.encode_ciphertext(b'"rsa"', None, b"block")
    assert data == b'{"ciphertext":"YmxvY2s=","sha256":"AA==","keyid":"rsa"}'
    assert envelope.decode_ciphertext(data) == (None, b"block")


@pytest.mark.parametrize(
    "text",
    [
        '{"keyid":"k","iv":"IV","sha256":"AA==","ciphertext":"QUI="}',
        '{"ciphertext" : "QUI=", "sha256" : "AA==", "keyid" : "k", "iv" : "IV"}',
        '{"ciphertext":"QUI=","sha256":"AA==","keyid":"k","iv":"IV"} ',
        '{"ciphertext":"QU\\nI=","sha256":"AA==","keyid":"k","iv":"IV"}',
        '{"ciphertext":"\\u0051UI=","sha256":"AA==","keyid":"k","iv":"IV"}',
        '{"ciphertext":"QUI=","sha256":"","keyid":"k","iv":"IV"}',
        '{"ciphertext":"QUI=","sha256":"1234","keyid":"k\u00e9","iv":"IV"}',
        '{"ciphertext":"QUI=","sha256":"AA==","keyid":"k\\"","iv":"IV"}',
        '{"ciphertext":"QUI=","sha256":"AA==","keyid":"k","iv":"IV","version":1}',
        '{"ciphertext":"QUI=","sha256":"AA==","keyid":"k","iv":"IV","version":2,"other":[{}]}',
        '{"ciphertext":"QUI=","sha256":"AA==","keyid":"k","iv":"IV","version":"x"}',
    ],
)
def test_any_spelling_of_a_version_1_envelope_is_read(text: str) -> None:
    assert envelope.decode_ciphertext(text.replace("IV", IV_TEXT).encode()) == (IV, b"AB")


def test_iv_of_another_length_is_left_to_the_context() -> None:
    data = b'{"ciphertext":"QUI=","sha256":"AA==","keyid":"k","iv":"QUI="}'
    assert envelope.decode_ciphertext(data) == (b"AB", b"AB")
    assert envelope.decode_ciphertext(data.replace(b'"iv":"QUI="', b'"iv":""'))[0] == b""


@pytest.mark.parametrize(
    "text",
    [
        '{"ciphertext":"QUI","sha256":"AA==","keyid":"k"}',
        '{"ciphertext":"QUI=","sha256":"A","keyid":"k"}',
        '{"ciphertext":"QUI=","keyid":"k"}',
        '{"ciphertext":"QUI=","sha256":"AA=="}',
        '{"ciphertext":"QUI=","sha256":"AA==","keyid":5}',
        '{"ciphertext":5,"sha256":"AA==","keyid":"k"}',
        '{"ciphertext":"QUI=","sha256":"AA==","keyid":"k","iv":5}',
        '{"ciphertext":"QUI=","sha256":"AA==","keyid":"k","iv":"QUI"}',
        '{"ciphertext":"QUI=","sha256":"AA==","keyid":"k","keyid":"k"}',
        '{"ciphertext":"QUI=","sha256":"AA==","keyid":"k"}x',
        '{"ciphertext":"QUI=","sha256":"AA==","keyid":"k"',
        '{"ciphertext":"QUI=',
        '{"ciphertext":"',
        "[]",
    ],
)
def test_what_is_no_version_1_envelope_is_refused(text: str) -> None:
    assert_refused(text.encode())


@pytest.mark.parametrize(
    "case", RECORDED["signature"], ids=lambda case: f"{case['algorithm']}-{len(case['data_hex'])}"
)
def test_recorded_signature_envelopes(case: dict[str, str]) -> None:
    raw = bytes.fromhex(case["signature_v1_hex"])
    version_2 = case["signature_v2_json"].encode()
    assert envelope.decode_signature(raw) == (None, raw)
    assert envelope.encode_signature(case["algorithm"], raw) == version_2
    assert envelope.decode_signature(version_2) == (case["algorithm"], raw)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 32,
        b"{" + b"\xff" * 31,
        b"{}",
        b'{"version":1,"algorithm":"HmacSHA256","signature":"QUI="}',
        b'{"version":3,"algorithm":"HmacSHA256","signature":"QUI="}',
        b'{"version":"2","algorithm":"HmacSHA256","signature":"QUI="}',
        b'{"version":true,"algorithm":"HmacSHA256","signature":"QUI="}',
        b'{"algorithm":"HmacSHA256","signature":"QUI="}',
        b'{"version":2,"signature":"QUI="}',
        b'{"version":2,"algorithm":"HmacSHA256"}',
        b'{"version":2,"algorithm":"HmacSHA256","signature":"QUI"}',
        b'{"version":2,"algorithm":"hmacsha256","signature":"QUI="}',
        b'{"version":2,"algorithm":"HmacSHA256","signature":"QUI="}x',
    ],
)
def test_every_other_value_is_a_version_1_signature_4_3(data: bytes) -> None:
    assert envelope.decode_signature(data) == (None, data)


def test_version_2_signature_with_spaces_and_unknown_members() -> None:
    data = b'{ "version": 2, "algorithm": "AESCmac", "signature": "QUI=", "more": 1 } '
    assert envelope.decode_signature(data) == ("AESCmac", b"AB")
