"""The README's examples, run as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from service_world import ROOT, SECONDS, USER_EMAIL, ServiceWorld

EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def run(world: ServiceWorld, source: str, directory: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", source],
        env=world.environment,
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_server_and_client(service_world: ServiceWorld) -> None:
    server_source, client_source = EXAMPLES
    server = run(service_world, server_source, service_world.directory)
    assert server.stdout is not None
    try:
        url = server.stdout.readline().strip()
        assert url, server.communicate()[1]
        client = run(service_world, client_source.replace("http://127.0.0.1:8080/", url), service_world.directory)
        out, errors = client.communicate(timeout=SECONDS)
        assert out == f"hello {USER_EMAIL}\n", errors
    finally:
        server.terminate()
        server.communicate(timeout=SECONDS)
