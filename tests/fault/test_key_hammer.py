"""Threads in processes on one token, faults included: seconds here, half an hour with ``pytest -m soak``."""

from __future__ import annotations

import os

import pytest
from pkcs11 import Attribute

from hsm_msl.backend.pkcs11.token import Token, open_token
from hsm_msl.backend.pkcs11.vendors import SOFTHSM
from key_backends import rsa_pair
from key_hammer import AES_VALUE, KEK_VALUE, MAC_VALUE, HammerKeys, hammer
from token_fixture import WRAP, Forge, KeyMaker, TestToken

SOAK_SECONDS = float(os.environ.get("SOAK_SECONDS", "1800"))


def prepared(forge: Forge, made: TestToken) -> tuple[Token, HammerKeys]:
    token = open_token(forge.module, made.selector, made.pin, SOFTHSM)
    keys = KeyMaker(token)
    rsa = keys.rsa(rsa_pair(), (Attribute.SIGN,))
    return token, HammerKeys(keys.aes(AES_VALUE), keys.hmac(MAC_VALUE), keys.aes(KEK_VALUE, WRAP), rsa)


def run(forge: Forge, made: TestToken, *, seconds: float, threads: int, faults: bool) -> None:
    token, keys = prepared(forge, made)
    reports = hammer(made.label, made.pin_file, keys, seconds=seconds, processes=2, threads=threads, faults=faults)
    token.close()
    for report in reports:
        assert not report["failures"]
        assert sum(report["counts"].values()) > 100 * seconds
        if faults:
            assert report["counts"]["fault"] >= 2
            assert report["stages"]["LOGIN"] >= 1


@pytest.mark.parametrize("faults", [False, True])
def test_two_processes_of_four_threads(forge: Forge, fresh_token: TestToken, faults: bool) -> None:
    run(forge, fresh_token, seconds=3, threads=4, faults=faults)


def test_processes_that_start_together(forge: Forge, fresh_token: TestToken) -> None:
    """SoftHSMv2 rewrites the token at every login; a start at that moment used to see no token, or no PIN on it."""
    token, keys = prepared(forge, fresh_token)
    made = (fresh_token.label, fresh_token.pin_file, keys)
    reports = hammer(*made, seconds=0.2, processes=8, threads=1, faults=False)
    token.close()
    assert not [failure for report in reports for failure in report["failures"]]


@pytest.mark.soak
@pytest.mark.parametrize("faults", [False, True])
def test_half_an_hour_of_hammering(forge: Forge, fresh_token: TestToken, faults: bool) -> None:
    run(forge, fresh_token, seconds=SOAK_SECONDS / 2, threads=8, faults=faults)
