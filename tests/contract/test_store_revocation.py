"""Every Revocations port, and the snapshot servers ask (msl-engine sections 17, 19.9 and 22)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import text

from database_fixture import url_of
from hsm_msl.errors import ConfigurationError, StoreError
from hsm_msl.ports import Revocations
from hsm_msl.stores.memory import MemoryRevocations
from hsm_msl.stores.revocation import Revocation, RevocationChanges, SqlRevocations, Subject
from hsm_msl.stores.revocation_cache import CachedRevocations
from hsm_msl.stores.schema import prepare
from hsm_msl.stores.sql import Database


class Now:
    def __init__(self) -> None:
        self.seconds = 1_000_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, now: Now) -> Iterator[MemoryRevocations | SqlRevocations]:
    if request.param == "memory":
        yield MemoryRevocations(now)
        return
    database = Database(url_of(request.param, request))
    prepare(database)
    yield SqlRevocations(database, now)
    database.close()


@pytest.fixture
def sql(database: Database, now: Now) -> SqlRevocations:
    prepare(database)
    return SqlRevocations(database, now)


def answers(port: Revocations) -> list[bool]:
    return [
        port.entity_revoked("entity"),
        port.master_token_revoked("entity", 7),
        port.master_token_revoked("entity", 8),
        port.user_id_token_revoked("user", 7),
        port.user_id_token_revoked("user", 8),
        port.entity_revoked("user"),
        port.user_id_token_revoked("entity", 7),
        port.master_token_revoked("other", 7),
    ]


CASES = [
    (Revocation(Subject.ENTITY, "entity"), {0, 1, 2}),
    (Revocation(Subject.ENTITY, "entity", 7), {1}),
    (Revocation(Subject.ENTITY, "entity", 0), set()),
    (Revocation(Subject.USER, "user"), {3, 4}),
    (Revocation(Subject.USER, "user", 8), {4}),
]


@pytest.mark.parametrize(("revocation", "revoked"), CASES, ids=lambda value: str(value)[:60])
def test_revocation_reaches_exactly_what_it_names(
    store: MemoryRevocations | SqlRevocations, revocation: Revocation, revoked: set[int]
) -> None:
    assert answers(store) == [False] * 8
    store.revoke(revocation)
    assert answers(store) == [index in revoked for index in range(8)]
    assert store.withdraw(revocation)
    assert answers(store) == [False] * 8
    assert not store.withdraw(revocation)


def test_in_force_lists_what_people_want_to_know(store: MemoryRevocations | SqlRevocations, now: Now) -> None:
    store.revoke(Revocation(Subject.ENTITY, "entity", reason="stolen"))
    now.seconds += 10
    store.revoke(Revocation(Subject.USER, "user", 8))
    store.revoke(Revocation(Subject.USER, "gone"))
    store.withdraw(Revocation(Subject.USER, "gone"))
    listed = store.in_force()
    assert listed == [
        Revocation(Subject.ENTITY, "entity", None, "stolen", 1_000_000),
        Revocation(Subject.USER, "user", 8, "", 1_000_010),
    ]
    assert store.in_force(start=1, limit=5) == listed[1:]
    assert store.in_force(limit=1) == listed[:1]


def test_any_text_can_be_revoked_and_meets_no_other(store: MemoryRevocations | SqlRevocations) -> None:
    strange = ["", "a\0b", "a\\0b", "\ud800", "é" * 5000, "x" * 100_000]
    for name in strange[::2]:
        store.revoke(Revocation(Subject.ENTITY, name))
    assert [store.entity_revoked(name) for name in strange] == [True, False] * 3
    listed = store.in_force()
    assert [revocation.name for revocation in listed] == strange[::2]
    for revocation in listed:
        assert store.withdraw(revocation)
    assert [store.entity_revoked(name) for name in strange] == [False] * 6


def test_revocations_out_of_reach_are_a_store_error(database: Database) -> None:
    store = SqlRevocations(database, lambda: 0.0)
    for ask in (store.entity_revoked, lambda name: store.master_token_revoked(name, 1)):
        with pytest.raises(StoreError):
            ask("entity")


class Log:
    """Passes on to the store, counts, and breaks on request as a database does that is away."""

    def __init__(self, store: SqlRevocations) -> None:
        self._store = store
        self.asked: list[int] = []
        self.away = False

    def changes(self, after: int) -> RevocationChanges:
        self.asked.append(after)
        if self.away:
            raise StoreError("away")
        return self._store.changes(after)


class TestCachedRevocations:
    """The snapshot: stale for ``refresh`` seconds at most, trusted for ``max_age`` while the store is away."""

    @pytest.fixture
    def log(self, sql: SqlRevocations) -> Log:
        return Log(sql)

    @pytest.fixture
    def cached(self, log: Log, now: Now) -> CachedRevocations:
        return CachedRevocations(log, now, refresh=2, max_age=60)

    @pytest.mark.parametrize(("revocation", "revoked"), CASES, ids=lambda value: str(value)[:60])
    def test_answers_as_the_store_does_and_follows_changes(
        self, cached: CachedRevocations, sql: SqlRevocations, now: Now, revocation: Revocation, revoked: set[int]
    ) -> None:
        assert answers(cached) == [False] * 8
        sql.revoke(revocation)
        now.seconds += 2
        assert answers(cached) == [index in revoked for index in range(8)]
        sql.revoke(replace(revocation, reason="again"))
        sql.withdraw(revocation)
        now.seconds += 2
        assert answers(cached) == [False] * 8
        sql.revoke(revocation)
        now.seconds += 2
        assert answers(cached) == [index in revoked for index in range(8)]

    def test_strange_and_long_names_are_found(self, cached: CachedRevocations, sql: SqlRevocations) -> None:
        strange = ["", "a\0b", "a\\0b", "\ud800", "é" * 5000, "x" * 100_000]
        for name in strange[::2]:
            sql.revoke(Revocation(Subject.ENTITY, name))
        assert [cached.entity_revoked(name) for name in strange] == [True, False] * 3

    def test_store_is_asked_once_per_refresh_and_only_for_changes(
        self, cached: CachedRevocations, sql: SqlRevocations, log: Log, now: Now
    ) -> None:
        sql.revoke(Revocation(Subject.ENTITY, "entity"))
        for _ in range(10):
            assert cached.entity_revoked("entity")
        assert log.asked == [0]
        now.seconds += 2
        assert cached.entity_revoked("entity")
        assert log.asked == [0, 1]

    def test_snapshot_serves_while_the_store_is_away_and_then_no_longer(
        self, cached: CachedRevocations, sql: SqlRevocations, log: Log, now: Now
    ) -> None:
        sql.revoke(Revocation(Subject.ENTITY, "entity"))
        assert cached.entity_revoked("entity")
        log.away = True
        now.seconds += 59
        assert cached.entity_revoked("entity")
        assert not cached.entity_revoked("other")
        now.seconds += 1
        with pytest.raises(StoreError, match="away"):
            cached.entity_revoked("other")
        asked = len(log.asked)
        with pytest.raises(StoreError):
            cached.entity_revoked("entity")
        assert len(log.asked) == asked, "a store that hangs must not hold up every message"
        log.away = False
        now.seconds += 2
        assert cached.entity_revoked("entity")

    def test_without_a_first_snapshot_nothing_is_known(self, cached: CachedRevocations, log: Log, now: Now) -> None:
        log.away = True
        with pytest.raises(StoreError):
            cached.entity_revoked("entity")
        log.away = False
        now.seconds += 2
        assert not cached.entity_revoked("entity")

    def test_clock_set_back_makes_the_snapshot_old(self, cached: CachedRevocations, log: Log, now: Now) -> None:
        assert not cached.entity_revoked("entity")
        now.seconds -= 3600
        log.away = True
        with pytest.raises(StoreError):
            cached.entity_revoked("entity")

    def test_database_restored_from_a_backup_is_read_anew(
        self, cached: CachedRevocations, sql: SqlRevocations, now: Now
    ) -> None:
        for name in ("first", "second"):
            sql.revoke(Revocation(Subject.ENTITY, name))
        assert cached.entity_revoked("second")
        with sql._database.transaction() as connection:
            connection.execute(text("DELETE FROM revocation WHERE subject = 'second'"))
            connection.execute(text("UPDATE revision SET number = 1"))
        now.seconds += 2
        assert [cached.entity_revoked(name) for name in ("first", "second")] == [True, False]
        sql.revoke(Revocation(Subject.ENTITY, "third"))
        now.seconds += 2
        assert cached.entity_revoked("third")

    def test_ages_must_fit(self, log: Log, now: Now) -> None:
        with pytest.raises(ConfigurationError):
            CachedRevocations(log, now, refresh=10, max_age=5)

    def test_others_go_on_while_one_caller_reads(self, sql: SqlRevocations, now: Now) -> None:
        slow = SlowLog(sql)
        cached = CachedRevocations(slow, now, refresh=2, max_age=60, wait=600)
        slow.go.set()
        assert not cached.entity_revoked("entity")
        slow.go.clear()
        slow.entered.clear()
        now.seconds += 2
        reader = threading.Thread(target=cached.entity_revoked, args=("entity",))
        reader.start()
        assert slow.entered.wait(20)
        assert not cached.entity_revoked("entity")
        slow.go.set()
        reader.join(20)

    def test_first_callers_wait_for_the_first_snapshot(self, sql: SqlRevocations, now: Now) -> None:
        sql.revoke(Revocation(Subject.ENTITY, "entity"))
        slow = SlowLog(sql)
        cached = CachedRevocations(slow, now)
        results: list[bool] = []
        threads = [threading.Thread(target=lambda: results.append(cached.entity_revoked("entity"))) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert slow.entered.wait(20)
        slow.go.set()
        for thread in threads:
            thread.join(20)
        assert results == [True] * 3


class SlowLog:
    """Answers when told to."""

    def __init__(self, store: SqlRevocations) -> None:
        self._store = store
        self.entered = threading.Event()
        self.go = threading.Event()

    def changes(self, after: int) -> RevocationChanges:
        self.entered.set()
        assert self.go.wait(20)
        return self._store.changes(after)


def test_changes_committed_by_concurrent_operators_are_never_missed(sql: SqlRevocations) -> None:
    """Revisions become visible in their order, so a reader that saw revision n has seen everything before it."""
    writers = [
        threading.Thread(
            target=lambda start=start: [
                sql.revoke(Revocation(Subject.ENTITY, f"e{number}")) for number in range(start, start + 25)
            ]
        )
        for start in (0, 100, 200)
    ]
    for writer in writers:
        writer.start()
    seen: set[str] = set()
    revision = 0
    while any(writer.is_alive() for writer in writers):
        changes = sql.changes(revision)
        assert len(changes.revoked) == changes.revision - revision
        seen.update(revocation.name for revocation in changes.revoked)
        revision = changes.revision
    for writer in writers:
        writer.join()
    seen.update(revocation.name for revocation in sql.changes(revision).revoked)
    assert len(seen) == 75
