"""Users of another service, asked over real HTTP: down is a transient error and never a rejection (issue 3)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from hsm_msl.errors import ConfigurationError, ErrorCode, MslError, StoreError
from hsm_msl.service.circuit_breaker import CircuitBreaker
from hsm_msl.service.user_service import HttpUserService, Patience
from scheme_tokens import USER, TokenWorld
from user_directory import Directory

PIN = {"scheme": "PRIVATE_PIN", "authdata": {"pin": "1234", "ignored": "x"}}


@pytest.fixture
def directory() -> Iterator[Directory]:
    made = Directory(lambda question: USER if question["credentials"] == {"pin": "1234"} else None)
    yield made
    made.close()


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client() as made:
        yield made


def service(url: str, client: httpx.Client, **options: Any) -> HttpUserService:
    patience = Patience(timeout=options.pop("timeout", 5.0), tries=3, pause=0.0)
    return HttpUserService(url, client, patience=patience, **options)


def ask(made: HttpUserService, pin: str = "1234") -> str | None:
    return made.identify("PRIVATE_PIN", "device", {"pin": pin})


def test_a_user_is_proved_through_the_scheme(directory: Directory, client: httpx.Client) -> None:
    world = TokenWorld(service=service(directory.url, client))
    assert world.authenticate_user(PIN, "entity") == USER
    assert directory.questions == [{"scheme": "PRIVATE_PIN", "entity": "entity", "credentials": {"pin": "1234"}}]
    with pytest.raises(MslError) as caught:
        world.authenticate_user({"scheme": "PRIVATE_PIN", "authdata": {"pin": "0"}})
    assert caught.value.code is ErrorCode.USERAUTH_VERIFICATION_FAILED


@pytest.mark.parametrize("trouble", [503, 429, "drop"])
def test_a_passing_trouble_is_tried_again(directory: Directory, client: httpx.Client, trouble: int | str) -> None:
    directory.plan = [trouble, trouble]
    assert ask(service(directory.url, client)) == USER
    assert len(directory.questions) == 3


@pytest.mark.parametrize("trouble", [503, "drop"])
def test_a_lasting_trouble_is_no_verdict(directory: Directory, client: httpx.Client, trouble: int | str) -> None:
    directory.plan = [trouble] * 3
    world = TokenWorld(service=service(directory.url, client))
    with pytest.raises(StoreError):
        world.authenticate_user(PIN)
    assert len(directory.questions) == 3


@pytest.mark.parametrize("answer", [500, 401, 404, 302, "garbage"])
def test_an_answer_that_says_nothing_is_no_verdict_and_not_repeated(
    directory: Directory, client: httpx.Client, answer: int | str
) -> None:
    directory.plan = [answer]
    with pytest.raises(StoreError):
        ask(service(directory.url, client))
    assert len(directory.questions) == 1


def test_a_silent_service_costs_its_timeout_and_no_more(directory: Directory, client: httpx.Client) -> None:
    directory.plan = ["hang"] * 3
    with pytest.raises(StoreError, match="ReadTimeout"):
        ask(service(directory.url, client, timeout=0.05))


def test_nobody_at_home(client: httpx.Client) -> None:
    gone = Directory(lambda question: None)
    gone.close()
    with pytest.raises(StoreError, match="ConnectError"):
        ask(service(gone.url, client))


def test_the_circuit_opens_and_one_probe_closes_it(directory: Directory, client: httpx.Client) -> None:
    now = [0.0]
    breaker = CircuitBreaker(2, 10.0, monotonic=lambda: now[0])
    made = service(directory.url, client, breaker=breaker)
    directory.plan = [500, 500]
    for _ in range(2):
        with pytest.raises(StoreError):
            ask(made)
    assert breaker.open
    with pytest.raises(StoreError, match="not asked"):
        ask(made)
    assert len(directory.questions) == 2
    now[0] = 10.0
    directory.plan = [500]
    with pytest.raises(StoreError):
        ask(made)
    now[0] = 19.0
    with pytest.raises(StoreError, match="not asked"):
        ask(made)
    now[0] = 20.0
    assert ask(made) == USER
    assert not breaker.open
    # A refusal is an answer: it never opens the circuit.
    for _ in range(5):
        assert ask(made, "0") is None
    assert not breaker.open


def test_a_waiting_probe_admits_no_second() -> None:
    now = [0.0]
    breaker = CircuitBreaker(1, 10.0, monotonic=lambda: now[0])
    assert breaker.admit()
    breaker.failed()
    now[0] = 10.0
    assert breaker.admit()
    assert not breaker.admit()
    breaker.succeeded()
    assert breaker.admit()


def test_tries_are_spaced_further_and_further(directory: Directory, client: httpx.Client) -> None:
    pauses: list[float] = []
    patience = Patience(timeout=5.0, tries=4, pause=0.1)
    directory.plan = [503] * 4
    with pytest.raises(StoreError):
        ask(HttpUserService(directory.url, client, patience=patience, sleep=pauses.append))
    assert pauses == [0.1, 0.2, 0.4]


def test_credentials_are_not_sent_in_the_clear(client: httpx.Client) -> None:
    with pytest.raises(ConfigurationError):
        HttpUserService("http://users.example.org/", client)
    HttpUserService("https://users.example.org/", client)


def test_credentials_are_in_no_error(directory: Directory, client: httpx.Client) -> None:
    directory.plan = ["garbage"]
    with pytest.raises(StoreError) as caught:
        ask(service(directory.url, client), "31337")
    error: BaseException | None = caught.value
    while error is not None:
        assert "31337" not in str(error)
        error = error.__cause__ or error.__context__
