"""The PKCS#11 calls the binding lacks or makes in a way that hurts, made through ctypes on the same function list.

The binding initialises a module without locking although it releases the interpreter lock during calls, which
crashes under two threads; it cannot pass the parameter string some modules need, cannot log in without opening a
session, logs the whole process out when that session closes, and cannot tell a session's state.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum
from typing import Any, NamedTuple

from hsm_msl.backend.pin import Pin
from hsm_msl.backend.pkcs11.errors import CryptokiError
from hsm_msl.errors import BackendConfigurationError

CKF_OS_LOCKING_OK = 0x02
CKR_OK = 0x000
CKR_CRYPTOKI_NOT_INITIALIZED = 0x190
CKR_CRYPTOKI_ALREADY_INITIALIZED = 0x191
CKR_USER_ALREADY_LOGGED_IN = 0x100
CKR_USER_NOT_LOGGED_IN = 0x101
CKR_PIN_REFUSED = frozenset((0xA0, 0xA1, 0xA2, 0xA3, 0xA4))  # incorrect, invalid, length, expired, locked

# The members of CK_FUNCTION_LIST after its version, in the order of the standard (version 2.40, section 5).
_FUNCTIONS = (
    "C_Initialize",
    "C_Finalize",
    "C_GetInfo",
    "C_GetFunctionList",
    "C_GetSlotList",
    "C_GetSlotInfo",
    "C_GetTokenInfo",
    "C_GetMechanismList",
    "C_GetMechanismInfo",
    "C_InitToken",
    "C_InitPIN",
    "C_SetPIN",
    "C_OpenSession",
    "C_CloseSession",
    "C_CloseAllSessions",
    "C_GetSessionInfo",
    "C_GetOperationState",
    "C_SetOperationState",
    "C_Login",
    "C_Logout",
    "C_CreateObject",
    "C_CopyObject",
    "C_DestroyObject",
    "C_GetObjectSize",
    "C_GetAttributeValue",
    "C_SetAttributeValue",
)
_INDEX = {name: index for index, name in enumerate(_FUNCTIONS)}


class User(IntEnum):
    """Who logs in (CK_USER_TYPE)."""

    SECURITY_OFFICER = 0
    USER = 1


class SessionState(IntEnum):
    """What a session may do (CK_STATE)."""

    READ_ONLY_PUBLIC = 0
    READ_ONLY_USER = 1
    READ_WRITE_PUBLIC = 2
    READ_WRITE_USER = 3
    READ_WRITE_SECURITY_OFFICER = 4


class SessionInfo(NamedTuple):
    """The answer of C_GetSessionInfo."""

    slot: int
    state: int
    flags: int
    device_error: int

    @property
    def user_logged_in(self) -> bool:
        """Tell whether the normal user is logged in."""
        return self.state in (SessionState.READ_ONLY_USER, SessionState.READ_WRITE_USER)


class _InitializeArguments(ctypes.Structure):
    _fields_ = (
        ("create_mutex", ctypes.c_void_p),
        ("destroy_mutex", ctypes.c_void_p),
        ("lock_mutex", ctypes.c_void_p),
        ("unlock_mutex", ctypes.c_void_p),
        ("flags", ctypes.c_ulong),
        ("reserved", ctypes.c_char_p),
    )


class _SessionInfo(ctypes.Structure):
    _fields_ = (
        ("slot", ctypes.c_ulong),
        ("state", ctypes.c_ulong),
        ("flags", ctypes.c_ulong),
        ("device_error", ctypes.c_ulong),
    )


class _FunctionList(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_ubyte),
        ("minor", ctypes.c_ubyte),
        ("functions", ctypes.c_void_p * len(_FUNCTIONS)),
    )


class Cryptoki:
    """A loaded module's function list.

    Args:
        path: absolute path of the shared object.

    Raises:
        BackendConfigurationError: the file cannot be loaded or is no PKCS#11 module.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            library = ctypes.CDLL(path)
            self._entry = library.C_GetFunctionList
        except OSError as error:
            raise BackendConfigurationError(f"PKCS#11 module {path} cannot be loaded: {error}") from None
        except AttributeError:
            raise BackendConfigurationError(f"{path} is not a PKCS#11 module: it has no C_GetFunctionList") from None
        self._entry.restype = ctypes.c_ulong
        self._entry.argtypes = (ctypes.c_void_p,)
        self._library = library  # keeps the shared object mapped
        self._address = self._list_address()
        self._functions = _FunctionList.from_address(self._address).functions

    def share(self, address: int) -> None:
        """Call through the list of the binding from now on, in modules that give every caller another one.

        Args:
            address: from ``binding.function_list``.

        Raises:
            BackendConfigurationError: the address is not the list of a module that has only one.
        """
        if address == self._address:
            return
        if self._list_address() == self._address:
            raise BackendConfigurationError(
                f"{self._path}: the installed python-pkcs11 keeps its function list where it is not expected"
            )
        self._address = address
        self._functions = _FunctionList.from_address(address).functions

    def _list_address(self) -> int:
        listed = ctypes.c_void_p()
        code = self._entry(ctypes.byref(listed))
        if code != CKR_OK or not listed.value:
            raise BackendConfigurationError(f"PKCS#11 module {self._path} gives no function list")
        return listed.value

    def code(self, name: str, *arguments: object) -> int:
        """Call a function and return its CK_RV.

        Args:
            name: one of the first functions of the list, up to C_SetAttributeValue.
            arguments: ctypes values or None for a null pointer.
        """
        types: list[Any] = [ctypes.c_void_p if value is None else type(value) for value in arguments]
        function = ctypes.CFUNCTYPE(ctypes.c_ulong, *types)(self._functions[_INDEX[name]])
        result: int = function(*arguments)
        return result

    def call(self, name: str, *arguments: object) -> None:
        """Call a function as ``code`` does. Raises CryptokiError when the result is not CKR_OK."""
        code = self.code(name, *arguments)
        if code != CKR_OK:
            raise CryptokiError(name, code)

    def initialize(self, reserved: str | None = None) -> bool:
        """Initialise with operating-system locking, so that threads may call at once.

        Args:
            reserved: the parameter string some modules (NSS) take in pReserved.

        Returns:
            False when somebody had initialised the module already.

        Raises:
            CryptokiError: the module refuses.
        """
        arguments = _InitializeArguments(flags=CKF_OS_LOCKING_OK, reserved=reserved.encode() if reserved else None)
        code = self.code("C_Initialize", ctypes.pointer(arguments))
        if code == CKR_CRYPTOKI_ALREADY_INITIALIZED:
            return False
        if code != CKR_OK:
            raise CryptokiError("C_Initialize", code)
        return True

    def finalize(self) -> None:
        """End every session and login of this process. Raises CryptokiError; not being initialised is fine."""
        code = self.code("C_Finalize", None)
        if code not in (CKR_OK, CKR_CRYPTOKI_NOT_INITIALIZED):
            raise CryptokiError("C_Finalize", code)

    def login(self, session: int, user: User, pin: Pin | bytes | None) -> None:
        """Log the whole process in on the token of a session.

        Args:
            session: an open session's handle.
            user: the role.
            pin: None asks the token's own pad. Given as ``Pin`` it stays out of tracebacks that show local variables.

        Raises:
            CryptokiError: refused; also when somebody is logged in already.
        """
        if pin is None:
            self.call("C_Login", ctypes.c_ulong(session), ctypes.c_ulong(user), None, ctypes.c_ulong(0))
            return
        buffer = _buffer(pin)
        try:
            self.call(
                "C_Login",
                ctypes.c_ulong(session),
                ctypes.c_ulong(user),
                ctypes.cast(buffer, ctypes.c_void_p),
                ctypes.c_ulong(len(buffer)),
            )
        finally:
            ctypes.memset(buffer, 0, len(buffer))

    def logout(self, session: int) -> None:
        """Log the process out of the session's token. Raises CryptokiError; not being logged in is fine."""
        code = self.code("C_Logout", ctypes.c_ulong(session))
        if code not in (CKR_OK, CKR_USER_NOT_LOGGED_IN):
            raise CryptokiError("C_Logout", code)

    def session_info(self, session: int) -> SessionInfo:
        """Return a session's state. Raises CryptokiError when the session is gone.

        Args:
            session: its handle.
        """
        info = _SessionInfo()
        self.call("C_GetSessionInfo", ctypes.c_ulong(session), ctypes.pointer(info))
        return SessionInfo(info.slot, info.state, info.flags, info.device_error)

    def close_session(self, session: int) -> None:
        """Close one session without logging out. Raises CryptokiError.

        Args:
            session: its handle.
        """
        self.call("C_CloseSession", ctypes.c_ulong(session))

    def close_all_sessions(self, slot: int) -> None:
        """Close every session of this process on a slot, which logs out. Raises CryptokiError.

        Args:
            slot: the slot ID.
        """
        self.call("C_CloseAllSessions", ctypes.c_ulong(slot))

    def __repr__(self) -> str:
        return f"Cryptoki({self._path!r})"


def _buffer(pin: Pin | bytes) -> ctypes.Array[ctypes.c_char]:
    value = pin.reveal() if isinstance(pin, Pin) else pin
    return ctypes.create_string_buffer(value, len(value))
