"""Log in once per process, prove it when in doubt, and never spend a PIN try that might be the last.

In PKCS#11 a login belongs to the process and token, not to a session. One session is kept open here for the life of
the process: it carries the login, and the module never sees its last session close, which SoftHSMv2 does not stand.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time

import pkcs11
from pkcs11 import TokenFlag
from pkcs11.exceptions import PKCS11Error

from hsm_msl.backend.pin import Pin, PinSource
from hsm_msl.backend.pin_memory import PinMemory
from hsm_msl.backend.pkcs11.binding import handle_of
from hsm_msl.backend.pkcs11.cryptoki import CKR_PIN_REFUSED, CKR_USER_ALREADY_LOGGED_IN, User
from hsm_msl.backend.pkcs11.errors import PASSING, CryptokiError, Fault, code_of, fault_of, name_of, translate
from hsm_msl.backend.pkcs11.module import Module
from hsm_msl.backend.pkcs11.sessions import TOUCH_BITS
from hsm_msl.errors import BackendConfigurationError, PinRefusedError

LOGIN_ATTEMPTS = 6
"""For ``PASSING`` errors only. A refused PIN is never tried again."""

_REFUSING_FLAGS: dict[User, tuple[tuple[TokenFlag, str], ...]] = {
    User.USER: (
        (TokenFlag.USER_PIN_LOCKED, "its user PIN is locked; the security officer must set a new one"),
        (TokenFlag.USER_PIN_FINAL_TRY, "one more wrong PIN would lock it; log in by hand once to clear the warning"),
        (TokenFlag.USER_PIN_TO_BE_CHANGED, "its user PIN must be changed first"),
    ),
    User.SECURITY_OFFICER: (
        (TokenFlag.SO_PIN_LOCKED, "its security officer PIN is locked; it can only be initialised anew"),
        (TokenFlag.SO_PIN_FINAL_TRY, "one more wrong security officer PIN would lock it for good"),
        (TokenFlag.SO_PIN_TO_BE_CHANGED, "its security officer PIN must be changed first"),
    ),
}

PIN_FLAGS = tuple(
    flag
    for flag in TokenFlag
    if str(flag.name).endswith(("_PIN_COUNT_LOW", "_PIN_FINAL_TRY", "_PIN_LOCKED", "_PIN_TO_BE_CHANGED"))
)
"""What a token says about wrong PINs, and about those that must be changed."""


class Login:
    """The login of this process on one token.

    Args:
        module: the loaded module.
        token: the binding's token, as ``Module.token`` returned it.
        pin: where the PIN comes from; None for a token with its own PIN pad.
        user: the role; a service only ever is USER.
        read_write: open the login session read/write, on a token without read-only ones.
        memory: knows which PIN the token refused; None remembers it in this object only.
    """

    def __init__(
        self,
        module: Module,
        token: pkcs11.Token,
        pin: PinSource | None,
        *,
        user: User = User.USER,
        read_write: bool = False,
        memory: PinMemory | None = None,
    ) -> None:
        self._module = module
        self._token = token
        self._source = pin
        self._user = user
        # Only a read/write session can carry the security officer.
        self._read_write = read_write or user is User.SECURITY_OFFICER
        self._lock = threading.Lock()
        self._session: pkcs11.Session | None = None
        self._generation = 0
        self._memory = PinMemory(identity_of(token)) if memory is None else memory

    @property
    def token(self) -> pkcs11.Token:
        """The token this login is for."""
        return self._token

    def forked(self) -> None:
        """Take over in a forked child: the parent's login session means nothing here."""
        self._lock = threading.Lock()  # another thread of the parent may have held the old one
        self._session = None

    def rebind(self, token: pkcs11.Token) -> None:
        """Use another snapshot of the token, found again after the module was reloaded.

        Args:
            token: the binding's token.
        """
        with self._lock:
            if token.slot.slot_id != self._token.slot.slot_id:
                self._session = None  # it may be on a slot that holds another token by now
            self._token = token

    def ensure(self) -> None:
        """Log in unless this process is logged in already.

        Raises:
            BackendConfigurationError: the token's flags forbid a try, the PIN was refused (now or before), or the
                source gives none.
            BackendUnavailableError: the token gives no answer, or this process was forked.
        """
        with self._lock:
            self._module.check()
            for attempt in range(1, LOGIN_ATTEMPTS + 1):
                try:
                    if not self._holds():
                        self._log_in()
                except PKCS11Error as error:
                    if code_of(error) not in PASSING or attempt == LOGIN_ATTEMPTS:
                        raise translate(error, f"logging in to token {self._token.label!r}") from None
                else:
                    return
                time.sleep(0.02 * attempt * (1 + os.getpid() % 7))  # processes that started together drift apart

    def proved(self) -> bool:
        """Ask the token whether this process is logged in.

        Returns:
            True only when the token says so now; False when it says no or the login session is gone.

        Raises:
            BackendUnavailableError: the token gives no answer.
        """
        with self._lock:
            self._module.check()
            try:
                return self._holds()
            except PKCS11Error as error:
                raise translate(error, f"asking token {self._token.label!r} for its login state") from None

    def touch(self) -> None:
        """Ask the token for something on the login session. What is lost, ``proved`` and the next call find out."""
        with self._lock, contextlib.suppress(PKCS11Error):
            if self._session is not None and self._generation == self._module.generation:
                self._session.generate_random(TOUCH_BITS)

    def close(self) -> None:
        """Log out and close the login session; every other session of the process loses its login."""
        with self._lock, contextlib.suppress(PKCS11Error):
            session, self._session = self._session, None
            if session is not None and self._generation == self._module.generation:
                self._module.cryptoki.logout(handle_of(session))
                self._module.cryptoki.close_session(handle_of(session))

    def _holds(self) -> bool:
        if self._session is None or self._generation != self._module.generation:
            return False
        try:
            info = self._module.cryptoki.session_info(handle_of(self._session))
        except CryptokiError as error:
            if fault_of(error) is Fault.STALE:
                self._session = None
                return False
            raise
        return info.user_logged_in if self._user is User.USER else info.state == 4

    def _log_in(self) -> None:
        if self._session is None or self._generation != self._module.generation:
            self._generation = self._module.generation
            self._session = self._token.open(rw=self._read_write)
        if self._holds():
            return
        with self._module.turn():
            self._check_flags()
        pin = self._read_pin()
        with self._memory.turn():
            if pin is not None:
                self._check_memory(pin)
            self._try(handle_of(self._session), pin)

    def _try(self, session: int, pin: Pin | None) -> None:
        try:
            with self._module.turn():
                self._module.cryptoki.login(session, self._user, pin)
        except CryptokiError as error:
            if error.code == CKR_USER_ALREADY_LOGGED_IN:
                return
            if error.code not in CKR_PIN_REFUSED:
                raise
            if pin is not None:
                self._memory.remember(pin, str(self._source))
            raise PinRefusedError(
                f"token {self._token.label!r} refuses the PIN from {self._source} ({name_of(error.code)}); it is not "
                f"tried again until the source gives another one; change it, {self._memory.remedy}"
            ) from None
        self._memory.forget()

    def _check_memory(self, pin: Pin) -> None:
        remedy = self._memory.refusal(pin)
        if remedy is not None:
            raise PinRefusedError(
                f"token {self._token.label!r} refused this PIN before, and it is not tried again; change what "
                f"{self._source} gives, {remedy}"
            )

    def _check_flags(self) -> None:
        token = self._token.slot.get_token()
        flags = token.flags
        name = f"token {token.label!r} (serial {token.serial.decode(errors='replace')})"
        if not flags & TokenFlag.TOKEN_INITIALIZED:
            raise BackendConfigurationError(f"{name} is not initialised; run the provisioning first")
        if self._user is User.USER and not flags & TokenFlag.USER_PIN_INITIALIZED:
            raise BackendConfigurationError(f"{name} has no user PIN yet; run the provisioning first")
        for flag, reason in _REFUSING_FLAGS[self._user]:
            if flags & flag:
                raise BackendConfigurationError(f"{name} is not tried: {reason}")

    def _read_pin(self) -> Pin | None:
        if self._source is None:
            if not self._token.flags & TokenFlag.PROTECTED_AUTHENTICATION_PATH:
                raise BackendConfigurationError(f"token {self._token.label!r} needs a PIN, and none is configured")
            return None
        return self._source.read()

    def __repr__(self) -> str:
        return f"Login({self._token.label!r})"


def identity_of(token: pkcs11.Token) -> str:
    """Return label and serial number of a token, for people and as a name of its own.

    Args:
        token: the binding's token.
    """
    return f"{token.label}-{token.serial.decode('utf-8', errors='replace')}"
