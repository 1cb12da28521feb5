"""State in the memory of one process: for one-process deployments that accept to forget, and for tests.

After a restart accepted non-replayable IDs are forgotten, so replays of the time before succeed; the SQL stores are
for everyone else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from hsm_msl.ports import Clock, RenewalState, ReplayState
from hsm_msl.stores.revocation import Key, Revocation, Subject
from hsm_msl.stores.users import UserRecord


class MemoryReplayStore:
    """A ``ReplayStore`` for the threads of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._states: dict[tuple[str, int], ReplayState] = {}

    def advance(self, identity: str, serial: int, decide: Callable[[ReplayState], ReplayState | None]) -> None:
        """Replace the state (zeros when none is stored) by ``decide(state)``; None leaves it."""
        with self._lock:
            state = decide(self._states.get((identity, serial), ReplayState()))
            if state is not None:
                self._states[identity, serial] = state

    def prune(self, before: float, limit: int) -> int:
        """Drop up to ``limit`` states kept until before a time, in seconds since the epoch; return how many."""
        with self._lock:
            old = [key for key, state in self._states.items() if state.until < before][:limit]
            for key in old:
                del self._states[key]
            return len(old)


class MemoryRenewalStore:
    """A ``RenewalStore`` for the threads of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._states: dict[str, dict[int, RenewalState]] = {}

    def create(self, identity: str, serial: int, state: RenewalState) -> None:
        """Start the state of a fresh master token and drop that of the entity's earlier ones."""
        with self._lock:
            self._states[identity] = {serial: state}

    def renew(self, identity: str, serial: int, decide: Callable[[RenewalState | None], RenewalState | None]) -> None:
        """Replace the state (None when not stored) by ``decide(state)``; None leaves it."""
        with self._lock:
            serials = self._states.get(identity, {})
            following = decide(serials.get(serial))
            if following is not None:
                self._states[identity] = {**serials, serial: following}

    def prune(self, before: float, limit: int) -> int:
        """Drop up to ``limit`` states kept until before a time, in seconds since the epoch; return how many."""
        with self._lock:
            old = [
                (identity, serial)
                for identity, serials in self._states.items()
                for serial, state in serials.items()
                if state.until < before
            ][:limit]
            for identity, serial in old:
                del self._states[identity][serial]
                if not self._states[identity]:
                    del self._states[identity]
            return len(old)


class MemoryRevocations:
    """A ``Revocations`` port for the threads of one process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._revocations: dict[Key, Revocation] = {}

    def entity_revoked(self, identity: str) -> bool:
        """Tell whether the entity may no longer speak."""
        return Revocation(Subject.ENTITY, identity).key in self._revocations

    def master_token_revoked(self, identity: str, serial: int) -> bool:
        """Tell whether this master token, or every one of its entity, is revoked."""
        return self._token_revoked(Subject.ENTITY, identity, serial)

    def user_id_token_revoked(self, user: str, serial: int) -> bool:
        """Tell whether this user ID token, or its user, is revoked."""
        return self._token_revoked(Subject.USER, user, serial)

    def revoke(self, revocation: Revocation) -> None:
        """Take something back; a repeated call renews reason and time."""
        with self._lock:
            self._revocations.pop(revocation.key, None)
            self._revocations[revocation.key] = replace(revocation, since=int(self._clock()))

    def withdraw(self, revocation: Revocation) -> bool:
        """End a revocation, found by subject, name and serial number; False when none is in force."""
        with self._lock:
            return self._revocations.pop(revocation.key, None) is not None

    def in_force(self, start: int = 0, limit: int = 1000) -> Sequence[Revocation]:
        """Return up to ``limit`` revocations from position ``start``, oldest first."""
        with self._lock:
            return list(self._revocations.values())[start : start + limit]

    def _token_revoked(self, subject: Subject, name: str, serial: int) -> bool:
        if not self._revocations:
            return False  # the usual case, on the path of every message
        keys = (Revocation(subject, name).key, Revocation(subject, name, serial).key)
        return any(key in self._revocations for key in keys)


class MemoryUserRecords:
    """``UserRecords`` for the threads of one process, such as users named in a configuration file."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: dict[str, UserRecord] = {}

    def find(self, email: str) -> UserRecord | None:
        """Return the user of exactly this email, or None."""
        return self._records.get(email)

    def add(self, record: UserRecord) -> bool:
        """Keep a new user; False, and nothing changed, when the email is taken."""
        with self._lock:
            return self._records.setdefault(record.email, record) is record

    def change_password(self, email: str, password: str, *, instead_of: str | None = None) -> bool:
        """Store another hash; False when there is no such user or hash."""
        with self._lock:
            record = self._records.get(email)
            if record is None or instead_of not in (None, record.password):
                return False
            self._records[email] = replace(record, password=password)
            return True

    def remove(self, email: str) -> bool:
        """Drop a user; False when there is none."""
        with self._lock:
            return self._records.pop(email, None) is not None

    def emails(self, after: str = "", limit: int = 1000) -> Sequence[str]:
        """Return up to ``limit`` emails greater than ``after``, sorted."""
        with self._lock:
            return sorted(email for email in self._records if email > after)[:limit]
