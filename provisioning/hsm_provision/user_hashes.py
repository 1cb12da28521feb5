"""Users taken over with the argon2id hashes they have: nobody has to choose a new password, and none is ever seen."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

from argon2 import Parameters, Type, extract_parameters
from argon2.exceptions import InvalidHashError

from hsm_msl.errors import ConfigurationError, UsageError
from hsm_msl.wire.fields import trimmed

COLUMNS = ("email", "hash")
OPTIONAL = "identity"
MAX_LINE_BYTES = 8 * 1024

_ARGON2_VERSION = 19
_BOUNDS = {
    # What a log-in with the hash would cost the server: the lower bounds are the least RFC 9106 allows a password.
    "memory_cost": (8, 1024 * 1024, "KiB of memory"),
    "time_cost": (1, 64, "passes"),
    "parallelism": (1, 64, "lanes"),
    "salt_len": (8, 64, "bytes of salt"),
    "hash_len": (16, 64, "bytes of hash"),
}

PutOutcome = Literal["created", "same", "replaced", "other"]


class HashedUsers(Protocol):
    """The part of a users store this import needs."""

    def put_hash(self, email: str, password_hash: str, identity: str, *, replace: bool) -> PutOutcome:
        """Keep a user with a hash; ``other`` when the email has another hash or identity and stays as it is."""


@dataclass(frozen=True, slots=True)
class HashedUser:
    """One user as read; ``line`` is the line in the source, from 1."""

    line: int
    email: str
    identity: str
    password_hash: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class RefusedUser:
    """A line that is not imported, and why; the reason never holds a part of a hash."""

    line: int
    email: str
    reason: str


@dataclass(slots=True)
class UserCount:
    """What an import did."""

    stored: int = 0
    repeated: int = 0
    refused: list[RefusedUser] = field(default_factory=list)


def read_hashed_users(lines: Iterable[bytes], origin: str) -> Iterator[HashedUser | RefusedUser]:
    """Read users from CSV with the header ``email,hash[,identity]``, one line at a time.

    The identity, which tokens will name, is the email where the column or its value is missing.

    Args:
        lines: the lines, UTF-8.
        origin: names the source in errors.

    Raises:
        ConfigurationError: the header is another one.
    """
    header: list[str] | None = None
    for number, raw in enumerate(lines, start=1):
        fields = _fields(raw)
        if header is None:
            header = [name.strip().lower() for name in fields or ()]
            if tuple(header) not in (COLUMNS, (*COLUMNS, OPTIONAL)):
                raise ConfigurationError(f"{origin}: line 1: the header must be email,hash or email,hash,identity")
            continue
        if fields == []:
            continue
        if fields is None or len(fields) != len(header):
            yield RefusedUser(number, "", f"the line does not have {len(header)} columns")
            continue
        email, password_hash = trimmed(fields[0]), fields[1].strip()
        problem = hash_problem(password_hash)
        if problem is not None:
            yield RefusedUser(number, email if "$" not in email else "", problem)
            continue
        identity = fields[2].strip() if len(fields) > len(COLUMNS) else ""
        yield HashedUser(number, email, identity or email, password_hash)


def hash_problem(text: str) -> str | None:
    """Return why a text is no usable argon2id hash (PHC string format), or None for a good one."""
    if not text.startswith("$argon2id$"):
        return "the hash is not argon2id ($argon2id$v=19$m=...,t=...,p=...$salt$hash)"
    try:
        found: Parameters = extract_parameters(text)
    except (InvalidHashError, ValueError):
        return "the hash is not a whole argon2id text"
    if found.type is not Type.ID or found.version != _ARGON2_VERSION:
        return "the hash is of another version of argon2 than 19"
    for name, (least, most, what) in _BOUNDS.items():
        value = getattr(found, name)
        if not least <= value <= most:
            return f"the hash asks for {value} {what}; allowed: {least} to {most}"
    return None


def import_hashed_users(
    entries: Iterable[HashedUser | RefusedUser], users: HashedUsers, *, replace: bool, settled: Callable[[int], None]
) -> UserCount:
    """Store users. Doing it again changes nothing.

    Args:
        entries: as ``read_hashed_users`` gives them.
        users: the users store.
        replace: whether a line replaces another hash or identity of its email.
        settled: told after each line how many were read.

    Raises:
        StoreError: the database gives no answer; lines before are stored, start again to go on.
    """
    count = UserCount()
    for read, entry in enumerate(entries, start=1):
        if isinstance(entry, RefusedUser):
            count.refused.append(entry)
        else:
            _store(entry, users, replace, count)
        settled(read)
    return count


def _store(entry: HashedUser, users: HashedUsers, replace: bool, count: UserCount) -> None:
    try:
        outcome = users.put_hash(entry.email, entry.password_hash, entry.identity, replace=replace)
    except UsageError as error:
        count.refused.append(RefusedUser(entry.line, entry.email, str(error)))
        return
    if outcome == "other":
        reason = "the user exists with another hash or identity; --replace would replace it"
        count.refused.append(RefusedUser(entry.line, entry.email, reason))
    elif outcome == "same":
        count.repeated += 1
    else:
        count.stored += 1


def _fields(raw: bytes) -> list[str] | None:
    """Return the columns of a line, none for an empty one, None for one that cannot be read."""
    if len(raw) > MAX_LINE_BYTES:
        return None
    try:
        text = raw.decode("utf-8-sig").strip("\r\n")
        return next(csv.reader([text], strict=True), []) if text.strip() else []
    except (UnicodeDecodeError, csv.Error):
        return None
