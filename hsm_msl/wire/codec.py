"""JSON text of MSL objects: written compact and ASCII-only, read strictly (msl-wire sections 2.3 and 2.4)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NoReturn

import orjson

from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.wire.limits import MAX_NESTING, MAX_OBJECT_BYTES, MAX_VALUES

_OPENING_BRACE = 0x7B
_STRICT = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS
_SHORT_TEXT = 16384
_SHORTEST_FRACTION = 3  # "1e9"; also at most the length of null
_SURROGATE = 0xED
_SEPARATORS = b",{["


def encode(value: Mapping[str, object]) -> bytes:
    """Write an object as compact ASCII JSON, members in the order given, null members left out.

    Args:
        value: text, integers, booleans, lists and mappings of these; binary values are Base64 text already.

    Returns:
        The JSON text without white space or newline.

    Raises:
        MslError: MSL_ENCODE_ERROR for what JSON or the protocol cannot carry: other types, lone surrogates,
            numbers beyond 64 bits, null inside an array.

    Source: msl-wire section 2.3. Escapes instead of raw UTF-8, because readers exist that split or refuse it.
    """
    data = b""
    with suppress(TypeError):
        data = orjson.dumps(value, option=_STRICT)
    # A null, or a number that became one, shows in the text; so, perhaps, does a string that only says so.
    if not data or b"null" in data:
        data = _encode_cleaned(value)
    if data.isascii():
        return data
    # What orjson has just written is valid, so the slower encoder meets no surprise here.
    return json.dumps(json.loads(data), ensure_ascii=True, separators=(",", ":")).encode("ascii")


def _encode_cleaned(value: Mapping[str, object]) -> bytes:
    try:
        return orjson.dumps(_clean_object(value, MAX_NESTING))
    except TypeError as refused:
        raise MslError(ErrorCode.MSL_ENCODE_ERROR, "value cannot be written as JSON") from refused


def encode_text(text: str) -> bytes:
    """Write one string as an ASCII JSON string with its quotes, for templates that are joined from bytes.

    Args:
        text: any text without lone surrogates.

    Returns:
        The quoted and escaped text.

    Raises:
        MslError: MSL_ENCODE_ERROR for lone surrogates.
    """
    try:
        data = orjson.dumps(text)
    except TypeError as refused:
        raise MslError(ErrorCode.MSL_ENCODE_ERROR, "text is not valid Unicode") from refused
    return data if data.isascii() else json.dumps(text, ensure_ascii=True).encode("ascii")


def decode(data: bytes, error: ErrorCode = ErrorCode.MSL_PARSE_ERROR) -> dict[str, Any]:
    """Read one object strictly; null members come out absent.

    Args:
        data: the JSON text; its first byte is the opening brace, white space may follow the closing one.
        error: the code to refuse with.

    Returns:
        The members in order of appearance.

    Raises:
        MslError: ``error`` for anything but one well-formed object without duplicate keys within the limits on
            size, nesting and number of values.

    Source: msl-wire section 2.4. CESU-8 surrogate pairs, which JavaScript peers write, are read as the character
    they mean; any other malformed UTF-8 is refused.
    """
    if not data or data[0] != _OPENING_BRACE:
        _refuse(error, "not a JSON object")
    if len(data) > MAX_OBJECT_BYTES:
        _refuse(error, "object too large")
    # Base64 holds none of these, so an honest object has few however long it is.
    if len(data) > MAX_VALUES and sum(map(data.count, _SEPARATORS)) > MAX_VALUES:
        _refuse(error, "too many values")
    value = _loads(data)
    # Each surrogate costs as much as a value, and nobody writes many.
    if value is None and 0 < data.count(_SURROGATE) <= MAX_VALUES:
        data = _paired(data)
        value = _loads(data)
    if value is None:
        _refuse(error, "malformed JSON")
    # Writing short text again proves the same as the reckoning below, at a third of its cost: a key given twice would
    # be missing. Long text is mostly one string, which costs the reckoning nothing.
    if len(data) < _SHORT_TEXT and _is_settled(value, MAX_NESTING) and len(orjson.dumps(value)) == len(data):
        return value
    shortest = _settle_object(value, MAX_NESTING, error)
    # Text as short as its content allows has no room for a key given twice, nor has text with as many colons as
    # members: both are proofs without another reading. Only when they fail is a slower reader asked.
    if len(data) != shortest and data.count(b":") != _members(value):
        _require_unique_keys(data, error)
    return value


def _refuse(error: ErrorCode, detail: str) -> NoReturn:
    raise MslError(error, detail)


def _loads(data: bytes) -> dict[str, Any] | None:
    # The refusal is raised by the caller, outside the handler: the parser's exception holds the whole input, which
    # must not reach a log as the context of ours.
    try:
        value: dict[str, Any] = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return value


def _is_settled(value: dict[str, Any], depth: int) -> bool:
    """Tell whether there is neither a null member nor deep nesting; False where that takes a closer look.

    A fraction may be written longer than it came, which could hide a member that is missing, so it takes one too.
    """
    if depth == 0:
        return False
    for item in value.values():
        kind = type(item)
        if kind is str or kind is int or kind is bool:
            continue
        if kind is dict:
            if not _is_settled(item, depth - 1):
                return False
        elif kind is not list or not all(
            type(element) is str or (type(element) is dict and depth > 2 and _is_settled(element, depth - 2))
            for element in item
        ):
            return False
    return True


def _settle_object(value: dict[str, Any], depth: int, error: ErrorCode) -> int:
    """Remove null members, hold the nesting limit, and return the length of the shortest text for what was read."""
    if depth == 0:
        _refuse(error, "nested too deeply")
    # Each member has two quotes and a colon, each but the last a comma; two braces surround them.
    length = 4 * len(value) + 1 if value else 2
    nulls = False
    for name, item in value.items():
        length += len(name)
        kind = type(item)
        if kind is str:
            length += len(item) + 2
        elif kind is int:
            length += len(str(item))
        elif item is None:
            nulls = True
        else:
            length += _settle(item, depth, error)
    if nulls:
        for name in [name for name, item in value.items() if item is None]:
            del value[name]
    return length


def _settle(item: object, depth: int, error: ErrorCode) -> int:
    if type(item) is dict:
        return _settle_object(item, depth - 1, error)
    if type(item) is list:
        if depth == 1:
            _refuse(error, "nested too deeply")
        return sum([_settle(element, depth - 1, error) for element in item], max(len(item), 1) + 1)
    if type(item) is str:
        return len(item) + 2
    if type(item) is bool:
        return 4 if item else 5
    return len(str(item)) if type(item) is int else _SHORTEST_FRACTION


def _members(item: object) -> int:
    if type(item) is dict:
        return len(item) + sum(map(_members, item.values()))
    return sum(map(_members, item)) if type(item) is list else 0


def _require_unique_keys(data: bytes, error: ErrorCode) -> None:
    def unique(pairs: list[tuple[str, object]]) -> None:
        if len(dict(pairs)) != len(pairs):
            _refuse(error, "duplicate key")

    # Numbers are not converted: the standard reader refuses long ones with an error of its own. What stands under the
    # first of two equal keys was dropped before its nesting was looked at, so it may be deeper than that reader goes.
    try:
        json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_int=len, parse_float=len)
    except RecursionError:
        _refuse(error, "nested too deeply")


def _paired(data: bytes) -> bytes:
    """Write characters whose surrogates were encoded one by one as UTF-8 has it; give back what stays malformed."""
    with suppress(UnicodeError):
        return (
            data.decode("utf-8", "surrogatepass").encode("utf-16", "surrogatepass").decode("utf-16").encode("utf-8")
        )
    return data


def _clean_object(value: Mapping[str, object], depth: int) -> dict[str, object]:
    return {name: _clean(item, depth - 1) for name, item in value.items() if item is not None}


def _clean(item: object, depth: int) -> object:
    if depth == 0:
        raise MslError(ErrorCode.MSL_ENCODE_ERROR, "nested too deeply")
    if isinstance(item, (str, int)):
        return item
    if isinstance(item, Mapping):
        return _clean_object(item, depth)
    if isinstance(item, (list, tuple)):
        return [_clean(element, depth - 1) for element in item]
    # The JSON library would write dates, data classes, NaN (as null) and more; the protocol has no such values.
    if isinstance(item, float) and math.isfinite(item):
        return item
    raise MslError(ErrorCode.MSL_ENCODE_ERROR, "value cannot be written as JSON")
