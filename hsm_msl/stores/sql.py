"""One SQL database, SQLite or PostgreSQL, behind two verbs and one rule: no answer is a StoreError.

SQLite runs in WAL mode with full synchronisation; writers take the write lock when they begin, never half-way.
PostgreSQL runs through psycopg 3 with row locks. The stores above this module are the same code on both.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from select import POLLIN, poll

from sqlalchemy import (
    URL,
    Column,
    Connection,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    func,
    insert,
    make_url,
    select,
)
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
from sqlalchemy.exc import ArgumentError, DBAPIError, InvalidatePoolError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from hsm_msl.errors import ConfigurationError, StoreError

_WRITES = "hsm_msl_writes"
_VERSIONS = MetaData()
_VERSION = Table(
    "store_version",
    _VERSIONS,
    Column("component", String, primary_key=True),
    Column("version", Integer, nullable=False),
)

_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_NOT_WRITABLE = (
    "cannot be written: this user needs write access to the file and to its directory, where SQLite keeps its journal"
)
_REMEDIES = {
    sqlite3.SQLITE_READONLY: _NOT_WRITABLE,
    sqlite3.SQLITE_CANTOPEN: _NOT_WRITABLE,
    sqlite3.SQLITE_PERM: _NOT_WRITABLE,
    sqlite3.SQLITE_NOTADB: "is not an SQLite database: name another file, or move this one away",
}


class Database:
    """A pool of connections to one database, safe under threads and after a fork.

    Args:
        url: ``sqlite:///relative/file``, ``sqlite:////absolute/file`` or ``postgresql://user@host/name``. An SQLite
            file is created readable by its owner only; its directory must exist.
        pool_size: connections kept open; as many again may be opened under load.
        timeout: seconds to wait for a connection, a lock or a statement before giving up.

    Raises:
        ConfigurationError: another kind of database, an in-memory one (state would not be durable or shared), an
            URL that does not parse, or an SQLite file that cannot be made.
    """

    def __init__(self, url: str, *, pool_size: int = 8, timeout: float = 10.0) -> None:
        parsed = _parse(url)
        self.name = parsed.render_as_string(hide_password=True)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        self._timeout = timeout
        self._process = os.getpid()
        self._abandoned: list[object] = []
        # SQLite lets one writer in at a time and makes the others poll; in one process a lock is the faster queue.
        self._writer = threading.Lock()
        if self.is_sqlite:
            _create_private(parsed)
        self._engine = create_engine(
            parsed,
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_timeout=timeout,
            hide_parameters=True,
            connect_args={} if self.is_sqlite else _libpq_timeouts(parsed, timeout),
        )
        self._writing = self._engine.execution_options(**{_WRITES: True})
        if self.is_sqlite:
            self._single = self._engine
            event.listen(self._engine, "connect", self._set_up_sqlite)
            event.listen(self._engine, "begin", _begin_sqlite)
        else:
            self._single = self._engine.execution_options(isolation_level="AUTOCOMMIT")
            event.listen(self._engine, "connect", self._set_up_postgresql)
            event.listen(self._engine, "checkout", _discard_closed)

    def __repr__(self) -> str:
        return f"Database({self.name})"

    def prepare(self, metadata: MetaData, component: str, version: int) -> None:
        """Create the tables of a component unless they are there, once however many processes start together.

        Where the tables exist, the database user needs no right to create any.

        Args:
            metadata: the tables.
            component: the name under which their version is recorded.
            version: the version of the layout this code reads and writes.

        Raises:
            ConfigurationError: the tables are there in another version, or the file can be no SQLite database.
            StoreError: the database gave no answer.
        """
        try:
            self._prepare(metadata, component, version)
        except StoreError as error:
            remedy = _remedy(error.__cause__)
            if remedy is None:
                raise
            raise ConfigurationError(f"{self.name}: {remedy}") from error

    def _prepare(self, metadata: MetaData, component: str, version: int) -> None:
        found: int | None = None
        with contextlib.suppress(StoreError), self.statements() as connection:
            found = _layout(connection, component)
        if found is None:
            with self.transaction() as connection:
                self.lock(connection, "hsm-msl tables")
                _VERSIONS.create_all(connection)
                found = _layout(connection, component)
                if found is None:
                    metadata.create_all(connection)
                    connection.execute(insert(_VERSION).values(component=component, version=version))
                    found = version
        if found != version:
            raise ConfigurationError(
                f"{self.name}: the {component} tables have layout version {found}, this program needs {version}"
            )

    @contextlib.contextmanager
    def statements(self) -> Iterator[Connection]:
        """Yield a connection on which every statement is a transaction of its own: single look-ups and changes.

        Raises:
            StoreError: the database gave no answer.
        """
        with self.answers(), self._single.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Yield a connection inside a writing transaction, committed at the end and durable then.

        An exception, or ``connection.rollback()``, undoes everything. Not to be nested.

        Raises:
            StoreError: the database gave no answer; unless the end of the transaction was reached, nothing changed.
        """
        with (
            self.answers(),
            self._one_writer(),
            self._writing.connect() as connection,
            connection.begin(),
        ):
            yield connection

    def lock(self, connection: Connection, name: str) -> None:
        """Make transactions that lock the same name wait for each other, until this one ends.

        Needed where rows to be locked do not exist yet. On SQLite writers exclude each other anyway.
        """
        if not self.is_sqlite:
            connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))

    def close(self) -> None:
        """Close every idle connection."""
        self._engine.dispose()

    @contextlib.contextmanager
    def answers(self) -> Iterator[None]:
        """Raise StoreError for what a connection raises in a block, whoever opened it."""
        if os.getpid() != self._process:
            self._leave_parent()
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise StoreError(f"{self.name}: {_summary(error)}") from error

    @contextlib.contextmanager
    def _one_writer(self) -> Iterator[None]:
        if not self.is_sqlite:
            yield
            return
        if not self._writer.acquire(timeout=self._timeout):
            raise StoreError(f"{self.name}: another thread kept the write lock for {self._timeout:g} s")
        try:
            yield
        finally:
            self._writer.release()

    def _leave_parent(self) -> None:
        """Open connections anew after a fork; those of the parent are left alone, not even closed."""
        self._abandoned.append(self._engine.pool)
        self._engine.dispose(close=False)
        self._writer = threading.Lock()
        self._process = os.getpid()

    def _set_up_sqlite(self, connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
        del entry
        connection.isolation_level = None  # transactions begin where we say so, see _begin_sqlite
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {int(self._timeout * 1000)}")
        _enter_wal(cursor, time.monotonic() + self._timeout)
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    def _set_up_postgresql(self, connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
        del entry
        limit = int(self._timeout * 1000)
        cursor = connection.cursor()
        cursor.execute(
            "SELECT set_config('statement_timeout', %s, false), set_config('lock_timeout', %s, false),"
            " set_config('idle_in_transaction_session_timeout', %s, false),"
            # An answer must survive a crash of the server, whatever the cluster's default is.
            " CASE WHEN current_setting('synchronous_commit') = 'off'"
            " THEN set_config('synchronous_commit', 'on', false) END",
            (str(limit), str(limit), str(6 * limit)),
        )
        cursor.close()
        connection.commit()


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # the latter for a port that is no number
        raise ConfigurationError(
            "the database URL does not parse; write sqlite:///FILE or postgresql://..."
        ) from None
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise ConfigurationError(f"database {backend!r} is not supported; use sqlite or postgresql")
    if parsed.database in (None, "", ":memory:") or parsed.query:
        raise ConfigurationError("an SQLite URL must name a file: sqlite:///FILE")
    return parsed.set(drivername="sqlite+pysqlite")


def _create_private(url: URL) -> None:
    path = Path(url.database or "")
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise ConfigurationError(f"the database file {path} cannot be opened: {error.strerror}") from None


def _libpq_timeouts(url: URL, timeout: float) -> dict[str, str | int]:
    """Return connection parameters that bound how long a silent network can hold a caller."""
    wanted: dict[str, str | int] = {
        "connect_timeout": max(2, int(timeout)),
        "tcp_user_timeout": int(timeout * 1000),
        "keepalives_idle": 10,
        "application_name": "hsm-msl",
    }
    return {name: value for name, value in wanted.items() if name not in url.query}


def _enter_wal(cursor: DBAPICursor, deadline: float) -> None:
    """Switch to write-ahead logging, which SQLite refuses without waiting while another process does the same."""
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if _primary_code(error) not in _BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    if connection.get_execution_options().get(_WRITES):
        # Straight to the driver: once per transaction, SQLAlchemy's own path costs as much as the statement itself.
        driver = connection.connection.driver_connection
        if isinstance(driver, sqlite3.Connection):
            driver.execute("BEGIN IMMEDIATE")


def _discard_closed(connection: DBAPIConnection, entry: ConnectionPoolEntry, proxy: PoolProxiedConnection) -> None:
    """Drop pooled connections the server has closed: an idle one with something to read has had its last word."""
    del entry, proxy
    poller = poll()
    poller.register(connection.fileno(), POLLIN)
    if poller.poll(0):
        raise InvalidatePoolError("the server closed the connection")


def _layout(connection: Connection, component: str) -> int | None:
    return connection.scalar(select(_VERSION.c.version).where(_VERSION.c.component == component))


def _remedy(error: BaseException | None) -> str | None:
    """Return what an operator has to do about an SQLite file that cannot work as it is; None for what may pass."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return _REMEDIES.get(_primary_code(cause)) if isinstance(cause, sqlite3.Error) else None


def _primary_code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF  # errors of the binding itself have no code


def _summary(error: Exception) -> str:
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    lines = str(cause).strip().splitlines()
    return f"{type(cause).__name__}: {lines[0] if lines else ''}"
