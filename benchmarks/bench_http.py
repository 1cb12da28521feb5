"""Messages per second over HTTP: the whole service on loopback, its CPU time per message, with and without threads.

The figure of merit is the CPU time of the server process per message; the rate also depends on what else the machine
does, and on the driver, which takes a core of its own. The server writes its log to a file, as a service does.
``--json FILE`` also writes the figures for machines.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from hsm_msl.msl.conversation import Send
from hsm_msl.service.compose.client import compose_client
from hsm_msl.service.config import read_client_config
from hsm_msl.service.http_client import HttpClient

ROOT = Path(__file__).parents[1]
SIZES = {"1 KiB": 1024, "64 KiB": 65536}
CASES = {
    "on the event loop": ("inline = true", ""),
    "on the event loop, quiet log": ("inline = true", "\n[log]\nmessages = false\n"),
    "in threads": ("inline = false", ""),
}
"""Lines of ``[server]`` and further sections of the configuration."""

CONNECTIONS = 8
SECONDS = 3.0
TICKS = os.sysconf("SC_CLK_TCK")


def prepare(directory: Path) -> None:
    """Make a token, keys and configurations, as the demo does."""
    (directory / "tokens").mkdir()
    conf = directory / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {directory / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n")
    os.environ["SOFTHSM2_CONF"] = str(conf)
    ceremony = ROOT / "provisioning/ceremonies/development.toml"
    command = [sys.executable, "-m", "hsm_provision", "apply", str(ceremony), "-C", str(directory)]
    subprocess.run(command, check=True, capture_output=True)
    for sample in ("server.toml", "client.toml"):
        shutil.copy(ROOT / "softhsm/demo" / sample, directory)
    key = [
        sys.executable,
        "-m",
        "hsm_msl.cli",
        "public-key",
        f"{directory}/server.toml",
        "-o",
        f"{directory}/server.pem",
    ]
    subprocess.run(key, check=True)


@contextmanager
def serving(directory: Path, settings: str, sections: str) -> Iterator[tuple[str, int]]:
    """Run a server and yield its URL and process ID."""
    config = directory / "bench.toml"
    text = (directory / "server.toml").read_text()
    config.write_text(text.replace("port = 0", f"port = 0\n{settings}") + sections)
    command = [sys.executable, "-m", "hsm_msl.cli", "serve", str(config)]
    with (
        (directory / "server.log").open("w") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        assert process.stdout is not None
        try:
            line = ""
            while "listening on" not in line:
                line = process.stdout.readline()
                assert line, (directory / "server.log").read_text()
            yield line.split()[-1], process.pid
        finally:
            process.send_signal(signal.SIGTERM)


def steady_request(directory: Path, url: str, size: int) -> bytes:
    """Return a request of the steady state: master token, user ID token, nothing to renew."""
    with closing(compose_client(read_client_config(directory / "client.toml"))) as client:
        with HttpClient(client.msl, url) as http:
            http.request(client.message(b"first"))
        conversation = client.msl.request(client.message(os.urandom(size)))
        step = next(conversation)
        conversation.close()
    assert isinstance(step, Send)
    return step.body


def cpu_seconds(pid: int) -> float:
    """Return the CPU time a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def hammer(url: str, body: bytes, seconds: float) -> int:
    """Send the body over some kept connections for a while; return how many answers came."""
    host, port = url.removeprefix("http://").rstrip("/").rsplit(":", 1)
    message = b"POST / HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    until = time.monotonic() + seconds

    async def work() -> int:
        reader, writer = await asyncio.open_connection(host, int(port))
        answered = 0
        while time.monotonic() < until:
            writer.write(message)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            answer = await reader.readexactly(length)
            assert answer.startswith(b'{"headerdata"'), answer[:200]
            answered += 1
        writer.close()
        return answered

    return sum(await asyncio.gather(*(work() for _ in range(CONNECTIONS))))


def measure(directory: Path, settings: str, sections: str, size: int) -> dict[str, float]:
    """Return messages per second and server CPU microseconds per message."""
    with serving(directory, settings, sections) as (url, pid):
        body = steady_request(directory, url, size)
        asyncio.run(hammer(url, body, 0.5))
        before, start = cpu_seconds(pid), time.monotonic()
        answered = asyncio.run(hammer(url, body, SECONDS))
        wall, cpu = time.monotonic() - start, cpu_seconds(pid) - before
    return {
        "messages/s": answered / wall,
        "CPU us/message": cpu / answered * 1e6,
        "messages/s of CPU": answered / cpu,
    }


def main() -> None:
    """Measure, print a table, and write JSON when asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-http.") as name:
        prepare(Path(name))
        for case, (settings, sections) in CASES.items():
            for label, size in SIZES.items():
                figures[f"{case}, {label}"] = measure(Path(name), settings, sections, size)
    table = Table(title="The whole service over HTTP, steady state, one process")
    table.add_column("case")
    for column in next(iter(figures.values())):
        table.add_column(column, justify="right")
    for case, row in figures.items():
        table.add_row(case, *(f"{value:,.0f}" for value in row.values()))
    Console().print(table)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
