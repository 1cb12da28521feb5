"""Every RenewalStore: atomic, durable, shared (msl-engine sections 17 and 22)."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from database_fixture import url_of
from hsm_msl.errors import StoreError
from hsm_msl.ports import RenewalState, RenewalStore
from hsm_msl.stores.memory import MemoryRenewalStore
from hsm_msl.stores.renewal import SqlRenewalStore
from hsm_msl.stores.schema import prepare
from hsm_msl.stores.sql import Database

MAX_LONG = 2**53


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def store(request: pytest.FixtureRequest) -> Iterator[MemoryRenewalStore | SqlRenewalStore]:
    if request.param == "memory":
        yield MemoryRenewalStore()
        return
    database = Database(url_of(request.param, request))
    prepare(database)
    yield SqlRenewalStore(database)
    database.close()


def state(store: RenewalStore, identity: str, serial: int) -> RenewalState | None:
    seen: list[RenewalState | None] = []
    store.renew(identity, serial, lambda value: seen.append(value))
    return seen[0]


def test_unknown_token_has_no_state_and_asking_makes_none(store: RenewalStore) -> None:
    assert state(store, "entity", 7) is None
    assert state(store, "entity", 7) is None


def test_create_starts_at_the_sequence_issued(store: RenewalStore) -> None:
    store.create("entity", 7, RenewalState(MAX_LONG, MAX_LONG, 0))
    assert state(store, "entity", 7) == RenewalState(MAX_LONG, MAX_LONG, 0)


def test_create_drops_the_entitys_earlier_tokens_only(store: RenewalStore) -> None:
    """Section 22: insert the new serial number and delete older ones of the identity."""
    store.create("entity", 7, RenewalState(0, 0, 0))
    store.create("other", 7, RenewalState(3, 3, 0))
    store.create("entity", 8, RenewalState(0, 0, 0))
    assert state(store, "entity", 7) is None
    assert state(store, "entity", 8) == RenewalState(0, 0, 0)
    assert state(store, "other", 7) == RenewalState(3, 3, 0)


def test_create_twice_with_one_serial_starts_anew(store: RenewalStore) -> None:
    store.create("entity", 7, RenewalState(0, 0, 0))
    store.renew("entity", 7, lambda _: RenewalState(5, 4, 2))
    store.create("entity", 7, RenewalState(0, 0, 0))
    assert state(store, "entity", 7) == RenewalState(0, 0, 0)


def test_renew_replaces_and_none_leaves(store: RenewalStore) -> None:
    store.create("entity", 7, RenewalState(0, 0, 0))
    store.renew("entity", 7, lambda _: RenewalState(1, 0, 1))
    assert state(store, "entity", 7) == RenewalState(1, 0, 1)
    store.renew("entity", 7, lambda _: None)
    assert state(store, "entity", 7) == RenewalState(1, 0, 1)


def test_renew_of_an_unknown_token_may_start_its_state(store: RenewalStore) -> None:
    """After a restore the verified token itself is the only evidence of what was issued."""
    store.renew("entity", 7, lambda found: RenewalState(5, 4, 0) if found is None else None)
    assert state(store, "entity", 7) == RenewalState(5, 4, 0)


@pytest.mark.parametrize("stored", [False, True])
def test_decide_runs_once_and_its_error_changes_nothing(store: RenewalStore, stored: bool) -> None:
    before = None
    if stored:
        store.create("entity", 7, RenewalState(1, 1, 0))
        before = RenewalState(1, 1, 0)
    calls: list[RenewalState | None] = []

    def refuse(value: RenewalState | None) -> RenewalState | None:
        calls.append(value)
        raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        store.renew("entity", 7, refuse)
    assert calls == [before]
    assert state(store, "entity", 7) == before


def test_prune_drops_what_need_not_be_kept_in_batches(store: MemoryRenewalStore | SqlRenewalStore) -> None:
    for number in range(5):
        store.create(f"old{number}", 1, RenewalState(0, 0, 0, 999))
    for identity in ("kept", "renewed"):
        store.create(identity, 1, RenewalState(0, 0, 0, 999))
        store.renew(identity, 1, lambda _: RenewalState(1, 0, 0, 1000))
    assert [store.prune(1000.0, 3) for _ in range(3)] == [3, 2, 0]
    assert [state(store, f"old{number}", 1) for number in range(5)] == [None] * 5
    assert state(store, "kept", 1) == state(store, "renewed", 1) == RenewalState(1, 0, 0, 1000)


def test_any_text_is_an_identity(store: RenewalStore) -> None:
    strange = ["", "a\0b", "a\\0b", "\ud800", "é" * 5000, "x" * 100_000]
    for number, identity in enumerate(strange):
        store.create(identity, 7, RenewalState(number, number, 0))
    assert [state(store, identity, 7) for identity in strange] == [
        RenewalState(number, number, 0) for number in range(len(strange))
    ]


def test_concurrent_renewals_are_ordered(store: RenewalStore) -> None:
    """Section 22: two nodes renewing one token both succeed, with different sequence numbers."""
    store.create("entity", 7, RenewalState(0, 0, 0))
    issued: list[int] = []

    def renew() -> None:
        def decide(found: RenewalState | None) -> RenewalState | None:
            assert found is not None
            issued.append(found.last_issued + 1)
            return RenewalState(found.last_issued + 1, found.last_issued, 0)

        for _ in range(10):
            store.renew("entity", 7, decide)

    _join([threading.Thread(target=renew) for _ in range(6)])
    assert sorted(issued) == list(range(1, 61))
    assert state(store, "entity", 7) == RenewalState(60, 59, 0)


def test_concurrent_first_renewals_of_an_unknown_token_see_each_other(store: RenewalStore) -> None:
    barrier = threading.Barrier(6)
    seen: list[RenewalState | None] = []

    def renew() -> None:
        def decide(found: RenewalState | None) -> RenewalState | None:
            seen.append(found)
            return RenewalState(1 if found is None else found.last_issued + 1, 0, 0)

        barrier.wait(20)
        store.renew("entity", 7, decide)

    _join([threading.Thread(target=renew) for _ in range(6)])
    assert seen.count(None) == 1
    assert state(store, "entity", 7) == RenewalState(6, 0, 0)


def test_concurrent_creations_leave_one_token(store: RenewalStore) -> None:
    barrier = threading.Barrier(4)

    def create(serial: int) -> None:
        barrier.wait(20)
        store.create("entity", serial, RenewalState(0, 0, 0))

    _join([threading.Thread(target=create, args=(serial,)) for serial in range(4)])
    assert [state(store, "entity", serial) for serial in range(4)].count(RenewalState(0, 0, 0)) == 1


def test_state_out_of_reach_is_a_store_error(database: Database) -> None:
    store = SqlRenewalStore(database)
    with pytest.raises(StoreError):
        store.create("entity", 7, RenewalState(0, 0, 0))
    with pytest.raises(StoreError):
        store.renew("entity", 7, lambda _: RenewalState(1, 1, 0))


def _join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
