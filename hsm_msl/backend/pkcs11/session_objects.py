"""Keys that live in a session: unwrapped or made in the token, destroyed when nobody holds them.

An unwrapped key heals like one on the token: its wrapped form is kept (it is ciphertext), and after a lost session it
is unwrapped again. A key that was made in the token has no other copy and is gone with its session, until it was
wrapped under a key of the same token: from then on it is unwrapped again as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any, TypeVar

from pkcs11.exceptions import PKCS11Error

from hsm_msl.backend.operations import SESSION
from hsm_msl.backend.pkcs11.binding import Handle
from hsm_msl.backend.pkcs11.connection import RECOVERABLE, Connection
from hsm_msl.backend.pkcs11.errors import code_of, fault_of
from hsm_msl.backend.pkcs11.homes import Home
from hsm_msl.backend.pkcs11.sessions import Lease
from hsm_msl.backend.pkcs11.targets import SESSION_GONE, explain
from hsm_msl.errors import BackendUnavailableError, UsageError

T = TypeVar("T")


class SessionObject:
    """A key in a session.

    Args:
        connection: the token.
        home: the session's keeper; a key made with another session key lives where that one lives.
        make: makes the key in a session and returns its handle; the binding's exceptions may pass.
        doing: what a call is, for messages.
        lasting: whether ``make`` may be called again and gives the same key.

    Raises:
        BackendError, DataRejectedError: as ``make``.
    """

    __slots__ = (
        "__weakref__",
        "_closed",
        "_connection",
        "_handle",
        "_home",
        "_lasting",
        "_lease",
        "_make",
        "_meter",
        "doing",
        "uses",
    )

    def __init__(
        self,
        connection: Connection,
        home: Home,
        make: Callable[[Lease], Handle],
        doing: str,
        *,
        lasting: bool,
    ) -> None:
        self._lease: Lease | None = None
        self._handle: Handle = None
        self._closed = False
        self._connection = connection
        self._home = home
        self._make = make
        self._meter = connection.operations.of_use(SESSION)
        self._lasting = True
        self.doing = doing
        self.uses = 0
        self.call(_made)
        self._lasting = lasting
        if not lasting:
            connection.homes.loose.add(self)

    @property
    def connection(self) -> Connection:
        """The token."""
        return self._connection

    @property
    def home(self) -> Home:
        """Where the key lives."""
        return self._home

    def call(self, operation: Callable[..., T], *arguments: Any) -> T:
        """Run an operation on a current handle; recover, make the key again and repeat when the token lost it.

        Args:
            operation: called with the handle and ``arguments``; must be safe to repeat.
            arguments: passed on.

        Returns:
            What ``operation`` returns.

        Raises:
            BackendError: see ``errors.translate``.
            DataRejectedError: the input was refused.
            UsageError: the key was closed.
        """
        started = perf_counter_ns()
        try:
            result = self._call(operation, arguments)
        except BaseException as error:
            self._meter.failed(operation, perf_counter_ns() - started, error)
            raise
        self._meter.add(operation, perf_counter_ns() - started)
        return result

    def _call(self, operation: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        epoch = self._connection.epoch
        try:
            return self.attempt(operation, arguments)
        except PKCS11Error as error:
            failure = error
        return self._connection.retry(self, failure, epoch, operation, arguments)

    def attempt(self, operation: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        """Run the operation once; the binding's exceptions pass.

        Args:
            operation: called with the handle and ``arguments``.
            arguments: passed on.
        """
        home = self._home
        with home.lock:
            try:
                lease = home.lease
                if lease is None or self._lease is not lease or lease.epoch != self._connection.epoch:
                    self.current()
                result = operation(self._handle, *arguments)
            except PKCS11Error as error:
                self._lose(error)
                raise
            except BaseException as error:
                explain(error, self.doing)
                raise
        self.uses += 1
        return result

    def current(self) -> Handle:
        """Return a handle that holds in the home's present session, making the key when needed.

        The binding's exceptions pass.
        """
        with self._home.lock:
            if self._closed:
                raise UsageError(f"{self.doing}: the key was closed")
            lease = self._home.ready()
            if self._lease is not lease:
                if self._lease is not None and not self._lasting:
                    raise BackendUnavailableError(f"{self.doing}: the key was lost with its session")
                self._connection.homes.wear()
                self._handle = self._make(lease)
                self._lease = lease
            return self._handle

    def handle_on(self, lease: Lease) -> Handle:  # noqa: ARG002  # there is one session in which it lives
        """Return the handle for use in its own session; the binding's exceptions pass.

        Args:
            lease: the session of the same home.
        """
        return self.current()

    def packed(self, make: Callable[[Lease], Handle]) -> None:
        """Note how the key is had again from the form in which it left the token; it outlasts its session now.

        Args:
            make: unwraps it with a key of the same token.
        """
        with self._home.lock:
            self._make = make
            self._lasting = True
        self._connection.homes.loose.discard(self)

    def close(self) -> None:
        """Destroy the key now; later calls are usage errors. Closing twice is fine."""
        with self._home.lock:
            if self._closed:
                return
            self._closed = True
            self._connection.homes.loose.discard(self)
            lease, self._lease = self._lease, None
            if lease is not None and lease is self._home.lease:
                with contextlib.suppress(PKCS11Error):  # the token may have lost it first
                    self._handle.destroy()
            self._handle = None

    def _lose(self, error: PKCS11Error) -> None:
        if fault_of(error) not in RECOVERABLE:
            return
        lease = self._lease
        if lease is not None and lease is self._home.lease and code_of(error) in SESSION_GONE:
            self._home.evict(gone=True)
        if self._lasting and lease is not None:
            self._home.bury(lease, self._handle)
            self._lease = None

    def __del__(self) -> None:
        # May run in any thread and at any moment, also inside another call on the same home: it only leaves a note.
        if not self._closed and self._lease is not None:
            self._home.bury(self._lease, self._handle)

    def __repr__(self) -> str:
        return f"SessionObject({self.doing})"


def _made(handle: Handle) -> None:
    """Do nothing with a handle: making it was the point."""
