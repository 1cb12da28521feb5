"""Logging in: once, never with a PIN that might be the last try, never twice with a refused one, and in silence."""

from __future__ import annotations

import contextlib
import gc
import logging
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import cast

import pkcs11
import pytest
from pkcs11 import TokenFlag
from pkcs11.exceptions import PKCS11Error

from hsm_msl.backend.pin import FilePin, Pin
from hsm_msl.backend.pkcs11 import login as logins
from hsm_msl.backend.pkcs11.cryptoki import CryptokiError, User
from hsm_msl.backend.pkcs11.login import Login
from hsm_msl.backend.pkcs11.token import Token, open_token
from hsm_msl.backend.pkcs11.vendors import SOFTHSM
from hsm_msl.errors import BackendConfigurationError, BackendUnavailableError
from token_fixture import Forge, KeyMaker, TestToken


@dataclass
class LoginCounter:
    """Counts what reaches C_Login."""

    tries: int = 0


@pytest.fixture
def counter(forge: Forge, monkeypatch: pytest.MonkeyPatch) -> LoginCounter:
    counted, original = LoginCounter(), forge.module.cryptoki.login

    def login(session: int, user: User, pin: Pin | bytes | None) -> None:
        counted.tries += 1
        original(session, user, pin)

    monkeypatch.setattr(forge.module.cryptoki, "login", login)
    return counted


def write_pin(made: TestToken, pin: str) -> None:
    made.pin_file.write_text(pin + "\n")


def test_a_process_logs_in_once(forge: Forge, fresh_token: TestToken, counter: LoginCounter) -> None:
    first = open_token(forge.module, fresh_token.selector, fresh_token.pin, SOFTHSM)
    for _ in range(20):
        first.connection.login.ensure()
    second = Login(forge.module, forge.module.token(label=fresh_token.label), fresh_token.pin)
    second.ensure()  # logged in already is as good
    assert second.proved()
    assert counter.tries == 1
    first.close()


def test_a_refused_pin_is_tried_once_until_the_source_gives_another(
    forge: Forge, fresh_token: TestToken, counter: LoginCounter
) -> None:
    right = fresh_token.pin_file.read_text().strip()
    login = Login(forge.module, forge.module.token(label=fresh_token.label), fresh_token.pin)
    write_pin(fresh_token, "wrong")
    for _ in range(5):
        with pytest.raises(BackendConfigurationError, match="refuse"):
            login.ensure()
    assert counter.tries == 1
    write_pin(fresh_token, "wrong too")
    with pytest.raises(BackendConfigurationError, match="CKR_PIN_INCORRECT"):
        login.ensure()
    assert counter.tries == 2
    write_pin(fresh_token, right)
    login.ensure()
    assert login.proved()
    assert counter.tries == 3
    login.close()


def test_a_service_that_lost_its_login_does_not_hammer_a_changed_pin(
    forge: Forge, fresh_token: TestToken, counter: LoginCounter
) -> None:
    """The PIN was changed and the file not: one try, then an open breaker, and work again when the file is right."""
    right = fresh_token.pin_file.read_text().strip()
    token = open_token(forge.module, fresh_token.selector, fresh_token.pin, SOFTHSM)
    key = token.aes_key(KeyMaker(token).aes(bytes(16)))
    write_pin(fresh_token, "outdated")
    forge.module.cryptoki.close_all_sessions(token.connection.token.slot.slot_id)
    before = counter.tries
    for _ in range(50):
        with pytest.raises(BackendConfigurationError):
            key.encrypt_ecb(bytes(16))
    assert counter.tries == before + 1
    write_pin(fresh_token, right)
    deadline = time.monotonic() + 10
    while True:
        try:
            assert key.encrypt_ecb(bytes(16))
            break
        except (BackendConfigurationError, BackendUnavailableError):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    token.close()


GOOD = TokenFlag.TOKEN_INITIALIZED | TokenFlag.USER_PIN_INITIALIZED


def flagged(flags: TokenFlag) -> pkcs11.Token:
    """A token that shows flags SoftHSMv2 never shows (field notes M25)."""
    token = SimpleNamespace(label="flagged", serial=b"1", flags=flags, open=lambda rw: SimpleNamespace(handle=1))
    token.slot = SimpleNamespace(get_token=lambda: token)
    return cast(pkcs11.Token, token)


@pytest.mark.parametrize(
    ("flags", "user", "told"),
    [
        (GOOD | TokenFlag.USER_PIN_LOCKED, User.USER, "locked"),
        (GOOD | TokenFlag.USER_PIN_FINAL_TRY, User.USER, "one more wrong PIN"),
        (GOOD | TokenFlag.USER_PIN_TO_BE_CHANGED, User.USER, "must be changed"),
        (TokenFlag.TOKEN_INITIALIZED, User.USER, "no user PIN yet"),
        (TokenFlag(0), User.USER, "not initialised"),
        (GOOD | TokenFlag.SO_PIN_LOCKED, User.SECURITY_OFFICER, "locked"),
        (GOOD | TokenFlag.SO_PIN_FINAL_TRY, User.SECURITY_OFFICER, "for good"),
    ],
)
def test_a_try_that_could_lock_the_token_is_not_made(
    forge: Forge,
    fresh_token: TestToken,
    counter: LoginCounter,
    monkeypatch: pytest.MonkeyPatch,
    flags: TokenFlag,
    user: User,
    told: str,
) -> None:
    logged_out = SimpleNamespace(user_logged_in=False, state=0)
    monkeypatch.setattr(forge.module.cryptoki, "session_info", lambda session: logged_out)
    login = Login(forge.module, flagged(flags), fresh_token.pin, user=user)
    with pytest.raises(BackendConfigurationError, match=told):
        login.ensure()
    assert counter.tries == 0


def test_parallel_starts_are_patient_with_general_errors(
    forge: Forge, fresh_token: TestToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    """5 of 60 processes that started together got CKR_GENERAL_ERROR (field notes section 1); it is no refused PIN."""
    original, failures = forge.module.cryptoki.login, iter([0x05, 0x30])

    def login(session: int, user: User, pin: Pin | bytes | None) -> None:
        for code in failures:
            raise CryptokiError("C_Login", code)
        original(session, user, pin)

    pauses: list[float] = []
    monkeypatch.setattr(forge.module.cryptoki, "login", login)
    monkeypatch.setattr(logins.time, "sleep", pauses.append)
    token = open_token(forge.module, fresh_token.selector, fresh_token.pin, SOFTHSM)
    assert token.connection.login.proved()
    assert len(pauses) == 2
    token.close()


@pytest.fixture
def secret(fresh_token: TestToken) -> str:
    return fresh_token.pin_file.read_text().strip()


@pytest.fixture
def everything_said(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Callable[[], str]:
    caplog.set_level(logging.DEBUG)

    def said() -> str:
        out = capfd.readouterr()
        return caplog.text + out.out + out.err

    return said


def test_the_pin_is_said_nowhere(
    forge: Forge, fresh_token: TestToken, secret: str, everything_said: Callable[[], str]
) -> None:
    """Not in logs, output, representations of any reachable object, or tracebacks with local variables."""
    shown: list[str] = []

    def attempt(what: Callable[[], object]) -> None:
        try:
            what()
        except Exception as error:
            shown.extend(told_by(error))

    token = open_token(forge.module, fresh_token.selector, fresh_token.pin, SOFTHSM)
    key = token.aes_key(KeyMaker(token).aes(bytes(16)))
    write_pin(fresh_token, secret + "x")  # nearly right, so that its beginning gives it away
    attempt(Login(forge.module, forge.module.token(label=fresh_token.label), fresh_token.pin).ensure)
    forge.module.cryptoki.close_all_sessions(token.connection.token.slot.slot_id)
    attempt(lambda: key.encrypt_ecb(bytes(16)))
    attempt(lambda: key.encrypt_ecb(bytes(16)))
    fresh_token.pin_file.chmod(0o644)
    attempt(FilePin(fresh_token.pin_file).read)
    assert shown
    shown.append(everything_said())
    shown.extend(repr(found) for found in reachable(token))
    assert not [text for text in shown if secret in text]
    token.close()


def told_by(error: BaseException | None) -> Iterator[str]:
    """Yield what a traceback with local variables shows, causes included."""
    while error is not None:
        yield str(error)
        for frame, _ in traceback.walk_tb(error.__traceback__):
            for value in frame.f_locals.values():
                with contextlib.suppress(PKCS11Error):  # the binding asks the token for a key's representation
                    yield repr(value)
        error = error.__context__


def reachable(root: Token) -> list[object]:
    """Return every object of ours that can be reached from an open token."""
    found: dict[int, object] = {}
    waiting: list[object] = [root]
    while waiting:
        thing = waiting.pop()
        if id(thing) in found or isinstance(thing, type) or len(found) > 20_000:
            continue
        found[id(thing)] = thing
        module = type(thing).__module__
        if module.startswith(("hsm_msl", "pkcs11")) or module == "builtins":
            waiting.extend(gc.get_referents(thing))
    ours = [thing for thing in found.values() if type(thing).__module__.startswith("hsm_msl")]
    return [thing for thing in ours if not isinstance(thing, pkcs11.Object)]  # the binding names its classes after us
