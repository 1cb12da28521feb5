"""A private PostgreSQL cluster in a temporary directory, for every test that runs over PostgreSQL.

The server listens on a Unix socket only, runs as an unprivileged user and lives as long as a pipe this process
holds: when the test process ends in whatever way, the pipe closes and the server shuts down. Use the fixtures:
``postgres_cluster`` (one per xdist worker, started when first asked for) and ``postgres_url`` (a fresh, empty
database per test as an SQLAlchemy URL for psycopg 3).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

INSTALL = "PostgreSQL server programs not found; install them with: apt-get install postgresql"

# The shell waits for end of file on its input, the pipe held by this process, then asks for a fast shutdown and,
# unless told to keep the data, leaves nothing behind.
KEEPER = (
    '"$@" & server=$!; order=$(cat); kill -INT "$server"; wait "$server"; '
    '[ "$order" = keep ] || rm -rf "$CLUSTER_DIRECTORY"'
)


def server_program(name: str) -> str:
    """Return the path of a PostgreSQL server program; Debian keeps them out of PATH."""
    candidates = sorted(
        Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]), reverse=True
    )
    found = str(candidates[0]) if candidates else shutil.which(name)
    if found is None:
        raise FileNotFoundError(INSTALL)
    return found


def unprivileged_user() -> str:
    """Return the account to run as: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid()).pw_name
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


class PostgresCluster:
    """A running private cluster.

    Args:
        durable: keep fsync and synchronous commit on, as in production (benchmarks). Tests that do not cut the
            machine's power lose nothing without them: a killed server process keeps what the system cached.

    """

    def __init__(self, *, durable: bool = False) -> None:
        self._durable = durable
        self.directory = Path(tempfile.mkdtemp(prefix="pg-"))
        self.user = unprivileged_user()
        self._data = self.directory / "data"
        self._log: list[str] = []
        self._ready = threading.Event()
        self._numbers = itertools.count(1)
        self._uid: int | None = None
        self._gid: int | None = None
        if os.geteuid() == 0:
            account = pwd.getpwnam(self.user)
            self._uid, self._gid = account.pw_uid, account.pw_gid
            os.chown(self.directory, self._uid, self._gid)
        try:
            self._initialise()
            self.start()
        except BaseException:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise

    def _initialise(self) -> None:
        command = [server_program("initdb"), "-D", str(self._data), "-U", self.user, "-A", "trust"]
        command += ["-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        done = subprocess.run(
            command,
            check=False,
            timeout=120,
            cwd=self.directory,
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            user=self._uid,
            group=self._gid,
            extra_groups=None if self._gid is None else [],
        )
        if done.returncode != 0:
            raise RuntimeError(f"initdb failed:\n{done.stdout}")

    def start(self) -> None:
        """Start the server and wait until it takes connections; for tests that halted it."""
        self._ready.clear()
        switch = "on" if self._durable else "off"
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.directory),
            "fsync": switch,
            "synchronous_commit": switch,
            "full_page_writes": switch,
            "max_connections": "60",
            "shared_buffers": "64MB",
            "log_min_messages": "log",  # the level above ERROR: tests provoke errors on purpose
        }
        command = [server_program("postgres"), "-D", str(self._data)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        self._process = subprocess.Popen(
            ["sh", "-c", KEEPER, "sh", *command],
            stdin=subprocess.PIPE,
            start_new_session=True,  # a signal to the group of the tests must not reach the keeper
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.directory,
            env=self._environment(),
            user=self._uid,
            group=self._gid,
            extra_groups=None if self._gid is None else [],
        )
        self._reader = threading.Thread(target=self._watch, name="postgres-log", daemon=True)
        self._reader.start()
        if not self._ready.wait(60) or self._process.poll() is not None:
            self.halt()
            raise RuntimeError("PostgreSQL did not start:\n" + "\n".join(self._log[-20:]))

    def _watch(self) -> None:
        stream = self._process.stderr
        if stream is None:
            raise RuntimeError("the server was started without a log pipe")
        for line in stream:
            self._log.append(line.rstrip())
            del self._log[:-200]
            if "ready to accept connections" in line:
                self._ready.set()
        self._ready.set()

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "LC_ALL": "C",
            "TZ": "UTC",
            "CLUSTER_DIRECTORY": str(self.directory),
        }

    @property
    def keeper_pid(self) -> int:
        """The process ID of the shell that ends and removes the server with us."""
        return self._process.pid

    @property
    def server_pid(self) -> int:
        """The process ID of the server itself."""
        return int((self._data / "postmaster.pid").read_text().split()[0])

    def create_database(self) -> str:
        """Create an empty database and return its SQLAlchemy URL."""
        name = f"test_{next(self._numbers)}"
        with psycopg.connect(self._conninfo("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return f"postgresql+psycopg://{self.user}@/{name}?host={self.directory}"

    def drop_database(self, url: str) -> None:
        """Remove a database made by ``create_database``, cutting connections that are still open."""
        name = url.split("@/")[1].split("?")[0]
        with psycopg.connect(self._conninfo("postgres"), autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())

    def _conninfo(self, database: str) -> str:
        return f"host={self.directory} user={self.user} dbname={database}"

    def halt(self) -> None:
        """Shut the server down, cutting every connection, and wait for it; the data stays."""
        self._order("keep")
        self._process.wait(30)
        self._reader.join(10)
        if self._process.stderr is not None:
            self._process.stderr.close()

    def _order(self, word: str) -> None:
        pipe = self._process.stdin
        if pipe is not None and not pipe.closed:
            with contextlib.suppress(BrokenPipeError), pipe:
                pipe.write(word)

    def stop(self) -> None:
        """Shut the server down and remove its directory."""
        try:
            self.halt()
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[PostgresCluster]:
    """Yield this worker's private cluster."""
    cluster = PostgresCluster()
    yield cluster
    cluster.stop()


@pytest.fixture
def postgres_url(postgres_cluster: PostgresCluster) -> Iterator[str]:
    """Yield the URL of a fresh, empty database."""
    url = postgres_cluster.create_database()
    yield url
    postgres_cluster.drop_database(url)
