"""Faults of the token under the traffic of a served MSL server: no verdict about anybody, and an end to the outage.

A client may be told to try again (TRANSIENT_FAILURE, or HTTP 503 where the server cannot even sign that) and nothing
else. None has to authenticate or agree on keys again: each ends with the session it began with.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from served_tokens import ServedTokens, Traffic, served_tokens, workers_of
from service_world import RunningServer
from token_fixture import Forge

CLIENTS = 3
LONGEST = 45.0
"""Seconds from the end of a fault to a reply to every client, on a machine that does other things besides.

The longest of all is a worker that is stopped while it starts: ``START_SECONDS``.
"""

HERE = "[tokens.a]\nTOKEN-0\nPIN-0\n"
IN_WORKERS = HERE + "workers = 2\ndeadline_seconds = 4\n"


def holders(server: RunningServer) -> list[int]:
    """The processes that have the token open."""
    return workers_of(server) or [server.process.pid]


def signalled(number: int) -> Callable[[ServedTokens, RunningServer], None]:
    def inject(world: ServedTokens, server: RunningServer) -> None:  # what a fault is given
        for pid in holders(server):
            os.kill(pid, number)

    return inject


def directory_away(world: ServedTokens, server: RunningServer) -> None:
    with world.away(0):
        time.sleep(1.5)


FAULTS = {
    "the login is lost": signalled(signal.SIGUSR1),
    "every session is closed": signalled(signal.SIGUSR2),
    "the module is finalised": signalled(signal.SIGRTMIN),
    "the token directory is away": directory_away,
}
PROCESS_FAULTS = {
    "every worker is killed": signalled(signal.SIGKILL),
    "every worker hangs": signalled(signal.SIGSTOP),
}


@pytest.mark.parametrize("residency", ["host", "token"])
@pytest.mark.parametrize(
    ("tables", "faults"),
    [(HERE, FAULTS), (IN_WORKERS, FAULTS | PROCESS_FAULTS)],
    ids=["in this process", "in workers"],
)
def test_no_fault_becomes_a_verdict_and_each_has_an_end(
    forge: Forge, tmp_path: Path, tables: str, faults: dict[str, Callable[..., None]], residency: str
) -> None:
    world = served_tokens(forge, tmp_path, 1)
    with world.serve(world.config(tables, residency=residency, inline=False)) as server:
        with Traffic(world, server, CLIENTS) as traffic:
            for name, inject in faults.items():
                for _ in range(2):
                    answered = traffic.answered
                    inject(world, server)
                    traffic.wait_for_all(LONGEST)
                    assert traffic.answered >= answered + CLIENTS, name
                    assert not traffic.verdicts, f"{name}: {dict(traffic.told)}"
        assert traffic.sessions == CLIENTS
        assert not traffic.verdicts
    assert "Traceback" not in server.log.read_text()
