"""``hsm-msl revoke``: take back an entity, a user or one of their tokens, beside the servers that run."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from hsm_msl.cli.failures import USAGE, CommandError
from hsm_msl.service.compose.revoking import revocation_desk
from hsm_msl.service.config import read_server_config
from hsm_msl.stores.revocation import Revocation, Subject
from hsm_msl.stores.revocation_cache import REFRESH_SECONDS


def revoke(
    path: Path, *, entity: str | None, user: str | None, serial: int | None, reason: str, withdraw: bool
) -> None:
    """Revoke something, or withdraw that, and say what servers do now.

    Args:
        path: a server's configuration file.
        entity: identity of an entity.
        user: identity text of a user, instead.
        serial: serial number of one master token of the entity, or user ID token of the user; all when None.
        reason: for people.
        withdraw: end the revocation.

    Raises:
        CommandError: neither or both of entity and user are given, or there is nothing to withdraw.
        ConfigurationError, StoreError: the database or audit log cannot be used.
    """
    if (entity is None) == (user is None):
        raise CommandError("say what to revoke with either --entity or --user; --list shows what is revoked", USAGE)
    subject, name = (Subject.USER, user or "") if entity is None else (Subject.ENTITY, entity)
    revocation = Revocation(subject, name, serial, reason)
    with revocation_desk(read_server_config(path)) as desk:
        if not withdraw:
            desk.revoke(revocation)
            print(f"{_named(revocation)} is revoked; servers of this database know within {REFRESH_SECONDS:g} s")
        elif desk.withdraw(revocation):
            print(
                f"{_named(revocation)} is revoked no more; servers of this database know within {REFRESH_SECONDS:g} s"
            )
        else:
            raise CommandError(f"{_named(revocation)} is not revoked; --list shows what is")


def list_revoked(path: Path) -> None:
    """Print what is revoked, one line each, oldest first.

    Args:
        path: a server's configuration file.

    Raises:
        ConfigurationError, StoreError: the database cannot be used.
    """
    with revocation_desk(read_server_config(path)) as desk:
        for revocation in desk.in_force():
            since = datetime.fromtimestamp(revocation.since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            reason = f": {revocation.reason!r}" if revocation.reason else ""
            print(f"{since} {_named(revocation)}{reason}")


def _named(revocation: Revocation) -> str:
    owner = f"{revocation.subject.value} {revocation.name!r}"
    if revocation.serial is None:
        return owner
    kind = "master token" if revocation.subject is Subject.ENTITY else "user ID token"
    return f"{kind} {revocation.serial} of {owner}"
