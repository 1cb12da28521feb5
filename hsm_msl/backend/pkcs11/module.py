"""Load a PKCS#11 module so that threads and forks cannot break it, and find exactly one token in it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pkcs11
from pkcs11.exceptions import PKCS11Error

from hsm_msl.backend.pkcs11.binding import attach, function_list
from hsm_msl.backend.pkcs11.cryptoki import Cryptoki
from hsm_msl.backend.pkcs11.errors import PASSING, code_of, translate
from hsm_msl.errors import BackendConfigurationError, BackendUnavailableError, TokenAbsentError

if TYPE_CHECKING:
    from collections.abc import Mapping

ALIASES: Mapping[str, tuple[str, ...]] = {
    "softhsm": (
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
        "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
        "/usr/lib64/pkcs11/libsofthsm2.so",
        "/usr/local/lib/softhsm/libsofthsm2.so",
        "/opt/homebrew/lib/softhsm/libsofthsm2.so",
    ),
    "nss": ("/usr/lib/x86_64-linux-gnu/nss/libsoftokn3.so", "/usr/lib/x86_64-linux-gnu/libsoftokn3.so"),
    "opencryptoki": (
        "/usr/lib/x86_64-linux-gnu/pkcs11/libopencryptoki.so",
        "/usr/lib/aarch64-linux-gnu/pkcs11/libopencryptoki.so",
        "/usr/lib64/opencryptoki/libopencryptoki.so",
        "/usr/lib/opencryptoki/libopencryptoki.so",
    ),
    "tpm2": (
        "/usr/lib/x86_64-linux-gnu/pkcs11/libtpm2_pkcs11.so",
        "/usr/lib/x86_64-linux-gnu/libtpm2_pkcs11.so.1",
    ),
    "p11-kit-client": ("/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so",),
}
"""Names an operator may write instead of a path; the first file that exists is taken."""

REWRITE_AT_LOGIN = ("libsofthsm2",)
"""Modules whose C_Login rewrites the token in place. Another process that starts at that moment sees no token, or one
without a PIN (measured: with two processes in 3 of 8 starts), so our processes take turns."""

TURN_SECONDS = 5.0
"""How long a process waits for its turn before it goes on without."""

LISTING_ATTEMPTS = 6
"""Parallel starts on one token directory make SoftHSMv2 fail now and then (measured: 5 of 60 processes)."""

PAUSE_SECONDS = 5.0
"""How long a fork or a reload waits for calls in flight before it goes on without (fork) or gives up (reload)."""


class Pausable(Protocol):
    """Something that makes calls into a module and can be asked to hold still for a fork or a reload."""

    def pause(self, deadline: float) -> bool:
        """Let no new call start, wait for those in flight until ``deadline`` (monotonic), tell whether all ended."""

    @property
    def busy(self) -> bool:
        """Whether a reload would lose what cannot be had again; asked while paused."""

    def resume(self) -> None:
        """Undo ``pause``; in a forked child (``Module.forked``) and after a reload, forget what the module forgot."""


class Module:
    """One loaded and initialised PKCS#11 module. Made by ``load``, once per process and path.

    Args:
        path: absolute, checked path.
        reserved: the parameter string for C_Initialize, if the module takes one.
    """

    def __init__(self, path: str, reserved: str | None) -> None:
        self.path = path
        self._reserved = reserved
        self._lock = threading.RLock()
        self._pausables: weakref.WeakSet[Pausable] = weakref.WeakSet()
        self.cryptoki = Cryptoki(path)
        self._library = attach(path)
        self.cryptoki.share(function_list(self._library))
        self._start(patient=True)
        self.pid = os.getpid()
        self.generation = 1
        self.one_call = threading.RLock()
        """Held around every call into a module that does not stand two at once (``VendorProfile.one_call``)."""
        _guard_forks(self)

    def _start(self, *, patient: bool) -> None:
        owned, attempts = False, LISTING_ATTEMPTS if patient else 1
        for attempt in range(1, attempts + 1):
            try:
                with self.turn():
                    owned = self.cryptoki.initialize(self._reserved)
                break
            except PKCS11Error as error:
                if code_of(error) not in PASSING or attempt == attempts:
                    raise translate(error, f"initialising {self.path}") from None
            time.sleep(0.02 * attempt * (1 + os.getpid() % 7))
        if not owned:
            raise BackendConfigurationError(
                f"{self.path} is already initialised by other code of this process, possibly without locking; "
                "load it only through hsm_msl"
            )

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Keep our other processes on this machine from starting or logging in for the length of a block.

        Only for modules that need it (``REWRITE_AT_LOGIN``). The lock is on the module's own file, which every
        process can open and none has to create.
        """
        if not Path(self.path).name.startswith(REWRITE_AT_LOGIN):
            yield
            return
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            deadline = time.monotonic() + TURN_SECONDS
            while time.monotonic() < deadline:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                time.sleep(0.002)
            yield
        finally:
            os.close(descriptor)

    @property
    def forked(self) -> bool:
        """Whether this process is a forked child of the one that initialised the module."""
        return self.pid != os.getpid()

    def check(self) -> None:
        """Make sure this process may call the module. Raises BackendUnavailableError in a forked child.

        A child inherits the parent's sessions and, with some modules, its random state: it must ``reinitialize``.
        """
        if self.forked:
            raise BackendUnavailableError(
                f"{self.path} was loaded before this process was forked; its sessions belong to the parent"
            )

    def tokens(self, *, patient: bool = True) -> list[pkcs11.Token]:
        """Return every token present, initialised or not.

        Args:
            patient: ask again when the module fails, as it may while other processes start; a recovery does not.

        Raises:
            BackendUnavailableError: the module cannot list them now.
        """
        self.check()
        for attempt in range(1, LISTING_ATTEMPTS + 1):
            try:
                with self.turn():
                    return list(self._present())
            except PKCS11Error as error:
                if not patient or code_of(error) not in PASSING or attempt == LISTING_ATTEMPTS:
                    raise translate(error, f"listing the tokens of {self.path}") from None
            time.sleep(0.02 * attempt * (1 + os.getpid() % 7))
        raise BackendUnavailableError(f"listing the tokens of {self.path} failed")

    def _present(self) -> Iterator[pkcs11.Token]:
        for slot in self._library.get_slots(token_present=True):
            try:
                yield slot.get_token()
            except (pkcs11.TokenNotPresent, pkcs11.TokenNotRecognised):
                continue

    def token(
        self,
        *,
        label: str | None = None,
        serial: str | None = None,
        manufacturer: str | None = None,
        model: str | None = None,
        patient: bool = True,
    ) -> pkcs11.Token:
        """Return the one token that fits everything given.

        Args:
            label: the token's label, without padding.
            serial: its serial number.
            manufacturer: its manufacturer.
            model: its model.
            patient: as for ``tokens``.

        Returns:
            The binding's token object, a fresh snapshot of its flags.

        Raises:
            TokenAbsentError: none fits; the text lists what is there.
            BackendConfigurationError: several fit.
            BackendUnavailableError: the module cannot list its tokens now.
        """
        wanted = {"label": label, "serial": serial, "manufacturer": manufacturer, "model": model}
        wanted = {name: value for name, value in wanted.items() if value is not None}
        present = self.tokens(patient=patient)
        if not wanted:  # SoftHSMv2 always shows one more token, waiting to be initialised
            present = [token for token in present if token.flags & pkcs11.TokenFlag.TOKEN_INITIALIZED]
        fitting = [token for token in present if all(_describe(token)[key] == wanted[key] for key in wanted)]
        if len(fitting) == 1:
            return fitting[0]
        asked = ", ".join(f"{name} {value!r}" for name, value in wanted.items()) or "any token"
        found = "; ".join(
            "label {label!r} serial {serial!r}".format(**_describe(token)) for token in (fitting or present)
        )
        if fitting:
            raise BackendConfigurationError(
                f"{len(fitting)} tokens of {self.path} fit {asked}: {found}. Add the serial number"
            )
        raise TokenAbsentError(f"no token of {self.path} fits {asked}; present: {found or 'none'}")

    def join(self, participant: Pausable) -> None:
        """Register something that calls the module, so that forks and reloads can hold it still.

        Args:
            participant: kept by a weak reference.
        """
        self._pausables.add(participant)

    def reinitialize(self, *, gently: bool = False) -> None:
        """Finalise and initialise again, in this process: the last stage of recovery, and the first act of a child.

        Every session, login and handle of this process is void afterwards; ``generation`` tells.

        Args:
            gently: not while a key would be lost that cannot be had again.

        Raises:
            BackendUnavailableError: calls are in flight that do not end, a key would be lost, or the module refuses.
            BackendConfigurationError: the module refuses for good.
        """
        with self._lock:
            forked = self.forked
            with self._paused() as still:
                if not still and not forked:
                    raise BackendUnavailableError(f"{self.path}: a call is stuck; only a new process helps")
                if gently and any(participant.busy for participant in list(self._pausables)):
                    raise BackendUnavailableError(f"{self.path}: keys in its sessions are still needed")
                with contextlib.suppress(PKCS11Error):  # a broken module may refuse to stop; starting decides
                    self.cryptoki.finalize()
                self._start(patient=False)
                self.pid = os.getpid()
                self.generation += 1

    @contextlib.contextmanager
    def _paused(self) -> Iterator[bool]:
        deadline = time.monotonic() + PAUSE_SECONDS
        held = list(self._pausables)
        try:
            ended = [participant.pause(deadline) for participant in held]  # every one, even after a late one
            yield all(ended)
        finally:
            for participant in held:
                participant.resume()

    def finalize(self) -> None:
        """End all sessions and give the module back; only before the process ends. Errors are of no interest."""
        with self._lock, contextlib.suppress(PKCS11Error):
            _LOADED.pop(self.path, None)
            if self.pid == os.getpid():
                self.cryptoki.finalize()

    def __repr__(self) -> str:
        return f"Module({self.path!r})"


# C_Initialize acts on the process, so what is loaded is a fact of the process: the one table that is global.
_LOADED: dict[str, Module] = {}
_LOADING = threading.Lock()


def load(path: str, *, reserved: str | None = None) -> Module:
    """Load a module, or return it when this process has it already.

    Args:
        path: absolute path of the shared object, or one of ``ALIASES``.
        reserved: the parameter string some modules take at initialisation.

    Returns:
        The module, initialised with operating-system locking.

    Raises:
        BackendConfigurationError: no such file or alias, a file others may write, no PKCS#11 module, or one that was
            initialised behind our back.
        BackendUnavailableError: the module cannot start now.
    """
    resolved = _resolve(path)
    with _LOADING:
        module = _LOADED.get(resolved)
        if module is None:
            module = _LOADED[resolved] = Module(resolved, reserved)
        return module


def _resolve(path: str) -> str:
    if not path.startswith("/"):
        if path not in ALIASES:
            raise BackendConfigurationError(
                f"PKCS#11 module {path!r}: write an absolute path or one of {', '.join(sorted(ALIASES))}"
            )
        found = next((candidate for candidate in ALIASES[path] if Path(candidate).is_file()), None)
        if found is None:
            tried = ", ".join(ALIASES[path])
            raise BackendConfigurationError(f"PKCS#11 module {path!r} is not installed; tried {tried}")
        path = found
    resolved = Path(path).resolve()
    try:
        status = resolved.stat()
    except OSError as error:
        raise BackendConfigurationError(f"PKCS#11 module {path}: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise BackendConfigurationError(f"PKCS#11 module {path} is not a file")
    if status.st_mode & stat.S_IWOTH or status.st_uid not in (0, os.geteuid()):
        raise BackendConfigurationError(
            f"PKCS#11 module {path} could be replaced by others: it must belong to root or the service's user "
            "and not be writable by everyone"
        )
    return str(resolved)


def _describe(token: pkcs11.Token) -> dict[str, str]:
    return {
        "label": token.label,
        "serial": token.serial.decode("utf-8", errors="replace"),
        "manufacturer": token.manufacturer_id,
        "model": token.model,
    }


def _guard_forks(module: Module) -> None:
    # A child whose parent was inside the module at the moment of the fork inherits locked mutexes and may hang
    # (measured: 4 of 20). So the parent holds its own calls still while it forks.
    reference = weakref.ref(module)
    held: list[Callable[[], object]] = []

    def before() -> None:
        current = reference()
        if current is not None and current.pid == os.getpid():
            stack = contextlib.ExitStack()
            stack.enter_context(current._paused())
            held.append(stack.close)

    def after_in_parent() -> None:
        if held:
            held.pop()()

    def after_in_child() -> None:
        current = reference()
        if current is not None:
            current._lock = threading.RLock()  # another thread of the parent may have held the old ones
            current.one_call = threading.RLock()
        while held:
            held.pop()()

    os.register_at_fork(before=before, after_in_parent=after_in_parent, after_in_child=after_in_child)
