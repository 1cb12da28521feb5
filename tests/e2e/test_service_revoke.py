"""An operator takes back an entity, a user or a token beside a running server, by the command alone."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from hsm_msl.errors import ErrorCode
from hsm_msl.service.http_client import HttpClient
from service_world import SECONDS, USER_EMAIL, RunningServer, ServiceWorld

USAGE, FAILED, CONFIGURATION = 2, 1, 78


@pytest.fixture
def config(service_world: ServiceWorld, tmp_path: Path) -> Path:
    """Return the configuration of a server with a database of its own."""
    return service_world.server_config("revoking.toml", ("sqlite:///state.sqlite", f"sqlite:///{tmp_path}/s.sqlite"))


def revoke(world: ServiceWorld, config: Path, *arguments: str) -> str:
    """Return the line the command prints."""
    done = world.run("revoke", config, *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    return done.stdout.decode().rstrip("\n")


def eventually(what: Callable[[], bool], server: RunningServer) -> None:
    deadline = time.monotonic() + SECONDS
    while not what():
        assert time.monotonic() < deadline, server.log.read_text()
        time.sleep(0.1)


def test_running_server_refuses_a_revoked_entity_until_that_is_withdrawn(
    service_world: ServiceWorld, config: Path
) -> None:
    def refused() -> bool:
        done = service_world.run("send", "client.toml", server.url, "x")
        assert (b"ENTITY_REVOKED" in done.stderr) == (done.returncode != 0), done.stderr
        return done.returncode != 0

    with service_world.serve(config) as server:
        assert not refused()
        line = revoke(service_world, config, "--entity", "development-client", "--reason", "stolen\n")
        assert line == "entity 'development-client' is revoked; servers of this database know within 2 s"
        eventually(refused, server)
        listed = revoke(service_world, config, "--list")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ entity 'development-client': 'stolen\\n'", listed)
        line = revoke(service_world, config, "--withdraw", "--entity", "development-client")
        assert "is revoked no more" in line
        eventually(lambda: not refused(), server)
    assert revoke(service_world, config, "--list") == ""


def test_one_token_is_taken_back_and_the_client_goes_on_with_another(
    service_world: ServiceWorld, config: Path
) -> None:
    with (
        service_world.serve(config) as server,
        closing(service_world.client()) as client,
        HttpClient(client.msl, server.url) as http,
    ):
        http.request(client.message(b"x"))
        token = http.request(client.message(b"x")).requests[0].master_token
        assert token is not None
        serial = token.serial_number
        line = revoke(service_world, config, "--entity", "development-client", "--serial", str(serial))
        assert line.startswith(f"master token {serial} of entity 'development-client' is revoked;")

        def renewed() -> bool:
            used = http.request(client.message(b"x")).requests[-1].master_token
            return used is None or used.serial_number != serial

        eventually(renewed, server)


def test_user_id_tokens_of_a_user_are_taken_back(service_world: ServiceWorld, config: Path) -> None:
    """The client has to bring the password with every message from then on."""
    with (
        service_world.serve(config) as server,
        closing(service_world.client()) as client,
        HttpClient(client.msl, server.url) as http,
    ):
        http.request(client.message(b"x"))
        assert http.request(client.message(b"x")).pairs == 1
        assert revoke(service_world, config, "--user", USER_EMAIL).startswith(f"user '{USER_EMAIL}' is revoked;")
        eventually(lambda: http.request(client.message(b"x")).pairs == 2, server)
        assert f"code={ErrorCode.USERIDTOKEN_REVOKED.name} " in server.log.read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        ((), USAGE, "either --entity or --user"),
        (("--entity", "a", "--user", "b"), USAGE, "either --entity or --user"),
        (("--entity", "a", "--serial", "-1"), USAGE, "--serial"),
        (("--withdraw", "--entity", "nobody"), FAILED, "entity 'nobody' is not revoked; --list shows what is"),
    ],
)
def test_what_cannot_be_revoked(
    service_world: ServiceWorld, config: Path, arguments: tuple[str, ...], code: int, part: str
) -> None:
    done = service_world.run("revoke", config, *arguments)
    assert done.returncode == code
    assert part in done.stderr.decode()


def test_a_server_that_forgets_cannot_be_told(service_world: ServiceWorld) -> None:
    config = service_world.server_config("forgetful.toml", ("sqlite:///state.sqlite", "memory"))
    done = service_world.run("revoke", config, "--entity", "a")
    assert done.returncode == CONFIGURATION
    assert b"store.database: revocations need a database" in done.stderr
