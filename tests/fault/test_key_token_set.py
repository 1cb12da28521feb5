"""Several tokens with the same keys: load spread over them, failover when one is away, different keys found out."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from pkcs11 import Attribute

from hsm_msl.backend.derived import SoftwareDerivationKey
from hsm_msl.backend.pkcs11.token import Token, open_token
from hsm_msl.backend.pkcs11.vendors import SOFTHSM
from hsm_msl.backend.rota import Mode, Rota
from hsm_msl.backend.software import SoftwareAesKey, software_mac_key
from hsm_msl.backend.token_set import RETRY_SECONDS, TokenSet
from hsm_msl.crypto.public_key import PublicKey
from hsm_msl.errors import (
    BackendConfigurationError,
    BackendUnavailableError,
    DataRejectedError,
    KeyNotFoundError,
    KeyPolicyError,
)
from hsm_msl.ports import MacAlgorithm, RsaPadding, SignatureScheme
from key_backends import rsa_pair, spki
from token_fixture import CIPHER, MAC, WRAP, Forge, KeyMaker, TestToken

MASTER_VALUE = bytes(range(100, 116))
AES_VALUE, MAC_VALUE, KEK_VALUE = bytes(range(16)), bytes(range(32)), bytes(range(16, 32))
SCHEME = SignatureScheme.RSA_PKCS1_SHA256


@dataclass
class Pair:
    """Two open tokens with the same keys, and the set of them."""

    made: list[TestToken]
    tokens: list[Token]
    keys: list[KeyMaker]
    together: TokenSet

    def take_away(self, index: int) -> Path:
        directory = self.made[index].directory
        away = directory.parent.parent / f"{self.made[index].label}.away"
        directory.rename(away)
        return away

    def wait_for(self, index: int) -> None:
        deadline = time.monotonic() + 15
        while True:
            try:
                assert self.tokens[index].mac_key("mac").sign(b"")
                return
            except (BackendUnavailableError, BackendConfigurationError):
                assert time.monotonic() < deadline
                time.sleep(0.02)


@pytest.fixture
def pair(forge: Forge) -> Iterator[Pair]:
    made = [forge.initialise() for _ in range(2)]
    tokens = [open_token(forge.module, one.selector, one.pin, SOFTHSM) for one in made]
    keys = [KeyMaker(token) for token in tokens]
    for maker in keys:
        maker.aes(AES_VALUE, CIPHER, label="aes")
        maker.hmac(MAC_VALUE, label="mac")
        maker.aes(KEK_VALUE, WRAP, label="kek")
        maker.rsa(rsa_pair(), (Attribute.SIGN,), label="rsa")
    yield Pair(made, tokens, keys, TokenSet([lambda: tokens[0], lambda: tokens[1]]))
    for token in tokens:
        token.close()


def test_calls_go_round(pair: Pair) -> None:
    mac = pair.together.mac_key("mac")
    expected = software_mac_key(MAC_VALUE, MacAlgorithm.HMAC_SHA256)
    members = [mac.spread.on(index) for index in range(2)]
    before = [member.target.uses for member in members]  # type: ignore[attr-defined]
    for number in range(20):
        data = bytes([number])
        assert mac.sign(data) == expected.sign(data)
        assert mac.verify(data, expected.sign(data))
    used = [member.target.uses - uses for member, uses in zip(members, before, strict=True)]  # type: ignore[attr-defined]
    assert used == [20, 20]


def test_failover_keeps_to_the_first_token_that_answers(pair: Pair) -> None:
    mac = TokenSet([lambda: pair.tokens[0], lambda: pair.tokens[1]], Mode.FAILOVER).mac_key("mac")
    members = [mac.spread.on(index) for index in range(2)]
    before = [member.target.uses for member in members]  # type: ignore[attr-defined]
    for _ in range(20):
        mac.sign(b"data")
    used = [member.target.uses - uses for member, uses in zip(members, before, strict=True)]  # type: ignore[attr-defined]
    assert used == [20, 0]


def test_a_token_that_failed_is_asked_last_and_probed_by_one_caller() -> None:
    """A token that hangs costs a deadline per probe and not per message."""
    now = [0.0]
    rota = Rota(3, Mode.FAILOVER, lambda: now[0])
    assert rota.order() == [0, 1, 2]
    rota.failed(0)
    assert rota.order() == [1, 2, 0]
    now[0] += 1.0
    assert [rota.order() for _ in range(3)] == [[0, 1, 2], [1, 2, 0], [1, 2, 0]]
    rota.answered(0)
    assert rota.order() == [0, 1, 2]
    turning = Rota(2, Mode.SPREAD, lambda: now[0])
    assert [turning.order() for _ in range(3)] == [[0, 1], [1, 0], [0, 1]]


def test_what_one_token_made_and_wrapped_is_had_from_the_others_when_it_is_away(pair: Pair) -> None:
    """The session keys of token residency, and the dialog's key exchange keys."""
    together = pair.together
    kek, exchange = together.wrapping_key("kek"), together.exchange_keys()
    aes, mac, made = together.generate_aes(16), together.generate_mac(32), exchange.generate(32)
    kek.wrap_key(aes)
    kek.wrap_key(mac)
    made.wrap_under(kek)

    def use() -> tuple[bytes, bytes, bytes]:
        return aes.encrypt_ecb(bytes(16)), mac.sign(b"data"), made.wrap(bytes(16))

    expected = use()
    for index in range(2):
        away = pair.take_away(index)
        pair.tokens[index].connection.module.reinitialize()
        try:
            for _ in range(4):
                assert use() == expected
        finally:
            away.rename(pair.made[index].directory)
            pair.tokens[index].connection.module.reinitialize()
        pair.wait_for(index)


def test_the_keys_of_the_dialog_and_of_derived_fleets(pair: Pair) -> None:
    for maker in pair.keys:
        maker.rsa(rsa_pair(), (Attribute.UNWRAP,), label="kek-rsa")
        maker.aes(MASTER_VALUE, (Attribute.ENCRYPT, Attribute.DERIVE), label="master")
    together = pair.together
    opener, how = together.unwrapping_key("kek-rsa"), RsaPadding.OAEP_SHA1
    exchange = together.exchange_keys()
    made = exchange.generate(32)
    opened = [opener.unwrap_exchange(made.wrap_for_rsa(opener.public_key, how), how, 32) for _ in range(2)]
    agreed = exchange.wrapping_key(bytes(range(32)))
    under = agreed.unwrap_wrapping(made.wrap_under(agreed))
    assert {key.unwrap(made.wrap(bytes(32))) for key in (*opened, under)} == {bytes(32)}
    packing = together.rsa_wrapping_key("kek-rsa")
    mac = together.generate_mac(32)
    assert packing.unwrap_mac(packing.wrap_key(mac), MacAlgorithm.HMAC_SHA256).sign(b"data") == mac.sign(b"data")
    master, software = together.derivation_key("master"), SoftwareDerivationKey(MASTER_VALUE)
    for _ in range(2):
        derived = master.derive_aes(b"label", b"context", 16), software.derive_aes(b"label", b"context", 16)
        assert derived[0].encrypt_ecb(bytes(16)) == derived[1].encrypt_ecb(bytes(16))
    tags = master.derive_mac(b"label", b"context", 32, MacAlgorithm.HMAC_SHA256)
    assert tags.sign(b"x") == software.derive_mac(b"label", b"context", 32, MacAlgorithm.HMAC_SHA256).sign(b"x")
    wrapping = master.derive_wrapping(b"label", b"context", 16)
    assert software.derive_wrapping(b"label", b"context", 16).unwrap(wrapping.wrap(bytes(16))) == bytes(16)


def test_a_token_that_is_away_is_passed_over_and_taken_back(pair: Pair) -> None:
    """Not one error: every call is answered by the other token; afterwards both work again."""
    together = pair.together
    aes, mac, kek, rsa = (
        together.aes_key("aes"),
        together.mac_key("mac"),
        together.wrapping_key("kek"),
        together.signing_key("rsa"),
    )
    session_key = kek.unwrap_aes(kek.wrap(AES_VALUE))
    software = SoftwareAesKey(AES_VALUE)
    verifier = PublicKey(spki(rsa_pair()))

    def work() -> None:
        data = os.urandom(32)
        assert aes.encrypt_cbc(bytes(16), data) == software.encrypt_cbc(bytes(16), data)
        assert mac.verify(data, mac.sign(data))
        assert kek.unwrap(kek.wrap(data)) == data
        assert session_key.encrypt_ecb(data) == software.encrypt_ecb(data)
        assert verifier.verify(data, rsa.sign(data, SCHEME), SCHEME)

    work()
    away = pair.take_away(0)
    try:
        for _ in range(20):
            work()
    finally:
        away.rename(pair.made[0].directory)
    deadline = time.monotonic() + 15
    while True:
        work()
        try:
            assert mac.spread.on(0).sign(b"")
            break
        except BackendUnavailableError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_when_every_token_is_away_it_is_an_outage(pair: Pair) -> None:
    mac = pair.together.mac_key("mac")
    away = [pair.take_away(index) for index in range(2)]
    try:
        with pytest.raises(BackendUnavailableError):
            mac.sign(b"")
    finally:
        for index, path in enumerate(away):
            path.rename(pair.made[index].directory)
    deadline = time.monotonic() + 15
    while True:
        try:
            assert mac.sign(b"")
            break
        except BackendUnavailableError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_set_starts_while_one_token_is_away(pair: Pair, forge: Forge) -> None:
    absent, tries, now = [True], [0], [0.0]

    def opener() -> Token:
        tries[0] += 1
        if absent[0]:
            raise BackendUnavailableError("away")
        return pair.tokens[0]

    together = TokenSet([opener, lambda: pair.tokens[1]], monotonic=lambda: now[0])
    mac = together.mac_key("mac")
    tag = mac.sign(b"data")
    assert [mac.sign(b"data") for _ in range(40)] == [tag] * 40
    assert tries == [1]  # opening takes time, so it is not tried for every message
    absent[0] = False
    now[0] += RETRY_SECONDS
    assert mac.spread.on(0).sign(b"data") == tag

    def nobody() -> Token:
        raise BackendUnavailableError("away")

    with pytest.raises(BackendUnavailableError):
        TokenSet([nobody, nobody])
    with pytest.raises(BackendConfigurationError):
        TokenSet([])


@pytest.mark.parametrize("kind", ["aes", "mac", "kek", "rsa"])
def test_different_keys_under_one_name_are_found_out(pair: Pair, kind: str) -> None:
    """Before one token makes what the other cannot open (field notes F25)."""
    other = bytes(range(64, 80))
    for index, maker in enumerate(pair.keys):
        values = [AES_VALUE, other][index]
        if kind == "aes":
            maker.aes(values, CIPHER, label="twin")
        elif kind == "mac":
            maker.hmac(values * 2, label="twin")
        elif kind == "kek":
            maker.aes(values, WRAP, label="twin")
        else:
            private = [rsa_pair(), rsa.generate_private_key(public_exponent=65537, key_size=2048)][index]
            maker.rsa(private, (Attribute.SIGN,), label="twin")
    together = pair.together
    finder = {
        "aes": together.aes_key,
        "mac": together.mac_key,
        "kek": together.wrapping_key,
        "rsa": together.signing_key,
    }[kind]
    with pytest.raises(BackendConfigurationError, match="check values differ"):
        finder("twin")


def test_a_key_that_one_token_lacks_is_told_at_the_start_and_survived_later(pair: Pair) -> None:
    pair.keys[0].aes(AES_VALUE, CIPHER, label="single")
    with pytest.raises(KeyNotFoundError):
        pair.together.aes_key("single")
    aes = pair.together.aes_key("aes")
    pair.keys[1].destroy("aes")
    for _ in range(6):
        assert aes.encrypt_ecb(bytes(16)) == SoftwareAesKey(AES_VALUE).encrypt_ecb(bytes(16))


def test_bad_input_is_refused_by_the_first_token_that_sees_it(pair: Pair) -> None:
    kek = pair.together.wrapping_key("kek")
    for _ in range(4):
        with pytest.raises(DataRejectedError):
            kek.unwrap(bytes(24))
        with pytest.raises(DataRejectedError):
            kek.unwrap_aes(bytes(24))


def test_session_keys_made_in_one_token_of_the_set(pair: Pair) -> None:
    together = pair.together
    kek = together.wrapping_key("kek")
    for _ in range(4):
        made, tags = together.generate_aes(16), together.generate_mac(32)
        assert kek.unwrap_aes(kek.wrap_key(made)).encrypt_ecb(bytes(16)) == made.encrypt_ecb(bytes(16))
        again = kek.unwrap_mac(kek.wrap_key(tags), MacAlgorithm.HMAC_SHA256)
        assert again.verify(b"data", tags.sign(b"data"))
    with pytest.raises(KeyPolicyError):
        kek.wrap_key(together.aes_key("aes"))
    assert len(together.wrap_for(together.generate_aes(16), spki(rsa_pair()), RsaPadding.OAEP_SHA1)) == 256
    with pytest.raises(KeyPolicyError):
        together.wrap_for(together.aes_key("aes"), spki(rsa_pair()), RsaPadding.OAEP_SHA1)
    assert len(together.random(8)) == 8
    assert "AES_CBC" in together.mechanisms()
    assert set(MAC) & set(WRAP) == set()
