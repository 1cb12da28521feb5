"""A snapshot of all revocations for every message (msl-engine section 22).

Revocations are few beside clients and tokens, so a server keeps all of them and asks the store only for what
changed: a message costs set look-ups, and goes on for a configured time while the store is away.
"""

from __future__ import annotations

import threading

from hsm_msl.errors import ConfigurationError, StoreError
from hsm_msl.ports import Clock
from hsm_msl.stores.revocation import Key, RevocationLog, Subject
from hsm_msl.stores.schema import WHOLE_SUBJECT
from hsm_msl.stores.text import as_read_back

REFRESH_SECONDS = 2.0
"""The longest time a revocation goes unnoticed while the store answers, unless told otherwise."""


class CachedRevocations:
    """A ``Revocations`` port that keeps every revocation in memory and follows the changes.

    Args:
        log: where changes are read from.
        clock: this server's time.
        refresh: seconds after which changes are asked for; the longest time a revocation goes unnoticed.
        max_age: seconds a snapshot is trusted while the log gives no answer; after that, StoreError.
        wait: seconds a caller without a usable snapshot waits for another one's read.

    Raises:
        ConfigurationError: ``max_age`` is less than ``refresh``.
    """

    def __init__(
        self,
        log: RevocationLog,
        clock: Clock,
        *,
        refresh: float = REFRESH_SECONDS,
        max_age: float = 60,
        wait: float = 15,
    ) -> None:
        if max_age < refresh:
            raise ConfigurationError(f"revocations: max_age ({max_age:g} s) is less than refresh ({refresh:g} s)")
        self._log = log
        self._clock = clock
        self._refresh = refresh
        self._max_age = max_age
        self._wait = wait
        self._reading = threading.Lock()
        self._keys: set[Key] = set()
        self._revision = 0
        self._read_at: float | None = None
        self._tried_at: float | None = None
        self._failure = "revocations were not read in time"

    def seen(self) -> tuple[int, int] | None:
        """Return the revision of what was read last, and how many revocations are in force; asks nobody."""
        return None if self._read_at is None else (self._revision, len(self._keys))

    def entity_revoked(self, identity: str) -> bool:
        """Tell whether the entity may no longer speak. Raises StoreError."""
        return (Subject.ENTITY, as_read_back(identity), WHOLE_SUBJECT) in self._current()

    def master_token_revoked(self, identity: str, serial: int) -> bool:
        """Tell whether this master token, or every one of its entity, is revoked. Raises StoreError."""
        return self._token_revoked(Subject.ENTITY, identity, serial)

    def user_id_token_revoked(self, user: str, serial: int) -> bool:
        """Tell whether this user ID token, or its user, is revoked. Raises StoreError."""
        return self._token_revoked(Subject.USER, user, serial)

    def _token_revoked(self, subject: Subject, name: str, serial: int) -> bool:
        name = as_read_back(name)
        keys = self._current()
        return (subject, name, WHOLE_SUBJECT) in keys or (subject, name, serial) in keys

    def _current(self) -> set[Key]:
        # While one caller reads the changes, the others go on with a usable snapshot or wait for a first one.
        if self._due() and self._reading.acquire(timeout=0 if self._usable() else self._wait):
            try:
                if self._due():
                    self._read()
            finally:
                self._reading.release()
        if not self._usable():
            raise StoreError(self._failure)
        return self._keys

    def _read(self) -> None:
        now = self._clock()
        try:
            changes = self._log.changes(self._revision)
        except StoreError as error:
            self._failure = str(error)
        else:
            revoked = {revocation.key for revocation in changes.revoked}
            if changes.complete:
                self._keys = revoked
            else:
                # In place: membership tests of other threads see each entry either before or after its change.
                self._keys.update(revoked)
                self._keys.difference_update([revocation.key for revocation in changes.withdrawn])
            self._revision = changes.revision
            self._read_at = now
        finally:
            # A failure counts as a try: a store that hangs must not hold up every message.
            self._tried_at = self._clock()

    def _due(self) -> bool:
        return not self._within(self._tried_at, self._refresh)

    def _usable(self) -> bool:
        return self._within(self._read_at, self._max_age)

    def _within(self, moment: float | None, seconds: float) -> bool:
        # A clock that was set back makes a snapshot old, never young.
        return moment is not None and 0 <= self._clock() - moment < seconds
