"""Keys rotated while a server runs: no restart, no failed message, and retired versions open nothing any more."""

from __future__ import annotations

import time
from contextlib import closing

import pytest

from hsm_msl.msl.conversation import Response
from hsm_msl.service.http_client import HttpClient
from service_world import CEREMONY, RunningServer, ServiceWorld, make_world

MANIFEST = '[key_manifest]\nfile = "records/manifest.json"\nsigned_by = "audit.pem"\nevery = 1\n\n[users]'
SECONDS = 40.0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> ServiceWorld:
    """A world whose keys may be rotated without harm to other tests."""
    made = make_world(tmp_path_factory.mktemp("rotation"))
    made.provision("public-key", CEREMONY, "audit.signing.v1", "--out", str(made.directory / "audit.pem"))
    return made


def wait_for(server: RunningServer, text: str) -> None:
    deadline = time.monotonic() + SECONDS
    while text not in server.log.read_text():
        assert time.monotonic() < deadline, server.log.read_text()
        time.sleep(0.1)


def test_rotation_under_traffic(world: ServiceWorld) -> None:
    """A session of the old version goes on, a new one is of the new version, retiring the old one ends it mildly."""
    config = world.server_config("rotating.toml", ("[users]", MANIFEST))
    with (
        world.serve(config) as server,
        closing(world.client()) as old,
        HttpClient(old.msl, server.url) as http,
        closing(world.client()) as new,
        HttpClient(new.msl, server.url) as other,
    ):

        def send() -> Response:
            response = http.request(old.message(b"x"))
            assert response.payload == b"x"
            return response

        before = send().header.key_response
        world.provision("rotate", CEREMONY, "msl.token", "--yes")
        wait_for(server, "msl.token: version 2 makes, (1,) also open")
        assert send().pairs == 1
        assert other.request(new.message(b"y")).payload == b"y"
        for role in ("encryption", "mac", "wrap"):
            world.provision("retire", CEREMONY, f"msl.token.{role}.v1", "--without-evidence", "--yes")
        wait_for(server, "msl.token: version 2 makes, no others also open")
        assert other.request(new.message(b"y")).pairs == 1
        started_again = send()
        assert started_again.pairs == 2
        assert before is not None
        assert started_again.header.key_response is not None
        assert started_again.header.key_response.master_token.serial_number != before.master_token.serial_number
        assert "Traceback" not in server.log.read_text()


def test_manifest_of_somebody_else(world: ServiceWorld) -> None:
    (world.directory / "other.pem").write_bytes((world.directory / "server.pem").read_bytes())
    config = world.server_config("forged.toml", ("[users]", MANIFEST.replace("audit.pem", "other.pem")))
    done = world.run("serve", "--check", config)
    assert done.returncode == 78
    assert b"key_manifest.file" in done.stderr
    assert b"not signed by the trusted key" in done.stderr
