"""What a service token says and whether it is deleted, for every state of msl-wire section 8.3."""

from __future__ import annotations

import os
from typing import Any

import pytest

from hsm_msl.crypto.context import CryptoContext
from hsm_msl.crypto.null import NullContext
from hsm_msl.crypto.symmetric import SymmetricContext
from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.msl.tokens.master_token import TokenCache
from hsm_msl.msl.tokens.service_token import ServiceToken, parse_service_token
from hsm_msl.wire import binary, codec, compression
from msl_keys import symmetric_keys

OURS = SymmetricContext(symmetric_keys(os.urandom), "ours", os.urandom)
THEIRS = SymmetricContext(symmetric_keys(os.urandom), "theirs", os.urandom)
TEXT = b"compressible " * 20
PACKED = {algorithm: compression.compress(algorithm, TEXT) or b"" for algorithm in compression.ALGORITHMS}


def made(signer: CryptoContext, data: bytes = b"data", **inner: Any) -> dict[str, str]:
    """Return a token of any content; its data is encrypted where it says so and is not empty."""
    stated: dict[str, Any] = {"name": "st", "encrypted": False, **inner}
    content = signer.encrypt(data) if stated["encrypted"] and data else data
    raw = codec.encode({"servicedata": binary.encode(content), **stated})
    return {"tokendata": binary.encode(raw), "signature": binary.encode(signer.sign(raw))}


def read(token: dict[str, str], keys: dict[str, CryptoContext] | None = None) -> ServiceToken:
    return parse_service_token(token, {"": OURS} if keys is None else keys, TokenCache(0), None, None)


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("keys", [{}, {"": OURS}, {"st": OURS, "": THEIRS}], ids=["none", "default", "named"])
@pytest.mark.parametrize("signer", [OURS, THEIRS, NullContext()], ids=["ours", "theirs", "nobody"])
@pytest.mark.parametrize("data", [b"data", b""])
def test_states_8_3(data: bytes, signer: CryptoContext, keys: dict[str, CryptoContext], encrypted: bool) -> None:
    """Verified data is seen, other data is not; empty data deletes whoever signed it."""
    token = read(made(signer, data, encrypted=encrypted), keys)
    verified = signer is OURS and bool(keys)
    assert token.data == (data if verified or not data else None)
    assert token.deleted is (data == b"")


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("algorithm", compression.ALGORITHMS)
def test_compression_is_inverted_after_encryption_8_3(algorithm: str, encrypted: bool) -> None:
    token = made(OURS, PACKED[algorithm], encrypted=encrypted, compressionalgo=algorithm)
    assert read(token).data == TEXT
    assert read(token, {}).data is None


def test_gzip_of_nothing_8_3() -> None:
    """Measured: refused where it verifies, since GZIP makes nothing empty; LZW does; elsewhere it deletes."""
    with pytest.raises(MslError) as caught:
        read(made(OURS, b"", compressionalgo="GZIP"))
    assert caught.value.code is ErrorCode.UNCOMPRESSION_ERROR
    assert read(made(OURS, b"", compressionalgo="LZW")).deleted
    assert read(made(THEIRS, b"", compressionalgo="GZIP")).deleted
    assert read(made(OURS, b"", compressionalgo="GZIP"), {}).deleted


def test_user_binding_without_master_binding_is_parsed_8_3() -> None:
    """Nobody writes it and everybody reads it; it is held against the message's user ID token all the same."""
    with pytest.raises(MslError) as caught:
        read(made(OURS, uitserialnumber=5))
    assert caught.value.code is ErrorCode.SERVICETOKEN_USERIDTOKEN_MISMATCH


@pytest.mark.parametrize(
    ("token", "code"),
    [
        ({"tokendata": "", "signature": ""}, ErrorCode.SERVICETOKEN_TOKENDATA_MISSING),
        (made(OURS, compressionalgo="gzip"), ErrorCode.UNIDENTIFIED_COMPRESSION),
        (made(OURS, compressionalgo=""), ErrorCode.UNIDENTIFIED_COMPRESSION),
        (made(OURS, compressionalgo="GZIP"), ErrorCode.UNCOMPRESSION_ERROR),
        (made(OURS, mtserialnumber=-1), ErrorCode.SERVICETOKEN_MASTERTOKEN_SERIAL_NUMBER_OUT_OF_RANGE),
        (made(OURS, mtserialnumber=2**63), ErrorCode.SERVICETOKEN_MASTERTOKEN_SERIAL_NUMBER_OUT_OF_RANGE),
        (made(OURS, uitserialnumber=2**53 + 1), ErrorCode.SERVICETOKEN_USERIDTOKEN_SERIAL_NUMBER_OUT_OF_RANGE),
        (made(OURS, mtserialnumber=5), ErrorCode.SERVICETOKEN_MASTERTOKEN_MISMATCH),
        (
            made(OURS, mtserialnumber=5, uitserialnumber=-1),
            ErrorCode.SERVICETOKEN_USERIDTOKEN_SERIAL_NUMBER_OUT_OF_RANGE,
        ),
        (made(OURS, mtserialnumber=True), ErrorCode.MSL_PARSE_ERROR),
        (made(OURS, encrypted=None), ErrorCode.MSL_PARSE_ERROR),
        (made(OURS, name=None), ErrorCode.MSL_PARSE_ERROR),
        (made(OURS, servicedata=None), ErrorCode.MSL_PARSE_ERROR),
        (made(OURS, servicedata="AQI"), ErrorCode.MSL_PARSE_ERROR),
    ],
    ids=lambda value: value.name if isinstance(value, ErrorCode) else "",
)
def test_refusals_8_3(token: dict[str, str], code: ErrorCode) -> None:
    """Bindings are checked last; a missing member of token data is a parse error like any other."""
    with pytest.raises(MslError) as caught:
        read(token)
    assert caught.value.code is code
