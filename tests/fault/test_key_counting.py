"""What is counted about a real token: calls by purpose, version, operation and result, and how it comes back."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import pytest

from hsm_msl.backend.operations import BOUNDS, OTHER, Operations, Use, add, cumulated, no_latency, seconds
from hsm_msl.backend.pkcs11.token import Token, open_token
from hsm_msl.backend.pkcs11.vendors import SOFTHSM
from hsm_msl.errors import BackendUnavailableError
from token_fixture import WRAP, Forge, KeyMaker, TestToken

VALUE = bytes(range(32))


@pytest.fixture
def uses() -> dict[str, Use]:
    return {}


@pytest.fixture
def operations(uses: dict[str, Use]) -> Operations:
    return Operations(lambda label: uses.get(label, OTHER))


@pytest.fixture
def token(forge: Forge, fresh_token: TestToken, operations: Operations) -> Iterator[Token]:
    token = open_token(forge.module, fresh_token.selector, fresh_token.pin, SOFTHSM, operations=operations)
    yield token
    token.close()


def counts(operations: Operations) -> Counter[tuple[Use, str, str]]:
    found: Counter[tuple[Use, str, str]] = Counter()
    for use, operation, result, latency in operations.rows():
        found[use, operation, result] += cumulated(latency)[-1]
    return found


def test_calls_are_counted_by_use_operation_and_result(
    token: Token, operations: Operations, uses: dict[str, Use]
) -> None:
    keys = KeyMaker(token)
    mine = keys.hmac(VALUE)
    uses[mine] = ("mine", "v1")
    mac = token.mac_key(mine)
    aes = token.aes_key(keys.aes(VALUE[:16]))
    kek = token.wrapping_key(keys.aes(VALUE[:16], WRAP))
    before = counts(operations)
    for _ in range(3):
        mac.sign(b"data")
    aes.encrypt_cbc(bytes(16), bytes(16))
    session_key = kek.unwrap_aes(kek.wrap(VALUE[:16]))
    session_key.encrypt_ecb(bytes(16))
    token.random(8)
    assert counts(operations) - before == Counter(
        {
            (("mine", "v1"), "sign", "ok"): 3,
            (OTHER, "encrypt", "ok"): 1,
            (OTHER, "wrap", "ok"): 1,
            (("session", ""), "make", "ok"): 1,
            (("session", ""), "encrypt", "ok"): 1,
            (OTHER, "random", "ok"): 1,
        }
    )


def test_an_outage_is_counted_as_one_and_the_way_back_by_its_stage(
    token: Token, operations: Operations, fresh_token: TestToken
) -> None:
    mac = token.mac_key(KeyMaker(token).hmac(VALUE))
    assert token.status().up
    assert token.pin_flags() == frozenset()
    away = fresh_token.directory.parent.parent / f"{fresh_token.label}.away"
    fresh_token.directory.rename(away)
    with pytest.raises(BackendUnavailableError):
        mac.sign(b"data")
    status = token.status()
    assert not status.up
    assert (status.outages, status.returns) == (1, 0)
    assert counts(operations)[OTHER, "sign", "unavailable"] == 1
    away.rename(fresh_token.directory)
    deadline = time.monotonic() + 10
    while not token.status().up:
        assert time.monotonic() < deadline, "not recovered"
        time.sleep(0.05)
        try:
            mac.sign(b"data")
        except BackendUnavailableError:
            continue
    status = token.status()
    assert (status.outages, status.returns) == (1, 1)
    assert status.reconnects["log in again"] + status.reconnects["reload"] >= 1
    assert status.sessions["busy"] == 0
    assert status.sessions["idle"] >= 1
    assert counts(operations)[OTHER, "sign", "ok"] >= 1


def test_a_histogram_holds_every_duration() -> None:
    latency = no_latency()
    for nanoseconds in (0, 1, 16_000, 16_384, 1_000_000, 20_000_000_000):
        add(latency, nanoseconds)
    found = cumulated(latency)
    assert found[0] == 3
    assert found[1] == 4
    assert found[-2] == 5
    assert found[-1] == 6
    assert len(found) == len(BOUNDS) + 1
    assert seconds(latency) == pytest.approx(20.001032385)
