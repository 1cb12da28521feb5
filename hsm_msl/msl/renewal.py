"""At most one request that can change tokens is outstanding; others wait for its outcome (msl-engine section 5)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

from hsm_msl.msl.tokens.master_token import MasterToken
from hsm_msl.ports import Mutex


class Ticket:
    """A waiter's place: resolved with the master token the renewal brought, or None when it brought none."""

    __slots__ = ("_callbacks", "_mutex", "resolved", "token")

    def __init__(self, mutex: Mutex) -> None:
        self._mutex = mutex
        self._callbacks: list[Callable[[], None]] = []
        self.resolved = False
        self.token: MasterToken | None = None

    def subscribe(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once the ticket is resolved, at once if it is; possibly from another thread."""
        with self._mutex:
            if not self.resolved:
                self._callbacks.append(callback)
                return
        callback()

    def resolve(self, token: MasterToken | None) -> None:
        """Deliver the outcome; only the lock does this."""
        with self._mutex:
            self.token = token
            self.resolved = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()


class RenewalLock:
    """One per client context.

    Args:
        mutex: a re-usable lock when several threads share the client.
    """

    __slots__ = ("_held", "_mutex", "_waiting")

    def __init__(self, mutex: Mutex | None = None) -> None:
        self._mutex: Mutex = nullcontext() if mutex is None else mutex
        self._held = False
        self._waiting: list[Ticket] = []

    @property
    def held(self) -> bool:
        """Whether a renewing exchange is outstanding."""
        return self._held

    def try_acquire(self) -> bool:
        """Become the renewing exchange if there is none. The caller must release on every path."""
        with self._mutex:
            if self._held:
                return False
            self._held = True
            return True

    def ticket(self) -> Ticket | None:
        """Return a place in the queue, or None when the lock is free by now and worth another try."""
        with self._mutex:
            if not self._held:
                return None
            ticket = Ticket(self._mutex)
            self._waiting.append(ticket)
            return ticket

    def release(self, token: MasterToken | None) -> None:
        """Let go and tell every waiter the outcome."""
        with self._mutex:
            waiting, self._waiting = self._waiting, []
            self._held = False
        for ticket in waiting:
            ticket.resolve(token)
