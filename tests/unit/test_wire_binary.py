"""Base64 readers and writers: msl-wire section 2.5, RFC 7515 section 2."""

from __future__ import annotations

import pytest

from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.wire import binary


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("", b""),
        ("QUI=", b"AB"),
        ("QUJ=", b"AB"),
        ("QR==", b"A"),
        ("//79", b"\xff\xfe\xfd"),
        ("QU I=", b"AB"),
        (" Q\tU\r\nI = \n", b"AB"),
        (" \t\r\n", b""),
    ],
)
def test_reader_accepts_2_5(text: str, data: bytes) -> None:
    assert binary.decode(text) == data
    assert binary.decode(text.encode()) == data


@pytest.mark.parametrize(
    "text",
    [
        "QUI",
        "Q",
        "QU",
        "QU-_",
        "QQ==QQ==",
        "QQ==QUJD",
        "QU=B",
        "Q=Q=",
        "Q===",
        "QQ===",
        "=",
        "====",
        "****",
        "QU\x0bI=",
        "QU\x00I=",
        "QU\u00a0I=",
        "QUI\u00ff",
    ],
)
def test_reader_refuses_2_5(text: str) -> None:
    for form in (text, text.encode()):
        with pytest.raises(MslError) as caught:
            binary.decode(form, ErrorCode.MASTERTOKEN_TOKENDATA_MISSING)
        assert caught.value.code is ErrorCode.MASTERTOKEN_TOKENDATA_MISSING
        assert text not in str(caught.value)


def test_writer_2_3_rule_3() -> None:
    assert binary.encode(b"") == ""
    assert binary.encode(b"\xff\xfe\xfd\xfc") == "//79/A=="


@pytest.mark.parametrize(("data", "text"), [(b"", ""), (b"\x01", "AQ"), (b"\x01\x0f\xbf", "AQ-_"), (b"AB", "QUI")])
def test_base64url_has_no_padding(data: bytes, text: str) -> None:
    assert binary.encode_url(data) == text
    assert binary.decode_url(text) == data


def test_base64url_drops_unused_bits() -> None:
    assert binary.decode_url("QUJ") == b"AB"


@pytest.mark.parametrize("text", ["A", "AQ==", "AQ=", "AQ+/", "A Q", "AQ\n", "\u00e9A", "AAAAA", "."])
def test_base64url_refuses_everything_else(text: str) -> None:
    with pytest.raises(MslError) as caught:
        binary.decode_url(text, ErrorCode.JWE_PARSE_ERROR)
    assert caught.value.code is ErrorCode.JWE_PARSE_ERROR
