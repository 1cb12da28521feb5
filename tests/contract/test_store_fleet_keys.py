"""Wrapped pre-shared keys of fleets: import that can be resumed, flat look-ups (issue 3)."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from sqlalchemy import event, text

from hsm_msl.errors import StoreError
from hsm_msl.ports.schemes import FleetStore, WrappedKeys
from hsm_msl.stores.fleet_keys import FleetEntry, FleetKeyStore, ImportProgress
from hsm_msl.stores.schema import prepare
from hsm_msl.stores.sql import Database


def keys(kek: str = "fleet-1", *, wrapping: bool = True) -> WrappedKeys:
    return WrappedKeys(os.urandom(24), os.urandom(40), os.urandom(24) if wrapping else None, kek)


def entries(count: int, kek: str = "fleet-1") -> list[FleetEntry]:
    return [FleetEntry(f"entity-{number:07}", keys(kek), number + 1) for number in range(count)]


@pytest.fixture
def store(database: Database) -> FleetKeyStore:
    prepare(database)
    return FleetKeyStore(database)


def test_blobs_come_back_as_they_were(store: FleetKeyStore) -> None:
    with_wrapping, without = keys(), keys(wrapping=False)
    assert store.put_many([FleetEntry("a", with_wrapping), FleetEntry("b", without)]) == 2
    port: FleetStore = store
    assert port.get("a") == with_wrapping
    assert port.get("b") == without
    assert port.get("c") is None


def test_any_text_is_an_identity_and_unknown_ones_are_none(store: FleetKeyStore) -> None:
    strange = ["", "a\0b", "a\\0b", "\ud800", "é" * 5000, "x" * 100_000, "A", "a"]
    assert [store.get(identity) for identity in strange] == [None] * len(strange)
    given = [FleetEntry(identity, keys()) for identity in strange]
    store.put_many(given)
    assert [store.get(identity) for identity in strange] == [entry.keys for entry in given]


def test_later_entry_of_an_identity_counts(store: FleetKeyStore) -> None:
    first, second, third = keys(), keys("fleet-2"), keys(wrapping=False)
    store.put_many([FleetEntry("a", first), FleetEntry("b", first), FleetEntry("a", second)])
    assert store.get("a") == second
    store.put_many([FleetEntry("a", third)])
    assert store.get("a") == third
    assert store.get("b") == first


def test_batches_are_reported_and_an_import_may_be_repeated(store: FleetKeyStore) -> None:
    given = entries(25)
    reported: list[int] = []
    assert store.put_many(iter(given), batch=10, stored=reported.append) == 25
    assert reported == [10, 20, 25]
    assert store.put_many(given) == 25
    assert store.count() == {"fleet-1": 25}


def test_a_source_that_breaks_leaves_the_batches_before(store: FleetKeyStore) -> None:
    def breaking() -> Iterator[FleetEntry]:
        yield from entries(25)
        raise OSError("the source broke")

    with pytest.raises(OSError, match="broke"):
        store.put_many(breaking(), batch=10)
    assert store.count() == {"fleet-1": 20}


def test_progress_of_an_import_is_kept_per_job_until_it_is_done(store: FleetKeyStore) -> None:
    assert store.progress("job") is None
    first, second = ImportProgress("job", 10, 2**63 - 1), ImportProgress("job", 23, 0)
    store.put_batch(entries(10), first)
    assert store.progress("job") == first
    store.put_batch([], second)
    store.put_batch(entries(2))
    assert store.progress("job") == second
    assert store.progress("another job") is None
    assert store.count() == {"fleet-1": 10}
    store.finish("job")
    assert store.progress("job") is None


def test_progress_and_batch_are_stored_together(database: Database, store: FleetKeyStore) -> None:
    """A batch that fails leaves neither its rows nor its progress behind."""
    before = ImportProgress("job", 10, 1)
    store.put_batch(entries(10), before)
    bad = FleetEntry("bad", WrappedKeys(None, b"", None, "fleet-1"), 15)  # type: ignore[arg-type]  # a broken row
    with pytest.raises(StoreError):
        store.put_batch([*entries(20)[10:], bad], ImportProgress("job", 21, 2))
    assert store.progress("job") == before
    assert store.count() == {"fleet-1": 10}
    with database.transaction() as connection:
        connection.execute(text("DROP TABLE fleet_import"))
    with pytest.raises(StoreError):
        store.put_batch(entries(30)[20:], ImportProgress("job", 30, 3))
    assert store.count() == {"fleet-1": 10}


def test_known_ones_of_many_are_found_at_once(store: FleetKeyStore) -> None:
    given = {name: keys() for name in ("a", "é" * 300, "a\\b", "B")}
    store.put_many(FleetEntry(identity, wrapped) for identity, wrapped in given.items())
    assert store.get_many([*given, "b", *(f"unknown-{number}" for number in range(1000))]) == given
    assert store.get_many([]) == {}


def test_removed_entity_is_unknown(store: FleetKeyStore) -> None:
    store.put_many(entries(2))
    assert store.remove("entity-0000001")
    assert not store.remove("entity-0000001")
    assert store.get("entity-0000001") is None
    assert store.get("entity-0000000") is not None


def test_entries_under_one_wrapping_key_can_be_walked_and_wrapped_anew(store: FleetKeyStore) -> None:
    """Rotation of the key-encrypting key: the old one may go when no entity is counted under it."""
    store.put_many(entries(25))
    store.put_many([FleetEntry("already new", keys("fleet-2")), FleetEntry("x" * 5000, keys())])
    assert store.count() == {"fleet-1": 26, "fleet-2": 1}
    after, seen = "", 0
    while page := store.wrapped_under("fleet-1", after=after, limit=10):
        store.put_many([FleetEntry(entry.identity, keys("fleet-2")) for entry in page])
        after, seen = page[-1].identity, seen + len(page)
    assert seen == 26
    assert store.count() == {"fleet-2": 27}


def test_keys_out_of_reach_are_a_store_error(database: Database) -> None:
    """An outage is not an unknown entity."""
    store = FleetKeyStore(database)
    for ask in (lambda: store.get("a"), lambda: store.put_many(entries(1)), lambda: store.progress("job")):
        with pytest.raises(StoreError):
            ask()


def test_look_ups_go_through_the_index(database: Database, store: FleetKeyStore) -> None:
    """Issue 3: look-ups stay flat; the database itself says how it finds a row among twenty thousand."""
    given = keys()
    store.put_many(FleetEntry(f"entity-{number:07}", given) for number in range(20_000))
    asked: list[tuple[str, object]] = []

    def listen(connection: object, cursor: object, statement: str, parameters: object, *rest: object) -> None:
        asked.append((statement, parameters))

    event.listen(database._engine, "before_cursor_execute", listen)
    assert store.get("entity-0007919") == given
    event.remove(database._engine, "before_cursor_execute", listen)
    statement, parameters = asked[-1]
    explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
    with database.statements() as connection:
        if not database.is_sqlite:
            connection.execute(text("ANALYZE fleet_key"))
        plan = str(connection.exec_driver_sql(explain + statement, parameters).all())
    assert "SEARCH fleet_key USING PRIMARY KEY" in plan or "Index Scan using fleet_key_pkey" in plan
