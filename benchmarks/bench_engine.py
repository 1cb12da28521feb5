"""Messages per second of one core: the server engine in the steady state, beside a loop of the bare cryptography.

The server's token and identity keys are in a SoftHSMv2 token. Runs of engine and loop alternate, so that both meet
the same disturbances; the figures are medians of CPU time. ``--json FILE`` also writes them for machines.
"""

from __future__ import annotations

import argparse
import base64
import ctypes
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from bare_loop import BareLoop
from engine_world import World, build, provisioned
from rich.console import Console
from rich.table import Table

from hsm_msl.crypto.sealing import HostVault
from hsm_msl.ports import SessionData

SIZES = {"64 B": 64, "1 KiB": 1024, "16 KiB": 16384, "64 KiB": 65536}
ROUNDS = 9
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
SECONDS = 0.3


def keep_heap() -> None:
    """Let glibc keep freed memory, where it is the C library.

    By default it may hand the top of the heap back to the kernel and fault it in again with every message of some
    kilobytes: whichever of engine and loop has its buffers there, by chance, loses up to half of its rate.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 << 20)
        mallopt(M_TRIM_THRESHOLD, 64 << 20)


def rate(call: Callable[[], object]) -> float:
    """Return calls per second of CPU time in one round."""
    call()
    count = 0
    start = time.process_time()
    while True:
        call()
        count += 1
        spent = time.process_time() - start
        if spent >= SECONDS:
            return count / spent


def alternate(*calls: Callable[[], object]) -> list[float]:
    """Return the median rate of each call over interleaved rounds."""
    rounds = [[rate(call) for call in calls] for _ in range(ROUNDS)]
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


class KeyTap:
    """Receives what a session's keys seal to: the one way to learn them, for a loop that must use the same ones."""

    def __init__(self) -> None:
        self.plaintext = b""

    def encrypt(self, plaintext: bytes) -> bytes:
        self.plaintext = plaintext
        return plaintext

    def decrypt(self, ciphertext: bytes) -> bytes:
        return ciphertext


def loop_for(world: World, vault: HostVault) -> BareLoop:
    """Return a bare loop with the client's session keys."""
    session = world.state.newest()
    if session is None:
        raise RuntimeError("the client has no session")
    cached = world.caches[0].get(session.master_token.tokendata, session.master_token.signature)
    data: SessionData = cached.session
    tap = KeyTap()
    vault.seal(data, tap)
    fields = json.loads(tap.plaintext)
    return BareLoop(
        base64.b64decode(fields["encryptionkey"]), base64.b64decode(fields["hmackey"]), f"{data.identity}_0"
    )


def measure(world: World) -> list[dict[str, object]]:
    """Return one row per payload size."""
    rows: list[dict[str, object]] = []
    vault = HostVault(os.urandom)
    for name, size in SIZES.items():
        payload = base64.b64encode(os.urandom(size))[:size]
        _, bodies = world.ask(payload)
        body = bodies[-1]
        loop = loop_for(world, vault)
        if len(loop.handle(body)) < size or len(world.server.handle(body)) < size:
            raise RuntimeError("an answer is too short to be an echo")

        def cold(body: bytes = body) -> bytes:
            world.forget_tokens()
            return world.server.handle(body)

        engine, bare, uncached = alternate(
            lambda body=body: world.server.handle(body), lambda body=body, loop=loop: loop.handle(body), cold
        )
        rows.append(
            {
                "payload": name,
                "wire_bytes": len(body),
                "engine": round(engine),
                "bare_loop": round(bare),
                "ratio": round(engine / bare, 3),
                "engine_tokens_not_cached": round(uncached),
            }
        )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    keep_heap()
    with provisioned() as (work, token):
        world = build(work, token)
        world.ask(b"start")
        rows = measure(world)
    about = {
        "python": platform.python_version(),
        "rounds": ROUNDS,
        **{name: version(name) for name in ("cryptography", "orjson", "pybase64", "python-pkcs11")},
    }
    table = Table(title="MSL server engine, one core, steady state (messages per second of CPU time, medians)")
    for heading in ("payload", "on the wire", "engine", "bare loop", "engine / loop", "tokens not cached"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            str(row["payload"]),
            f"{row['wire_bytes']:,} B",
            f"{row['engine']:,}",
            f"{row['bare_loop']:,}",
            f"{row['ratio']:.2f}",
            f"{row['engine_tokens_not_cached']:,}",
        )
    Console().print(table)
    report = json.dumps({"about": about, "rows": rows})
    print(report)
    if arguments.json is not None:
        arguments.json.write_text(report + "\n")


if __name__ == "__main__":
    main()
