"""The tables of a client (msl-engine section 16), apart from the server's: they live in files of their own.

``profile`` separates clients and networks that share one database.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, LargeBinary, MetaData, Table

from hsm_msl.stores.sql import Database
from hsm_msl.stores.text import AnyText, NameText

LAYOUT_VERSION = 1
"""Raised with every change of the tables."""

METADATA = MetaData()

UNBOUND = -1
"""Stands for no serial number in the key of a service token; serial numbers are not negative."""


def _table(name: str, *columns: Column[int] | Column[str] | Column[bytes]) -> Table:
    profile = Column("profile", NameText, primary_key=True)
    return Table(name, METADATA, profile, *columns, sqlite_with_rowid=False)


def _key(name: str) -> Column[int]:
    return Column(name, BigInteger, primary_key=True, autoincrement=False)


def _number(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False)


def _token() -> tuple[Column[str], Column[str]]:
    return Column("tokendata", AnyText, nullable=False), Column("signature", AnyText, nullable=False)


MASTER_TOKEN = _table(
    "client_master_token",
    _key("serial_number"),
    _key("sequence_number"),
    _key("expiration"),
    _number("renewal_window"),
    *_token(),
    Column("session_keys", LargeBinary, nullable=False),
    Column("key_label", AnyText, nullable=False),
)

USER_ID_TOKEN = _table(
    "client_user_id_token",
    Column("user", NameText, primary_key=True),
    _number("serial_number"),
    _number("master_token_serial_number"),
    _number("renewal_window"),
    _number("expiration"),
    *_token(),
)

SERVICE_TOKEN = _table(
    "client_service_token",
    Column("name_key", NameText, primary_key=True),
    _key("master_token_serial_number"),
    _key("user_id_token_serial_number"),
    Column("name", AnyText, nullable=False),
    *_token(),
)

COUNTER = _table("client_counter", _key("serial_number"), _number("last"))


def prepare_client(database: Database) -> None:
    """Create the tables where they are missing.

    Raises:
        ConfigurationError: they are there in another layout version.
        StoreError: the database gave no answer.
    """
    database.prepare(METADATA, "msl client", LAYOUT_VERSION)
