"""The log of a served process: one line per message, its request's ID on every line it caused, and no secrets."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest

from hsm_msl.msl.conversation import Send
from hsm_msl.service.http_client import HttpClient
from management_fixture import SECTION, Management, unplugged
from service_world import USER_EMAIL, RunningServer, ServiceWorld

KEY = "00112233445566778899aabbccddeeff"
LOG = '[log]\nformat = "json"\npseudonym_key = "pseudonyms.hex"\n\n'
PAYLOAD = b"a payload that nobody but its receiver may see"
ENTITY = "development-client"


@pytest.fixture(scope="module")
def logged(service_world: ServiceWorld) -> Iterator[RunningServer]:
    key = service_world.directory / "pseudonyms.hex"
    key.touch(mode=0o600)
    key.write_text(KEY)
    section = (SECTION[0], LOG + SECTION[1])
    config = service_world.server_config("logged.toml", section, ("state.sqlite", "logged.sqlite"))
    with service_world.serve(config) as server:
        Management(server)  # its log says that it serves
        yield server


def lines(server: RunningServer) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log.read_text().splitlines()]


def caused_by(server: RunningServer, request_id: str) -> list[dict[str, Any]]:
    """Return the lines a request caused, once the one about its end is there."""
    deadline = time.monotonic() + 30
    while True:
        found = [line for line in lines(server) if line.get("request_id") == request_id]
        if any(line["logger"] == "hsm_msl.messages" and "outcome" in line for line in found):
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def request(world: ServiceWorld) -> bytes:
    with closing(world.client()) as client:
        step = next(client.msl.request(client.message(PAYLOAD)))
    assert isinstance(step, Send)
    return step.body


def post(server: RunningServer, body: bytes, **headers: str) -> httpx.Response:
    return httpx.post(server.url, content=body, headers=headers, timeout=30)


def test_one_line_says_what_became_of_a_message(service_world: ServiceWorld, logged: RunningServer) -> None:
    body = request(service_world)
    answer = post(logged, body)
    (line,) = caused_by(logged, answer.headers["x-request-id"])
    pseudonym = hmac.digest(bytes.fromhex(KEY), ENTITY.encode(), hashlib.sha256)[:8].hex()
    assert line.pop("time").endswith("+00:00")
    assert 0 < line.pop("milliseconds") < 30_000
    assert line == {
        "level": "info",
        "logger": "hsm_msl.messages",
        "message": "message",
        "request_id": answer.headers["x-request-id"],
        "outcome": "answered",
        "entity": pseudonym,
        "by": "PSK",
        "user": True,
        "keys": "DIFFIE_HELLMAN",
        "received": len(body),
        "sent": len(answer.content),
    }


def test_a_refusal_is_named_by_its_codes(logged: RunningServer) -> None:
    answer = post(logged, b'{"headerdata":5}')
    (line,) = caused_by(logged, answer.headers["x-request-id"])
    assert (line["outcome"], line["code"], line["response"]) == ("refused", "MSL_PARSE_ERROR", "FAIL")
    assert "entity" not in line


def test_a_message_in_pieces_has_its_line_too(service_world: ServiceWorld, logged: RunningServer) -> None:
    payload = os.urandom(1 << 20)  # so that it cannot be compressed
    with closing(service_world.client()) as client, HttpClient(client.msl, logged.url) as http:
        assert http.request(client.message(payload)).payload == payload
    deadline = time.monotonic() + 30
    while not (long := [line for line in lines(logged) if line.get("received", 0) > len(payload)]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [line["outcome"] for line in long] == ["answered"]
    assert len(bytes.fromhex(long[0]["request_id"])) == 8
    assert long[0]["sent"] > len(payload)
    assert long[0]["entity"]


@pytest.mark.parametrize("given", ["0123456789abcdef", "edge-7.req_0001", "a" * 64])
def test_an_id_that_is_well_formed_is_kept(logged: RunningServer, given: str) -> None:
    answer = post(logged, b"{}", **{"X-Request-ID": given})
    assert answer.headers["x-request-id"] == given
    assert caused_by(logged, given)


@pytest.mark.parametrize("given", ["short", "a" * 65, 'quote"quote"', "two words", "esc\\u001b[0m"])
def test_an_id_that_is_not_is_replaced(logged: RunningServer, given: str) -> None:
    answer = post(logged, b"{}", **{"X-Request-ID": given})
    made = answer.headers["x-request-id"]
    assert len(bytes.fromhex(made)) == 8
    assert given not in logged.log.read_text()


def test_what_a_request_finds_out_about_the_token_bears_its_id(
    service_world: ServiceWorld, logged: RunningServer
) -> None:
    body = request(service_world)
    pages = Management(logged)
    with unplugged(service_world):
        answer = post(logged, body, **{"X-Request-ID": "finds-the-outage"})
        assert answer.headers["x-request-id"] == "finds-the-outage"
        found = caused_by(logged, "finds-the-outage")
        by_logger = {line["logger"]: line for line in found}
        assert by_logger["hsm_msl.tokens"]["token"] == "hsm-msl-development"
        assert "is out of service" in by_logger["hsm_msl.tokens"]["message"]
        end = found[-1]
        assert end["outcome"] in ("outage", "unavailable")
        assert answer.status_code in (200, 503)
    pages.await_value(1, "hsm_up")


def test_nothing_secret_and_nobody_by_name(service_world: ServiceWorld, logged: RunningServer) -> None:
    """Answers, refusals and an outage were logged."""
    bodies = [request(service_world), b'{"headerdata":5}', b"{}"]
    with unplugged(service_world):
        ids = [post(logged, bodies[0]).headers["x-request-id"]]
    Management(logged).await_value(1, "hsm_up")
    ids += [post(logged, body).headers["x-request-id"] for body in bodies]
    for made in ids:
        caused_by(logged, made)
    directory = service_world.directory
    hidden = [
        path.read_text().strip()
        for path in (
            *directory.glob("pins/*.pin"),
            *directory.glob("keys/development*"),
            directory / "users/user.password",
            directory / "pseudonyms.hex",
        )
    ]
    assert len(hidden) >= 6
    text = logged.log.read_text()
    assert "answered" in text
    assert "refused" in text
    assert not [secret for secret in (*hidden, PAYLOAD.decode(), USER_EMAIL) if secret in text]
    named = [line for line in lines(logged) if ENTITY in json.dumps(line)]
    assert not [line for line in named if line["logger"] == "hsm_msl.messages" and line["level"] == "info"]


def test_text_for_people_with_plain_names_and_silence(service_world: ServiceWorld) -> None:
    plain = ("[entity]", '[log]\nentities = "plain"\n\n[entity]')
    config = service_world.server_config("plain.toml", plain, ("state.sqlite", "plain.sqlite"))
    with service_world.serve(config) as server:
        made = post(server, request(service_world)).headers["x-request-id"]
        text = server.log.read_text()
        assert f"INFO hsm_msl.messages: message outcome=answered entity='{ENTITY}' by=PSK user=True" in text
        assert f"request={made}" in text
    silent = ("[entity]", "[log]\nmessages = false\n\n[entity]")
    config = service_world.server_config("silent.toml", silent, ("state.sqlite", "silent.sqlite"))
    with service_world.serve(config) as server:
        assert post(server, request(service_world)).status_code == 200
        assert server.log.read_text() == ""


@pytest.mark.parametrize(
    ("text", "mode", "problem"),
    [(KEY, 0o644, b"open.hex: is open to others"), ("ab" * 15, 0o600, b"open.hex: a key of 15 bytes; it must have")],
    ids=["open", "short"],
)
def test_a_key_of_pseudonyms_must_be_private_and_long(
    service_world: ServiceWorld, text: str, mode: int, problem: bytes
) -> None:
    key = service_world.directory / "open.hex"
    key.write_text(text)
    key.chmod(mode)
    change = ("[entity]", '[log]\npseudonym_key = "open.hex"\n\n[entity]')
    config = service_world.server_config("open.toml", change, ("state.sqlite", "open.sqlite"))
    done = service_world.run("serve", "--check", config)
    assert done.returncode == 78
    assert problem in done.stderr
