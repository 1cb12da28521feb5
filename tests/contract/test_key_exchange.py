"""Key exchange keys of the dialog in a token: made there, let out only wrapped, opened there (sections 4 and 10)."""

from __future__ import annotations

import os

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap, aes_key_wrap
from pkcs11 import Attribute, Mechanism

from hsm_msl.backend.pkcs11.exchange import TokenUnwrappingKey
from hsm_msl.backend.pkcs11.token import Token
from hsm_msl.errors import DataRejectedError, KeyPolicyError, MechanismUnsupportedError, UsageError
from hsm_msl.ports import RsaPadding
from hsm_msl.ports.dialog import ExchangeKey, ExchangeKeys, UnwrappingKey
from key_backends import ec_pair, rsa_pair, spki
from token_fixture import WRAP, KeyMaker

OAEP = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)


@pytest.fixture
def opener(hsm_token: Token, keys: KeyMaker) -> TokenUnwrappingKey:
    return hsm_token.unwrapping_key(keys.rsa(rsa_pair(), (Attribute.UNWRAP,)))


def opened(wrapped: bytes) -> bytes:
    """Open a key as a peer that holds the private key on its host."""
    return rsa_pair().decrypt(wrapped, OAEP)


def test_the_ports_are_met(hsm_token: Token, opener: TokenUnwrappingKey) -> None:
    makers = hsm_token.exchange_keys()
    assert isinstance(makers, ExchangeKeys)
    assert isinstance(makers.generate(32), ExchangeKey)
    assert isinstance(opener, UnwrappingKey)
    assert opener.public_key == spki(rsa_pair())


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("how", [RsaPadding.OAEP_SHA1, RsaPadding.PKCS1])
def test_a_key_made_here_reaches_the_peer(hsm_token: Token, size: int, how: RsaPadding) -> None:
    key = hsm_token.exchange_keys().generate(size)
    secret = os.urandom(32)
    wrapped = key.wrap_for_rsa(spki(rsa_pair()), how)
    value = opened(wrapped) if how is RsaPadding.OAEP_SHA1 else rsa_pair().decrypt(wrapped, padding.PKCS1v15())
    assert len(value) == size
    assert aes_key_unwrap(value, key.wrap(secret)) == secret


@pytest.mark.parametrize("size", [16, 32])
def test_a_key_of_a_peer_opens_here(opener: TokenUnwrappingKey, size: int) -> None:
    value, secret = os.urandom(size), os.urandom(32)
    key = opener.unwrap_exchange(rsa_pair().public_key().encrypt(value, OAEP), RsaPadding.OAEP_SHA1, size)
    assert key.unwrap(aes_key_wrap(value, secret)) == secret
    with pytest.raises(KeyPolicyError):  # the receiver's copy only opens
        key.wrap(secret)


def test_both_ends_in_one_token(hsm_token: Token, opener: TokenUnwrappingKey) -> None:
    made = hsm_token.exchange_keys().generate(32)
    received = opener.unwrap_exchange(
        made.wrap_for_rsa(opener.public_key, RsaPadding.OAEP_SHA1), RsaPadding.OAEP_SHA1, 32
    )
    assert received.unwrap(made.wrap(b"12345678" * 4)) == b"12345678" * 4


def test_the_ec_variant_wraps_under_an_agreed_key(hsm_token: Token) -> None:
    """Dialog section 10: ECDH and HKDF on the host, the key exchange key under the result."""
    makers = hsm_token.exchange_keys()
    agreed, secret = os.urandom(32), os.urandom(32)
    made = makers.generate(32)
    wrapped = made.wrap_under(makers.wrapping_key(agreed))
    value = aes_key_unwrap(agreed, wrapped)
    assert aes_key_unwrap(value, made.wrap(secret)) == secret
    assert makers.wrapping_key(agreed).unwrap_wrapping(wrapped).unwrap(made.wrap(secret)) == secret


def test_every_bad_key_is_refused_in_the_same_words(opener: TokenUnwrappingKey) -> None:
    public = rsa_pair().public_key()
    good = public.encrypt(os.urandom(32), OAEP)
    bad = [b"", good[:-1], bytes(256), good[:-1] + bytes([good[-1] ^ 1])]
    bad += [public.encrypt(os.urandom(size), OAEP) for size in (1, 16, 24, 31, 33, 64)]
    words = set()
    for wrapped in bad:
        with pytest.raises(DataRejectedError) as refusal:
            opener.unwrap_exchange(wrapped, RsaPadding.OAEP_SHA1, 32)
        words.add(str(refusal.value))
    assert len(words) == 1
    opener.unwrap_exchange(good, RsaPadding.OAEP_SHA1, 32)


def test_an_opened_key_keeps_to_the_token(hsm_token: Token, opener: TokenUnwrappingKey) -> None:
    """Read back from the token itself: sensitive, not extractable, one use."""
    wrapped = rsa_pair().public_key().encrypt(os.urandom(16), OAEP)
    key = opener.unwrap_exchange(wrapped, RsaPadding.OAEP_SHA1, 16)
    handle = key.target.call(lambda handle: handle)
    attributes = handle.get_attributes(
        [Attribute.SENSITIVE, Attribute.EXTRACTABLE, Attribute.UNWRAP, Attribute.DECRYPT]
    )
    assert attributes == {
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: False,
        Attribute.UNWRAP: True,
        Attribute.DECRYPT: False,
    }


def test_what_the_token_cannot_do_is_said(hsm_token: Token) -> None:
    key = hsm_token.exchange_keys().generate(16)
    with pytest.raises(MechanismUnsupportedError):  # SoftHSMv2 has OAEP with SHA-1 only
        key.wrap_for_rsa(spki(rsa_pair()), RsaPadding.OAEP_SHA256)


def test_mistakes_have_names(hsm_token: Token, keys: KeyMaker) -> None:
    makers = hsm_token.exchange_keys()
    for size in (0, 8, 64):
        with pytest.raises(UsageError):
            makers.generate(size)
        with pytest.raises(UsageError):
            makers.wrapping_key(bytes(size))
    key = makers.generate(16)
    for public in (b"", spki(ec_pair(ec.SECP256R1))):
        with pytest.raises(DataRejectedError):
            key.wrap_for_rsa(public, RsaPadding.OAEP_SHA1)
    on_token = hsm_token.wrapping_key(keys.aes(bytes(16), WRAP))
    with pytest.raises(KeyPolicyError):  # an opened key does not leave again
        on_token.wrap_key(on_token.unwrap_aes(on_token.wrap(bytes(16))))
    assert Mechanism.AES_KEY_WRAP in hsm_token.connection.mechanisms
