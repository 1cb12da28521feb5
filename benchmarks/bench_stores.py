"""What the state stores cost: SQLite and a private PostgreSQL, both durable, on this machine's disk.

    python benchmarks/bench_stores.py [--seconds S] [--fleet N] [--json]

Needs PostgreSQL's server programs (Debian's package ``postgresql``); starts a cluster of its own and removes it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from hsm_msl.ports import RenewalState, ReplayState
from hsm_msl.ports.schemes import WrappedKeys
from hsm_msl.stores.fleet_keys import FleetEntry, FleetKeyStore
from hsm_msl.stores.passwords import Passwords, RecentPasswords
from hsm_msl.stores.renewal import SqlRenewalStore
from hsm_msl.stores.replay import SqlReplayStore
from hsm_msl.stores.revocation import Revocation, SqlRevocations, Subject
from hsm_msl.stores.revocation_cache import CachedRevocations
from hsm_msl.stores.schema import prepare
from hsm_msl.stores.sql import Database
from hsm_msl.stores.users import SqlUserRecords, UserDirectory
from postgres_fixture import PostgresCluster


class Row(NamedTuple):
    """One measured line."""

    store: str
    operation: str
    per_second: float
    microseconds: float


def measure(store: str, operation: str, seconds: float, work: Callable[[int], object]) -> Row:
    """Call ``work`` with 0, 1, 2, ... for that long and return the rate."""
    work(0)
    start, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        count += 1
        work(count)
    return Row(store, operation, count / elapsed, elapsed / count * 1e6)


def measure_threads(store: str, operation: str, seconds: float, threads: int, work: Callable[[int], object]) -> Row:
    """Let threads call ``work`` with their number and return the rate of all together."""
    counts = [0] * threads
    end = time.perf_counter() + seconds

    def run(number: int) -> None:
        while time.perf_counter() < end:
            work(number)
            counts[number] += 1

    workers = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    rate = sum(counts) / seconds
    return Row(store, f"{operation}, {threads} threads", rate, 1e6 / rate)


def state_rows(store: str, database: Database, seconds: float) -> Iterator[Row]:
    """Measure the stores a server asks while it answers messages."""
    replay, renewal = SqlReplayStore(database), SqlRenewalStore(database)
    renewal.create("entity", 1, RenewalState(0, 0, 0))
    yield measure(store, "replay: advance", seconds, lambda _: replay.advance("entity", 1, _next))
    yield measure_threads(store, "replay: advance", seconds, 8, lambda number: replay.advance(f"e{number}", 1, _next))
    yield measure(store, "replay: first of a token", seconds, lambda n: replay.advance(f"fresh{n}", 1, _next))
    yield measure(store, "renewal: renew", seconds, lambda n: renewal.renew("entity", 1, _renewed(n)))
    revocations = SqlRevocations(database, time.time)
    for number in range(1000):
        revocations.revoke(Revocation(Subject.ENTITY, f"revoked {number}"))
    cached = CachedRevocations(revocations, time.time)
    yield measure(
        store, "revocation: asked of the database", seconds, lambda _: revocations.master_token_revoked("entity", 1)
    )
    yield measure(
        store, "revocation: asked of the snapshot", seconds, lambda _: cached.master_token_revoked("entity", 1)
    )


def user_rows(store: str, database: Database, seconds: float) -> Iterator[Row]:
    """Measure passwords: argon2id at its default cost, an unknown user, and the memory of recent passwords."""
    passwords = Passwords(os.urandom)
    users = UserDirectory(SqlUserRecords(database), passwords)
    users.add("ann@example.com", "correct horse")
    yield measure(
        store, "user: authenticate", seconds, lambda _: users.authenticate("ann@example.com", "correct horse")
    )
    yield measure(store, "user: unknown email", seconds, lambda _: users.authenticate("bob@example.com", "x"))
    recent = UserDirectory(SqlUserRecords(database), passwords, RecentPasswords(time.time, os.urandom))
    yield measure(
        store,
        "user: authenticate, remembered",
        seconds,
        lambda _: recent.authenticate("ann@example.com", "correct horse"),
    )


def fleet_rows(store: str, database: Database, entities: int) -> Iterator[Row]:
    """Measure the import of a fleet and look-ups in a small and in the whole one."""
    fleet = FleetKeyStore(database)
    keys = WrappedKeys(os.urandom(24), os.urandom(40), os.urandom(24), "fleet-1")
    fleet.put_many(FleetEntry(f"entity-{number:08}", keys) for number in range(1000))
    yield _look_ups(store, fleet, 1000)
    start = time.perf_counter()
    fleet.put_many(FleetEntry(f"entity-{number:08}", keys, number) for number in range(entities))
    elapsed = time.perf_counter() - start
    yield Row(store, f"fleet: import of {entities:,}", entities / elapsed, elapsed / entities * 1e6)
    yield _look_ups(store, fleet, entities)


def _look_ups(store: str, fleet: FleetKeyStore, entities: int) -> Row:
    times = []
    for number in range(3000):
        start = time.perf_counter()
        fleet.get(f"entity-{number * 7919 % entities:08}")
        times.append(time.perf_counter() - start)
    middle = median(times)
    return Row(store, f"fleet: look-up among {entities:,}", 1 / middle, middle * 1e6)


def _next(state: ReplayState) -> ReplayState:
    return ReplayState(state.largest + 1)


def _renewed(number: int) -> Callable[[RenewalState | None], RenewalState]:
    return lambda state: RenewalState(number + 1, number, 0)


def rows_of(store: str, url: str, seconds: float, entities: int) -> Iterator[Row]:
    """Measure everything on one database."""
    database = Database(url, timeout=60)
    prepare(database)
    yield from state_rows(store, database, seconds)
    yield from user_rows(store, database, seconds)
    yield from fleet_rows(store, database, entities)
    database.close()


def main() -> None:
    """Measure both databases and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="time per line")
    parser.add_argument("--fleet", type=int, default=100_000, help="entities imported")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as directory:
        rows += rows_of("SQLite", f"sqlite:///{directory}/state.db", options.seconds, options.fleet)
    cluster = PostgresCluster(durable=True)
    try:
        rows += rows_of("PostgreSQL", cluster.create_database(), options.seconds, options.fleet)
    finally:
        cluster.stop()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    if options.json:
        print(json.dumps({"rows": [row._asdict() for row in rows], "peak_memory_mib": memory}, indent=2))
        return
    print(f"{'store':12} {'operation':38} {'per second':>12} {'µs each':>10}")
    for row in rows:
        print(f"{row.store:12} {row.operation:38} {row.per_second:12,.0f} {row.microseconds:10,.1f}")
    print(f"peak memory of this process: {memory} MiB (argon2id takes 64 MiB of it)")


if __name__ == "__main__":
    main()
