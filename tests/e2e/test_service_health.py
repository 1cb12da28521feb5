"""Liveness, readiness and deep health of a served process whose token goes away, hangs, or holds another key."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest

from management_fixture import SECTION, Management, unplugged
from service_world import RunningServer, ServiceWorld

PATIENCE = ("drift_every", "patience = 2.0\ndrift_every")


@pytest.fixture(scope="module")
def watched(service_world: ServiceWorld) -> Iterator[RunningServer]:
    config = service_world.server_config("examined.toml", SECTION, PATIENCE, ("state.sqlite", "examined.sqlite"))
    with service_world.serve(config) as server:
        yield server


@pytest.fixture
def pages(watched: RunningServer) -> Management:
    return Management(watched)


def by_status(content: dict[str, list[dict[str, str]]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for check in content["checks"]:
        found.setdefault(check["status"], set()).add(check["name"])
    return found


def test_every_key_and_the_store_are_used(pages: Management) -> None:
    status, content = pages.health("deep")
    assert (status, content["status"]) == (200, "ok")
    found = by_status(content)
    assert set(found) == {"ok"}
    assert found["ok"] >= {
        "msl.token.encryption.v1: encrypt and decrypt",
        "msl.token.mac.v1: make and verify a MAC",
        "msl.token.wrap.v1: wrap and unwrap",
        "service.development.encryption.v1: encrypt and decrypt",
        "service.development.mac.v1: make and verify a MAC",
        "identity.rsa.v1: sign and verify",
        "psk.development-client.mac.v1: make and verify a MAC",
        "store: write and read",
    }
    assert all(check["milliseconds"] >= 0 for check in content["checks"])
    assert pages.value("health_check_seconds", check="identity.rsa.v1: sign and verify", status="ok") > 0


def test_a_token_away_is_an_outage_with_names_and_no_verdict(
    service_world: ServiceWorld, watched: RunningServer, pages: Management
) -> None:
    assert pages.health("ready")[0] == 200
    with unplugged(service_world):
        status, content = pages.health("deep")
        assert status == 503
        found = by_status(content)
        assert content["status"] == "unavailable"
        assert "failed" not in found
        assert found["ok"] == {"store: write and read"}
        assert "identity.rsa.v1: sign and verify" in found["unavailable"]
        assert {check.get("error") for check in content["checks"]} == {None, "BackendUnavailableError"}
        status, content = pages.health("ready")
        assert (status, content["status"]) == (503, "unavailable")
        assert httpx.get(f"{watched.url}health/ready").json() == {
            "status": "out of service",
            "reason": "BackendUnavailableError",
        }
        assert pages.health("live") == (200, {"status": "live"})
        assert pages.value("service_ready") == 0
        assert pages.value("hsm_up") == 0
    pages.await_value(1, "service_ready")
    pages.await_value(1, "hsm_up")
    assert pages.health("deep")[0] == 200


def test_a_database_away_is_an_outage_of_the_store_alone(service_world: ServiceWorld, pages: Management) -> None:
    with closing(sqlite3.connect(service_world.directory / "examined.sqlite", isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")  # a store that lets nobody in is as good as none
        status, content = pages.health("deep")
        holder.execute("ROLLBACK")
    assert status == 503
    found = by_status(content)
    assert content["status"] == "unavailable"
    assert found["unavailable"] == {"store: write and read"}
    assert len(found["ok"]) >= 8
    assert set(found) == {"ok", "unavailable"}
    deadline = time.monotonic() + 30
    while pages.health("deep")[0] != 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_asking_often_costs_the_token_nothing(service_world: ServiceWorld) -> None:
    """A page that makes a token work must not be a lever for whoever can reach it."""
    section = ("[entity]", "[management]\nport = 0\ndeep_every = 600\nready_every = 600\n\n[entity]")
    config = service_world.server_config("lever.toml", section, ("state.sqlite", "lever.sqlite"))
    with service_world.serve(config) as server:
        pages = Management(server)
        pages.health("deep"), pages.health("ready"), pages.metrics()
        before = pages.value("hsm_ops_total")
        answers: Counter[int] = Counter()

        def ask() -> None:
            for _ in range(20):
                for page in ("deep", "ready"):
                    answers[httpx.get(f"{pages.url}health/{page}", timeout=30).status_code] += 1

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(answers) <= {200, 503}  # 503 from the listener, when too many ask at once
        assert answers[200] >= 80
        for _ in range(50):
            assert httpx.get(f"{server.url}health/ready").json() == {"status": "ready"}
        assert pages.value("hsm_ops_total") == before


def test_a_process_that_stands_still_is_not_alive(service_world: ServiceWorld) -> None:
    config = service_world.server_config("still.toml", SECTION, ("state.sqlite", "still.sqlite"))
    with service_world.serve(config) as server:
        pages = Management(server)
        assert pages.health("live") == (200, {"status": "live"})
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            with pytest.raises(httpx.TimeoutException):
                httpx.get(f"{pages.url}health/live", timeout=1)
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        assert pages.health("live")[0] == 200
