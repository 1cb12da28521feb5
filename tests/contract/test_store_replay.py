"""Every ReplayStore: atomic, durable, shared (msl-engine sections 14, 19.10 and 22; conformance case 78)."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing.queues import Queue

import pytest
from sqlalchemy import text

from database_fixture import url_of
from hsm_msl.errors import MslError, StoreError
from hsm_msl.msl.tokens.replay import accept as accept_id
from hsm_msl.ports import ReplayState, ReplayStore
from hsm_msl.stores.memory import MemoryReplayStore
from hsm_msl.stores.replay import SqlReplayStore
from hsm_msl.stores.schema import prepare
from hsm_msl.stores.sql import Database

MAX_LONG = 2**53


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def store(request: pytest.FixtureRequest) -> Iterator[MemoryReplayStore | SqlReplayStore]:
    if request.param == "memory":
        yield MemoryReplayStore()
        return
    database = Database(url_of(request.param, request))
    prepare(database)
    yield SqlReplayStore(database)
    database.close()


def accept(store: ReplayStore, identity: str, serial: int, received: int) -> bool:
    """Apply the plain part of the rule of section 14: only what is above the largest is accepted."""
    accepted = False

    def decide(state: ReplayState) -> ReplayState | None:
        nonlocal accepted
        accepted = received > state.largest
        return ReplayState(received) if accepted else None

    store.advance(identity, serial, decide)
    return accepted


def largest(store: ReplayStore, identity: str, serial: int) -> int:
    seen: list[int] = []
    store.advance(identity, serial, lambda state: seen.append(state.largest))
    return seen[0]


def test_largest_is_zero_until_one_is_accepted(store: ReplayStore) -> None:
    assert largest(store, "entity", 7) == 0
    assert largest(store, "entity", 7) == 0
    assert accept(store, "entity", 7, 1)
    assert largest(store, "entity", 7) == 1


def test_none_leaves_the_state(store: ReplayStore) -> None:
    assert accept(store, "entity", 7, 5)
    assert not accept(store, "entity", 7, 5)
    assert largest(store, "entity", 7) == 5


def test_state_is_kept_per_entity_and_serial(store: ReplayStore) -> None:
    """Case 77: a new serial number starts anew, a renewed token with the same one goes on."""
    assert accept(store, "entity", 7, 9)
    assert largest(store, "entity", 8) == 0
    assert largest(store, "other", 7) == 0
    assert largest(store, "entity", 7) == 9


def test_wrap_to_zero_and_the_largest_long_are_stored(store: ReplayStore) -> None:
    """Case 74: L = 2^53 may be followed by 0."""
    store.advance("entity", MAX_LONG, lambda state: ReplayState(MAX_LONG))
    assert largest(store, "entity", MAX_LONG) == MAX_LONG
    store.advance("entity", MAX_LONG, lambda state: ReplayState(0))
    assert largest(store, "entity", MAX_LONG) == 0


def test_decide_runs_once_and_its_error_changes_nothing(store: ReplayStore) -> None:
    calls: list[ReplayState] = []

    def refuse(state: ReplayState) -> ReplayState | None:
        calls.append(state)
        raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        store.advance("entity", 7, refuse)
    assert calls == [ReplayState()]
    assert accept(store, "entity", 7, 3), "the store must go on"
    assert largest(store, "entity", 7) == 3


@pytest.mark.parametrize("unused", [0, 1, 255, 256, (1 << 1024) - 1])
def test_the_whole_state_comes_back(store: ReplayStore, unused: int) -> None:
    state = ReplayState(MAX_LONG, unused, 2**40)
    store.advance("entity", 7, lambda _: state)
    seen: list[ReplayState] = []
    store.advance("entity", 7, lambda found: seen.append(found))
    assert seen == [state]


def test_prune_drops_what_need_not_be_kept_in_batches(store: MemoryReplayStore | SqlReplayStore) -> None:
    for number in range(5):
        store.advance(f"old{number}", 1, lambda _: ReplayState(4, 0, 999))
    store.advance("kept", 1, lambda _: ReplayState(4, 0, 1000))
    assert [store.prune(1000.0, 3) for _ in range(3)] == [3, 2, 0]
    assert [largest(store, f"old{number}", 1) for number in range(5)] == [0] * 5
    assert largest(store, "kept", 1) == 4


def test_servers_prune_side_by_side(store: MemoryReplayStore | SqlReplayStore) -> None:
    for number in range(60):
        store.advance(f"old{number}", 1, lambda _: ReplayState(4, 0, 999))
    dropped: list[int] = []

    def prune() -> None:
        while count := store.prune(1000.0, 5):
            dropped.append(count)

    _join([threading.Thread(target=prune) for _ in range(4)])
    # What another holds at that moment is passed over, so the last look is a quiet one.
    assert sum(dropped) + store.prune(1000.0, 60) == 60


def _concurrent(store: ReplayStore, received: list[int]) -> list[int]:
    """Offer IDs from several threads at once, each twice; return those accepted."""
    accepted: list[int] = []

    def offer(ids: list[int]) -> None:
        for number in ids:
            try:
                accept_id(store, "entity", 7, number, until=1, out_of_order=64)
            except MslError:
                continue
            accepted.append(number)

    _join([threading.Thread(target=offer, args=(received[start::4] * 2,)) for start in range(4)])
    return accepted


def test_overtaken_ids_are_accepted_once_each(store: ReplayStore) -> None:
    """The window of section 14: four senders of one client overtake each other, and nobody has to start anew."""
    received = [10 * block + place for block in range(4) for place in (9, 1, 8, 2, 7, 3, 6, 4, 5, 10)]
    assert sorted(_concurrent(store, received)) == list(range(1, 41))


STRANGE = ["", "a\0b", "a\\0b", "\ud800", "é" * 5000, "x" * 100_000, "';--", "%", "ENTITY", "entity "]


def test_any_text_is_an_identity_and_none_meets_another(store: ReplayStore) -> None:
    """An identity chosen by a peer is never an outage and never the state of somebody else."""
    for number, identity in enumerate(STRANGE, start=1):
        assert accept(store, identity, 7, number), identity[:20]
    assert [largest(store, identity, 7) for identity in STRANGE] == list(range(1, len(STRANGE) + 1))


def test_threads_racing_with_one_id_have_one_winner(store: ReplayStore) -> None:
    """Case 78 within a process, first ID of a token (no row to lock yet) and a later one."""
    for received in (1, 2):
        assert sorted(_race_threads(store, received)) == [False] * 7 + [True]


def _race_threads(store: ReplayStore, received: int) -> list[bool]:
    barrier = threading.Barrier(8)
    results: list[bool] = []

    def race() -> None:
        barrier.wait(20)
        results.append(accept(store, "entity", 7, received))

    _join([threading.Thread(target=race) for _ in range(8)])
    return results


def test_no_update_is_lost_between_threads(store: ReplayStore) -> None:
    def count() -> None:
        for _ in range(25):
            store.advance("entity", 7, lambda state: ReplayState(state.largest + 1))

    _join([threading.Thread(target=count) for _ in range(6)])
    assert largest(store, "entity", 7) == 150


def _join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def _race(url: str, rounds: int, ready: Callable[[], object], answers: Queue[list[bool]]) -> None:
    database = Database(url)
    store = SqlReplayStore(database)
    results = []
    for number in range(1, rounds + 1):
        ready()
        results.append(accept(store, "entity", 7, number))
    answers.put(results)
    database.close()


def test_two_servers_given_one_id_accept_it_once(database_url: str) -> None:
    """Case 78: two processes on one database, the same ID at both at the same moment, twenty times."""
    database = Database(database_url)
    prepare(database)
    database.close()
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    barrier = context.Barrier(2, timeout=30)
    servers = [
        context.Process(target=_race, args=(database_url, 20, barrier.wait, answers), daemon=True) for _ in range(2)
    ]
    for server in servers:
        server.start()
    first, second = answers.get(timeout=60), answers.get(timeout=60)
    for server in servers:
        server.join(20)
        assert server.exitcode == 0
    assert [one != other for one, other in zip(first, second, strict=True)] == [True] * 20


def test_accepted_id_survives_a_kill(database_url: str) -> None:
    """Section 19.10: durable before the answer; the process is killed right after the store answered."""
    database = Database(database_url)
    prepare(database)
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=_accept_and_die, args=(database_url,), daemon=True)
    child.start()
    child.join(30)
    assert child.exitcode == -9
    assert largest(SqlReplayStore(database), "entity", 7) == 41
    database.close()


def _accept_and_die(url: str) -> None:
    store = SqlReplayStore(Database(url))
    accept(store, "entity", 7, 41)
    os.kill(os.getpid(), signal.SIGKILL)


def test_refused_ids_leave_nothing_behind(database: Database) -> None:
    """Strangers must not be able to fill the table with serial numbers."""
    prepare(database)
    store = SqlReplayStore(database)
    for serial in range(5):
        store.advance("stranger", serial, lambda state: None)
    with database.statements() as connection:
        assert connection.execute(text("SELECT count(*) FROM nonreplay")).scalar() == 0


def test_state_out_of_reach_is_a_store_error(database: Database) -> None:
    """Section 19.10: fail closed; without tables nothing is known, so there is no verdict."""
    store = SqlReplayStore(database)
    called: list[int] = []
    with pytest.raises(StoreError):
        store.advance("entity", 7, lambda state: called.append(state.largest))
    assert called == []
