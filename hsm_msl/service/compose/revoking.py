"""What an operator takes back, in the database and audit log that a server's configuration names."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

from hsm_msl.audit.actor import login_name
from hsm_msl.errors import ConfigurationError
from hsm_msl.ports import Clock
from hsm_msl.service.compose.audit import server_audit
from hsm_msl.service.compose.state import open_database
from hsm_msl.service.documents import MEMORY, Configuration, ServerConfig
from hsm_msl.stores.revocation import Revocation, SqlRevocations

_PAGE = 1000


class RevocationDesk:
    """Revokes and withdraws beside running servers, which learn of it from the database.

    Args:
        config: the configuration of those servers.
        store: where revocations are.
        clock: local time.
    """

    def __init__(self, config: Configuration[ServerConfig], store: SqlRevocations, clock: Clock) -> None:
        self._config = config
        self._store = store
        self._clock = clock

    def revoke(self, revocation: Revocation) -> None:
        """Take something back and record it; a repeated call renews reason and time.

        Raises:
            StoreError: nothing was revoked.
            ConfigurationError: it is revoked, and the audit log does not say so; names the key.
        """
        self._store.revoke(revocation)
        self._record("revoked", revocation)

    def withdraw(self, revocation: Revocation) -> bool:
        """End a revocation and record it; False when none of that subject, name and serial number is in force.

        Raises:
            StoreError: nothing was withdrawn.
            ConfigurationError: it is withdrawn, and the audit log does not say so; names the key.
        """
        found = self._store.withdraw(revocation)
        if found:
            self._record("revocation withdrawn", revocation)
        return found

    def in_force(self) -> Iterator[Revocation]:
        """Give every revocation, oldest first. Raises StoreError."""
        start = 0
        while page := self._store.in_force(start, _PAGE):
            yield from page
            start += len(page)

    def _record(self, event: str, revocation: Revocation) -> None:
        section = self._config.document.audit
        if section is None:
            return
        details = {revocation.subject.value: revocation.name, "reason": revocation.reason}
        if revocation.serial is not None:
            details["serial"] = str(revocation.serial)
        audit = server_audit(self._config, section, self._clock, actor=f"{login_name()} on {socket.gethostname()}")
        try:
            audit.check()  # a further record would hide from the next start that the end was cut
            audit.record(event, details)
        except ConfigurationError as error:
            raise self._unrecorded(event, str(error)) from None
        if audit.problem is not None:
            raise self._unrecorded(event, audit.problem)

    def _unrecorded(self, event: str, problem: str) -> ConfigurationError:
        return self._config.error("audit.file", f"{event}, but not recorded: {problem}")


@contextlib.contextmanager
def revocation_desk(config: Configuration[ServerConfig], clock: Clock = time.time) -> Iterator[RevocationDesk]:
    """Open the revocations of a configuration until the block ends; no token is asked.

    Args:
        config: a server's configuration.
        clock: local time.

    Raises:
        ConfigurationError: it keeps no revocations, or its database cannot be used; names the key.
        StoreError: the database gives no answer.
    """
    url = config.document.store.database
    if url == MEMORY:
        raise config.error("store.database", "revocations need a database; this server forgets what it knows")
    with ExitStack() as closing:
        database = open_database(config, "store.database", config.database(url), closing)
        yield RevocationDesk(config, SqlRevocations(database, clock), clock)
