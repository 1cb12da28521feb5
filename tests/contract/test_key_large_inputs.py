"""Tokens that take little at once (YubiHSM 2, CloudHSM, OP-TEE): cut into pieces, hashed on the host, or refused."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import os
from collections.abc import Iterator, Sequence

import pytest
from pkcs11 import Attribute, Mechanism

from hsm_msl.backend.pkcs11 import aes
from hsm_msl.backend.pkcs11.token import Token, open_token
from hsm_msl.backend.pkcs11.vendors import SOFTHSM
from hsm_msl.backend.software import SoftwareAesKey
from hsm_msl.crypto.public_key import PublicKey
from hsm_msl.crypto.token_keys import TokenKeys
from hsm_msl.errors import DataRejectedError, MechanismUnsupportedError
from hsm_msl.ports import SignatureScheme, SymmetricKeys
from key_backends import rsa_pair, spki
from token_fixture import WRAP, Forge, KeyMaker, TestToken

MOST = 100
VALUE = bytes(range(16))
SIZES = (16, 96, 112, 16 * 40)


@pytest.fixture
def token(forge: Forge, fresh_token: TestToken, monkeypatch: pytest.MonkeyPatch) -> Iterator[Token]:
    """A token that takes 100 bytes at once, and complains of more."""

    def guarded(operation: object) -> object:
        def run(handle: object, data: bytes, mechanism: object, parameter: object) -> bytes:
            assert len(data) <= MOST
            result: bytes = operation(handle, data, mechanism, parameter)  # type: ignore[operator]
            return result

        return run

    for name in ("_encrypt", "_decrypt"):
        monkeypatch.setattr(aes, name, guarded(getattr(aes, name)))
    profile = dataclasses.replace(SOFTHSM, largest_input=MOST)
    opened = open_token(forge.module, fresh_token.selector, fresh_token.pin, profile)
    yield opened
    opened.close()


@pytest.mark.parametrize("lacks", [(), (Mechanism.AES_CBC, Mechanism.AES_CTR)])
def test_encryption_goes_in_pieces(token: Token, lacks: tuple[Mechanism, ...]) -> None:
    token.connection.mechanisms -= set(lacks)
    key, software = token.aes_key(KeyMaker(token).aes(VALUE)), SoftwareAesKey(VALUE)
    iv = os.urandom(16)
    for size in SIZES:
        data = os.urandom(size)
        for ours, theirs in (
            (key.encrypt_ecb(data), software.encrypt_ecb(data)),
            (key.decrypt_ecb(data), software.decrypt_ecb(data)),
            (key.encrypt_cbc(iv, data), software.encrypt_cbc(iv, data)),
            (key.decrypt_cbc(iv, data), software.decrypt_cbc(iv, data)),
        ):
            assert ours == theirs
        for counter in (iv, b"\xff" * 15 + b"\xfd"):
            for text in (data, data[:-7]):
                assert key.crypt_ctr(counter, text) == software.crypt_ctr(counter, text)


def test_what_is_signed_is_hashed_on_the_host(token: Token) -> None:
    pair = rsa_pair()
    signing = token.signing_key(KeyMaker(token).rsa(pair, (Attribute.SIGN,)))
    verifying = PublicKey(spki(pair))
    for scheme in (SignatureScheme.RSA_PKCS1_SHA256, SignatureScheme.RSA_PSS_SHA256):
        for size in (MOST, MOST + 1, 10_000):
            data = os.urandom(size)
            assert verifying.verify(data, signing.sign(data, scheme), scheme)
    token.connection.mechanisms -= {Mechanism.RSA_PKCS}
    assert signing.sign(bytes(MOST), SignatureScheme.RSA_PKCS1_SHA256)
    with pytest.raises(MechanismUnsupportedError, match="101 bytes at once, of which the token takes 100"):
        signing.sign(bytes(MOST + 1), SignatureScheme.RSA_PKCS1_SHA256)


def test_what_cannot_be_cut_is_refused_by_name(token: Token) -> None:
    keys = KeyMaker(token)
    mac, key = token.mac_key(keys.hmac(bytes(32))), token.aes_key(keys.aes(VALUE))
    assert mac.verify(bytes(MOST), mac.sign(bytes(MOST)))
    refused = "101 bytes at once, of which the token takes 100"
    for call in (
        lambda: mac.sign(bytes(MOST + 1)),
        lambda: key.encrypt_gcm(bytes(12), bytes(MOST + 1), b""),
    ):
        with pytest.raises(MechanismUnsupportedError, match=refused):
            call()


def test_what_a_stranger_sends_too_long_is_bad_and_no_outage(token: Token) -> None:
    """It cannot be from here, so nothing is the matter with the token."""
    keys = KeyMaker(token)
    mac, key = token.mac_key(keys.hmac(bytes(32))), token.aes_key(keys.aes(VALUE))
    long = bytes(MOST + 1)
    assert not mac.verify(long, hmac.digest(bytes(32), long, hashlib.sha256))
    with pytest.raises(DataRejectedError, match="101 bytes are more than the token takes at once"):
        key.decrypt_gcm(bytes(12), long, b"")
    with pytest.raises(DataRejectedError):
        token.wrapping_key(keys.aes(VALUE, WRAP)).unwrap(bytes(MOST + 4))


def test_a_long_forgery_is_a_token_of_somebody_else(token: Token) -> None:
    made = KeyMaker(token)
    keys = SymmetricKeys(encryption=token.aes_key(made.aes(VALUE)), mac=token.mac_key(made.hmac(bytes(32))))

    class Ring:
        def primary(self) -> SymmetricKeys:
            return keys

        def candidates(self) -> Sequence[SymmetricKeys]:
            return (keys,)

    assert TokenKeys(Ring(), "issuer", os.urandom).verify(bytes(3000), bytes(32)) is None
