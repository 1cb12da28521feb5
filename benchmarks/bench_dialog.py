"""Throughput of the secure dialog: packets, engine, durable stores, and the price of a first packet in token calls.

Usage: python benchmarks/bench_dialog.py [--quick] [--database URL] [--token]

``--database`` measures the durable figures on another database than SQLite files in a temporary directory (PostgreSQL
URL of an empty database); ``--token`` adds the first packet on a SoftHSMv2 token (run through
softhsm/with-softhsm.sh). CPU seconds are of this process, best of several runs; wall seconds show what disks cost.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import gc
import importlib.metadata
import itertools
import platform
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from engine_world import provisioned

from dialog_token import world_in_token
from dialog_world import World
from hsm_msl.backend.pkcs11.agreement import TokenEcdhKey
from hsm_msl.backend.pkcs11.exchange import TokenExchangeKey, TokenExchangeKeys, TokenUnwrappingKey
from hsm_msl.backend.pkcs11.signing import TokenSigningKey
from hsm_msl.backend.pkcs11.token import Token
from hsm_msl.backend.pkcs11.wrapping import TokenWrappingKey
from hsm_msl.dialog.names import Side
from hsm_msl.dialog.packet import Core, Ext, assemble, parse, tag_input
from hsm_msl.dialog.policy import Policy
from hsm_msl.dialog.suites import SUITES
from hsm_msl.ports.dialog_records import DialogStore
from hsm_msl.service.dialog.accepting import Accepting
from hsm_msl.stores.dialog_memory import MemoryDialogStore
from hsm_msl.stores.dialog_sql import SqlDialogStore
from hsm_msl.stores.sql import Database
from token_fixture import KeyMaker

INIT, TARGET = Side.INITIATOR, Side.TARGET
QUIET = Policy(on_peer_shift=False)
BODY = bytes(range(256)) * 4


def measure(name: str, runs: int, count: int, work: Callable[[], None], unit: str = "packets") -> float:
    """Run ``work`` several times and print the best rate per CPU second, and per wall second."""
    best_cpu = best_wall = float("inf")
    for _ in range(runs):
        gc.collect()
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        best_cpu = min(best_cpu, time.process_time() - cpu)
        best_wall = min(best_wall, time.perf_counter() - wall)
    rate = count / best_cpu
    print(f"{name:58} {rate:9,.0f} {unit}/CPU s {count / best_wall:9,.0f} /s wall {1e6 * best_cpu / count:8.1f} us")
    return rate


def packets_alone(runs: int, count: int, suite: int) -> None:
    """The packet path without state: core, body, tag, and back."""
    world = World(suite=suite, policy=QUIET)
    dialog = world.open()
    state = world.a.state(dialog, INIT)
    with world.a.store.reading() as tx:
        session = world.a.engine._outbound.load(tx, state, 1, world.clock())
    if session is None:
        raise SystemExit("no session key")
    keys = session.keys
    made: list[bytes] = []

    def send() -> None:
        made.clear()
        for seq in range(1, count + 1):
            core = Core(
                dialog=dialog, direction=0, kind=1, seq=seq, message_type="bench", generation=1,
                dsk_id=session.dsk_id, suite=suite, expiry=state.expires_at,
            ).encode()  # fmt: skip
            body = keys.seal(seq, 0, BODY, core)
            ext = Ext(sent_at=1_800_000_000_000, attempt=1, shift_ack=1, base=1).encode()
            made.append(assemble(core, ext, body, keys.tag(tag_input(core, ext, body))))

    def receive() -> None:
        for data in made:
            packet = parse(data)
            keys.check(packet.covered(), packet.tag)
            keys.open(packet.core.seq, 0, packet.body, packet.core_bytes)

    cipher = SUITES[suite].body.name
    measure(f"packet sealed, warm, 1 KiB, {cipher}", runs, count, send)
    measure(f"packet opened, warm, 1 KiB, {cipher}", runs, count, receive)
    print(f"{'':58} {len(made[0]):9,} bytes per packet")


def engines(title: str, runs: int, count: int, batch: int, make: Callable[[str], DialogStore]) -> None:
    """Whole engines over stores: send, transmit, receive, acknowledge, take."""
    world = World(initiator_store=make("a"), target_store=make("b"), policy=QUIET, seed=title)
    dialog = world.open()
    messages = [("bench", BODY)] * batch
    rounds = count // batch

    def take() -> None:
        taken = 0
        while taken < count * runs:
            taken += len(world.b.take(dialog, TARGET, batch))

    stages: dict[str, float] = {"sent": 0.0, "transmitted": 0.0, "received": 0.0, "ack taken in": 0.0}
    walls = dict.fromkeys(stages, 0.0)
    best: dict[str, float] = dict.fromkeys(stages, float("inf"))
    best_wall = dict(best)
    for _ in range(runs):
        gc.collect()
        stages = dict.fromkeys(stages, 0.0)
        walls = dict.fromkeys(stages, 0.0)
        for _ in range(rounds):
            marks = [(time.process_time(), time.perf_counter())]
            with world.a.store.transaction() as tx:
                world.a.engine.send(tx, dialog, INIT, messages)
            marks.append((time.process_time(), time.perf_counter()))
            out = [out.packet for out in world.a.engine.transmit(batch)]
            marks.append((time.process_time(), time.perf_counter()))
            back = world.b.engine.receive(out).replies
            marks.append((time.process_time(), time.perf_counter()))
            world.a.engine.receive(back)
            marks.append((time.process_time(), time.perf_counter()))
            for index, stage in enumerate(stages):
                stages[stage] += marks[index + 1][0] - marks[index][0]
                walls[stage] += marks[index + 1][1] - marks[index][1]
        for stage in stages:
            best[stage] = min(best[stage], stages[stage])
            best_wall[stage] = min(best_wall[stage], walls[stage])
    for stage, cpu in best.items():
        wall = best_wall[stage]
        print(f"{f'{title}: {stage}':58} {count / cpu:9,.0f} messages/CPU s {count / wall:9,.0f} /s wall")
    for name, names in {"sender": ("sent", "transmitted", "ack taken in"), "receiver": ("received",)}.items():
        cpu, wall = sum(best[stage] for stage in names), sum(best_wall[stage] for stage in names)
        print(f"{f'{title}: whole {name}':58} {count / cpu:9,.0f} messages/CPU s {count / wall:9,.0f} /s wall")
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    take()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    total = count * runs
    print(f"{f'{title}: taken':58} {total / cpu:9,.0f} messages/CPU s {total / wall:9,.0f} /s wall")


def concurrent_senders(directory: str, count: int) -> None:
    """Messages sent one at a time by many, and by one, beside a bare loop that commits a row of the same size."""
    bare = sqlite3.connect(f"{directory}/bare.db", isolation_level=None)
    bare.execute("PRAGMA journal_mode = WAL")
    bare.execute("PRAGMA synchronous = FULL")
    bare.execute("CREATE TABLE rows (n INTEGER PRIMARY KEY, body BLOB)")

    def loop() -> float:
        started = time.perf_counter()
        for _ in range(count):
            bare.execute("BEGIN IMMEDIATE")
            bare.execute("INSERT INTO rows (body) VALUES (?)", (BODY,))
            bare.execute("COMMIT")
        return count / (time.perf_counter() - started)

    database = Database(f"sqlite:///{directory}/senders.db")
    store = SqlDialogStore(database)
    world = World(initiator_store=store, policy=QUIET)
    dialog = world.open()

    async def sending(senders: int) -> float:
        pool = ThreadPoolExecutor(1)

        async def run(function: Callable[..., Any], *arguments: object) -> Any:
            return await asyncio.get_running_loop().run_in_executor(pool, function, *arguments)

        accepting = Accepting(world.a.engine, store, run, lambda: None)

        async def send() -> None:
            for _ in range(count // senders):
                await accepting.send(dialog, INIT, "bench", BODY)

        started = time.perf_counter()
        await asyncio.gather(*(send() for _ in range(senders)))
        pool.shutdown()
        return count / (time.perf_counter() - started)

    rates = {"bare loop": loop(), "one sender": asyncio.run(sending(1)), "64 senders": asyncio.run(sending(64))}
    rates["bare loop"] = max(rates["bare loop"], loop())
    for name, rate in rates.items():
        ratio = rate / rates["bare loop"]
        print(f"SQLite FULL, one row or message per call: {name:12} {rate:8,.0f} /s, {ratio:.2f} of the bare loop")
    bare.close()
    database.close()


TOKEN_CALLS = (
    (TokenSigningKey, "sign"),
    (TokenExchangeKeys, "generate"),
    (TokenExchangeKeys, "wrapping_key"),
    (TokenExchangeKey, "wrap_for_rsa"),
    (TokenExchangeKey, "wrap_under"),
    (TokenWrappingKey, "wrap"),
    (TokenWrappingKey, "unwrap"),
    (TokenWrappingKey, "unwrap_wrapping"),
    (TokenUnwrappingKey, "unwrap_exchange"),
    (TokenEcdhKey, "agree"),
)


@contextlib.contextmanager
def timed_token_calls() -> Iterator[dict[str, list[float]]]:
    """Time every call of a token key handle while the block runs."""
    log: dict[str, list[float]] = {}
    originals = [(kind, name, getattr(kind, name)) for kind, name in TOKEN_CALLS]

    def clocked(name: str, original: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            started = time.perf_counter()
            try:
                return original(*arguments, **named)
            finally:
                log.setdefault(name, []).append(time.perf_counter() - started)

        return call

    for kind, name, original in originals:
        setattr(kind, name, clocked(name, original))
    try:
        yield log
    finally:
        for kind, name, original in originals:
            setattr(kind, name, original)


def first_packet(token: Token, keys: KeyMaker, suite: int, runs: int) -> None:
    """What a packet costs in token calls: nothing cached, then a known pair of services, then a known dialog."""
    kept = world_in_token(suite, token, keys)
    kept.a.send(known := kept.a.begin(kept.b), INIT, BODY)
    kept.deliver(kept.b, kept.outgoing(kept.a))
    for title in ("new pair of services", "known pair, new dialog", "known dialog"):
        costs: dict[str, dict[str, list[float]]] = {"sender": {}, "receiver": {}}
        for _ in range(runs):
            world = world_in_token(suite, token, keys) if title.startswith("new") else kept
            dialog = known if title == "known dialog" else world.a.begin(world.b)
            sending = functools.partial(world.a.send, dialog, INIT, BODY)
            timed(costs["sender"], sending)
            timed(costs["receiver"], functools.partial(world.deliver, world.b, world.outgoing(world.a)))
        for role, log in costs.items():
            whole = min(log.pop("whole"))
            spent = sum(min(times) for times in log.values())
            parts = ", ".join(f"{name} {1e6 * min(times):.0f}" for name, times in sorted(log.items()))
            print(f"suite {suite}, {title}, {role}: {1e6 * whole:.0f} us")
            print(f"    of it token {1e6 * spent:.0f} us: {parts or 'none'}")


def residences(token: Token, keys: KeyMaker, count: int) -> None:
    """What session keys in the token cost per message, as a ratio to session keys in this process."""
    spent: dict[bool, float] = {}
    for resident in (False, True, False, True):
        world = world_in_token(2, token, keys, resident=resident)
        dialog = world.open()
        started = time.perf_counter()
        for _ in range(count // 32):
            world.a.send(dialog, INIT, *[BODY] * 32)
            world.deliver(world.a, world.deliver(world.b, world.outgoing(world.a)))
            world.b.take(dialog, TARGET, 32)
        taken = (time.perf_counter() - started) / (count // 32 * 32)
        spent[resident] = min(taken, spent.get(resident, taken))
    host, inside = spent[False], spent[True]
    print(
        f"a message, both sides, session keys in this process: {1e6 * host:.0f} us, in the token: {1e6 * inside:.0f}"
    )
    print(f"    {inside / host:.1f} times as long")


def timed(costs: dict[str, list[float]], work: Callable[[], object]) -> None:
    """Run ``work`` once and note how long it and each token call in it took."""
    with timed_token_calls() as log:
        started = time.perf_counter()
        work()
        whole = time.perf_counter() - started
    for name, times in {**log, "whole": [whole]}.items():
        costs.setdefault(name, []).append(sum(times))


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short run of each")
    parser.add_argument("--database", help="URL of an empty PostgreSQL database for the durable figures")
    parser.add_argument("--token", action="store_true", help="also what a SoftHSMv2 token costs")
    arguments = parser.parse_args()
    runs, count = (1, 640) if arguments.quick else (7, 6400)
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("cryptography", "cbor2", "sqlalchemy")
    )
    print(f"Python {platform.python_version()}, {versions}")
    packets_alone(runs, count, 2)
    packets_alone(runs, count, 4)
    engines("in memory, batches of 32", runs, count, 32, lambda name: MemoryDialogStore())
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as closing:
        numbers = itertools.count()

        def sqlite(name: str) -> DialogStore:
            database = Database(f"sqlite:///{directory}/{name}{next(numbers)}.db")
            closing.callback(database.close)
            return SqlDialogStore(database)

        engines("SQLite FULL, batches of 32", runs, count // 2, 32, sqlite)
        concurrent_senders(directory, count)
        engines("SQLite FULL, one by one", min(runs, 3), count // 8, 1, sqlite)
        if arguments.database:
            database = Database(arguments.database)
            closing.callback(database.close)
            store = SqlDialogStore(database)
            engines("PostgreSQL, batches of 32", min(runs, 3), count // 2, 32, lambda name: store)
            engines("PostgreSQL, one by one", 1, count // 8, 1, lambda name: store)
    if arguments.token:
        with provisioned() as (_, token):
            keys = KeyMaker(token)
            for suite in (2, 3):
                first_packet(token, keys, suite, 2 * runs)
            residences(token, keys, count)


if __name__ == "__main__":
    main()
