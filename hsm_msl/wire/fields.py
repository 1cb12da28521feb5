"""Typed access to the members of a decoded object: absent, null and wrong types become one named error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.wire import binary as base64
from hsm_msl.wire.limits import MAX_LONG

_Object = Mapping[str, Any]
_PARSE = ErrorCode.MSL_PARSE_ERROR
_MIN_INTEGER = -(2**63)
_MAX_INTEGER = 2**63 - 1
_WHITE_SPACE = "".join(map(chr, range(0x21)))


def string(obj: _Object, name: str, error: ErrorCode = _PARSE) -> str:
    """Return a mandatory text member. Raises MslError(``error``) when it is absent or not text."""
    value = obj.get(name)
    if isinstance(value, str):
        return value
    raise _refused(name, "a string", value, error)


def optional_string(obj: _Object, name: str, error: ErrorCode = _PARSE) -> str | None:
    """Return a text member or None when absent. Raises MslError(``error``) when it is not text."""
    value = obj.get(name)
    if value is None or isinstance(value, str):
        return value
    raise _refused(name, "a string", value, error)


def trimmed(text: str) -> str:
    """Return credentials without white space at both ends, which is U+0000 to U+0020 and nothing else on the wire."""
    return text.strip(_WHITE_SPACE)


def integer(obj: _Object, name: str, error: ErrorCode = _PARSE) -> int:
    """Return a mandatory whole number.

    A fraction is cut off, as every stack does. What 64 bits do not hold becomes the nearest that they do, so that a
    number far out of its range is told from what is no number. A boolean or a number in quotes is none.

    Args:
        obj: the decoded object.
        name: the member.
        error: the code to refuse with.

    Returns:
        The number, within 64 signed bits; ``ranged`` checks protocol numbers.

    Raises:
        MslError: ``error`` when the member is absent or not a number.

    Source: msl-wire section 2.4.
    """
    value = obj.get(name)
    if type(value) is int or type(value) is float:
        return int(min(max(value, _MIN_INTEGER), _MAX_INTEGER))
    raise _refused(name, "an integer", value, error)


def optional_integer(obj: _Object, name: str, error: ErrorCode = _PARSE) -> int | None:
    """Return a whole number or None when absent. Raises MslError(``error``) as ``integer``."""
    return None if obj.get(name) is None else integer(obj, name, error)


def boolean(obj: _Object, name: str, error: ErrorCode = _PARSE) -> bool:
    """Return a mandatory truth value. Raises MslError(``error``) when it is absent or not one."""
    value = obj.get(name)
    if isinstance(value, bool):
        return value
    raise _refused(name, "a boolean", value, error)


def optional_boolean(obj: _Object, name: str, default: bool, error: ErrorCode = _PARSE) -> bool:
    """Return a truth value or ``default`` when absent. Raises MslError(``error``) when it is not one."""
    value = obj.get(name)
    if value is None:
        return default
    if isinstance(value, bool):
        return value
    raise _refused(name, "a boolean", value, error)


def binary(obj: _Object, name: str, error: ErrorCode = _PARSE) -> bytes:
    """Return the bytes of a mandatory Base64 member. Raises MslError(``error``) when absent or not Base64 text."""
    value = obj.get(name)
    if isinstance(value, str):
        return base64.decode(value, error)
    raise _refused(name, "Base64 text", value, error)


def optional_binary(obj: _Object, name: str, error: ErrorCode = _PARSE) -> bytes | None:
    """Return the bytes of a Base64 member or None when absent. Raises MslError(``error``) as ``binary``."""
    return None if obj.get(name) is None else binary(obj, name, error)


def mapping(obj: _Object, name: str, error: ErrorCode = _PARSE) -> dict[str, Any]:
    """Return a mandatory object member. Raises MslError(``error``) when it is absent or not an object."""
    value = obj.get(name)
    if isinstance(value, dict):
        return value
    raise _refused(name, "an object", value, error)


def optional_mapping(obj: _Object, name: str, error: ErrorCode = _PARSE) -> dict[str, Any] | None:
    """Return an object member or None when absent. Raises MslError(``error``) when it is not an object."""
    value = obj.get(name)
    if value is None or isinstance(value, dict):
        return value
    raise _refused(name, "an object", value, error)


def array(obj: _Object, name: str, error: ErrorCode = _PARSE) -> list[Any]:
    """Return a mandatory array. Raises MslError(``error``) when it is absent, not an array, or holds a null."""
    value = obj.get(name)
    if isinstance(value, list) and None not in value:
        return value
    raise _refused(name, "an array without null", value, error)


def optional_array(obj: _Object, name: str, error: ErrorCode = _PARSE) -> list[Any] | None:
    """Return an array or None when absent. Raises MslError(``error``) when it is no array or holds a null."""
    return None if obj.get(name) is None else array(obj, name, error)


def strings(obj: _Object, name: str, error: ErrorCode = _PARSE) -> list[str]:
    """Return a mandatory array of text. Raises MslError(``error``) when it is absent or anything else."""
    value = array(obj, name, error)
    if all(isinstance(element, str) for element in value):
        return value
    raise MslError(error, f"{name}: not an array of strings")


def mappings(obj: _Object, name: str, error: ErrorCode = _PARSE) -> list[dict[str, Any]]:
    """Return a mandatory array of objects. Raises MslError(``error``) when it is absent or anything else."""
    value = array(obj, name, error)
    if all(isinstance(element, dict) for element in value):
        return value
    raise MslError(error, f"{name}: not an array of objects")


def ranged(value: int, error: ErrorCode) -> int:
    """Return a protocol number unchanged. Raises MslError(``error``) outside 0..2^53 (msl-wire section 1)."""
    if 0 <= value <= MAX_LONG:
        return value
    raise MslError(error, "number out of range")


def _refused(name: str, expected: str, value: object, error: ErrorCode) -> MslError:
    # The member is named and its value never shown: it may be a secret.
    return MslError(error, f"{name}: missing" if value is None else f"{name}: not {expected}")
