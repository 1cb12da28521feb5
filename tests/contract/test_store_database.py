"""The database under the SQL stores: durable settings, and an outage that is always a StoreError."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from hsm_msl.errors import ConfigurationError, StoreError
from hsm_msl.ports import ReplayState
from hsm_msl.stores.replay import SqlReplayStore
from hsm_msl.stores.schema import LAYOUT_VERSION, METADATA, prepare
from hsm_msl.stores.sql import Database
from postgres_fixture import PostgresCluster


def scalar(database: Database, statement: str) -> object:
    with database.statements() as connection:
        return connection.execute(text(statement)).scalar()


@pytest.fixture
def sqlite_file(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def sqlite_database(sqlite_file: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{sqlite_file}", timeout=0.3)
    yield database
    database.close()


def test_sqlite_is_durable_and_private(sqlite_database: Database, sqlite_file: Path) -> None:
    prepare(sqlite_database)
    assert scalar(sqlite_database, "PRAGMA journal_mode") == "wal"
    assert scalar(sqlite_database, "PRAGMA synchronous") == 2
    assert scalar(sqlite_database, "PRAGMA foreign_keys") == 1
    assert {path.stat().st_mode & 0o077 for path in sqlite_file.parent.glob("state.db*")} == {0}


def test_postgresql_commits_wait_for_the_disk_whatever_the_cluster_says(postgres_url: str) -> None:
    """The test cluster runs with synchronous_commit off; the stores turn it on for themselves."""
    database = Database(postgres_url, timeout=7)
    assert scalar(database, "SHOW synchronous_commit") == "on"
    assert scalar(database, "SHOW lock_timeout") == "7s"
    database.close()


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:x?mode=memory&uri=true",
        "mysql://host/db",
        "nonsense",
        "",
    ],
)
def test_unusable_urls_are_configuration_errors(url: str) -> None:
    with pytest.raises(ConfigurationError):
        Database(url)


def test_missing_directory_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        Database(f"sqlite:///{tmp_path}/none/state.db")


def test_another_layout_version_is_refused(database: Database) -> None:
    prepare(database)
    prepare(database)
    with pytest.raises(ConfigurationError, match=f"layout version {LAYOUT_VERSION}"):
        database.prepare(METADATA, "msl", LAYOUT_VERSION + 1)


def test_processes_that_prepare_together_all_succeed(database_url: str) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3, timeout=30)
    children = [context.Process(target=_prepare, args=(database_url, barrier.wait), daemon=True) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0, 0]


def _prepare(url: str, ready: object) -> None:
    database = Database(url)
    assert callable(ready)
    ready()
    prepare(database)
    SqlReplayStore(database).advance(str(os.getpid()), 1, lambda state: ReplayState(1))
    database.close()


def test_transaction_undoes_everything_on_an_error(database: Database) -> None:
    prepare(database)
    row = "INSERT INTO revision (subject, number) VALUES ('a', 1)"
    with pytest.raises(StoreError):
        _execute_together(database, row, row)
    assert scalar(database, "SELECT count(*) FROM revision") == 0


def _execute_together(database: Database, *statements: str) -> None:
    with database.transaction() as connection:
        for statement in statements:
            connection.execute(text(statement))


def test_sqlite_locked_by_another_process_is_a_store_error(sqlite_database: Database, sqlite_file: Path) -> None:
    prepare(sqlite_database)
    other = sqlite3.connect(sqlite_file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store = SqlReplayStore(sqlite_database)
    with pytest.raises(StoreError, match="locked"):
        store.advance("entity", 1, lambda state: ReplayState(1))
    other.execute("ROLLBACK")
    other.close()
    store.advance("entity", 1, lambda state: ReplayState(1))


def test_sqlite_lock_kept_by_another_thread_is_a_store_error(sqlite_database: Database) -> None:
    prepare(sqlite_database)
    errors: list[StoreError] = []

    def blocked() -> None:
        try:
            SqlReplayStore(sqlite_database).advance("entity", 1, lambda state: ReplayState(1))
        except StoreError as error:
            errors.append(error)

    with sqlite_database.transaction():
        thread = threading.Thread(target=blocked)
        thread.start()
        thread.join(20)
    assert len(errors) == 1


def test_sqlite_file_that_is_no_database_is_a_configuration_error(sqlite_file: Path) -> None:
    sqlite_file.write_bytes(b"this is not a database at all" * 100)
    database = Database(f"sqlite:///{sqlite_file}")
    with pytest.raises(ConfigurationError, match="is not an SQLite database: name another file"):
        prepare(database)
    database.close()
    assert sqlite_file.read_bytes().startswith(b"this is not"), "bad input loses nothing"


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Have permissions count for the length of a block."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_sqlite_in_a_directory_that_cannot_be_written_is_a_configuration_error_at_once(
    sqlite_database: Database,
) -> None:
    prepare(sqlite_database)  # everything is imported while it can be
    with tempfile.TemporaryDirectory() as name:  # where others may look, unlike the directories of tests
        directory = Path(name)
        file = directory / "state.db"
        file.touch()
        file.chmod(0o666)
        directory.chmod(0o555)
        with unprivileged():
            database = Database(f"sqlite:///{file}", timeout=600)
            with pytest.raises(ConfigurationError, match="write access to the file and to its directory"):
                prepare(database)
            database.close()
        directory.chmod(0o755)


def test_connections_closed_by_the_server_are_replaced_unnoticed(postgres_url: str) -> None:
    database = Database(postgres_url)
    prepare(database)
    store = SqlReplayStore(database)
    with database.statements() as first, database.statements() as second:
        pids = [connection.scalar(text("SELECT pg_backend_pid()")) for connection in (first, second)]
    other = Database(postgres_url)
    for pid in pids:
        assert scalar(other, f"SELECT pg_terminate_backend({pid}, 5000)") is True
    store.advance("entity", 1, lambda state: ReplayState(9))
    assert scalar(database, "SELECT largest FROM nonreplay") == 9
    other.close()
    database.close()


def test_postgresql_down_is_a_store_error_and_back_again_is_used_at_once() -> None:
    cluster = PostgresCluster()
    try:
        database = Database(cluster.create_database(), timeout=3)
        prepare(database)
        store = SqlReplayStore(database)
        store.advance("entity", 1, lambda state: ReplayState(5))
        calls: list[int] = []
        cluster.halt()
        for _ in range(2):
            with pytest.raises(StoreError):
                store.advance("entity", 1, lambda state: calls.append(state.largest))
        assert calls == []
        cluster.start()
        store.advance("entity", 1, lambda state: calls.append(state.largest))
        assert calls == [5]
        database.close()
    finally:
        cluster.stop()


def test_password_of_the_url_is_nowhere_in_an_error(tmp_path: Path) -> None:
    database = Database(f"postgresql://user:s3cr3t-pw@/name?host={tmp_path}", timeout=2)
    with pytest.raises(StoreError) as caught:
        prepare(database)
    chain: BaseException | None = caught.value
    while chain is not None:
        assert "s3cr3t-pw" not in f"{chain!r} {chain}"
        chain = chain.__cause__
    assert "s3cr3t-pw" not in repr(database)
    database.close()


def test_values_of_a_failed_statement_are_nowhere_in_an_error(database: Database) -> None:
    with pytest.raises(StoreError) as caught, database.statements() as connection:
        connection.execute(text("SELECT * FROM missing WHERE a = :a"), {"a": "s3cr3t-value"})
    chain: BaseException | None = caught.value
    while chain is not None:
        assert "s3cr3t-value" not in f"{chain!r} {chain}"
        chain = chain.__cause__


def test_forked_child_opens_its_own_connections(database: Database) -> None:
    """A prefork server opens the stores before it forks; parent and children then work side by side."""
    prepare(database)
    store = SqlReplayStore(database)
    store.advance("entity", 1, lambda state: ReplayState(1))
    children = []
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                for _ in range(20):
                    store.advance("entity", 1, lambda state: ReplayState(state.largest + 1))
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    for _ in range(20):
        store.advance("entity", 1, lambda state: ReplayState(state.largest + 1))
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0]
    assert scalar(database, "SELECT largest FROM nonreplay") == 61


@pytest.mark.parametrize("url", ["postgresql://u:p@127.0.0.1:port/x", "state.sqlite", "postgresql://u:p@h:1:2/x"])
def test_a_url_that_does_not_parse_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError, match="does not parse"):
        Database(url)
