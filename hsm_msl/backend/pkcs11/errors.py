"""What every PKCS#11 return value means for us: one table, from code and binding exception to fault to error class.

The binding raises one exception class per code and a bare ``PKCS11Error`` with the number in its text for the rest;
calls made past the binding raise ``CryptokiError``. Both end here.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple

import pkcs11.exceptions as binding
from pkcs11.exceptions import PKCS11Error

from hsm_msl.errors import (
    BackendConfigurationError,
    BackendError,
    BackendUnavailableError,
    DataRejectedError,
    KeyPolicyError,
    MechanismUnsupportedError,
)


class Fault(Enum):
    """Who has to act when a call fails."""

    STALE = "a session, login or handle was lost"  # recover, then try once more
    OUTAGE = "the token or module is out of service"  # recover with a rate limit, then give up for now
    BUSY = "the token has no room for this now"  # wait for a session
    OPERATOR = "a person must change something"
    POLICY = "the key may not do this"
    MECHANISM = "the token cannot do this"
    DATA = "the input was refused"


class CryptokiError(PKCS11Error):
    """A PKCS#11 call made past the binding failed.

    Args:
        function: the call, as ``C_Login``.
        code: its return value.
    """

    def __init__(self, function: str, code: int) -> None:
        super().__init__(f"{function}: {name_of(code)}")
        self.function = function
        self.code = code


class _Row(NamedTuple):
    code: int
    name: str
    exception: type[PKCS11Error] | None
    fault: Fault


_TABLE = (
    _Row(0x02, "CKR_HOST_MEMORY", binding.HostMemory, Fault.OUTAGE),
    _Row(0x03, "CKR_SLOT_ID_INVALID", binding.SlotIDInvalid, Fault.OUTAGE),
    _Row(0x05, "CKR_GENERAL_ERROR", binding.GeneralError, Fault.OUTAGE),
    _Row(0x06, "CKR_FUNCTION_FAILED", binding.FunctionFailed, Fault.OUTAGE),
    _Row(0x07, "CKR_ARGUMENTS_BAD", binding.ArgumentsBad, Fault.MECHANISM),
    _Row(0x0A, "CKR_CANT_LOCK", None, Fault.OPERATOR),
    _Row(0x10, "CKR_ATTRIBUTE_READ_ONLY", binding.AttributeReadOnly, Fault.POLICY),
    _Row(0x11, "CKR_ATTRIBUTE_SENSITIVE", binding.AttributeSensitive, Fault.POLICY),
    _Row(0x12, "CKR_ATTRIBUTE_TYPE_INVALID", binding.AttributeTypeInvalid, Fault.MECHANISM),
    _Row(0x13, "CKR_ATTRIBUTE_VALUE_INVALID", binding.AttributeValueInvalid, Fault.MECHANISM),
    _Row(0x1B, "CKR_ACTION_PROHIBITED", None, Fault.POLICY),
    _Row(0x20, "CKR_DATA_INVALID", binding.DataInvalid, Fault.DATA),
    _Row(0x21, "CKR_DATA_LEN_RANGE", binding.DataLenRange, Fault.DATA),
    _Row(0x30, "CKR_DEVICE_ERROR", binding.DeviceError, Fault.OUTAGE),
    _Row(0x31, "CKR_DEVICE_MEMORY", binding.DeviceMemory, Fault.OUTAGE),
    _Row(0x32, "CKR_DEVICE_REMOVED", binding.DeviceRemoved, Fault.OUTAGE),
    _Row(0x40, "CKR_ENCRYPTED_DATA_INVALID", binding.EncryptedDataInvalid, Fault.DATA),
    _Row(0x41, "CKR_ENCRYPTED_DATA_LEN_RANGE", binding.EncryptedDataLenRange, Fault.DATA),
    _Row(0x50, "CKR_FUNCTION_CANCELED", binding.FunctionCancelled, Fault.OUTAGE),
    _Row(0x54, "CKR_FUNCTION_NOT_SUPPORTED", binding.FunctionNotSupported, Fault.MECHANISM),
    _Row(0x60, "CKR_KEY_HANDLE_INVALID", binding.KeyHandleInvalid, Fault.STALE),
    _Row(0x62, "CKR_KEY_SIZE_RANGE", binding.KeySizeRange, Fault.MECHANISM),
    _Row(0x63, "CKR_KEY_TYPE_INCONSISTENT", binding.KeyTypeInconsistent, Fault.POLICY),
    _Row(0x64, "CKR_KEY_NOT_NEEDED", binding.KeyNotNeeded, Fault.MECHANISM),
    _Row(0x66, "CKR_KEY_NEEDED", binding.KeyNeeded, Fault.MECHANISM),
    _Row(0x67, "CKR_KEY_INDIGESTIBLE", binding.KeyIndigestible, Fault.POLICY),
    _Row(0x68, "CKR_KEY_FUNCTION_NOT_PERMITTED", None, Fault.POLICY),
    _Row(0x69, "CKR_KEY_NOT_WRAPPABLE", binding.KeyNotWrappable, Fault.POLICY),
    _Row(0x6A, "CKR_KEY_UNEXTRACTABLE", binding.KeyUnextractable, Fault.POLICY),
    _Row(0x70, "CKR_MECHANISM_INVALID", binding.MechanismInvalid, Fault.MECHANISM),
    _Row(0x71, "CKR_MECHANISM_PARAM_INVALID", binding.MechanismParamInvalid, Fault.MECHANISM),
    _Row(0x82, "CKR_OBJECT_HANDLE_INVALID", binding.ObjectHandleInvalid, Fault.STALE),
    _Row(0x90, "CKR_OPERATION_ACTIVE", binding.OperationActive, Fault.STALE),
    _Row(0x91, "CKR_OPERATION_NOT_INITIALIZED", binding.OperationNotInitialized, Fault.STALE),
    _Row(0xA0, "CKR_PIN_INCORRECT", binding.PinIncorrect, Fault.OPERATOR),
    _Row(0xA1, "CKR_PIN_INVALID", binding.PinInvalid, Fault.OPERATOR),
    _Row(0xA2, "CKR_PIN_LEN_RANGE", binding.PinLenRange, Fault.OPERATOR),
    _Row(0xA3, "CKR_PIN_EXPIRED", binding.PinExpired, Fault.OPERATOR),
    _Row(0xA4, "CKR_PIN_LOCKED", binding.PinLocked, Fault.OPERATOR),
    _Row(0xB0, "CKR_SESSION_CLOSED", binding.SessionClosed, Fault.STALE),
    _Row(0xB1, "CKR_SESSION_COUNT", binding.SessionCount, Fault.BUSY),
    _Row(0xB3, "CKR_SESSION_HANDLE_INVALID", binding.SessionHandleInvalid, Fault.STALE),
    _Row(0xB5, "CKR_SESSION_READ_ONLY", binding.SessionReadOnly, Fault.POLICY),
    _Row(0xB6, "CKR_SESSION_EXISTS", binding.SessionExists, Fault.OPERATOR),
    _Row(0xC0, "CKR_SIGNATURE_INVALID", binding.SignatureInvalid, Fault.DATA),
    _Row(0xC1, "CKR_SIGNATURE_LEN_RANGE", binding.SignatureLenRange, Fault.DATA),
    _Row(0xD0, "CKR_TEMPLATE_INCOMPLETE", binding.TemplateIncomplete, Fault.MECHANISM),
    _Row(0xD1, "CKR_TEMPLATE_INCONSISTENT", binding.TemplateInconsistent, Fault.POLICY),
    _Row(0xE0, "CKR_TOKEN_NOT_PRESENT", binding.TokenNotPresent, Fault.OUTAGE),
    _Row(0xE1, "CKR_TOKEN_NOT_RECOGNIZED", binding.TokenNotRecognised, Fault.OUTAGE),
    _Row(0xE2, "CKR_TOKEN_WRITE_PROTECTED", binding.TokenWriteProtected, Fault.OPERATOR),
    _Row(0xF0, "CKR_UNWRAPPING_KEY_HANDLE_INVALID", binding.UnwrappingKeyHandleInvalid, Fault.STALE),
    _Row(0xF1, "CKR_UNWRAPPING_KEY_SIZE_RANGE", binding.UnwrappingKeySizeRange, Fault.MECHANISM),
    _Row(0xF2, "CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT", binding.UnwrappingKeyTypeInconsistent, Fault.POLICY),
    _Row(0x100, "CKR_USER_ALREADY_LOGGED_IN", binding.UserAlreadyLoggedIn, Fault.STALE),
    _Row(0x101, "CKR_USER_NOT_LOGGED_IN", binding.UserNotLoggedIn, Fault.STALE),
    _Row(0x102, "CKR_USER_PIN_NOT_INITIALIZED", binding.UserPinNotInitialized, Fault.OPERATOR),
    _Row(0x103, "CKR_USER_TYPE_INVALID", None, Fault.OPERATOR),
    _Row(0x104, "CKR_USER_ANOTHER_ALREADY_LOGGED_IN", binding.AnotherUserAlreadyLoggedIn, Fault.OPERATOR),
    _Row(0x105, "CKR_USER_TOO_MANY_TYPES", binding.UserTooManyTypes, Fault.OPERATOR),
    _Row(0x110, "CKR_WRAPPED_KEY_INVALID", binding.WrappedKeyInvalid, Fault.DATA),
    _Row(0x112, "CKR_WRAPPED_KEY_LEN_RANGE", binding.WrappedKeyLenRange, Fault.DATA),
    _Row(0x113, "CKR_WRAPPING_KEY_HANDLE_INVALID", binding.WrappingKeyHandleInvalid, Fault.STALE),
    _Row(0x114, "CKR_WRAPPING_KEY_SIZE_RANGE", binding.WrappingKeySizeRange, Fault.MECHANISM),
    _Row(0x115, "CKR_WRAPPING_KEY_TYPE_INCONSISTENT", binding.WrappingKeyTypeInconsistent, Fault.POLICY),
    _Row(0x121, "CKR_RANDOM_NO_RNG", binding.RandomNoRNG, Fault.MECHANISM),
    _Row(0x130, "CKR_DOMAIN_PARAMS_INVALID", binding.DomainParamsInvalid, Fault.DATA),
    _Row(0x140, "CKR_CURVE_NOT_SUPPORTED", None, Fault.MECHANISM),
    _Row(0x150, "CKR_BUFFER_TOO_SMALL", None, Fault.OUTAGE),
    _Row(0x190, "CKR_CRYPTOKI_NOT_INITIALIZED", None, Fault.OUTAGE),
    _Row(0x191, "CKR_CRYPTOKI_ALREADY_INITIALIZED", None, Fault.OPERATOR),
    _Row(0x1B7, "CKR_PIN_TOO_WEAK", binding.PinTooWeak, Fault.OPERATOR),
    _Row(0x1B8, "CKR_PUBLIC_KEY_INVALID", binding.PublicKeyInvalid, Fault.DATA),
    _Row(0x200, "CKR_FUNCTION_REJECTED", binding.FunctionRejected, Fault.POLICY),
)

_BY_CODE = {row.code: row for row in _TABLE}
_BY_EXCEPTION = {row.exception: row for row in _TABLE if row.exception is not None}
_BY_TEXT = (  # the binding gives these two no class of their own
    ("not initialized", _BY_CODE[0x190]),
    ("already initialized", _BY_CODE[0x191]),
    ("buffer", _BY_CODE[0x150]),
)
PASSING = frozenset((0x05, 0x06, 0x30))
"""What parallel starts on one SoftHSMv2 directory give, or a device that is busy: general, function, device error."""

_UNMAPPED = re.compile(r"0x([0-9a-fA-F]+)")
_UNKNOWN = _Row(-1, "an unknown PKCS#11 error", None, Fault.OUTAGE)

_CLASSES: dict[Fault, type[BackendError | DataRejectedError]] = {
    Fault.STALE: BackendUnavailableError,
    Fault.OUTAGE: BackendUnavailableError,
    Fault.BUSY: BackendUnavailableError,
    Fault.OPERATOR: BackendConfigurationError,
    Fault.POLICY: KeyPolicyError,
    Fault.MECHANISM: MechanismUnsupportedError,
    Fault.DATA: DataRejectedError,
}


def name_of(code: int) -> str:
    """Return a return value's name in the standard, or its number when the standard has none.

    Args:
        code: a CK_RV.
    """
    row = _BY_CODE.get(code)
    return row.name if row is not None else f"CKR 0x{code:X}"


def fault_of(error: PKCS11Error) -> Fault:
    """Return who has to act about an error of the binding or of a direct call.

    Args:
        error: the exception; an unknown code counts as an outage, which never becomes a verdict about a peer.
    """
    return _row(error).fault


def code_of(error: PKCS11Error) -> int:
    """Return the CK_RV behind an error of the binding or of a direct call, or -1 when it cannot be told.

    Args:
        error: the exception.
    """
    return _row(error).code


def translate(error: PKCS11Error, doing: str) -> BackendError | DataRejectedError:
    """Return the exception of ours that stands for ``error``; the caller raises it.

    Args:
        error: what the binding or a direct call raised.
        doing: what was being done, for people, such as ``"signing with msl/token/v1"``; no secrets.
    """
    row = _row(error)
    if row.fault is Fault.DATA:
        # The peer may come to see this text: it names no code, so that all bad input looks the same.
        return DataRejectedError(f"{doing}: the input was refused")
    name = row.name if row is not _UNKNOWN else f"{row.name} ({error})"
    return _CLASSES[row.fault](f"{doing}: {row.fault.value} ({name})")


def _row(error: PKCS11Error) -> _Row:
    if isinstance(error, CryptokiError):
        return _BY_CODE.get(error.code, _UNKNOWN)
    row = _BY_EXCEPTION.get(type(error))
    if row is not None:
        return row
    text = str(error)
    numbers = _UNMAPPED.findall(text)
    if numbers:
        return _BY_CODE.get(int(numbers[-1], 16), _UNKNOWN)
    lowered = text.lower()
    return next((row for part, row in _BY_TEXT if part in lowered), _UNKNOWN)
