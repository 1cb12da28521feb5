"""What a served process exports: scraped over HTTP while messages pass and its token goes and comes back."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest

from hsm_msl.errors import ErrorCode, ResponseCode
from hsm_msl.msl.conversation import ErrorResponseError, Send
from hsm_msl.msl.message.error_header import encode_error_header
from hsm_msl.service.http_client import HttpClient, TransportError
from hsm_msl.service.streaming import WHOLE_BYTES
from management_fixture import SECTION, Management, unplugged
from service_world import RunningServer, ServiceWorld

TOKEN = "development"
TOKEN_KEYS = {"purpose": "msl.token", "version": "v1"}


@pytest.fixture(scope="module")
def watched(service_world: ServiceWorld) -> Iterator[RunningServer]:
    config = service_world.server_config("watched.toml", SECTION, ("state.sqlite", "watched.sqlite"))
    with service_world.serve(config) as server:
        yield server


@pytest.fixture
def pages(watched: RunningServer) -> Management:
    return Management(watched)


def answers(world: ServiceWorld, server: RunningServer) -> bool:
    """Send a message; tell whether it was answered. Anything but an answer and an outage fails the test."""
    with closing(world.client()) as client, HttpClient(client.msl, server.url) as http:
        try:
            http.request(client.message(b"x"))
        except ErrorResponseError as error:
            assert error.error.response is ResponseCode.TRANSIENT_FAILURE  # noqa: PT017 - or the next
        except TransportError as error:
            assert "HTTP 503" in str(error)  # noqa: PT017 - or the one before
        else:
            return True
    return False


def test_messages_and_what_they_asked_of_the_token(
    service_world: ServiceWorld, watched: RunningServer, pages: Management
) -> None:
    answered = pages.value("msl_messages_total", outcome="answered")
    issued = pages.value("msl_master_tokens_total", kind="first")
    with closing(service_world.client()) as client, HttpClient(client.msl, watched.url) as http:
        for _ in range(3):
            http.request(client.message(b"x"))
    assert pages.value("msl_messages_total", outcome="answered") == answered + 3
    assert pages.value("msl_master_tokens_total", kind="first") == issued + 1
    assert pages.value("msl_message_seconds_count") >= 3
    assert pages.value("token_cache_hits_total", cache="master") >= 2
    assert pages.value("hsm_up", token=TOKEN) == 1
    signed = pages.value("hsm_ops_total", token=TOKEN, op="sign", result="ok", **TOKEN_KEYS)
    assert signed >= 2  # a master token and a user ID token
    assert pages.value("hsm_op_seconds_count", token=TOKEN, op="sign", result="ok") >= signed
    assert pages.value("key_version_ops_total", **TOKEN_KEYS) > signed
    assert pages.value("hsm_sessions", token=TOKEN, state="idle") >= 1
    assert pages.value("msl_messages_in_work") == 0
    assert pages.value("process_resident_memory_bytes") > 0


def test_a_refusal_is_counted_by_its_code(watched: RunningServer, pages: Management) -> None:
    labels = {"outcome": "refused", "code": "MSL_PARSE_ERROR", "response": "FAIL"}
    before = pages.value("msl_messages_total", **labels)
    httpx.post(watched.url, content=b'{"headerdata":5}')
    assert pages.value("msl_messages_total", **labels) == before + 1


PADDING = {"whole": b"", "in pieces": b" " * (2 * WHOLE_BYTES)}
"""What follows a message, so that it goes the one way or the other; a server reads nothing behind a message."""


@pytest.mark.parametrize("padding", PADDING.values(), ids=PADDING)
def test_an_error_message_received_is_counted_and_not_answered(
    service_world: ServiceWorld, watched: RunningServer, pages: Management, padding: bytes
) -> None:
    before = pages.value("msl_messages_total", outcome="ignored")
    with closing(service_world.client()) as client:
        report = encode_error_header(client.msl._context, 1, ErrorCode.MSL_PARSE_ERROR)
    answer = httpx.post(watched.url, content=report + padding)
    assert (answer.status_code, answer.content) == (200, b"")
    assert pages.value("msl_messages_total", outcome="ignored") == before + 1


@pytest.mark.parametrize("padding", PADDING.values(), ids=PADDING)
def test_what_not_even_an_error_message_could_answer_is_counted(
    service_world: ServiceWorld, watched: RunningServer, pages: Management, padding: bytes
) -> None:
    with closing(service_world.client()) as client:
        step = next(client.msl.request(client.message(b"x")))
    assert isinstance(step, Send)
    before = pages.value("msl_messages_total", outcome="unavailable")
    with unplugged(service_world):
        answer = httpx.post(watched.url, content=step.body + padding, timeout=30)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert pages.value("msl_messages_total", outcome="unavailable") == before + 1
    deadline = time.monotonic() + 30
    while not answers(service_world, watched):
        assert time.monotonic() < deadline


def test_a_token_that_goes_and_comes_back(
    service_world: ServiceWorld, watched: RunningServer, pages: Management
) -> None:
    """Nobody is told anything but to try again later, and the metrics show why."""
    opened = pages.value("hsm_breaker_transitions_total", token=TOKEN, to="open")
    with unplugged(service_world):
        assert not answers(service_world, watched)
        pages.await_value(0, "hsm_up", token=TOKEN)
        assert pages.value("hsm_breaker_transitions_total", token=TOKEN, to="open") == opened + 1
        assert pages.value("hsm_ops_total", token=TOKEN, result="unavailable") >= 1
        lost = pages.value("msl_messages_total", outcome="outage") + pages.value(
            "msl_messages_total", outcome="unavailable"
        )
        assert lost >= 1
    deadline = time.monotonic() + 30
    while pages.value("hsm_up", token=TOKEN) != 1:
        assert time.monotonic() < deadline
        answers(service_world, watched)
    assert pages.value("hsm_breaker_transitions_total", token=TOKEN, to="closed") >= 1
    assert pages.value("hsm_reconnects_total", token=TOKEN) >= 1


def test_metrics_are_not_on_the_public_port(watched: RunningServer) -> None:
    assert httpx.get(f"{watched.url}metrics").status_code == 405


def test_only_pages_that_exist_and_only_for_reading(pages: Management) -> None:
    assert httpx.get(pages.url).status_code == 404
    assert "/metrics" in httpx.get(pages.url).text
    assert httpx.post(f"{pages.url}metrics").status_code == 405


def test_several_processes_take_several_ports(service_world: ServiceWorld) -> None:
    """Each process counts for itself, so each is scraped by itself."""
    config = service_world.server_config(
        "several.toml", SECTION, ("port = 0 #", "port = 0\nworkers = 2 #"), ("state.sqlite", "several.sqlite")
    )
    with service_world.serve(config) as server:
        deadline = time.monotonic() + 60
        while server.log.read_text().count("management is listening") < 2:
            assert time.monotonic() < deadline, server.log.read_text()
            time.sleep(0.1)
        assert Management(server).value("hsm_up", token=TOKEN) == 1
        assert server.stop(signal.SIGTERM) == 0


def test_a_port_in_use_is_named(service_world: ServiceWorld, pages: Management) -> None:
    port = pages.url.rstrip("/").rpartition(":")[2]
    config = service_world.server_config(
        "taken.toml", ("[entity]", f"[management]\nport = {port}\n\n[entity]"), ("state.sqlite", "taken.sqlite")
    )
    done = service_world.run("serve", config)
    assert done.returncode == 78
    assert b"management.port" in done.stderr
    assert b"is in use" in done.stderr
