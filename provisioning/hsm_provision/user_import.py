"""Users entered by a ceremony: password from a file, stored as argon2id by the users store."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from hsm_msl.errors import ConfigurationError
from hsm_msl.private_files import create_private_file
from hsm_provision.ceremony import CeremonyFile, UserEntry

MAXIMUM_PASSWORD_BYTES = 1024


class PlannedUser(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What will happen about one user."""

    email: str
    identity: str
    action: Literal["create", "update", "keep"]


class UserDirectory(Protocol):
    """The part of a users store a ceremony needs."""

    def authenticate(self, email: str, password: str) -> str | None:
        """Return the user's identity when email and password fit together, else None."""

    def put(self, email: str, password: str, identity: str) -> None:
        """Create the user or replace password and identity."""

    def known(self, email: str) -> bool:
        """Tell whether a user with this email exists."""


OpenUsers = Callable[[str], AbstractContextManager[UserDirectory]]
"""Opens a users database by its URL."""


def users_url(file: CeremonyFile) -> str:
    """Return the URL of the ceremony's users database; a path means an SQLite file."""
    database = file.document.users.database if file.document.users else ""
    return database if "://" in database else f"sqlite:///{file.working_path(database)}"


def users_exist(file: CeremonyFile) -> bool:
    """Tell whether there is a users database to look into; reading a plan must not create one."""
    section = file.document.users
    if section is None:
        return False
    return "://" in section.database or file.working_path(section.database).exists()


def plan_users(file: CeremonyFile, users: UserDirectory | None) -> tuple[PlannedUser, ...]:
    """Compare the ceremony's users with the database.

    Args:
        file: the ceremony.
        users: the users store, None when its database does not exist yet.

    Raises:
        ConfigurationError: a password file cannot be read.
        StoreError: the database gives no answer.
    """
    if file.document.users is None:
        return ()
    planned = []
    for entry in file.document.users.user:
        identity = entry.identity or entry.email
        path = file.working_path(entry.password)
        action: Literal["create", "update", "keep"] = "create"
        if users is not None and users.known(entry.email):
            missing = entry.create_missing_file and not path.exists()
            fits = not missing and users.authenticate(entry.email, read_password(path)) == identity
            action = "keep" if fits else "update"
        elif not (entry.create_missing_file and not path.exists()):
            read_password(path)
        planned.append(PlannedUser(entry.email, identity, action))
    return tuple(planned)


def apply_user(file: CeremonyFile, entry: UserEntry, users: UserDirectory) -> None:
    """Enter one user.

    Raises:
        ConfigurationError: the password file cannot be read or made.
        StoreError: the database gives no answer.
    """
    path = file.working_path(entry.password)
    if entry.create_missing_file and not path.exists():
        create_private_file(path, (secrets.token_urlsafe(18) + "\n").encode())
    users.put(entry.email, read_password(path), entry.identity or entry.email)


def read_password(path: Path) -> str:
    """Return the first line of a password file.

    Raises:
        ConfigurationError: the file cannot be read, is empty, too long or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAXIMUM_PASSWORD_BYTES + 1)
        line = raw.decode().split("\n", 1)[0].removesuffix("\r")
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path}: the password is not UTF-8 text") from None
    if not line or len(raw) > MAXIMUM_PASSWORD_BYTES:
        raise ConfigurationError(
            f"{path}: the first line must hold a password of 1 to {MAXIMUM_PASSWORD_BYTES} bytes"
        )
    return line
