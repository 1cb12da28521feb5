"""Something callable on a token through whatever session is free: the fast path, and what happens off it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any, TypeVar

import pkcs11
from pkcs11.exceptions import PKCS11Error

from hsm_msl.backend.operations import TOTAL, Meter
from hsm_msl.backend.pkcs11.binding import Handle
from hsm_msl.backend.pkcs11.connection import RECOVERABLE, Connection
from hsm_msl.backend.pkcs11.errors import code_of, fault_of
from hsm_msl.backend.pkcs11.sessions import Lease
from hsm_msl.errors import KeyPolicyError

T = TypeVar("T")

SESSION_GONE = frozenset((0xB0, 0xB3))
HANDLE_GONE = frozenset((0x60, 0x82, 0xF0, 0x113))


class PooledTarget(ABC):
    """A target whose handle can be had in every session of the pool.

    Args:
        connection: the token.
        doing: what a call is, for messages.
        meter: counts the calls.
    """

    __slots__ = ("__weakref__", "_answered", "_connection", "_meter", "_pool", "_serial", "doing", "uses")

    def __init__(self, connection: Connection, doing: str, meter: Meter) -> None:
        self._connection = connection
        self._meter = meter
        self._answered = meter.answered
        self._pool = connection.pool
        self._serial = connection.profile.one_call
        self.doing = doing
        self.uses = 0

    @property
    def connection(self) -> Connection:
        """The token."""
        return self._connection

    @abstractmethod
    def handle_on(self, lease: Lease) -> Handle:
        """Return the handle in a session the caller holds; the binding's exceptions pass."""

    def call(self, operation: Callable[..., T], *arguments: Any) -> T:
        """Run an operation on a current handle; recover and repeat when the token lost something.

        Args:
            operation: called with the handle and ``arguments``; must be safe to repeat.
            arguments: passed on.

        Returns:
            What ``operation`` returns.

        Raises:
            BackendError: see ``errors.translate``.
            DataRejectedError: the input was refused.
        """
        started = perf_counter_ns()
        try:
            result = self._call_alone(operation, arguments) if self._serial else self._call(operation, arguments)
        except BaseException as error:
            self._meter.failed(operation, perf_counter_ns() - started, error)
            raise
        latency = self._answered.get(operation)
        if latency is None:
            latency = self._meter.begin(operation)
        elapsed = perf_counter_ns() - started
        latency[elapsed.bit_length()] += 1  # ``operations.add``, without the call
        latency[TOTAL] += elapsed
        return result

    def _call(self, operation: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        pool = self._pool
        try:
            lease = pool.take()
        except PKCS11Error as error:
            return self._connection.retry(self, error, pool.epoch, operation, arguments)
        try:
            handle = lease.objects.get(self)
            if handle is None:
                handle = lease.objects[self] = self.handle_on(lease)
            result = operation(handle, *arguments)
        except PKCS11Error as error:
            self._return(lease, error)
            return self._connection.retry(self, error, lease.epoch, operation, arguments)
        except BaseException as error:
            pool.give(lease)
            explain(error, self.doing)
            raise
        pool.give(lease)
        self.uses += 1
        return result

    def attempt(self, operation: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        """Run the operation once; the binding's exceptions pass.

        Args:
            operation: called with the handle and ``arguments``.
            arguments: passed on.
        """
        if self._serial:
            with self._connection.module.one_call:
                return self._attempt(operation, arguments)
        return self._attempt(operation, arguments)

    def _call_alone(self, operation: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        epoch = self._pool.epoch
        try:
            result = self.attempt(operation, arguments)
        except PKCS11Error as error:
            return self._connection.retry(self, error, epoch, operation, arguments)
        self.uses += 1
        return result

    def _attempt(self, operation: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        lease = self._pool.take()
        try:
            handle = lease.objects.get(self)
            if handle is None:
                handle = lease.objects[self] = self.handle_on(lease)
            result = operation(handle, *arguments)
        except PKCS11Error as error:
            self._return(lease, error)
            raise
        except BaseException as error:
            self._pool.give(lease)
            explain(error, self.doing)
            raise
        self._pool.give(lease)
        return result

    def _return(self, lease: Lease, error: PKCS11Error) -> None:
        if fault_of(error) not in RECOVERABLE:
            self._pool.give(lease)
            return
        code = code_of(error)
        if code in HANDLE_GONE:
            lease.objects.clear()  # whatever made this handle void may have reached the others
            self._pool.give(lease)
        else:
            self._pool.discard(lease, gone=code in SESSION_GONE)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.doing})"


class AnySession(PooledTarget):
    """The token itself: the handle is the binding's session.

    Args:
        connection: the token.
        doing: what a call is, for messages.
    """

    __slots__ = ()

    def handle_on(self, lease: Lease) -> Handle:
        """Return the session.

        Args:
            lease: the session, held by the caller.
        """
        return lease.session


def explain(error: BaseException, doing: str) -> None:
    """Raise KeyPolicyError for the binding's way of refusing: an object has no method its attributes forbid.

    Args:
        error: any exception; others are left to the caller.
        doing: what was being done.
    """
    if isinstance(error, AttributeError) and isinstance(error.obj, pkcs11.Object):
        raise KeyPolicyError(f"{doing}: the key's attributes forbid it") from None
