"""Guessing passwords is slowed down for whoever guesses, and for nobody else (msl-engine section 19, point 18)."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from hsm_msl.errors import ErrorCode, MslError, ResponseCode, StoreError
from hsm_msl.msl.userauth.attempts import FailedAttempts
from hsm_msl.msl.userauth.email_password import EmailPasswordScheme, email_password_data
from scheme_support import Hooks

DEVICE, USER, RIGHT = "device", "ada@example.org", "right"


class Time:
    now = 1e9

    def __call__(self) -> float:
        return self.now


class Directory:
    """Users who all have the same password; counts how often one was looked at."""

    def __init__(self) -> None:
        self.asked = 0

    def authenticate(self, email: str, password: str) -> str | None:
        self.asked += 1
        return email if password == RIGHT else None


class Guessing:
    def __init__(self, *, remembered: int = 1000) -> None:
        self.time, self.users = Time(), Directory()
        mutex = threading.Lock()
        attempts = FailedAttempts(self.time, most=3, per_hour=60.0, remembered=remembered, mutex=mutex)
        self.scheme = EmailPasswordScheme(self.users, Hooks(), attempts)

    def __call__(self, password: str = "wrong", user: str = USER, device: str = DEVICE) -> str | ErrorCode:
        try:
            return self.scheme.authenticate(email_password_data(user, password), device)
        except MslError as error:
            return error.code


@pytest.fixture
def guess() -> Guessing:
    return Guessing()


WRONG, LATER = ErrorCode.EMAILPASSWORD_INCORRECT, ErrorCode.INTERNAL_EXCEPTION


def test_after_some_failures_not_even_the_right_password_is_looked_at(guess: Guessing) -> None:
    assert [guess() for _ in range(3)] == [WRONG] * 3
    assert guess(RIGHT) is LATER
    assert LATER.response is ResponseCode.TRANSIENT_FAILURE
    assert guess.users.asked == 3


def test_time_forgives_one_by_one(guess: Guessing) -> None:
    for _ in range(3):
        guess()
    guess.time.now += 59
    assert guess(RIGHT) is LATER
    guess.time.now += 1
    assert guess() is WRONG
    assert guess() is LATER
    guess.time.now += 60
    assert guess(RIGHT) == USER


def test_the_right_password_forgives_all_of_its_own(guess: Guessing) -> None:
    for _ in range(10):
        assert (guess(), guess(), guess(RIGHT)) == (WRONG, WRONG, USER)


def test_others_are_not_slowed_down(guess: Guessing) -> None:
    while guess() is WRONG:
        pass
    assert guess(RIGHT, device="another") == USER
    assert guess(RIGHT, user="grace@example.org") == "grace@example.org"


def test_one_entity_guessing_at_many_users_is(guess: Guessing) -> None:
    results = [guess(user=f"user-{number}") for number in range(40)]
    assert (results.count(WRONG), results[-1]) == (30, LATER)
    assert guess(RIGHT, user="somebody else") is LATER


def test_many_entities_guessing_at_one_user_are(guess: Guessing) -> None:
    results = [guess(device=f"device-{number}") for number in range(40)]
    assert (results.count(WRONG), results[-1]) == (30, LATER)


def test_guesses_at_the_same_time_do_not_slip_through(guess: Guessing) -> None:
    barrier = threading.Barrier(8)

    def slow(email: str, password: str) -> str | None:
        del email, password
        return None

    guess.users.authenticate = slow  # type: ignore[method-assign]

    def one(_: int) -> object:
        barrier.wait(10)
        return guess()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(8))).count(WRONG) == 3


def test_no_verdict_is_no_failure(guess: Guessing) -> None:
    def away(email: str, password: str) -> str | None:
        raise StoreError("away")

    there = guess.users.authenticate
    guess.users.authenticate = away  # type: ignore[method-assign]
    for _ in range(9):
        with pytest.raises(StoreError):
            guess()
    guess.users.authenticate = there  # type: ignore[method-assign]
    assert guess(RIGHT) == USER


def test_a_clock_that_is_set_back_forgives_nothing(guess: Guessing) -> None:
    for _ in range(3):
        guess()
    guess.time.now -= 10_000
    assert guess() is LATER
    guess.time.now += 60
    assert guess() is WRONG


def test_what_is_remembered_is_bounded_and_who_guesses_stays_in_it() -> None:
    guess = Guessing(remembered=50)
    for _ in range(4):
        guess()
    for number in range(200):
        guess(user=f"user-{number}", device=f"device-{number}")
        assert guess() is LATER
    assert len(guess.scheme.attempts._buckets) <= 56  # type: ignore[union-attr]
