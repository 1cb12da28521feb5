"""A bounded pool of sessions, opened without a PIN: they share the process's login and can be thrown away.

The hot path is one ``deque.pop`` and one ``append``, both atomic; locks are taken only when the pool is empty,
broken or held still for a fork or a reload.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator

import pkcs11
from pkcs11.exceptions import PKCS11Error

from hsm_msl.backend.pkcs11.binding import handle_of
from hsm_msl.backend.pkcs11.errors import Fault, fault_of
from hsm_msl.backend.pkcs11.module import Module
from hsm_msl.errors import BackendUnavailableError

DEFAULT_SIZE = 4
DEFAULT_WAIT_SECONDS = 5.0
TOUCH_BITS = 64
"""How much randomness an idle session is asked for now and then, so that nobody on the way drops it."""


class Lease:
    """A session in the hands of one thread, and the handles found through it.

    Args:
        session: the binding's session.
        epoch: the pool's epoch when it was opened; handles die with it.
        generation: the module's generation when it was opened; the session's number means nothing in another one.
    """

    __slots__ = ("epoch", "generation", "objects", "session")

    def __init__(self, session: pkcs11.Session, epoch: int, generation: int) -> None:
        self.session = session
        self.epoch = epoch
        self.generation = generation
        # Fleets look keys up by the thousand; a session must not keep those that nobody holds any more.
        self.objects: weakref.WeakKeyDictionary[object, pkcs11.Object] = weakref.WeakKeyDictionary()


class SessionPool:
    """Sessions of one token.

    Args:
        module: the loaded module.
        open_session: opens a session without PIN; the binding's exceptions may pass.
        gate: asked before every step off the fast path; raises a BackendError while the token is out of service.
        size: the most sessions at once; lowered by itself where the token has fewer.
        wait_seconds: how long ``take`` waits for a free one.
    """

    def __init__(
        self,
        module: Module,
        open_session: Callable[[], pkcs11.Session],
        *,
        gate: Callable[[], None] | None = None,
        size: int = DEFAULT_SIZE,
        wait_seconds: float = DEFAULT_WAIT_SECONDS,
    ) -> None:
        self._module = module
        self._open = open_session
        self._gate = gate or module.check
        self._generation = module.generation
        self._size = size
        self._wait = wait_seconds
        self._free: deque[Lease] = deque()
        self._changed = threading.Condition()
        self._parked: list[Lease] = []  # free ones set aside while paused
        self._count = 0  # every session open or being opened
        self._waiting = 0
        self._paused = 0
        self._closed = False
        self.epoch = 1
        module.join(self)

    def take(self) -> Lease:
        """Return a session for this thread's use; give it back with ``give`` or ``discard``.

        Raises:
            BackendUnavailableError: none became free in time, or this process was forked. The binding's exceptions
            pass when the token opens none.
        """
        try:
            lease = self._free.pop()
        except IndexError:
            return self._take_slowly()
        if lease.epoch == self.epoch:
            return lease
        self.discard(lease)
        return self._take_slowly()

    def give(self, lease: Lease) -> None:
        """Return a session in good order.

        Args:
            lease: what ``take`` returned.
        """
        if lease.epoch != self.epoch:
            self.discard(lease)
            return
        if self._paused:  # set aside at once: in the deque a busy thread would have it again before the pause sees it
            with self._changed:
                (self._parked if self._paused else self._free).append(lease)
                self._changed.notify_all()
            return
        self._free.append(lease)
        # Whoever waits raises the count before it looks at the deque, so one of the two sees the other.
        if self._waiting or self._paused:
            with self._changed:
                self._changed.notify_all()

    def discard(self, lease: Lease, *, gone: bool = False) -> None:
        """Close a session that showed an error, or that outlived its epoch; its room becomes free.

        Args:
            lease: what ``take`` returned.
            gone: the token said it does not know the session; closing its number might hit another one.
        """
        if not gone and lease.generation == self._module.generation:
            with contextlib.suppress(PKCS11Error):  # it is being thrown away
                self._module.cryptoki.close_session(handle_of(lease.session))
        with self._changed:
            self._count -= 1
            self._changed.notify_all()

    @contextlib.contextmanager
    def session(self) -> Iterator[pkcs11.Session]:
        """Lend a session for a block; an error of the session or token throws it away.

        Yields:
            The binding's session. Its exceptions pass through.

        Raises:
            BackendUnavailableError: as ``take``.
        """
        lease = self.take()
        try:
            yield lease.session
        except PKCS11Error as error:
            if fault_of(error) in (Fault.STALE, Fault.OUTAGE):
                self.discard(lease)
            else:
                self.give(lease)
            raise
        except BaseException:
            self.give(lease)
            raise
        self.give(lease)

    def touch(self) -> None:
        """Ask the token for something on every session that is idle now; one that is lost leaves the pool."""
        for _ in range(len(self._free)):
            try:
                lease = self._free.popleft()  # calls take from the other end
            except IndexError:
                return
            try:
                lease.session.generate_random(TOUCH_BITS)
            except PKCS11Error:
                self.discard(lease)
            else:
                self.give(lease)

    def renew(self) -> None:
        """Begin a new epoch: idle sessions close now, lent ones when they come back, and no handle is used again."""
        with self._changed:
            self.epoch += 1
            stale, self._parked = self._parked, []
        with contextlib.suppress(IndexError):
            while True:
                stale.append(self._free.pop())
        for lease in stale:
            self.discard(lease)

    def pause(self, deadline: float) -> bool:
        """Lend nothing more and wait for what is out (``Pausable``).

        Args:
            deadline: monotonic time after which to give up.
        """
        with self._changed:
            self._paused += 1
            return self._changed.wait_for(self._all_parked, max(0.0, deadline - time.monotonic()))

    @property
    def busy(self) -> bool:
        """Whether a reload would lose what cannot be had again (``Pausable``); sessions can."""
        return False

    def resume(self) -> None:
        """Undo ``pause``; sessions of the parent process or of a module that was reloaded meanwhile are forgotten."""
        if self._module.forked:
            self._changed = threading.Condition()  # another thread of the parent may have held the old one
            self._waiting, self._paused = 0, 1
            self._forget()
        with self._changed:
            self._paused -= 1
            if self._generation != self._module.generation:
                self._generation = self._module.generation
                self._forget()
            if not self._paused:
                self._free.extend(self._parked)
                self._parked = []
            self._changed.notify_all()

    def close(self) -> None:
        """Close every session; later ``take`` calls are refused."""
        self._closed = True
        self.renew()

    @property
    def open_sessions(self) -> int:
        """How many sessions are open, lent or not."""
        return self._count

    @property
    def idle_sessions(self) -> int:
        """How many of them are not lent."""
        return min(self._count, len(self._free))

    @property
    def waiting(self) -> int:
        """How many callers wait for one."""
        return self._waiting

    def _forget(self) -> None:
        # Their numbers may already mean other sessions, so they are not closed.
        self._free.clear()
        self._parked, self._count = [], 0
        self.epoch += 1

    def _all_parked(self) -> bool:
        with contextlib.suppress(IndexError):
            while True:
                self._parked.append(self._free.pop())
        return len(self._parked) == self._count

    def _take_slowly(self) -> Lease:
        deadline = time.monotonic() + self._wait
        while True:
            self._gate()
            lease = self._await_turn(deadline)
            if lease is not None:
                if lease.epoch == self.epoch:
                    return lease
                self.discard(lease)
                continue
            lease = self._open_one()
            if lease is not None:
                return lease

    def _await_turn(self, deadline: float) -> Lease | None:
        """Return a free session, or None when the caller may open one (its room is then reserved)."""
        with self._changed:
            self._waiting += 1
            try:
                while True:
                    if self._closed:
                        raise BackendUnavailableError("the token was closed")
                    if not self._paused:
                        with contextlib.suppress(IndexError):
                            return self._free.pop()
                        if self._count < self._size:
                            self._count += 1
                            return None
                    if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                        raise BackendUnavailableError(
                            f"no token session became free in {self._wait:.1f} s ({self._count} in use)"
                        )
            finally:
                self._waiting -= 1

    def _open_one(self) -> Lease | None:
        epoch, generation = self.epoch, self._module.generation
        try:
            return Lease(self._open(), epoch, generation)
        except PKCS11Error as error:
            with self._changed:
                self._count -= 1
                self._changed.notify_all()
                if fault_of(error) is Fault.BUSY and self._count:
                    self._size = self._count  # the token is full: share what there is
                    return None
            raise
        except BaseException:
            with self._changed:
                self._count -= 1
                self._changed.notify_all()
            raise
