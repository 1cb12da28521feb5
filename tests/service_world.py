"""A provisioned SoftHSMv2 token, and real servers and clients on it, each server a process of its own."""

from __future__ import annotations

import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

from hsm_msl.service.compose.client import ComposedClient, compose_client
from hsm_msl.service.config import read_client_config
from softhsm_fixture import softhsm_module

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "softhsm/demo"
CEREMONY = ROOT / "provisioning/ceremonies/development.toml"
SECONDS = 60.0
USER_EMAIL = "user@example.com"


@dataclass
class RunningServer:
    """A server process that listens.

    Attributes:
        url: where.
        process: the process.
        log: the file its standard error goes to.
        lines: what it printed before it listened.
    """

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    lines: list[str]

    @property
    def port(self) -> int:
        return int(self.url.rstrip("/").rpartition(":")[2])

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Stop it and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(SECONDS)


@dataclass
class ServiceWorld:
    """A directory with a token, keys, users and the sample configurations.

    Attributes:
        directory: where it is; paths of configurations in it are relative to it.
        environment: what every command in it sees.
    """

    directory: Path
    environment: dict[str, str]

    def run(
        self, *arguments: str | Path, stdin: bytes = b"", **environment: str
    ) -> subprocess.CompletedProcess[bytes]:
        """Run ``hsm-msl`` to its end."""
        return subprocess.run(
            [sys.executable, "-m", "hsm_msl.cli", *map(str, arguments)],
            env={**self.environment, **environment},
            cwd=self.directory,
            input=stdin,
            capture_output=True,
            timeout=SECONDS,
        )

    def provision(self, verb: str, ceremony: Path, *arguments: str, stdin: str = "") -> None:
        """Run ``hsm-provision`` on this world's token."""
        done = subprocess.run(
            [sys.executable, "-m", "hsm_provision", verb, str(ceremony), *arguments, "-C", str(self.directory)],
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def server_config(self, name: str, *changes: tuple[str, str]) -> Path:
        """Write the sample server's configuration under another name, with texts in it replaced."""
        return self._config("server.toml", name, changes)

    def client_config(self, name: str, *changes: tuple[str, str]) -> Path:
        """Write the sample client's configuration under another name, with texts in it replaced."""
        return self._config("client.toml", name, changes)

    def client(self, config: Path | None = None) -> ComposedClient:
        """Return a client in this process; its keys are in files, so it needs no token."""
        return compose_client(read_client_config(config or self.directory / "client.toml"))

    @contextmanager
    def serve(self, config: Path) -> Iterator[RunningServer]:
        """Run a server until the block ends."""
        log = config.with_suffix(".log")
        with log.open("w") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "hsm_msl.cli", "serve", str(config)],
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        assert process.stdout is not None
        try:
            lines = _until_listening(process.stdout, log)
            server = RunningServer(lines[-1].rpartition(" ")[2], process, log, lines)
            yield server
        finally:
            if process.poll() is None:
                process.terminate()
            try:
                process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
            finally:
                process.stdout.close()

    def _config(self, sample: str, name: str, changes: tuple[tuple[str, str], ...]) -> Path:
        text = (DEMO / sample).read_text()
        for old, new in changes:
            assert old in text, f"{old!r} is not in {sample}"
            text = text.replace(old, new)
        path = self.directory / name
        path.write_text(text)
        return path


def _until_listening(stdout: IO[bytes], log: Path) -> list[str]:
    """Return the lines up to the one that names the URL."""
    text = b""
    deadline = time.monotonic() + SECONDS
    with selectors.DefaultSelector() as selector:
        selector.register(stdout, selectors.EVENT_READ)
        while not (b"listening on" in text and text.endswith(b"\n")):
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            piece = os.read(stdout.fileno(), 65536) if ready else b""
            if not piece:
                pytest.fail(f"the server did not start: {text!r} {log.read_text()}")
            text += piece
    return text.decode().splitlines()


def make_world(directory: Path) -> ServiceWorld:
    """Provision a world of its own by the development ceremony."""
    (directory / "tokens").mkdir()
    configuration = directory / "softhsm2.conf"
    configuration.write_text(
        f"directories.tokendir = {directory / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n"
    )
    softhsm_module()
    kept = {name: value for name, value in os.environ.items() if re.fullmatch("PATH|HOME|LANG|PYTHON.*", name)}
    environment = {**kept, "SOFTHSM2_CONF": str(configuration), "COLUMNS": "200"}
    world = ServiceWorld(directory, environment)
    world.provision("apply", CEREMONY)
    for sample in ("server.toml", "client.toml"):
        shutil.copy(DEMO / sample, directory / sample)
    key = world.run("public-key", directory / "server.toml", "--output", directory / "server.pem")
    assert key.returncode == 0, key.stderr
    return world


@pytest.fixture(scope="session")
def service_world(tmp_path_factory: pytest.TempPathFactory) -> ServiceWorld:
    """Return a world, made once per test process."""
    return make_world(tmp_path_factory.mktemp("service"))


@pytest.fixture(scope="session")
def service(service_world: ServiceWorld) -> Iterator[RunningServer]:
    """Return the sample server, running."""
    with service_world.serve(service_world.directory / "server.toml") as server:
        yield server
