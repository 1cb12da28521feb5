"""``hsm-msl serve`` and ``send`` with long messages: through whole, in memory that does not grow with them."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hsm_msl.service.spool import HELD_BYTES, Spool
from service_world import RunningServer, ServiceWorld

MEBI = 1 << 20
SECONDS = 600


def made(path: Path, length: int) -> Path:
    """Write a file that does not compress."""
    with path.open("wb") as file:
        for _ in range(0, length, MEBI):
            file.write(os.urandom(min(MEBI, length)))
    return path


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def peak_of_server(service: RunningServer) -> int:
    """Return the most memory the server process ever had, bytes."""
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def sent(world: ServiceWorld, service: RunningServer, directory: Path, length: int, *, stdin: bool = False) -> int:
    """Send a file through the command line, check its echo, and return the most memory the client had, bytes."""
    source, target = made(directory / "source", length), directory / "target"
    arguments = ["client.toml", service.url, *([] if stdin else ["--file", str(source)]), "--output", str(target)]
    with source.open("rb") as opened:
        process = subprocess.Popen(
            [sys.executable, "-m", "hsm_msl.cli", "send", *arguments],
            env=world.environment,
            cwd=world.directory,
            stdin=opened if stdin else subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    assert digest(target) == digest(source)
    return usage.ru_maxrss * 1024


@pytest.mark.parametrize("stdin", [False, True], ids=["file", "standard input"])
def test_memory_is_flat_on_both_sides(
    service_world: ServiceWorld, service: RunningServer, tmp_path: Path, stdin: bool
) -> None:
    short = sent(service_world, service, tmp_path, 2 * MEBI, stdin=stdin)
    before = peak_of_server(service)
    long = sent(service_world, service, tmp_path, 20 * MEBI, stdin=stdin)
    assert long < short + 8 * MEBI
    assert peak_of_server(service) < before + 8 * MEBI


@pytest.mark.soak
def test_a_hundred_mebibytes(service_world: ServiceWorld, service: RunningServer, tmp_path: Path) -> None:
    short = sent(service_world, service, tmp_path, 2 * MEBI)
    before = peak_of_server(service)
    long = sent(service_world, service, tmp_path, 100 * MEBI)
    assert long < short + 8 * MEBI
    assert peak_of_server(service) < before + 8 * MEBI


@pytest.mark.parametrize("length", [0, 1, 100_000, HELD_BYTES, HELD_BYTES + 1])
def test_every_length_comes_back(
    service_world: ServiceWorld, service: RunningServer, tmp_path: Path, length: int
) -> None:
    """Whole or in pieces, the application does not notice."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(length))
    done = service_world.run("send", "client.toml", service.url, "-f", source, "-o", target)
    assert done.returncode == 0, done.stderr
    assert target.read_bytes() == source.read_bytes()


def test_a_long_message_beyond_the_limit_is_refused(service_world: ServiceWorld, tmp_path: Path) -> None:
    config = service_world.server_config("small.toml")
    config.write_text(config.read_text() + "\n[limits]\nrequest = 100000\nstreamed = 1000000\n")
    with service_world.serve(config) as server:
        source = made(tmp_path / "source", 2 * MEBI)
        done = service_world.run("send", "client.toml", server.url, "-f", source)
        assert done.returncode != 0
        assert b"larger than 1000000 bytes" in done.stderr
        assert service_world.run("send", "client.toml", server.url, "x" * 100_000).returncode == 0


def test_a_spool_reads_as_it_was_written_and_keeps_nothing_in_the_clear() -> None:
    piece = b"secret of the session " * 100
    with Spool(os.urandom) as spool:
        spool.fill(piece for _ in range(HELD_BYTES // len(piece) + 10))
        assert spool.length > HELD_BYTES
        for _ in range(2):
            read = b"".join(spool.pieces())
            assert len(read) == spool.length
            assert read == piece * (spool.length // len(piece))
        spool._file.seek(0)
        assert b"secret" not in spool._file.read()
