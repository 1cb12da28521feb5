"""The tables of the MSL side (msl-engine section 22), the same on SQLite and PostgreSQL.

Times are whole seconds since the epoch; every protocol number fits a signed 64-bit integer.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, String, Table

from hsm_msl.stores.sql import Database
from hsm_msl.stores.text import AnyText, NameText

LAYOUT_VERSION = 2
"""Raised with every change of the tables; a database in another version is refused, not guessed at."""

METADATA = MetaData()

WHOLE_SUBJECT = -1
"""Serial number of a revocation that takes back an entity or user, not one token."""


def _table(name: str, *columns: Column[int] | Column[str] | Column[bytes] | Index) -> Table:
    return Table(name, METADATA, *columns, sqlite_with_rowid=False)


NONREPLAY = _table(
    "nonreplay",
    Column("identity", NameText, primary_key=True),
    Column("serial", BigInteger, primary_key=True, autoincrement=False),
    Column("largest", BigInteger, nullable=False),
    Column("unused", LargeBinary, nullable=False),
    Column("until", BigInteger, nullable=False, index=True),
)

RENEWAL = _table(
    "renewal",
    Column("identity", NameText, primary_key=True),
    Column("serial", BigInteger, primary_key=True, autoincrement=False),
    Column("last_issued", BigInteger, nullable=False),
    Column("last_used", BigInteger, nullable=False),
    Column("unanswered", Integer, nullable=False),
    Column("until", BigInteger, nullable=False, index=True),
)

REVOCATION = _table(
    "revocation",
    Column("kind", String(8), primary_key=True),
    Column("subject", NameText, primary_key=True),
    Column("serial", BigInteger, primary_key=True, autoincrement=False),
    Column("long_name", AnyText),
    Column("reason", AnyText, nullable=False),
    Column("since", BigInteger, nullable=False),
    # A withdrawn revocation stays as a row, so that caches learn of the withdrawal from the next revision.
    Column("in_force", Integer, nullable=False),
    Column("revision", BigInteger, nullable=False, index=True),
)

REVISION = _table(
    "revision",
    Column("subject", String(32), primary_key=True),
    Column("number", BigInteger, nullable=False),
)

USERS = _table(
    "users",
    Column("email", NameText, primary_key=True),
    Column("identity", AnyText, nullable=False),
    Column("password", String, nullable=False),
)

SCHEME_RULE = _table(
    "scheme_rule",
    Column("entity", NameText, primary_key=True),
    Column("pattern", Integer, primary_key=True, autoincrement=False, index=True),
    Column("entity_schemes", String),
    Column("user_schemes", String),
    Column("key_exchanges", String),
    Column("users", String),
)

FLEET_KEY = _table(
    "fleet_key",
    Column("identity", NameText, primary_key=True),
    Column("encryption", LargeBinary, nullable=False),
    Column("mac", LargeBinary, nullable=False),
    Column("wrapping", LargeBinary),
    Column("kek", String, nullable=False),
    Column("long_name", AnyText),
)

FLEET_IMPORT = _table(
    "fleet_import",
    Column("job", NameText, primary_key=True),
    Column("position", BigInteger, nullable=False),
)


def prepare(database: Database) -> None:
    """Create the tables where they are missing.

    Raises:
        ConfigurationError: they are there in another layout version, or the database can have none.
        StoreError: the database gave no answer.
    """
    database.prepare(METADATA, "msl", LAYOUT_VERSION)
