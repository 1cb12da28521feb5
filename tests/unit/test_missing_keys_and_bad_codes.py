"""Contexts without a key refuse by name (msl-schemes 1.3), and an error header may not carry a negative code (6)."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from hsm_msl.crypto.asymmetric import SignatureContext
from hsm_msl.crypto.symmetric import SymmetricContext
from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.msl.message.error_header import decode_error_header
from hsm_msl.ports import SignatureScheme, SymmetricKeys
from hsm_msl.wire import codec
from msl_world import World

EMPTY = SymmetricContext(SymmetricKeys(), "nobody", os.urandom)
UNSIGNED = SignatureContext(SignatureScheme.RSA_PKCS1_SHA256)


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda: EMPTY.encrypt(b"x"), ErrorCode.ENCRYPT_NOT_SUPPORTED),
        (lambda: EMPTY.decrypt(b"{}"), ErrorCode.DECRYPT_NOT_SUPPORTED),
        (lambda: EMPTY.sign(b"x"), ErrorCode.SIGN_NOT_SUPPORTED),
        (lambda: EMPTY.verify(b"x", b"y"), ErrorCode.VERIFY_NOT_SUPPORTED),
        (lambda: UNSIGNED.sign(b"x"), ErrorCode.SIGN_NOT_SUPPORTED),
        (lambda: UNSIGNED.verify(b"x", b"y"), ErrorCode.VERIFY_NOT_SUPPORTED),
    ],
)
def test_an_operation_without_its_key_is_refused_by_name(call: Callable[[], object], code: ErrorCode) -> None:
    with pytest.raises(MslError) as caught:
        call()
    assert caught.value.code is code


def test_a_negative_internal_code_is_refused() -> None:
    context = World().client("NONE").context
    data = {"messageid": 1, "errorcode": 1, "internalcode": -1}
    with pytest.raises(MslError) as caught:
        decode_error_header(context, context.local.data, codec.encode(data), b"")
    assert caught.value.code is ErrorCode.INTERNAL_CODE_NEGATIVE
    told = decode_error_header(context, context.local.data, codec.encode({**data, "internalcode": 0}), b"")
    assert told.internal_code == 0
