"""One token as this process uses it: login, sessions, epochs, and calls that survive the loss of any of them."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pkcs11
from pkcs11 import Attribute, Mechanism
from pkcs11.exceptions import PKCS11Error

from hsm_msl.backend.operations import Operations
from hsm_msl.backend.pin import PinSource
from hsm_msl.backend.pin_memory import FilePinMemory
from hsm_msl.backend.pkcs11.errors import Fault, fault_of, translate
from hsm_msl.backend.pkcs11.homes import Homes
from hsm_msl.backend.pkcs11.keepalive import KeepAlive
from hsm_msl.backend.pkcs11.login import Login, identity_of
from hsm_msl.backend.pkcs11.module import Module
from hsm_msl.backend.pkcs11.recovery import STAGES, Recovery, RecoveryObserver
from hsm_msl.backend.pkcs11.sessions import DEFAULT_WAIT_SECONDS, SessionPool
from hsm_msl.backend.pkcs11.vendors import GENERIC, VendorProfile
from hsm_msl.backend.uri import Pkcs11Uri
from hsm_msl.errors import (
    BackendConfigurationError,
    BackendError,
    BackendUnavailableError,
    MechanismUnsupportedError,
)

T = TypeVar("T")

_LOG = logging.getLogger("hsm_msl.backend")

RENEWAL_PAUSE = 0.05
"""Seconds between two tries to start a worn module anew without taking a key from anybody."""

RENEWAL_SECONDS = 600.0
"""After this long without success the log says so."""

RENEWAL_JOIN = 10.0
"""How long the end of a connection waits for a module that is just being started anew."""

CALL_JOIN = 2.0
"""How long it waits for calls in progress; a token that hangs must not hold up the end."""

_LIBRARY = ("library_manufacturer", "library_description", "library_version")

_FREE: contextlib.AbstractContextManager[object] = contextlib.nullcontext()

RECOVERABLE = frozenset((Fault.STALE, Fault.OUTAGE))


@dataclass(frozen=True, slots=True)
class TokenSelector:
    """How a configuration names one token; everything given must fit. Slot numbers move and are no name.

    Args:
        label: the token's label.
        serial: its serial number.
        manufacturer: its manufacturer.
        model: its model.
    """

    label: str | None = None
    serial: str | None = None
    manufacturer: str | None = None
    model: str | None = None

    @classmethod
    def of_uri(cls, uri: Pkcs11Uri) -> TokenSelector:
        """Return what the token part of a URI selects.

        Args:
            uri: parsed.

        Raises:
            BackendConfigurationError: it also selects by slot or library, which move or are chosen elsewhere.
        """
        for name in ("slot_id", "slot_description", "slot_manufacturer", *_LIBRARY):
            if getattr(uri, name) is not None:
                raise BackendConfigurationError(
                    f"{uri}: a token is selected by token, serial, manufacturer and model, not by "
                    f"{name.replace('_', '-')}"
                )
        return cls(label=uri.token, serial=uri.serial, manufacturer=uri.manufacturer, model=uri.model)

    def find(self, module: Module, *, patient: bool = True) -> pkcs11.Token:
        """Return the one token that fits. Raises BackendError as ``Module.token`` does.

        Args:
            module: where to look.
            patient: as for ``Module.tokens``.
        """
        return module.token(
            label=self.label,
            serial=self.serial,
            manufacturer=self.manufacturer,
            model=self.model,
            patient=patient,
        )

    def __str__(self) -> str:
        given = {name: getattr(self, name) for name in ("label", "serial", "manufacturer", "model")}
        return " ".join(f"{name}={value}" for name, value in given.items() if value is not None) or "the only token"


class Target(Protocol):
    """A key the connection can call again after a recovery."""

    def attempt(self, operation: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        """Run the operation once on a current handle; the binding's exceptions pass."""

    @property
    def doing(self) -> str:
        """What a call on this key is, for messages."""


class Connection:
    """A token connection; logs in when made.

    Args:
        module: the loaded module.
        selector: which token of it.
        pin: where the PIN comes from, or None for a token with a pad.
        profile: what is known about the vendor.
        sessions: the most sessions for calls; None takes the profile's number.
        wait_seconds: how long a call waits for a session.
        observer: hears of recoveries and outages.
        operations: counts the calls.
        renews_module: start the module anew when it is ``worn``; a worker process is replaced instead.
        pin_memory: directory in which a refused PIN is remembered for later processes; None for this one only.
        monotonic: seconds that never run backwards.

    Raises:
        BackendConfigurationError: no such token, or the PIN is refused.
        BackendUnavailableError: the token gives no answer.
    """

    def __init__(
        self,
        module: Module,
        selector: TokenSelector,
        pin: PinSource | None,
        profile: VendorProfile = GENERIC,
        *,
        sessions: int | None = None,
        wait_seconds: float = DEFAULT_WAIT_SECONDS,
        observer: RecoveryObserver | None = None,
        operations: Operations | None = None,
        renews_module: bool = True,
        pin_memory: Path | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.module = module
        self.selector = selector
        self.profile = profile
        self.operations = Operations() if operations is None else operations
        token = selector.find(module)
        # A token without criteria must stay the same one after a reload.
        self._generation = module.generation
        self._found = TokenSelector(label=token.label, serial=token.serial.decode("utf-8", errors="replace"))
        memory = None if pin_memory is None else FilePinMemory(pin_memory, identity_of(token))
        self.login = Login(module, token, pin, read_write=profile.read_write_sessions, memory=memory)
        self.login.ensure()
        self.recovery = Recovery(self, token.label, monotonic, observer)
        self.pool = SessionPool(
            module,
            self.open_session,
            gate=self.recovery.gate,
            size=sessions or profile.sessions,
            wait_seconds=wait_seconds,
        )
        self.witnesses: list[dict[Attribute, Any]] = []  # searches that succeeded, to repeat when another one fails
        self.mechanisms = mechanisms_of(token) - profile.broken
        self.homes = Homes(self, profile.homes)
        self._clock = monotonic
        self._renews_module = renews_module
        self._renewing = threading.Lock()
        self._renewal: threading.Thread | None = None
        self._closed = threading.Event()
        module.join(self)
        self._keeper = self._keep_alive()

    @property
    def token(self) -> pkcs11.Token:
        """The binding's token object. A reload, also one for the sake of another token, gives slots new numbers."""
        if self._generation != self.module.generation:
            self._find_token()
        return self.login.token

    @property
    def name(self) -> str:
        """The token's label."""
        return self._found.label or "?"

    @property
    def identity(self) -> str:
        """Label and serial number of the token."""
        return str(self._found)

    @property
    def epoch(self) -> int:
        """Counts the times that every session and handle became void."""
        return self.pool.epoch

    @property
    def forked(self) -> bool:
        """Whether this process is a child that inherited the connection."""
        return self.module.forked

    def open_session(self) -> pkcs11.Session:
        """Open a session without PIN; the binding's exceptions pass. Raises BackendUnavailableError: no token."""
        return self.token.open(rw=self.profile.read_write_sessions)

    def retry(
        self,
        target: Target,
        error: PKCS11Error,
        epoch: int,
        operation: Callable[..., T],
        arguments: tuple[Any, ...],
    ) -> T:
        """Recover and run a failed operation again, at most once per stage; only for operations that may repeat.

        The caller holds no session any more.

        Args:
            target: the key.
            error: why the first try failed.
            epoch: the epoch of that try.
            operation: what is done with the handle.
            arguments: its arguments after the handle.

        Returns:
            What the operation returns.

        Raises:
            BackendError: as ``translate`` says, after the last stage BackendUnavailableError.
            DataRejectedError: the input was refused.
        """
        for attempt in range(len(STAGES)):
            if fault_of(error) not in RECOVERABLE:
                raise translate(error, target.doing) from None
            with self.module.one_call if self.profile.one_call else _FREE:
                self.recovery.heal(epoch, attempt)
            epoch = self.epoch
            try:
                return target.attempt(operation, arguments)
            except PKCS11Error as again:
                error = again
        raise translate(error, target.doing) from None

    def pause(self, deadline: float) -> bool:  # noqa: ARG002  # the pool and the homes do the waiting
        """Hold still (``Pausable``); there is nothing of its own to wait for."""
        return True

    def resume(self) -> None:
        """Undo ``pause``; take over in a forked child."""
        if self.forked:
            self.login.forked()
            self.recovery.forked()
            self._renewing = threading.Lock()
            self._keeper = self._keep_alive()  # the parent's thread does not exist here

    def touch(self) -> None:
        """Ask the token for the login state, and for something on every session that is idle; recover what was lost.

        Some libraries answer for the state of a session themselves, so each one draws random bytes from the token.

        Raises:
            BackendError: it could not be recovered.
        """
        with self.module.one_call if self.profile.one_call else _FREE:
            epoch = self.epoch
            if self.forked or not self.recovery.available:
                self.recovery.gate()
            elif not self.prove():
                self.recovery.heal(epoch, 0)
            self.login.touch()
            self.pool.touch()
            self.homes.touch()

    @property
    def busy(self) -> bool:
        """Whether a reload would lose what cannot be had again (``Pausable``)."""
        return False

    @property
    def worn(self) -> bool:
        """Whether so many keys were made or unwrapped that what the module keeps of each begins to count."""
        return 0 < self.profile.unwraps_per_process <= self.homes.made

    def start_anew(self) -> None:
        """Start the module again in another thread, which gives back its memory, once no key would be lost by it."""
        if self._renews_module and self._renewing.acquire(blocking=False):
            renewal = threading.Thread(target=self._start_anew, name="token-renewal", daemon=True)
            renewal.start()
            self._renewal = renewal

    def _start_anew(self) -> None:
        started, told = self._clock(), False
        try:
            while self.worn and not self._closed.wait(RENEWAL_PAUSE):
                made = self.homes.made
                if not told and self._clock() - started > RENEWAL_SECONDS:
                    told = True
                    _LOG.warning("token %r: keys in its sessions keep its module from starting anew", self.name)
                if self.homes.busy:
                    continue
                try:
                    self.recovery.refresh()
                except BackendError:  # a call is long, a key is on its way, or the token is away: calls will tell
                    self._closed.wait(RENEWAL_PAUSE * 20)
                else:
                    _LOG.info("token %r: its module was started anew after %d keys in sessions", self.name, made)
        finally:
            self._renewing.release()

    def _keep_alive(self) -> KeepAlive | None:
        seconds = self.profile.keep_alive_seconds
        return KeepAlive(self.touch, seconds) if seconds is not None else None

    def fits(self, size: int) -> bool:
        """Tell whether the token takes so many bytes in one call."""
        most = self.profile.largest_input
        return most is None or size <= most

    def check_fits(self, size: int, doing: str) -> None:
        """Refuse an input of our own, longer than the token takes in one call, that cannot be cut into pieces.

        Args:
            size: of the input, in bytes.
            doing: what a call is, for the message.

        Raises:
            MechanismUnsupportedError: it is longer; names both sizes.
        """
        if not self.fits(size):
            most = self.profile.largest_input
            raise MechanismUnsupportedError(f"{doing}: {size} bytes at once, of which the token takes {most}")

    def prove(self) -> bool:
        """Ask the token whether this process is logged in. Raises BackendUnavailableError without an answer."""
        return self.login.proved()

    def renew(self) -> None:
        """Begin a new epoch, find the token and log in. Raises BackendError as ``Login.ensure`` does."""
        self.pool.renew()
        self._find_token()
        self.login.ensure()

    def suspend(self) -> None:
        """Begin a new epoch without sessions."""
        self.pool.renew()

    def reload(self, *, gently: bool = False) -> None:
        """Start the module again, find the token again and log in.

        Args:
            gently: not while a key would be lost that cannot be had again.

        Raises:
            BackendUnavailableError: the module or the token does not come back, or a key would be lost.
            BackendConfigurationError: the PIN is refused.
        """
        self.module.reinitialize(gently=gently)
        self.homes.made = 0
        self.renew()

    def _find_token(self) -> None:
        generation = self.module.generation
        try:
            token = self._found.find(self.module, patient=False)
        except BackendConfigurationError as error:
            # It was there when the service started, so its absence is an outage and no mistake of the operator.
            raise BackendUnavailableError(str(error)) from None
        self.login.rebind(token)
        self._generation = generation

    def close(self) -> None:
        """Log out and close every session of this token."""
        self._closed.set()
        if self._keeper is not None:
            self._keeper.stop(CALL_JOIN)
        if self._renewal is not None:
            # It would log in again after the logout below.
            self._renewal.join(RENEWAL_JOIN)
        self.homes.close(CALL_JOIN)
        self.pool.close()
        self.login.close()

    def __repr__(self) -> str:
        return f"Connection({self._found})"


def mechanisms_of(token: pkcs11.Token) -> frozenset[Mechanism | int]:
    """Return what the token says it can do; vendors' own mechanisms are numbers.

    Args:
        token: the binding's token.

    Raises:
        BackendUnavailableError: the token gives no answer.
    """
    try:
        return frozenset(token.slot.get_mechanisms())
    except PKCS11Error as error:
        raise translate(error, f"listing the mechanisms of token {token.label!r}") from None
