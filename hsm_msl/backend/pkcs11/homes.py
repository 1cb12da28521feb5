"""Sessions that carry session objects: keys unwrapped or made in the token, gone when their session closes.

A key lives where it was made, and the binding uses it through that one session, so such sessions are kept apart from
the pool: they are never lent and never thrown away because some other call failed.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Protocol

import pkcs11
from pkcs11.exceptions import PKCS11Error

from hsm_msl.backend.pkcs11.binding import Handle, handle_of
from hsm_msl.backend.pkcs11.sessions import TOUCH_BITS, Lease

if TYPE_CHECKING:
    from hsm_msl.backend.pkcs11.module import Module
    from hsm_msl.backend.pkcs11.recovery import Recovery
    from hsm_msl.backend.pkcs11.vendors import VendorProfile


class Landlord(Protocol):
    """The token connection as its homes see it."""

    module: Module
    recovery: Recovery
    profile: VendorProfile

    @property
    def epoch(self) -> int:
        """Counts the times that every session and handle became void."""

    @property
    def worn(self) -> bool:
        """Whether so many objects were made that the module should start anew."""

    def start_anew(self) -> None:
        """See to that, soon and in another thread."""

    def open_session(self) -> pkcs11.Session:
        """Open a session without PIN."""


class Home:
    """One session for session objects; whoever calls through it holds ``lock``.

    Args:
        landlord: the token connection.
    """

    def __init__(self, landlord: Landlord) -> None:
        self._landlord = landlord
        self.lock = self.fresh_lock()
        self.lease: Lease | None = None
        self._dead: deque[tuple[Lease, Handle]] = deque()

    def fresh_lock(self) -> threading.RLock:
        """Return the lock for this home: the module's own where it stands one call at a time."""
        return self._landlord.module.one_call if self._landlord.profile.one_call else threading.RLock()

    def ready(self) -> Lease:
        """Return the session of the current epoch, opening it when needed; the caller holds ``lock``.

        Raises:
            BackendUnavailableError: the token is out of service. The binding's exceptions pass.
        """
        lease = self.lease
        if lease is None or lease.epoch != self._landlord.epoch:
            self._landlord.recovery.gate()
            self.evict()
            epoch, generation = self._landlord.epoch, self._landlord.module.generation
            lease = self.lease = Lease(self._landlord.open_session(), epoch, generation)
        self.sweep()
        return lease

    def bury(self, lease: Lease, handle: Handle) -> None:
        """Note a key nobody holds any more. Safe in a finaliser: it only appends; ``sweep`` destroys.

        Args:
            lease: the session in which the key was made.
            handle: the key.
        """
        self._dead.append((lease, handle))

    def sweep(self) -> None:
        """Destroy the noted keys; the caller holds ``lock``. Keys of earlier sessions are gone already."""
        with contextlib.suppress(IndexError):
            while True:
                lease, handle = self._dead.popleft()
                if lease is self.lease:
                    with contextlib.suppress(PKCS11Error):  # the token may have lost it first
                        handle.destroy()

    def evict(self, *, gone: bool = False) -> None:
        """Close the session and with it every key it carries; the caller holds ``lock``.

        Args:
            gone: the token said it does not know the session; closing its number might hit another one.
        """
        lease, self.lease = self.lease, None
        module = self._landlord.module
        if lease is not None and not gone and lease.generation == module.generation and not module.forked:
            with contextlib.suppress(PKCS11Error):
                module.cryptoki.close_session(handle_of(lease.session))


class Homes:
    """The homes of one token connection, given out in turn.

    Args:
        landlord: the token connection.
        count: how many; calls on keys of different homes run side by side.

    Attributes:
        made: how many objects were made in sessions of this process since the module started, homes or not.
        loose: keys that no other form of exists, so that they are gone with their session.
    """

    def __init__(self, landlord: Landlord, count: int) -> None:
        self._landlord = landlord
        self._homes = [Home(landlord) for _ in range(max(1, count))]
        self._turn = itertools.cycle(self._homes)
        self._held: dict[int, list[Home]] = {}  # by thread: a fork and a reload may hold still at the same time
        self.made = 0
        self.loose: weakref.WeakSet[object] = weakref.WeakSet()
        landlord.module.join(self)

    def next(self) -> Home:
        """Return the home for the next key."""
        return next(self._turn)

    def wear(self) -> None:
        """Count an object made in a session: some modules keep what one takes, however soon it goes."""
        self.made += 1
        if self._landlord.worn:
            self._landlord.start_anew()

    @property
    def busy(self) -> bool:
        """Whether a reload would lose what cannot be had again (``Pausable``)."""
        return len(self.loose) > 0

    def touch(self) -> None:
        """Ask the token for something on every home's session; a lost one is opened again when it is needed."""
        for home in self._homes:
            with home.lock, contextlib.suppress(PKCS11Error):
                lease = home.lease
                if lease is not None and lease.epoch == self._landlord.epoch:
                    lease.session.generate_random(TOUCH_BITS)

    def pause(self, deadline: float) -> bool:
        """Hold every home (``Pausable``).

        Args:
            deadline: monotonic time after which to give up.
        """
        held = self._held.setdefault(threading.get_ident(), [])
        before = len(held)
        for home in self._homes:
            if home.lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
                held.append(home)
        return len(held) - before == len(self._homes)

    def resume(self) -> None:
        """Undo ``pause``; keys of the parent process or of the module before its reload go with their session."""
        held = self._held.pop(threading.get_ident(), [])
        if self._landlord.module.forked:
            self._held.clear()
            for home in self._homes:
                home.lock = home.fresh_lock()  # another thread of the parent may have held the old one
                home.lease = None
            return
        for home in held:
            if home.lease is not None and home.lease.generation != self._landlord.module.generation:
                home.lease = None
            home.lock.release()

    def close(self, seconds: float) -> None:
        """Close every home but those in which a call hangs.

        Args:
            seconds: how long to wait for calls.
        """
        deadline = time.monotonic() + seconds
        for home in self._homes:
            if home.lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
                try:
                    home.evict()
                finally:
                    home.lock.release()
