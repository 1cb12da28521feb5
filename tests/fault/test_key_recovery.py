"""Every way a token loses something, injected into a real one: what the keys do meanwhile and how they come back.

Between fault and recovery a call may only say BackendUnavailableError: everything else would end up as a verdict
about a peer or as a call for an operator.
"""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pkcs11
import pytest
from cryptography.hazmat.primitives.asymmetric import padding as rsa_padding
from pkcs11 import Attribute

from hsm_msl.backend.pkcs11.keepalive import KeepAlive
from hsm_msl.backend.pkcs11.module import Module
from hsm_msl.backend.pkcs11.recovery import Stage
from hsm_msl.backend.pkcs11.token import Token, open_token
from hsm_msl.backend.pkcs11.vendors import SOFTHSM
from hsm_msl.backend.software import SoftwareAesKey, software_mac_key
from hsm_msl.errors import (
    BackendConfigurationError,
    BackendUnavailableError,
    DataRejectedError,
    KeyNotFoundError,
)
from hsm_msl.ports import AesKey, DecryptionKey, MacAlgorithm, MacKey, RsaPadding, WrappingKey
from key_backends import rsa_pair
from token_fixture import WRAP, Forge, KeyMaker, TestToken

LONGEST = 10.0
AES_VALUE, MAC_VALUE, KEK_VALUE = bytes(range(16)), bytes(range(32)), bytes(range(16, 32))


@dataclass
class Transitions:
    """What a connection tells its observer."""

    stages: list[Stage] = field(default_factory=list)
    service: list[str] = field(default_factory=list)

    def recovered(self, stage: Stage) -> None:
        self.stages.append(stage)

    def out_of_service(self, reason: str) -> None:
        self.service.append("out")

    def in_service(self) -> None:
        self.service.append("in")


@dataclass
class World:
    """An open token with one key of each kind."""

    made: TestToken
    token: Token
    keys: KeyMaker
    mac_label: str
    aes: AesKey
    mac: MacKey
    wrapping: WrappingKey
    unwrapped: AesKey
    decryption: DecryptionKey
    transitions: Transitions

    @property
    def module(self) -> Module:
        return self.token.connection.module

    def calls(self) -> list[Callable[[], bool]]:
        """One call per key; each tells whether its answer is right."""
        message = os.urandom(40)
        tag = software_mac_key(MAC_VALUE, MacAlgorithm.HMAC_SHA256).sign(message)
        block = SoftwareAesKey(AES_VALUE).encrypt_ecb(message[:16])
        sealed = rsa_pair().public_key().encrypt(message, rsa_padding.PKCS1v15())
        return [
            lambda: self.mac.verify(message, tag),
            lambda: self.aes.decrypt_ecb(block) == message[:16],
            lambda: self.unwrapped.encrypt_ecb(message[:16]) == block,
            lambda: self.wrapping.unwrap(self.wrapping.wrap(message)) == message,
            lambda: self.decryption.decrypt(sealed, RsaPadding.PKCS1) == message,
            lambda: len(self.token.random(8)) == 8,
        ]

    def on_token(self) -> list[Callable[[], bool]]:
        """The calls that need the token's own keys; keys in a session and random bytes outlive its directory."""
        mac, aes, _, wrapping, decryption, _ = self.calls()
        return [mac, aes, wrapping, decryption]

    def recover(self) -> float:
        """Call every key until it answers; return the seconds until the last did."""
        started = time.monotonic()
        for call in self.calls():
            while True:
                try:
                    assert call()
                    break
                except BackendUnavailableError:
                    assert time.monotonic() - started < LONGEST, "not recovered"
                    time.sleep(0.005)
        return time.monotonic() - started


@pytest.fixture
def world(forge: Forge, fresh_token: TestToken) -> Iterator[World]:
    transitions = Transitions()
    token = open_token(forge.module, fresh_token.selector, fresh_token.pin, SOFTHSM, observer=transitions)
    keys = KeyMaker(token)
    mac_label = keys.hmac(MAC_VALUE)
    wrapping = token.wrapping_key(keys.aes(KEK_VALUE, WRAP))
    yield World(
        made=fresh_token,
        token=token,
        keys=keys,
        mac_label=mac_label,
        aes=token.aes_key(keys.aes(AES_VALUE)),
        mac=token.mac_key(mac_label),
        wrapping=wrapping,
        unwrapped=wrapping.unwrap_aes(wrapping.wrap(AES_VALUE)),
        decryption=token.decryption_key(keys.rsa(rsa_pair(), (Attribute.DECRYPT,))),
        transitions=transitions,
    )
    token.close()


def slot_of(world: World) -> int:
    slot: int = world.token.connection.token.slot.slot_id
    return slot


def take_away(world: World) -> Path:
    """Move the token's directory out of the store, as an unplugged device; return where it is."""
    away = world.made.directory.parent.parent / f"{world.made.label}.away"
    world.made.directory.rename(away)
    return away


def log_out(world: World) -> None:
    with world.keys.session() as session:
        world.module.cryptoki.logout(session.handle)  # type: ignore[attr-defined]


def close_one_session(world: World) -> None:
    lease = world.token.connection.pool.take()
    world.module.cryptoki.close_session(lease.session.handle)  # type: ignore[attr-defined]
    world.token.connection.pool.give(lease)


def close_all_sessions(world: World) -> None:
    world.module.cryptoki.close_all_sessions(slot_of(world))


def finalise_the_module(world: World) -> None:
    world.module.cryptoki.finalize()


FAULTS = [log_out, close_one_session, close_all_sessions, finalise_the_module]


@pytest.mark.parametrize("inject", FAULTS)
def test_what_was_lost_comes_back_within_the_call_that_finds_out(
    world: World, inject: Callable[[World], None]
) -> None:
    """Lost login, lost sessions and a finalised module cost the first call some milliseconds and nobody an error."""
    assert world.recover() < 1
    inject(world)
    for call in world.calls():
        assert call()  # no error at all
    assert world.token.connection.recovery.available


def test_a_token_directory_gone_and_back(world: World) -> None:
    """While it is gone every answer is the transient one; soon after it is back everything works."""
    world.recover()
    away = take_away(world)
    try:
        for _ in range(3):
            for call in world.on_token():
                with pytest.raises(BackendUnavailableError):
                    call()
    finally:
        away.rename(world.made.directory)
    assert world.recover() < LONGEST


def test_an_absent_token_is_answered_for_quickly_and_told_once(world: World) -> None:
    """The breaker: no reload per call, one report per transition (field notes F4, F6)."""
    away = take_away(world)
    world.module.cryptoki.finalize()
    call = world.calls()[0]
    try:
        with pytest.raises(BackendUnavailableError):
            call()
        assert not world.token.connection.recovery.available
        generation, started = world.module.generation, time.monotonic()
        for _ in range(200):
            with pytest.raises(BackendUnavailableError, match="out of service"):
                call()
        assert time.monotonic() - started < 2
        assert world.module.generation <= generation + 4
        assert world.transitions.service == ["out"]
    finally:
        away.rename(world.made.directory)
    world.recover()
    assert world.transitions.service == ["out", "in"]


def test_a_key_replaced_by_the_same_key_is_found_again(world: World) -> None:
    world.recover()
    world.keys.destroy(world.mac_label)
    world.keys.hmac(MAC_VALUE)
    fresh = world.keys.hmac(MAC_VALUE)
    assert fresh != world.mac_label
    again = World(**{**vars(world), "mac": world.token.mac_key(fresh)})
    again.recover()


def replace(world: World, value: bytes) -> None:
    """Put another key under the name of the MAC key, as a careless operator would."""
    common = {
        Attribute.CLASS: pkcs11.ObjectClass.SECRET_KEY,
        Attribute.KEY_TYPE: pkcs11.KeyType.GENERIC_SECRET,
        Attribute.TOKEN: True,
        Attribute.PRIVATE: True,
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: False,
        Attribute.SIGN: True,
        Attribute.VERIFY: True,
        Attribute.WRAP: False,
        Attribute.UNWRAP: False,
        Attribute.ENCRYPT: False,
        Attribute.DECRYPT: False,
        Attribute.DERIVE: False,
        Attribute.LABEL: world.mac_label,
        Attribute.ID: world.mac_label.encode(),
        Attribute.VALUE: value,
    }
    world.keys.destroy(world.mac_label)
    world.keys.create(common)


def test_a_key_put_back_under_its_name_is_used_again(world: World) -> None:
    replace(world, MAC_VALUE)
    assert world.recover() < 1


def test_another_key_under_the_name_is_never_used(world: World) -> None:
    """A handle or a name may come to stand for another key; its check value tells (field notes F5)."""
    replace(world, bytes(32))
    for _ in range(3):
        with pytest.raises(BackendConfigurationError, match="not the key it was"):
            world.mac.sign(b"")
    assert world.aes.encrypt_ecb(bytes(16))
    assert world.token.connection.recovery.available


def test_one_missing_key_does_not_take_the_others_along(world: World) -> None:
    """The login and the other keys are proved first, and the module is not reloaded under everybody."""
    world.recover()
    world.keys.destroy(world.mac_label)
    generation = world.module.generation
    for _ in range(20):
        with pytest.raises(KeyNotFoundError):
            world.mac.sign(b"")
    assert world.module.generation == generation
    assert world.token.connection.recovery.available
    assert world.calls()[1]()


def test_a_lost_login_never_looks_like_a_missing_key(world: World) -> None:
    """Without a login a search finds nothing (field notes M19, F1)."""
    label = world.keys.aes(os.urandom(16))
    log_out(world)
    assert world.token.aes_key(label).encrypt_ecb(bytes(16))
    log_out(world)
    with pytest.raises(KeyNotFoundError):
        world.token.aes_key("no such key")
    assert world.token.connection.login.proved()


def test_a_device_error_is_tried_again_and_then_given_up_for_now(world: World) -> None:
    """No software token shows CKR_DEVICE_ERROR, so the operation raises what the binding would."""
    target = world.mac.target  # type: ignore[attr-defined]
    failures = iter([pkcs11.DeviceError(), pkcs11.DeviceError()])

    def flaky(handle: object) -> str:
        for failure in failures:
            raise failure
        return "answer"

    assert target.call(flaky) == "answer"
    assert world.transitions.stages == [Stage.FIND, Stage.LOGIN]

    def broken(handle: object) -> str:
        raise pkcs11.DeviceError

    with pytest.raises(BackendUnavailableError):
        target.call(broken)
    world.recover()


def test_bad_input_does_not_drive_the_recovery(world: World) -> None:
    """A peer must not be able to make the token reload by sending rubbish that SoftHSMv2 calls a general error."""
    epoch, generation = world.token.connection.epoch, world.module.generation
    for number in range(50):
        with pytest.raises(DataRejectedError):
            world.wrapping.unwrap(bytes(24 + 8 * (number % 3)))
        with pytest.raises(DataRejectedError):
            world.aes.decrypt_gcm(bytes(12), os.urandom(32), b"")
        with pytest.raises(DataRejectedError):
            world.decryption.decrypt(os.urandom(255) + b"\0", RsaPadding.OAEP_SHA1)
    assert (world.token.connection.epoch, world.module.generation) == (epoch, generation)
    assert not world.transitions.stages


def test_bad_input_while_the_login_is_lost_is_still_judged_as_input(world: World) -> None:
    """And an outage while input is judged stays an outage, which the next test shows."""
    log_out(world)
    with pytest.raises(DataRejectedError):
        world.wrapping.unwrap(bytes(24))
    log_out(world)
    with pytest.raises(DataRejectedError):
        world.aes.decrypt_gcm(bytes(12), bytes(32), b"")


def test_good_and_bad_input_without_a_token_are_both_an_outage(world: World) -> None:
    good = world.wrapping.wrap(bytes(16))
    away = take_away(world)
    try:
        for wrapped in (good, bytes(24)):
            with pytest.raises(BackendUnavailableError):
                world.wrapping.unwrap(wrapped)
    finally:
        away.rename(world.made.directory)
    world.recover()


def test_a_reload_moves_slots_and_no_token_is_taken_for_another(forge: Forge) -> None:
    """SoftHSMv2 gives tokens other slot numbers when the module starts again; an old one may be another token's."""
    made = [forge.initialise() for _ in range(3)]
    tokens = [open_token(forge.module, one.selector, one.pin, SOFTHSM) for one in made]
    for number, token in enumerate(tokens):
        KeyMaker(token).hmac(bytes([number]) * 32, label="same name")
    macs = [token.mac_key("same name") for token in tokens]
    slots = [token.connection.token.slot.slot_id for token in tokens]
    for _ in range(2):
        forge.module.reinitialize()
        for number, mac in enumerate(macs):
            expected = software_mac_key(bytes([number]) * 32, MacAlgorithm.HMAC_SHA256)
            assert mac.sign(b"data") == expected.sign(b"data")
            assert tokens[number].connection.login.proved()
    assert [token.connection.token.slot.slot_id for token in tokens] != slots
    for token in tokens:
        token.close()


def test_an_idle_token_is_called_now_and_then_and_heals_before_anybody_asks(
    forge: Forge, fresh_token: TestToken
) -> None:
    """Field notes F3: modules that drop sessions after 15 seconds of silence."""
    profile = dataclasses.replace(SOFTHSM, keep_alive_seconds=0.02)
    transitions = Transitions()
    token = open_token(forge.module, fresh_token.selector, fresh_token.pin, profile, observer=transitions)
    forge.module.cryptoki.close_all_sessions(token.connection.token.slot.slot_id)
    deadline = time.monotonic() + LONGEST
    while not transitions.stages:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert transitions.stages == [Stage.LOGIN]
    assert token.connection.login.proved()
    token.close()
    assert "token-keep-alive" not in [thread.name for thread in threading.enumerate()]


class Spy:
    """A session that counts what it is asked."""

    def __init__(self, session: object, asked: list[object]) -> None:
        self._session = session
        self._asked = asked

    def generate_random(self, bits: int) -> object:
        self._asked.append(self)
        return self._session.generate_random(bits)  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> object:
        return getattr(self._session, name)


class Ticks(threading.Event):
    """Time for a keep-alive that passes when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Semaphore(0)
        self.passed = threading.Semaphore(0)
        self.seconds: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout)
        self.asked.release()
        self.passed.acquire()
        return self.is_set()


def test_every_idle_session_is_called_at_the_interval_of_the_profile(world: World) -> None:
    """Also those that calls never come to, and those that hold keys; a session the token forgot is replaced."""
    connection = world.token.connection
    world.recover()
    leases = [connection.pool.take() for _ in range(3)]
    asked: list[object] = []
    carriers = [*leases, *(home.lease for home in connection.homes._homes if home.lease is not None)]
    for lease in carriers:
        lease.session = Spy(lease.session, asked)  # type: ignore[assignment]
    for lease in leases:
        connection.pool.give(lease)
    ticks = Ticks()
    keeper = KeepAlive(connection.touch, 10.0, ticks)
    ticks.asked.acquire()
    assert not asked
    ticks.passed.release()
    ticks.asked.acquire()
    assert set(asked) == {lease.session for lease in carriers}
    assert len(carriers) >= 4
    close_all_sessions(world)
    ticks.passed.release()
    ticks.asked.acquire()
    assert connection.login.proved()
    assert world.transitions.stages == [Stage.LOGIN]
    ticks.set()
    ticks.passed.release()
    keeper.stop(30)
    assert set(ticks.seconds) == {10.0}
    world.recover()


def test_a_process_that_unwrapped_enough_says_so(forge: Forge, fresh_token: TestToken) -> None:
    """SoftHSMv2 never gives back 250 bytes of each unwrapped key; a service replaces its worker in time."""
    profile = dataclasses.replace(SOFTHSM, unwraps_per_process=3)
    token = open_token(forge.module, fresh_token.selector, fresh_token.pin, profile, renews_module=False)
    kek = token.wrapping_key(KeyMaker(token).aes(KEK_VALUE, WRAP))
    wrapped = kek.wrap(AES_VALUE)
    for expected in (False, True, True):  # the wrapping above took one
        kek.unwrap_aes(wrapped)
        assert token.connection.worn is expected
    token.close()


def test_a_key_made_in_a_session_and_wrapped_comes_back(world: World) -> None:
    """The session keys of token residency: once they lie in a master token, a lost session costs nobody an answer."""
    made, tags = world.token.generate_aes(16), world.token.generate_mac(32)
    for key in (made, tags):
        world.wrapping.wrap_key(key)
    expected = made.encrypt_ecb(bytes(16)), tags.sign(b"data")
    for inject in FAULTS:
        inject(world)
        assert (made.encrypt_ecb(bytes(16)), tags.sign(b"data")) == expected


def test_a_key_made_in_a_session_is_gone_with_it_and_says_so(world: World) -> None:
    made = world.token.generate_aes(16)
    assert made.encrypt_ecb(bytes(16))
    close_all_sessions(world)
    with pytest.raises(BackendUnavailableError, match="lost with its session"):
        made.encrypt_ecb(bytes(16))
    world.recover()
