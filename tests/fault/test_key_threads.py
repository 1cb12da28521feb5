"""Threads and forks on a real token: the plain binding crashes within a fifth of a second under two threads."""

from __future__ import annotations

import dataclasses
import gc
import os
import signal
import threading
import time
from collections.abc import Callable

import pytest
from pkcs11 import Attribute

from hsm_msl.backend.pkcs11.token import Token, open_token
from hsm_msl.backend.pkcs11.vendors import SOFTHSM
from hsm_msl.backend.software import SoftwareAesKey, software_mac_key
from hsm_msl.errors import BackendUnavailableError
from hsm_msl.ports import MacAlgorithm
from key_backends import rsa_pair
from token_fixture import WRAP, Forge, KeyMaker, TestToken

AES_VALUE, MAC_VALUE = bytes(range(16)), bytes(range(32))
MESSAGE = bytes(range(256))
TAG = software_mac_key(MAC_VALUE, MacAlgorithm.HMAC_SHA256).sign(MESSAGE)
CIPHERTEXT = SoftwareAesKey(AES_VALUE).encrypt_cbc(bytes(16), MESSAGE)


def run_threads(count: int, body: Callable[[int], None]) -> None:
    """Run ``body`` in threads at once and raise what any of them raised."""
    failures: list[BaseException] = []
    start = threading.Barrier(count)

    def guarded(number: int) -> None:
        try:
            start.wait()
            body(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    if failures:
        raise failures[0]


def test_two_threads_ten_thousand_operations_each(hsm_token: Token, keys: KeyMaker) -> None:
    """Keys on the token and in a session, every answer checked."""
    mac = hsm_token.mac_key(keys.hmac(MAC_VALUE))
    aes = hsm_token.aes_key(keys.aes(AES_VALUE))
    kek = hsm_token.wrapping_key(keys.aes(AES_VALUE, WRAP))
    unwrapped = kek.unwrap_aes(kek.wrap(AES_VALUE))

    def body(number: int) -> None:
        for _ in range(2500):
            assert mac.sign(MESSAGE) == TAG
            assert aes.encrypt_cbc(bytes(16), MESSAGE) == CIPHERTEXT
            assert unwrapped.decrypt_cbc(bytes(16), CIPHERTEXT) == MESSAGE
            assert mac.verify(MESSAGE, TAG)

    run_threads(2, body)


def test_threads_that_make_and_drop_session_keys(hsm_token: Token, keys: KeyMaker) -> None:
    """Dropped keys are destroyed, whatever thread the collector runs in, and none that is still held."""
    kek = hsm_token.wrapping_key(keys.aes(AES_VALUE, WRAP))
    wrapped = kek.wrap(AES_VALUE)
    held = kek.unwrap_aes(wrapped)

    def body(number: int) -> None:
        for _ in range(100):
            key = kek.unwrap_aes(wrapped)
            assert key.encrypt_cbc(bytes(16), MESSAGE) == CIPHERTEXT
            loop = [key]
            loop.append(loop)  # type: ignore[arg-type]  # only the collector can free it
            del key, loop

    run_threads(4, body)
    gc.collect()
    kek.unwrap_aes(wrapped)
    kek.unwrap_aes(wrapped)
    with keys.session() as session:
        left = list(session.get_objects({Attribute.TOKEN: False}))
    assert len(left) < 60
    assert held.encrypt_cbc(bytes(16), MESSAGE) == CIPHERTEXT


def test_more_threads_than_sessions_share_them(forge: Forge, fresh_token: TestToken) -> None:
    token = open_token(forge.module, fresh_token.selector, fresh_token.pin, SOFTHSM, sessions=2)
    mac = token.mac_key(KeyMaker(token).hmac(MAC_VALUE))

    def body(number: int) -> None:
        for _ in range(200):
            assert mac.sign(MESSAGE) == TAG

    run_threads(12, body)
    assert token.connection.pool.open_sessions <= 2
    token.close()


def test_a_module_that_stands_one_call_at_a_time_gets_one(forge: Forge, fresh_token: TestToken) -> None:
    """Keys on the token, in sessions and the recovery take turns, whatever the number of sessions and threads."""
    profile = dataclasses.replace(SOFTHSM, one_call=True)
    token = open_token(forge.module, fresh_token.selector, fresh_token.pin, profile)
    maker = KeyMaker(token)
    mac = token.mac_key(maker.hmac(MAC_VALUE))
    kek = token.wrapping_key(maker.aes(AES_VALUE, WRAP))
    session_keys = [kek.unwrap_aes(kek.wrap(AES_VALUE)) for _ in range(4)]
    inside, most = [0], [0]

    def alone(handle: object) -> None:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.0005)
        inside[0] -= 1

    def body(number: int) -> None:
        for _ in range(20):
            mac.target.call(alone)
            session_keys[number % 4].target.call(alone)
            assert mac.sign(MESSAGE) == TAG
            assert session_keys[number % 4].encrypt_cbc(bytes(16), MESSAGE) == CIPHERTEXT
            if number == 0:
                token.connection.pool.renew()

    run_threads(8, body)
    assert most == [1]
    token.close()


def test_a_caller_that_gets_no_session_is_told_in_time(forge: Forge, fresh_token: TestToken) -> None:
    token = open_token(forge.module, fresh_token.selector, fresh_token.pin, SOFTHSM, sessions=1, wait_seconds=0.05)
    lease = token.connection.pool.take()
    started = time.monotonic()
    with pytest.raises(BackendUnavailableError, match="no token session became free"):
        token.random(1)
    assert time.monotonic() - started < 1
    token.connection.pool.give(lease)
    assert token.random(1)
    token.close()


def in_child(body: Callable[[], None]) -> int:
    """Run ``body`` in a forked child and return its exit code; a child that hangs is killed and counts as -1."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            body()
            code = 0
        finally:
            os._exit(code)
    for _ in range(3000):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -1


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_logs_in_by_itself_and_the_parent_goes_on(forge: Forge, fresh_token: TestToken) -> None:
    """A prefork server: keys found before the fork work in every child."""
    token = open_token(forge.module, fresh_token.selector, fresh_token.pin, SOFTHSM)
    maker = KeyMaker(token)
    mac = token.mac_key(maker.hmac(MAC_VALUE))
    kek = token.wrapping_key(maker.aes(AES_VALUE, WRAP))
    unwrapped = kek.unwrap_aes(kek.wrap(AES_VALUE))
    generation = forge.module.generation

    def child() -> None:
        assert mac.sign(MESSAGE) == TAG
        assert unwrapped.encrypt_cbc(bytes(16), MESSAGE) == CIPHERTEXT
        assert token.connection.forked is False

    for _ in range(3):
        assert in_child(child) == 0
        assert mac.sign(MESSAGE) == TAG
    assert forge.module.generation == generation
    token.close()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forks_in_the_middle_of_other_threads_calls(forge: Forge, fresh_token: TestToken) -> None:
    """The parent holds its calls still while it forks: no child inherits a locked mutex (field notes section 7)."""
    token = open_token(forge.module, fresh_token.selector, fresh_token.pin, SOFTHSM)
    maker = KeyMaker(token)
    mac = token.mac_key(maker.hmac(MAC_VALUE))
    signer = token.signing_key(maker.rsa(rsa_pair(), (Attribute.SIGN,)))
    stop = threading.Event()
    wrong: list[object] = []

    def hammer() -> None:
        while not stop.is_set():
            try:
                if mac.sign(MESSAGE) != TAG:
                    wrong.append("a wrong tag")
            except BaseException as error:
                wrong.append(error)

    def child() -> None:
        assert mac.sign(MESSAGE) == TAG
        assert signer.public_key

    threads = [threading.Thread(target=hammer) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        codes = [in_child(child) for _ in range(8)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert codes == [0] * 8
    assert not wrong
    token.close()
