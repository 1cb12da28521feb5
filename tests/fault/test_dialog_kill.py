"""Both processes of a dialog are killed again and again; nothing is lost, repeated or reordered (C46-C48)."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import inspect, text

from database_fixture import KINDS
from hsm_msl.stores.sql import Database

TESTS = Path(__file__).parent.parent
COUNT = 400
KILLS = 12


def start(role: str, url: str, spool: Path, ack_mode: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", str(TESTS / "dialog_process.py"), role, url, str(spool), str(COUNT), ack_mode],
        env={"PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}", "PATH": os.environ.get("PATH", "")},
        stderr=subprocess.PIPE,
    )


def rows(database: Database) -> list[int]:
    """What a side has done so far."""
    with database.statements() as connection:
        if not inspect(connection).has_table("work"):
            return []  # the process is still starting
        return list(connection.execute(text("SELECT n FROM work ORDER BY n")).scalars())


@pytest.mark.parametrize(("kind", "ack_mode"), [*((kind, "on_enqueue") for kind in KINDS), ("sqlite", "on_commit")])
def test_kill_9_of_both_sides_at_any_moment(
    kind: str, ack_mode: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if kind == "postgresql":
        cluster = request.getfixturevalue("postgres_cluster")
        urls = {role: cluster.create_database().replace("+psycopg", "") for role in "ab"}
    else:
        urls = {role: f"sqlite:///{tmp_path / role}.db" for role in "ab"}
    spool = tmp_path / "spool"
    spool.mkdir()
    processes = {role: start(role, url, spool, ack_mode) for role, url in urls.items()}
    databases = {role: Database(url) for role, url in urls.items()}
    chance = random.Random(5)
    kills = 0
    deadline = time.monotonic() + 150
    try:
        while time.monotonic() < deadline:
            role = chance.choice("ab")
            try:
                _, complaint = processes[role].communicate(timeout=chance.uniform(0.3, 1.6))
                raise AssertionError(complaint.decode())
            except subprocess.TimeoutExpired:
                pass
            if kills < KILLS:
                processes[role].kill()
                processes[role].communicate()
                processes[role] = start(role, urls[role], spool, ack_mode)
                kills += 1
            elif len(rows(databases["b"])) == COUNT:
                break
        assert kills == KILLS
        assert rows(databases["a"]) == list(range(1, COUNT + 1))
        assert rows(databases["b"]) == list(range(1, COUNT + 1))
        with databases["b"].statements() as connection:
            state = connection.execute(text("SELECT next_in, in_generation, reason FROM dialog_endpoint")).one()
        assert (state[0], state[2]) == (COUNT + 1, 0)
        assert state[1] > COUNT // 50, "the keys were shifted all the while"
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()
        for database in databases.values():
            database.close()
