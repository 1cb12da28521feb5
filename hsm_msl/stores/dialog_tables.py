"""The tables of the secure dialog (dialog section 8), the same on SQLite and PostgreSQL.

Times are seconds since the epoch. Key material rests wrapped, bodies as the ciphertext that travels.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    and_,
    or_,
)

from hsm_msl.stores.sql import Database
from hsm_msl.stores.text import NameText

LAYOUT_VERSION = 2
"""Raised with every change of the tables; a database in another version is refused, not guessed at."""

METADATA = MetaData()


def _key(name: str) -> Column[bytes]:
    return Column(name, LargeBinary, primary_key=True)


def _number(name: str, *, primary_key: bool = False) -> Column[int]:
    return Column(name, BigInteger, primary_key=primary_key, autoincrement=False, nullable=False)


def _time(name: str) -> Column[float]:
    # PostgreSQL's FLOAT(53) is double precision: milliseconds survive.
    return Column(name, Float(53), nullable=False)


def _blob(name: str) -> Column[bytes]:
    return Column(name, LargeBinary, nullable=False)


def _name(name: str) -> Column[str]:
    return Column(name, NameText, nullable=False)


ENDPOINT = Table(
    "dialog_endpoint",
    METADATA,
    _key("dialog"),
    _number("side", primary_key=True),
    _name("local"),
    _name("remote"),
    _name("contract"),
    Column("state", String(8), nullable=False),
    _time("created_at"),
    _number("expires_at"),
    _time("attention_at"),
    _time("clock_mark"),
    _number("reason"),
    _number("next_out"),
    _number("base_out"),
    _number("out_generation"),
    _number("out_oldest"),
    _number("out_first_seq"),
    _time("out_since"),
    _number("out_messages"),
    _number("out_bytes"),
    _number("headers_known"),
    _number("pending_cause"),
    _time("pending_at"),
    _time("count_mark"),
    _number("next_in"),
    _number("in_generation"),
    _number("in_first_seq"),
    _time("in_since"),
    _number("in_max_seq"),
    _number("in_floor"),
    _number("in_delivered"),
    _number("parked"),
    _number("parked_bytes"),
    _number("taken"),
    _number("told"),
    _number("end_out"),
    _number("end_in"),
    _number("recovering"),
    _number("ack_floor"),
    _number("key_failures"),
    _number("queued"),
    _time("probe_at"),
    _number("ack_on_commit"),
    _number("ack_due"),
    _number("ack_least"),
    sqlite_with_rowid=False,
)
E_ = ENDPOINT.c
LIVE = E_.state.not_in(("CD", "FAILED"))
UNTAKEN = or_(E_.taken + 1 < E_.next_in, and_(E_.state == "FAILED", E_.told == 0))
Index("dialog_endpoint_attention", E_.local, E_.attention_at, sqlite_where=LIVE, postgresql_where=LIVE)
Index("dialog_endpoint_untaken", E_.local, sqlite_where=UNTAKEN, postgresql_where=UNTAKEN)

OUTBOX = Table(
    "dialog_outbox",
    METADATA,
    _key("dialog"),
    _number("side", primary_key=True),
    _number("seq", primary_key=True),
    _number("frag", primary_key=True),
    _number("generation"),
    _blob("core"),
    _blob("body"),
    Column("attempts", Integer, nullable=False),
    Column("due_at", Float(53), index=True),
)

INBOX = Table(
    "dialog_inbox",
    METADATA,
    _key("dialog"),
    _number("side", primary_key=True),
    _number("seq", primary_key=True),
    _number("frag", primary_key=True),
    _number("count"),
    _number("kind"),
    _number("generation"),
    _blob("digest"),
    _number("size"),
    _blob("core"),
    _blob("body"),
)

QUEUED = Table(
    "dialog_queued",
    METADATA,
    _key("dialog"),
    _number("side", primary_key=True),
    _number("number", primary_key=True),
    _number("kind"),
    _name("message_type"),
    _blob("wrapped_key"),
    _blob("ciphertext"),
)

KEK_OUT = Table(
    "dialog_kek_out",
    METADATA,
    _key("kek_id"),
    _name("local"),
    _name("remote"),
    _blob("certificates"),
    _number("suite"),
    _number("epoch"),
    _blob("pair_header"),
    _blob("kek_header"),
    _blob("wrapped"),
    _time("created_at"),
    _number("not_after"),
    _number("wraps"),
    Column("retired", Boolean, nullable=False),
    Index("dialog_kek_out_pair", "local", "remote"),
)

DSK_OUT = Table(
    "dialog_dsk_out",
    METADATA,
    _key("dialog"),
    _number("side", primary_key=True),
    _number("generation", primary_key=True),
    _blob("dsk_id"),
    _number("suite"),
    _blob("kek_id"),
    _blob("header"),
    _blob("wrapped"),
    _blob("rewrap_kek_id"),
    _blob("rewrap"),
)

DSK_IN = Table(
    "dialog_dsk_in",
    METADATA,
    _key("dialog"),
    _number("side", primary_key=True),
    _number("generation", primary_key=True),
    _blob("dsk_id"),
    _number("first_seq"),
    _blob("kek_id"),
    _blob("header"),
    _blob("rewrap"),
)

KEK_IN = Table(
    "dialog_kek_in",
    METADATA,
    _key("kek_id"),
    _blob("pair_header"),
    _blob("kek_header"),
    _number("not_after"),
)

SHIFT = Table(
    "dialog_shift",
    METADATA,
    _key("dialog"),
    _number("side", primary_key=True),
    _number("generation", primary_key=True),
    _number("cause"),
    _time("at"),
)

TOMBSTONE = Table(
    "dialog_tombstone",
    METADATA,
    _key("dialog"),
    _number("side", primary_key=True),
    Column("until", Float(53), nullable=False, index=True),
    Column("state", String(8), nullable=False),
    _number("reason"),
    _blob("reply"),
)

BINDING = Table(
    "dialog_binding",
    METADATA,
    Column("local", NameText, primary_key=True),
    Column("remote", NameText, primary_key=True),
    Column("prefix", Boolean, nullable=False),
    _blob("document"),
)

PEER_CERT = Table(
    "dialog_peer_cert",
    METADATA,
    Column("local", NameText, primary_key=True),
    Column("remote", NameText, primary_key=True),
    Column("digest", LargeBinary, primary_key=True),
    _number("not_after"),
    _blob("chain"),
)

INCARNATION = Table(
    "dialog_incarnation",
    METADATA,
    Column("node", NameText, primary_key=True),
    _blob("value"),
)


def prepare(database: Database) -> None:
    """Create the tables where they are missing.

    Raises ConfigurationError when they are there in another layout version, StoreError.
    """
    database.prepare(METADATA, "dialog", LAYOUT_VERSION)
