"""The users database of a deployment, as a ceremony uses it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from hsm_msl.stores.passwords import Passwords
from hsm_msl.stores.schema import prepare
from hsm_msl.stores.sql import Database
from hsm_msl.stores.users import SqlUserRecords, UserDirectory
from hsm_msl.wire.fields import trimmed
from hsm_provision.user_hashes import PutOutcome


class UserDatabase:
    """Users in a SQL database; passwords are stored as argon2id text only.

    Args:
        database: open, with its tables prepared.
    """

    def __init__(self, database: Database) -> None:
        self._records = SqlUserRecords(database)
        self._directory = UserDirectory(self._records, Passwords(os.urandom))

    def known(self, email: str) -> bool:
        """Tell whether a user with this email exists. Raises StoreError."""
        return self._records.find(trimmed(email)) is not None

    def authenticate(self, email: str, password: str) -> str | None:
        """Return the user's identity when email and password fit together, else None. Raises StoreError."""
        return self._directory.authenticate(email, password)

    def put(self, email: str, password: str, identity: str) -> None:
        """Create the user or replace password and identity. Raises StoreError, UsageError for blank values."""
        record = self._records.find(trimmed(email))
        if record is not None and record.identity == identity:
            self._directory.set_password(email, password)
            return
        if record is not None:
            self._directory.remove(email)
        self._directory.add(email, password, identity)

    def put_hash(self, email: str, password_hash: str, identity: str, *, replace: bool) -> PutOutcome:
        """Keep a user with the argon2 text they have. Raises StoreError, UsageError for blank or very long values."""
        record = self._records.find(email)
        if record is not None and (record.password, record.identity) == (password_hash, identity):
            return "same"
        if record is not None and not replace:
            return "other"
        if record is None:
            self._directory.add_hashed(email, password_hash, identity)
            return "created"
        if record.identity == identity:
            self._records.change_password(email, password_hash)
        else:
            self._directory.remove(email)
            self._directory.add_hashed(email, password_hash, identity)
        return "replaced"


@contextlib.contextmanager
def open_user_database(url: str) -> Iterator[UserDatabase]:
    """Open a users database for the length of a ``with`` block, preparing its tables when they are missing.

    Args:
        url: ``sqlite:////absolute/file`` or ``postgresql://user@host/name``.

    Raises:
        ConfigurationError: another kind of database, or a file that cannot be made.
        StoreError: the database gives no answer.
    """
    database = Database(url)
    try:
        prepare(database)
        yield UserDatabase(database)
    finally:
        database.close()
