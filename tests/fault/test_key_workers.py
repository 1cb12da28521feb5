"""Tokens in processes of their own: what a hang, a crash and a refused PIN cost; and no key is in the service."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from pkcs11 import Attribute

from hsm_msl.backend.pkcs11.recovery import Stage
from hsm_msl.backend.pkcs11.token import open_token
from hsm_msl.backend.pkcs11.vendors import SOFTHSM
from hsm_msl.backend.workers import WorkerSpec, WorkerToken, open_worker_token
from hsm_msl.backend.workers.process import Worker
from hsm_msl.backend.workers.protocol import Answer, Call, OnToken, TokenItself
from hsm_msl.errors import (
    BackendConfigurationError,
    BackendUnavailableError,
    KeyNotFoundError,
    KeyPolicyError,
    MechanismUnsupportedError,
    UsageError,
)
from hsm_msl.ports import MacAlgorithm, RsaPadding
from hsm_msl.ports.dialog import ExchangeKey, ExchangeKeys, UnwrappingKey
from key_backends import rsa_pair, spki
from memory_scan import find_in_memory, forms_of
from token_fixture import WRAP, Forge, KeyMaker, TestToken

KEK_VALUE = bytes(range(16))


@pytest.fixture
def kek_label(forge: Forge, fresh_token: TestToken) -> Iterator[str]:
    """A wrapping key on ``fresh_token``."""
    token = open_token(forge.module, fresh_token.selector, fresh_token.pin, SOFTHSM)
    yield KeyMaker(token).aes(KEK_VALUE, WRAP)
    token.close()


@pytest.fixture
def token(forge: Forge, fresh_token: TestToken) -> Iterator[WorkerToken]:
    """``fresh_token``, held by two workers that must answer within two seconds."""
    opened = open_worker_token(fresh_token.worker_spec(forge), count=2, deadline_seconds=2)
    wait_until(lambda: opened.pool.size == 2)
    yield opened
    opened.close()


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def pids(token: WorkerToken) -> list[int]:
    return token.pool.workers()


def test_a_stuck_worker_costs_one_call_its_deadline(token: WorkerToken, kek_label: str) -> None:
    """The module hangs: the caller hears of an outage in time, the process is replaced, the next call works."""
    key = token.wrapping_key(kek_label)
    for pid in pids(token):
        os.kill(pid, signal.SIGSTOP)
    started = time.monotonic()
    with pytest.raises(BackendUnavailableError, match="no answer"):
        key.wrap(bytes(16))
    assert time.monotonic() - started < 3
    wait_until(lambda: works(key))
    assert token.pool.replaced >= 1


def works(key: object) -> bool:
    try:
        assert key.unwrap(key.wrap(bytes(16))) == bytes(16)  # type: ignore[attr-defined]
    except BackendUnavailableError:
        return False
    return True


def test_a_dead_worker_costs_nobody_an_error(token: WorkerToken, kek_label: str) -> None:
    """The call is done by another worker, unwrapped keys included: they are named by what they are unwrapped from."""
    key = token.wrapping_key(kek_label)
    session_key = key.unwrap_aes(key.wrap(bytes(32)))
    before = session_key.encrypt_ecb(bytes(16))
    for _ in range(3):
        os.kill(pids(token)[0], signal.SIGKILL)
        assert key.unwrap(key.wrap(bytes(16))) == bytes(16)
        assert session_key.encrypt_ecb(bytes(16)) == before
        wait_until(lambda: token.pool.size == 2)


class Heard:
    """Keeps what it hears of a token (``RecoveryObserver``)."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def about(self, label: str) -> Heard:
        self.said.append(label)
        return self

    def recovered(self, stage: Stage) -> None:
        raise AssertionError("workers have no stages")

    def out_of_service(self, reason: str) -> None:
        self.said.append(reason)

    def in_service(self) -> None:
        self.said.append("in service")


def test_an_outage_of_the_last_worker_is_told_with_its_reason(
    forge: Forge, fresh_token: TestToken, kek_label: str
) -> None:
    heard = Heard()
    token = open_worker_token(fresh_token.worker_spec(forge), count=1, deadline_seconds=1, observer=heard.about)
    key = token.wrapping_key(kek_label)
    assert token.pin_flags() == frozenset()
    assert fresh_token.label in token.status().identity
    away = fresh_token.directory.parent.parent / f"{fresh_token.label}.away"
    fresh_token.directory.rename(away)
    os.kill(pids(token)[0], signal.SIGKILL)
    with pytest.raises(BackendUnavailableError):
        key.wrap(bytes(16))
    assert heard.said == [fresh_token.label, "the token's worker ended"]
    wait_until(lambda: "no token" in str(token.status().reason))
    assert (token.status().up, token.status().outages, token.status().returns) == (False, 1, 0)
    away.rename(fresh_token.directory)
    wait_until(lambda: token.status().up)
    assert works(key)
    assert token.status().reason is None
    assert heard.said[2:] == ["in service"]
    token.close()


def test_an_outage_inside_the_workers_is_told_like_any_other(
    forge: Forge, fresh_token: TestToken, kek_label: str
) -> None:
    """The processes live, and their token is away: that is no token in service."""
    heard = Heard()
    token = open_worker_token(fresh_token.worker_spec(forge), count=2, deadline_seconds=3, observer=heard.about)
    wait_until(lambda: token.pool.size == 2)
    key = token.wrapping_key(kek_label)
    away = fresh_token.directory.parent.parent / f"{fresh_token.label}.away"
    fresh_token.directory.rename(away)
    wait_until(lambda: not works(key) and not token.status().up)
    assert "no token" in str(token.status().reason)
    assert token.status().outages == 1
    assert len(pids(token)) == 2
    away.rename(fresh_token.directory)
    wait_until(lambda: works(key) and token.status().up)
    assert (token.status().returns, token.status().reason) == (1, None)
    assert [said for said in heard.said[1:] if "no token" not in said] == ["in service"]
    token.close()


def test_what_a_worker_made_is_gone_with_it(token: WorkerToken, kek_label: str) -> None:
    made = token.generate_aes(16)
    assert made.encrypt_ecb(bytes(16))
    for pid in pids(token):
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(BackendUnavailableError, match="lost with its worker"):
        made.encrypt_ecb(bytes(16))


def test_what_a_worker_made_and_wrapped_outlives_it(forge: Forge, fresh_token: TestToken, kek_label: str) -> None:
    """A session whose keys lie in its master token goes on with another worker."""
    token = open_worker_token(fresh_token.worker_spec(forge), count=2, deadline_seconds=30)
    key = token.wrapping_key(kek_label)
    aes, mac = token.generate_aes(16), token.generate_mac(32)
    key.wrap_key(aes)
    key.wrap_key(mac)
    exchange = token.exchange_keys().generate(16)
    exchange.wrap_under(key)
    expected = aes.encrypt_ecb(bytes(16)), mac.sign(b"data"), exchange.wrap(bytes(16))
    for _ in range(2):
        for pid in pids(token):
            os.kill(pid, signal.SIGKILL)
        assert (aes.encrypt_ecb(bytes(16)), mac.sign(b"data"), exchange.wrap(bytes(16))) == expected
        wait_until(lambda: token.pool.size == 2)
    token.close()


def test_made_keys_nobody_holds_are_forgotten(token: WorkerToken) -> None:
    for _ in range(20):
        token.generate_aes(16)
    held = token.generate_aes(16)
    for _ in range(4):
        token.random(1)
    assert len(token.pool._forgotten) < 20
    assert held.encrypt_ecb(bytes(16))


def test_a_worker_that_unwrapped_enough_is_replaced_without_anybody_noticing(
    forge: Forge, fresh_token: TestToken, kek_label: str
) -> None:
    """SoftHSMv2 loses 250 bytes with every unwrapped key (field notes section 7)."""
    spec = msgspec.structs.replace(fresh_token.worker_spec(forge), recycle_after=10)
    token = open_worker_token(spec, count=2, deadline_seconds=20)
    wait_until(lambda: token.pool.size == 2)
    first = set(pids(token))
    key = token.wrapping_key(kek_label)
    wrapped = key.wrap(bytes(16))
    until = time.monotonic() + 30
    while token.pool.replaced < 3:
        assert time.monotonic() < until
        assert key.unwrap(wrapped) == bytes(16)
        assert token.pool.size >= 2  # the next one is up before the worn one goes
    assert not first & set(pids(token))
    token.close()


def test_a_worn_worker_stays_for_what_only_it_has(forge: Forge, fresh_token: TestToken, kek_label: str) -> None:
    """A key that was made and not yet wrapped is on its way into an answer; the worker goes when it is not needed."""
    spec = msgspec.structs.replace(fresh_token.worker_spec(forge), recycle_after=1)
    token = open_worker_token(spec, count=1, deadline_seconds=20)
    (first,) = pids(token)
    made = token.generate_aes(16)
    key = token.wrapping_key(kek_label)
    wait_until(lambda: len(pids(token)) == 2)
    assert token.pool.size == 1
    expected = made.encrypt_ecb(bytes(16))
    assert key.unwrap_aes(key.wrap_key(made)).encrypt_ecb(bytes(16)) == expected
    assert first in pids(token)
    del made
    wait_until(lambda: bool(token.random(1)) and first not in pids(token))
    token.close()


def test_a_refused_pin_is_not_tried_by_one_process_after_another(
    forge: Forge, fresh_token: TestToken, kek_label: str, tmp_path: Path
) -> None:
    """Each process would forget what the last one learned; so the pool remembers for them."""
    opener, reads = tmp_path / "opener", tmp_path / "reads"
    opener.write_text(f"#!/bin/sh\necho x >>{reads}\ncat {fresh_token.pin_file}\n")
    opener.chmod(0o700)
    spec = WorkerSpec(forge.module.path, label=fresh_token.label, pin=f"exec:{opener}", profile="softhsm")
    token = open_worker_token(spec, count=1, deadline_seconds=5)
    key = token.wrapping_key(kek_label)
    fresh_token.pin_file.write_text("wrong\n")
    before = len(reads.read_text().splitlines())
    os.kill(pids(token)[0], signal.SIGKILL)
    for _ in range(20):
        with pytest.raises(BackendConfigurationError, match="refuses the PIN"):
            key.wrap(bytes(16))
    assert len(reads.read_text().splitlines()) == before + 1
    token.close()


def test_a_source_of_the_pin_that_is_away_for_a_moment_is_an_outage_with_an_end(
    forge: Forge, fresh_token: TestToken, kek_label: str
) -> None:
    token = open_worker_token(fresh_token.worker_spec(forge), count=1, deadline_seconds=2)
    key = token.wrapping_key(kek_label)
    away = fresh_token.pin_file.rename(fresh_token.pin_file.with_suffix(".away"))
    os.kill(pids(token)[0], signal.SIGKILL)
    with pytest.raises(BackendConfigurationError, match="PIN file"):
        key.wrap(bytes(16))
    away.rename(fresh_token.pin_file)
    wait_until(lambda: token.status().up)
    assert works(key)
    token.close()


def test_a_new_worker_takes_no_other_key_for_the_one_that_was_loaded(forge: Forge, fresh_token: TestToken) -> None:
    here = open_token(forge.module, fresh_token.selector, fresh_token.pin, SOFTHSM)
    keys = KeyMaker(here)
    keys.hmac(bytes(range(32)), label="mac.v1")
    token = open_worker_token(fresh_token.worker_spec(forge), count=1, deadline_seconds=10)
    key = token.mac_key("mac.v1")
    before = key.sign(b"")
    with here.connection.login.token.open(rw=True) as session:
        for found in list(session.get_objects({Attribute.LABEL: "mac.v1"})):
            found.destroy()
    for pid in pids(token):
        os.kill(pid, signal.SIGKILL)
    # and not: there is no such key
    with pytest.raises(BackendUnavailableError, match=r"nor any other key|not for this key"):
        key.sign(b"")
    keys.hmac(bytes(range(1, 33)), label="mac.v1")
    with pytest.raises(BackendConfigurationError, match="not the key it was"):
        key.sign(b"")
    assert token.mac_key("mac.v1").sign(b"") != before  # loaded again
    with pytest.raises(BackendConfigurationError, match="not the key it was"):
        key.sign(b"")
    token.close()
    here.close()


def test_what_is_too_large_for_a_worker_costs_none(token: WorkerToken, kek_label: str) -> None:
    before = pids(token)
    with pytest.raises(MechanismUnsupportedError, match="at once"):
        token.pool.run(Call(TokenItself(), "random", [bytes(1 << 26)]))
    assert pids(token) == before
    assert works(token.wrapping_key(kek_label))


def test_a_call_that_ends_workers_is_shown_to_two(forge: Forge, fresh_token: TestToken) -> None:
    token = open_worker_token(fresh_token.worker_spec(forge), count=4, deadline_seconds=10)
    wait_until(lambda: token.pool.size == 4)
    first = set(pids(token))
    deadly = Call(TokenItself(), "random", [1], {}, [OnToken("no role")])
    send = Worker.call

    def shot(worker: Worker, call: bytes, deadline: float) -> Answer:
        if b"no role" in call:
            os.kill(worker.pid, signal.SIGKILL)
        return send(worker, call, deadline)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Worker, "call", shot)
        with pytest.raises(BackendUnavailableError, match="2 token workers ended"):
            token.pool.run(deadly)
    assert len(first & set(pids(token))) == 2
    wait_until(lambda: token.pool.size == 4)
    token.close()


def test_a_call_that_waited_long_is_not_the_end_of_a_worker(forge: Forge, fresh_token: TestToken) -> None:
    token = open_worker_token(fresh_token.worker_spec(forge), count=1, deadline_seconds=1.0)
    before = pids(token)
    send = Worker.call

    def slowly(worker: Worker, call: bytes, deadline: float) -> Answer:
        os.kill(worker.pid, signal.SIGSTOP)
        threading.Timer(0.6, os.kill, (worker.pid, signal.SIGCONT)).start()
        return send(worker, call, deadline)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Worker, "call", slowly)
        callers = [threading.Thread(target=token.random, args=(8,)) for _ in range(2)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    assert pids(token) == before
    assert token.pool.replaced == 0
    token.close()


def test_a_worker_that_cannot_open_its_token_says_why(forge: Forge, fresh_token: TestToken) -> None:
    good = fresh_token.worker_spec(forge)
    for spec, told in (
        (WorkerSpec(good.module, label="absent", pin=good.pin), "no token"),
        (WorkerSpec("/absent.so", label=good.label, pin=good.pin), "No such file"),
        (WorkerSpec(good.module, label=good.label, pin="file:/absent"), "PIN file"),
        (WorkerSpec(good.module, label=good.label, pin=good.pin, profile="absent"), "no vendor profile"),
    ):
        with pytest.raises(BackendConfigurationError, match=told):
            open_worker_token(spec)


def test_refusals_keep_their_names_on_the_way(token: WorkerToken, kek_label: str) -> None:
    with pytest.raises(KeyNotFoundError):
        token.aes_key("absent")
    with pytest.raises(KeyPolicyError):
        token.aes_key(kek_label)
    with pytest.raises(UsageError):
        token.random(0)
    for verb in ("__class__", "close", "connection", "unwrap_key"):
        with pytest.raises(UsageError, match="no such call"):
            token.pool.run(Call(TokenItself(), verb))


def test_a_closed_token_leaves_no_process(forge: Forge, fresh_token: TestToken) -> None:
    token = open_worker_token(fresh_token.worker_spec(forge), count=2)
    wait_until(lambda: token.pool.size == 2)
    running = pids(token)
    token.close()
    assert not [pid for pid in running if Path(f"/proc/{pid}").exists()]
    with pytest.raises(BackendUnavailableError, match="closed"):
        token.random(1)


def test_key_exchange_keys_of_the_dialog(worker_token: WorkerToken, keys: KeyMaker) -> None:
    makers, opener = (
        worker_token.exchange_keys(),
        worker_token.unwrapping_key(keys.rsa(rsa_pair(), (Attribute.UNWRAP,))),
    )
    made = makers.generate(32)
    assert isinstance(makers, ExchangeKeys)
    assert isinstance(made, ExchangeKey)
    assert isinstance(opener, UnwrappingKey)
    how = RsaPadding.OAEP_SHA1
    received = opener.unwrap_exchange(made.wrap_for_rsa(opener.public_key, how), how, 32)
    assert received.unwrap(made.wrap(bytes(32))) == bytes(32)
    agreed = bytes(range(32))
    opened = makers.wrapping_key(agreed)
    pool = worker_token.pool
    assert pool is opened.pool
    session = worker_token.generate_mac(32, MacAlgorithm.HMAC_SHA256)
    assert len(worker_token.wrap_for(session, spki(rsa_pair()), how)) == 256


SERVICE = """
import sys
from hsm_msl.backend.workers import WorkerSpec, open_worker_token
from hsm_msl.ports import MacAlgorithm, SignatureScheme
module, label, pin, aes, mac, kek, rsa = sys.argv[1:]
token = open_worker_token(WorkerSpec(module, label=label, pin=pin, profile="softhsm"), deadline_seconds=20)
keys = token.aes_key(aes), token.mac_key(mac), token.wrapping_key(kek), token.signing_key(rsa)
for _ in range(50):
    keys[0].encrypt_cbc(bytes(16), bytes(64)), keys[1].sign(b"x")
    keys[3].sign(b"x", SignatureScheme.RSA_PKCS1_SHA256)
    keys[2].unwrap_aes(keys[2].wrap_key(token.generate_aes(16))).encrypt_ecb(bytes(16))
print("ready", flush=True)
sys.stdin.readline()
token.close()
"""


def test_no_key_and_no_pin_is_in_the_memory_of_the_service(
    forge: Forge, fresh_token: TestToken, tmp_path: Path
) -> None:
    """Proof of confinement: the whole memory of a process that used every key, searched for all of their values."""
    token = open_token(forge.module, fresh_token.selector, fresh_token.pin, SOFTHSM)
    maker = KeyMaker(token)
    values = {"aes": os.urandom(16), "mac": os.urandom(32), "kek": os.urandom(16)}
    private = rsa_pair().private_numbers()
    labels = [
        maker.aes(values["aes"]),
        maker.hmac(values["mac"]),
        maker.aes(values["kek"], WRAP),
        maker.rsa(rsa_pair(), (Attribute.SIGN,)),
    ]
    for name, number in (("d", private.d), ("p", private.p), ("q", private.q)):
        values[name] = number.to_bytes((number.bit_length() + 7) // 8, "big")
    values["pin"] = fresh_token.pin_file.read_bytes().strip()
    wanted = {form: text for name, value in values.items() for form, text in forms_of(name, value).items()}
    spec = fresh_token.worker_spec(forge)
    service = subprocess.Popen(
        [sys.executable, "-c", SERVICE, spec.module, fresh_token.label, str(spec.pin), *labels],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert service.stdout is not None
        assert service.stdout.readline() == "ready\n"
        assert find_in_memory(service.pid, wanted) == set()
        assert find_in_memory(service.pid, {"label": labels[0].encode()}) == {"label"}  # the search does search
        assert "aes" in find_in_memory(os.getpid(), wanted)
    finally:
        service.communicate("\n", timeout=30)
    token.close()


def test_calls_for_public_halves_are_counted_and_their_outages_are_outages(
    forge: Forge, fresh_token: TestToken
) -> None:
    """What reads a public half is a property, and no function of a name."""
    here = open_token(forge.module, fresh_token.selector, fresh_token.pin, SOFTHSM)
    label = KeyMaker(here).rsa(rsa_pair(), (Attribute.SIGN,))
    here.close()
    token = open_worker_token(fresh_token.worker_spec(forge), count=1, deadline_seconds=1)
    key = token.signing_key(label)
    assert {(row.operation, row.result) for row in token.status().operations.rows()} == {
        ("find", "ok"),
        ("read", "ok"),
    }
    os.kill(pids(token)[0], signal.SIGSTOP)
    with pytest.raises(BackendUnavailableError):
        key.octets("public_key")
    assert ("read", "unavailable") in {(row.operation, row.result) for row in token.status().operations.rows()}
    token.close()
