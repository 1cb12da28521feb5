"""Tokens in worker processes, and sets of tokens, as a configuration file asks for them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from served_tokens import Traffic, served_tokens, workers_of
from service_world import RunningServer
from token_fixture import Forge

WORKERS = "[tokens.a]\nTOKEN-0\nPIN-0\nworkers = 2\ndeadline_seconds = 20\n"
SET = """
[tokens.a]
TOKEN-0
PIN-0
{workers}

[tokens.b]
TOKEN-1
PIN-1
{workers}

[token_sets.both]
tokens = ["a", "b"]
mode = "{mode}"
"""


def stop(server: RunningServer) -> None:
    """The server ends in order, leaves no process behind, and wrote nothing unexpected."""
    workers = workers_of(server)
    assert server.stop() == -signal.SIGTERM
    until = time.monotonic() + 20
    while [pid for pid in workers if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("residency", ["host", "token"])
def test_workers_serve_and_a_killed_one_costs_nobody_an_answer(forge: Forge, tmp_path: Path, residency: str) -> None:
    world = served_tokens(forge, tmp_path, 1)
    with world.serve(world.config(WORKERS, residency=residency)) as server:
        with Traffic(world, server, 3) as traffic:
            for _ in range(3):
                first = workers_of(server)[0]
                os.kill(first, signal.SIGKILL)
                traffic.wait_for_all()
                traffic.wait_while(lambda: len(workers_of(server)) < 2)
        assert not traffic.told
        assert traffic.sessions == 3
        stop(server)


@pytest.mark.parametrize(
    ("mode", "workers"), [("failover", "workers = 1"), ("spread", "workers = 1"), ("failover", "")]
)
@pytest.mark.parametrize("residency", ["host", "token"])
def test_a_set_serves_on_while_one_token_is_away(
    forge: Forge, tmp_path: Path, mode: str, workers: str, residency: str
) -> None:
    world = served_tokens(forge, tmp_path, 2)
    config = world.config(SET.format(mode=mode, workers=workers), residency=residency)
    with world.serve(config) as server:
        with Traffic(world, server, 3) as traffic:
            for number in (0, 1):
                with world.away(number):
                    for _ in range(3):
                        traffic.wait_for_all()
                traffic.wait_for_all()
        assert not traffic.verdicts
        assert traffic.sessions == 3
        stop(server)


def test_a_set_starts_without_a_token_that_is_away_and_takes_it_back(forge: Forge, tmp_path: Path) -> None:
    world = served_tokens(forge, tmp_path, 2)
    config = world.config(SET.format(mode="failover", workers="workers = 1"))
    with world.away(0):
        running = world.serve(config)
        server = running.__enter__()
    try:
        with Traffic(world, server, 2) as traffic:
            assert "token_sets.both goes on without a token" in server.log.read_text()
            traffic.wait_while(lambda: len(workers_of(server)) < 2)
            with world.away(1):
                for _ in range(3):
                    traffic.wait_for_all()
            assert not traffic.verdicts
    finally:
        running.__exit__(None, None, None)


def test_tokens_with_other_keys_are_no_set(forge: Forge, tmp_path: Path) -> None:
    world = served_tokens(forge, tmp_path, 1)
    world.tokens.append(forge.initialise())
    done = world.run("serve", "--check", world.config(SET.format(mode="spread", workers="")))
    assert done.returncode == 78
    assert b'keys."msl.token"' in done.stderr


@pytest.mark.parametrize(
    ("tables", "told"),
    [
        ("[tokens.a]\nTOKEN-0\nPIN-0\ndeadline_seconds = 3\n", "tokens.a.deadline_seconds: is for worker processes"),
        ("[tokens.a]\nTOKEN-0\nPIN-0\nrecycle_after = 3\n", "tokens.a.recycle_after: is for worker processes"),
        ("[tokens.a]\nTOKEN-0\nPIN-0\nworkers = 65\n", 'tokens."a".workers: expected `int` <= 64'),
        ('[tokens.a]\nTOKEN-0\npin = "prompt"\nworkers = 2\n', "tokens.a.pin: each worker reads the PIN for itself"),
        ('[tokens.a]\nTOKEN-0\nPIN-0\nworkers = 2\nvendor = "softhms"\n', "tokens.a.vendor: no vendor profile"),
        ('[tokens.a]\nmodule = "softhsm"\nlabel = "absent"\nPIN-0\nworkers = 1\n', "tokens.a: no token of"),
        (
            '[tokens.a]\nTOKEN-0\nPIN-0\n[token_sets.s]\ntokens = ["a"]\n',
            'token_sets."s".tokens: expected `array` of length >= 2',
        ),
        ('[tokens.a]\nTOKEN-0\nPIN-0\n[token_sets.s]\ntokens = ["a", "b"]\n', "token_sets.s.tokens: no token 'b'"),
        ('[tokens.a]\nTOKEN-0\nPIN-0\n[token_sets.s]\ntokens = ["a", "a"]\n', "token_sets.s.tokens: names 'a' twice"),
        ('[tokens.a]\nTOKEN-0\nPIN-0\n[token_sets.a]\ntokens = ["a", "a"]\n', "token_sets.a: tokens.a has this name"),
        (SET.format(mode="both", workers=""), 'token_sets."both".mode: invalid enum value'),
    ],
)
def test_what_is_refused_is_named(forge: Forge, tmp_path: Path, tables: str, told: str) -> None:
    world = served_tokens(forge, tmp_path, 1)
    world.tokens.append(world.tokens[0])
    done = world.run("serve", "--check", world.config(tables))
    assert done.returncode == 78
    assert told in " ".join(done.stderr.decode().split())
    assert "server.toml" in done.stderr.decode()
