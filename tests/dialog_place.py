"""A directory with a token that holds the keys of two services, and the command line run in it."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from softhsm_fixture import softhsm_module

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "softhsm/demo-dialog"
SECONDS = 90
DIALOG = "import sys; from hsm_msl.cli import main; from hsm_msl.cli.dialog import app; main.app = app; main.main()"


class Place:
    """A directory with a token that holds the keys of two services."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "tokens").mkdir()
        configuration = directory / "softhsm2.conf"
        configuration.write_text(
            f"directories.tokendir = {directory / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n"
        )
        softhsm_module()
        kept = {name: value for name, value in os.environ.items() if re.fullmatch("PATH|HOME|LANG|PYTHON.*", name)}
        self.environment = {**kept, "SOFTHSM2_CONF": str(configuration), "COLUMNS": "200"}
        self.provision("apply", DEMO / "ceremony.toml")
        for name in ("orders", "stock"):
            for use in ("signing", "kek"):
                self.provision(
                    "certificate", DEMO / "ceremony.toml", f"{name}.{use}.v1", "--subject", f"CN={name} {use}",
                    "--issuer", f"{name}.signing.v1", "--out", directory / f"{name}.{use}.pem",
                )  # fmt: skip

    def provision(self, verb: str, *arguments: object) -> None:
        command = [sys.executable, "-m", "hsm_provision", verb, *map(str, arguments), "-C", str(self.directory)]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=SECONDS)
        assert done.returncode == 0, done.stdout + done.stderr

    def configure(self, name: str, other: str, port: int = 0, url: str = "") -> Path:
        text = (DEMO / "service.toml").read_text()
        for old, new in {"@SELF@": name, "@OTHER@": other, "@PORT@": str(port), "@URL@": url}.items():
            text = text.replace(old, new)
        path = self.directory / f"{name}.toml"
        path.write_text(text)
        return path

    def run(self, *arguments: object, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-c", DIALOG, *map(str, arguments)],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == code, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout if code == 0 else done.stderr

    @contextlib.contextmanager
    def serve(self, config: Path) -> Iterator[str]:
        """Run a service and yield its URL."""
        log = config.with_suffix(".log").open("ab")
        process = subprocess.Popen(
            [sys.executable, "-c", DIALOG, "serve", str(config)],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=log,
        )
        stdout = process.stdout
        assert stdout is not None
        try:
            yield _until_listening(stdout, config.with_suffix(".log"))
        finally:
            process.terminate()
            process.wait(SECONDS)
            stdout.close()
            log.close()


def _until_listening(stdout: IO[bytes], log: Path) -> str:
    text, deadline = b"", time.monotonic() + SECONDS
    with selectors.DefaultSelector() as selector:
        selector.register(stdout, selectors.EVENT_READ)
        while not (b"listening on" in text and text.endswith(b"\n")):
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            piece = os.read(stdout.fileno(), 65536) if ready else b""
            if not piece:
                pytest.fail(f"the service did not start: {text!r} {log.read_text()}")
            text += piece
    return text.decode().split("listening on ")[1].strip()
