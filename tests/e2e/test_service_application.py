"""``hsm-msl serve`` with an application of one's own, named by the configuration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hsm_msl.service.http_client import HttpClient
from service_world import USER_EMAIL, ServiceWorld

SOURCE = """
from hsm_msl.msl.application import Reply

def greet(request):
    return Reply(f"hello {request.user}, {len(request.payload)} bytes".encode(), text=True)

def measure(request, pieces):
    yield f"hello {request.user}, {sum(map(len, pieces))} bytes in pieces".encode()

broken = 1
"""
LONG = bytes(400_000)


@pytest.fixture
def world(service_world: ServiceWorld, tmp_path: Path) -> ServiceWorld:
    (tmp_path / "greetings.py").write_text(SOURCE)
    (tmp_path / "torn.py").write_text("1 / 0\n")
    return replace(service_world, environment={**service_world.environment, "PYTHONPATH": str(tmp_path)})


def config(world: ServiceWorld, name: str, *lines: str) -> Path:
    return world.server_config(name, ("[server]\n", "\n".join(("[server]", *lines, ""))))


@pytest.mark.parametrize("workers", [1, 2])
def test_it_answers_whole_and_long_messages(world: ServiceWorld, workers: int) -> None:
    lines = ('application = "greetings:greet"', 'stream = "greetings:measure"', f"workers = {workers}")
    with world.serve(config(world, f"own{workers}.toml", *lines)) as server:
        client = world.client()
        with HttpClient(client.msl, server.url) as http:
            assert http.request(client.message(b"four")).payload == f"hello {USER_EMAIL}, 4 bytes".encode()
            expected = f"hello {USER_EMAIL}, {len(LONG)} bytes in pieces".encode()
            assert http.request(client.message(LONG)).payload == expected
        client.close()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('application = "greetings:absent"', "'greetings:absent' cannot be imported: AttributeError: "),
        ('application = "nowhere:greet"', "'nowhere:greet': No module named 'nowhere'; install it, or name its"),
        ('application = "torn:greet"', "'torn:greet' cannot be imported: ZeroDivisionError: "),
        ('application = "greetings:broken"', "'greetings:broken' is no function from a request to a reply"),
        ('application = "greetings"', "server.application: "),
        ('stream = "greetings:measure"', "server.stream: short messages need an application of their own"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_is_opened(world: ServiceWorld, line: str, problem: str) -> None:
    done = world.run("serve", "--check", config(world, "wrong.toml", line))
    assert done.returncode not in (0, 1), done
    assert problem in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()
    assert not done.stdout
