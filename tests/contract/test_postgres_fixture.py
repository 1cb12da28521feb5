"""The private cluster itself: isolated databases, an unprivileged server, gone when its owner is gone."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import psycopg
from sqlalchemy import create_engine, text

from postgres_fixture import PostgresCluster


def test_each_test_gets_an_empty_database(postgres_cluster: PostgresCluster) -> None:
    first, second = postgres_cluster.create_database(), postgres_cluster.create_database()
    engine = create_engine(first)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE only_here (a int)"))
    engine.dispose()
    other = create_engine(second)
    with other.connect() as connection:
        assert connection.execute(text("SELECT to_regclass('only_here')")).scalar() is None
    other.dispose()
    postgres_cluster.drop_database(first)
    postgres_cluster.drop_database(second)


def test_server_listens_on_no_network_and_runs_unprivileged(postgres_cluster: PostgresCluster) -> None:
    conninfo = f"host={postgres_cluster.directory} user={postgres_cluster.user} dbname=postgres"
    with psycopg.connect(conninfo) as connection:
        row = connection.execute("SHOW listen_addresses").fetchone()
        assert row == ("",)
        backend = connection.execute("SELECT pg_backend_pid()").fetchone()
        assert backend is not None
        assert os.stat(f"/proc/{backend[0]}").st_uid != 0


def test_nothing_stays_of_a_test_process_that_was_killed() -> None:
    """Not even when its whole process group is killed, as ``timeout`` does."""
    program = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[1])\n"
        "from postgres_fixture import PostgresCluster\n"
        "cluster = PostgresCluster()\n"
        "print(cluster.keeper_pid, cluster.server_pid, flush=True)\n"
        "print(cluster.directory, flush=True)\n"
        "os.killpg(0, signal.SIGKILL)\n"
    )
    tests = Path(__file__).parent.parent
    child = subprocess.run(
        [sys.executable, "-c", program, str(tests)],
        stdout=subprocess.PIPE,
        start_new_session=True,
        timeout=60,
        check=False,
        text=True,
    )
    keeper, server, directory = child.stdout.split()
    try:
        handle = os.pidfd_open(int(keeper))
    except ProcessLookupError:
        pass  # already gone
    else:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        assert poll.poll(20_000), "the server outlived its owner"
        os.close(handle)
    assert not _runs(server)
    assert not Path(directory).exists()


def _runs(pid: str) -> bool:
    """Tell whether a process runs; one that ended may still be listed where nobody reaps orphans."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
