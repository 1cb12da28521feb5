"""Statements that several stores need: inserts that yield to a row that is there already, and removal of old rows."""

from __future__ import annotations

from sqlalchemy import Column, ColumnElement, Delete, Table, bindparam, delete, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import ReturningInsert

from hsm_msl.stores.sql import Database

Insert = postgresql.Insert | sqlite.Insert


def _insert(database: Database, table: Table) -> Insert:
    return sqlite.insert(table) if database.is_sqlite else postgresql.insert(table)


def insert_missing(database: Database, table: Table) -> Insert:
    """Return an insert that leaves a row with the same primary key as it is."""
    return _insert(database, table).on_conflict_do_nothing()


def insert_or_replace(database: Database, table: Table) -> Insert:
    """Return an insert that overwrites every other column of a row with the same primary key."""
    statement = _insert(database, table)
    keys = [column.name for column in table.primary_key]
    rest = {column.name: statement.excluded[column.name] for column in table.c if column.name not in keys}
    return statement.on_conflict_do_update(index_elements=keys, set_=rest)


def insert_or_count(
    database: Database, table: Table, counter: Column[int], following: ColumnElement[int]
) -> ReturningInsert[int]:
    """Return an insert that starts a counter at 1, or sets it to ``following`` where it is; the number comes back."""
    statement = _insert(database, table).values({counter.name: 1})
    keys = [column.name for column in table.primary_key]
    return statement.on_conflict_do_update(index_elements=keys, set_={counter.name: following}).returning(counter)


def delete_expired(table: Table) -> Delete:
    """Return a removal of up to ``limit`` rows whose ``until`` lies before ``before``, passing over those in use."""
    keys = [*table.primary_key]
    expired = select(*keys).where(table.c.until < bindparam("before")).limit(bindparam("limit"))
    return delete(table).where(tuple_(*keys).in_(expired.with_for_update(skip_locked=True)))
