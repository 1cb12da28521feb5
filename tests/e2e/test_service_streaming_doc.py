"""The examples of ``hsm_msl/service/STREAMING.md``, run as they stand there."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

from service_world import ROOT, SECONDS, USER_EMAIL, ServiceWorld

DOCUMENT = (ROOT / "hsm_msl" / "service" / "STREAMING.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)


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
    content = os.urandom(3 << 20)
    (service_world.directory / "big.bin").write_bytes(content)
    server = run(service_world, server_source, service_world.directory)
    assert server.stdout is not None
    try:
        url = server.stdout.readline().strip()
        assert url, server.communicate()[1]
        client = run(service_world, client_source.replace("http://127.0.0.1:8080/", url), service_world.directory)
        out, errors = client.communicate(timeout=SECONDS)
        assert out == f"{hashlib.sha256(content).hexdigest()} of {USER_EMAIL}", errors
    finally:
        server.terminate()
        server.communicate(timeout=SECONDS)
