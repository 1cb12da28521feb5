"""Users with email and password (msl-schemes section 3.2): the directory, and its rows in SQL."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sqlalchemy import bindparam, delete, select, update

from hsm_msl.errors import StoreError, UsageError
from hsm_msl.stores.limits import MAX_KEY_BYTES
from hsm_msl.stores.passwords import Passwords, RecentPasswords
from hsm_msl.stores.rows import insert_missing
from hsm_msl.stores.schema import USERS
from hsm_msl.stores.sql import Database
from hsm_msl.stores.text import long_name
from hsm_msl.wire.fields import trimmed


@dataclass(frozen=True, slots=True)
class UserRecord:
    """One user: email as presented, identity text for tokens, argon2 text of the password."""

    email: str
    identity: str
    password: str = field(repr=False)


class UserRecords(Protocol):
    """Where the directory keeps its users. Every method raises StoreError when there is no answer."""

    def find(self, email: str) -> UserRecord | None:
        """Return the user of exactly this email, or None."""

    def add(self, record: UserRecord) -> bool:
        """Keep a new user; False, and nothing changed, when the email is taken."""

    def change_password(self, email: str, password: str, *, instead_of: str | None = None) -> bool:
        """Store another hash; False when there is no such user, or the hash is not ``instead_of`` any more."""

    def remove(self, email: str) -> bool:
        """Drop a user; False when there is none."""

    def emails(self, after: str = "", limit: int = 1000) -> Sequence[str]:
        """Return up to ``limit`` emails greater than ``after``, in the order of the store."""


class UserDirectory:
    """Checks and keeps users; it is a ``Users`` port.

    An email is compared exactly, upper and lower case apart, after white space at both ends is dropped. RFC 5321
    leaves the case of the local part to its host, and a silent merge would let one user in as another.

    An unknown email costs the same argon2 computation as a wrong password. Hashes made with another cost are made
    anew when their user comes in; until then such a user can be told apart by time.

    Args:
        records: the users.
        passwords: how passwords are hashed.
        recent: memory of passwords that fitted a moment ago; None (the default) checks every time.
    """

    def __init__(self, records: UserRecords, passwords: Passwords, recent: RecentPasswords | None = None) -> None:
        self._records = records
        self._passwords = passwords
        self._recent = recent

    def authenticate(self, email: str, password: str) -> str | None:
        """Return the user's identity text, or None when email and password do not fit together.

        Raises:
            StoreError: the users cannot be read or the hash cannot be computed; no verdict.
        """
        email = trimmed(email)
        record = self._records.find(email)
        if record is not None and self._recent is not None and self._recent.holds(email, password, record.password):
            return record.identity
        if not self._passwords.verify(None if record is None else record.password, password) or record is None:
            return None
        stored = self._refreshed(email, password, record.password)
        if self._recent is not None:
            self._recent.remember(email, password, stored)
        return record.identity

    def add(self, email: str, password: str, identity: str | None = None) -> None:
        """Keep a new user.

        Args:
            email: what the user types.
            password: likewise; only its argon2id text is stored.
            identity: what tokens will say; the email when None.

        Raises:
            UsageError: blank email or password, a very long email, or the email is taken.
            StoreError: nothing was stored.
        """
        self._add(email, self._passwords.hash(password), identity)

    def add_hashed(self, email: str, password_hash: str, identity: str | None = None) -> None:
        """Keep a new user whose argon2 text exists already, taken over from elsewhere.

        Raises:
            UsageError: blank or very long email, not an argon2 text, or the email is taken.
            StoreError: nothing was stored.
        """
        self._passwords.check(password_hash)
        self._add(email, password_hash, identity)

    def set_password(self, email: str, password: str) -> None:
        """Give a user another password. Raises UsageError (no such user, blank password), StoreError."""
        email = trimmed(email)
        if not self._records.change_password(email, self._passwords.hash(password)):
            raise UsageError(f"there is no user {email!r}")

    def remove(self, email: str) -> None:
        """Drop a user; tokens issued before live on unless revoked. Raises UsageError (no such user), StoreError."""
        email = trimmed(email)
        if not self._records.remove(email):
            raise UsageError(f"there is no user {email!r}")

    def _add(self, email: str, password_hash: str, identity: str | None) -> None:
        email = trimmed(email)
        if not email or long_name(email) is not None:
            raise UsageError(f"an email must not be blank or above {MAX_KEY_BYTES} bytes")
        if not self._records.add(UserRecord(email, email if identity is None else identity, password_hash)):
            raise UsageError(f"there is a user {email!r} already; set_password changes the password")

    def _refreshed(self, email: str, password: str, stored: str) -> str:
        if not self._passwords.is_outdated(stored):
            return stored
        # The verdict is known; a store that cannot take the better hash now gets it at the next log-in.
        with contextlib.suppress(StoreError):
            better = self._passwords.hash(password)
            if self._records.change_password(email, better, instead_of=stored):
                return better
        return stored


_T = USERS.c
_FIND = select(USERS).where(_T.email == bindparam("e"))
_CHANGE = update(USERS).where(_T.email == bindparam("e")).values(password=bindparam("p"))
_CHANGE_FROM = _CHANGE.where(_T.password == bindparam("old"))
_REMOVE = delete(USERS).where(_T.email == bindparam("e"))
_PAGE = select(_T.email).where(_T.email > bindparam("after")).order_by(_T.email).limit(bindparam("n"))


class SqlUserRecords:
    """``UserRecords`` in a database whose tables are prepared."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._add = insert_missing(database, USERS).returning(_T.email)

    def find(self, email: str) -> UserRecord | None:
        """Return the user of exactly this email, or None. Raises StoreError."""
        with self._database.statements() as connection:
            row = connection.execute(_FIND, {"e": email}).one_or_none()
        return None if row is None else UserRecord(row.email, row.identity, row.password)

    def add(self, record: UserRecord) -> bool:
        """Keep a new user; False, and nothing changed, when the email is taken. Raises StoreError."""
        values = {"email": record.email, "identity": record.identity, "password": record.password}
        with self._database.statements() as connection:
            return connection.scalar(self._add, values) is not None

    def change_password(self, email: str, password: str, *, instead_of: str | None = None) -> bool:
        """Store another hash; False when there is no such user or hash. Raises StoreError."""
        values = {"e": email, "p": password}
        with self._database.statements() as connection:
            if instead_of is None:
                return connection.execute(_CHANGE, values).rowcount == 1
            return connection.execute(_CHANGE_FROM, {**values, "old": instead_of}).rowcount == 1

    def remove(self, email: str) -> bool:
        """Drop a user; False when there is none. Raises StoreError."""
        with self._database.statements() as connection:
            return connection.execute(_REMOVE, {"e": email}).rowcount == 1

    def emails(self, after: str = "", limit: int = 1000) -> Sequence[str]:
        """Return up to ``limit`` emails greater than ``after``, in the order of the database. Raises StoreError."""
        with self._database.statements() as connection:
            return connection.scalars(_PAGE, {"after": after, "n": limit}).all()
