"""JSON text of MSL objects: written compact and ASCII-only, read strictly (msl-wire sections 2.3 and 2.4)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

import orjson

from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.wire.limits import MAX_NESTING, MAX_OBJECT_BYTES

_OPENING_BRACE = 0x7B
_SURROGATE_PAIR = re.compile(rb"\xed([\xa0-\xaf][\x80-\xbf])\xed([\xb0-\xbf][\x80-\xbf])")


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
    for item in value.values():
        if item is None or isinstance(item, (Mapping, list, tuple, float)):
            value = _without_nulls(value)
            break
    try:
        data = orjson.dumps(value)
    except TypeError as refused:
        raise MslError(ErrorCode.MSL_ENCODE_ERROR, "value cannot be written as JSON") from refused
    if data.isascii():
        return data
    # What orjson has just written is valid, so the slower encoder meets no surprise here.
    return json.dumps(json.loads(data), ensure_ascii=True, separators=(",", ":")).encode("ascii")


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
            size and nesting.

    Source: msl-wire section 2.4. CESU-8 surrogate pairs, which JavaScript peers write, are read as the character
    they mean; any other malformed UTF-8 is refused.
    """
    if not data or data[0] != _OPENING_BRACE:
        _refuse(error, "not a JSON object")
    if len(data) > MAX_OBJECT_BYTES:
        _refuse(error, "object too large")
    try:
        value: dict[str, Any] = orjson.loads(data)
    except orjson.JSONDecodeError:
        data = _SURROGATE_PAIR.sub(_paired, data)
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError:
            _refuse(error, "malformed JSON")
    members = _settle_object(value, MAX_NESTING, error)
    # Compact text without duplicates reads and writes as itself: the cheapest proof there is. Failing that, as many
    # colons as members leave no room for a key given twice. Only then is a slower reader asked.
    if orjson.dumps(value) != data and data.count(b":") != members:
        _require_unique_keys(data, error)
    return value


def _refuse(error: ErrorCode, detail: str) -> NoReturn:
    # The parser's own message would carry input along as the cause; a peer's secrets stay out of tracebacks.
    raise MslError(error, detail) from None


def _settle_object(value: dict[str, Any], depth: int, error: ErrorCode) -> int:
    """Remove null members, hold the nesting limit, and count the members that were read."""
    if depth == 0:
        _refuse(error, "nested too deeply")
    members = len(value)
    nulls = False
    for item in value.values():
        kind = type(item)
        if kind is str:
            continue
        if kind is dict:
            members += _settle_object(item, depth - 1, error)
        elif kind is list:
            members += _settle_array(item, depth - 1, error)
        elif item is None:
            nulls = True
    if nulls:
        for name in [name for name, item in value.items() if item is None]:
            del value[name]
    return members


def _settle_array(value: list[Any], depth: int, error: ErrorCode) -> int:
    if depth == 0:
        _refuse(error, "nested too deeply")
    members = 0
    for item in value:
        kind = type(item)
        if kind is dict:
            members += _settle_object(item, depth - 1, error)
        elif kind is list:
            members += _settle_array(item, depth - 1, error)
    return members


def _require_unique_keys(data: bytes, error: ErrorCode) -> None:
    def unique(pairs: list[tuple[str, object]]) -> None:
        if len(dict(pairs)) != len(pairs):
            _refuse(error, "duplicate key")

    # Numbers are not converted: the standard reader refuses long ones with an error of its own.
    json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_int=len, parse_float=len)


def _paired(match: re.Match[bytes]) -> bytes:
    return (
        match[0].decode("utf-8", "surrogatepass").encode("utf-16", "surrogatepass").decode("utf-16").encode("utf-8")
    )


def _without_nulls(value: Mapping[str, object]) -> dict[str, object]:
    return {name: _clean(item) for name, item in value.items() if item is not None}


def _clean(item: object) -> object:
    if isinstance(item, Mapping):
        return _without_nulls(item)
    if isinstance(item, (list, tuple)):
        if None in item:
            raise MslError(ErrorCode.MSL_ENCODE_ERROR, "null in an array")
        return [_clean(element) for element in item]
    if isinstance(item, float) and not -_FLOAT_LIMIT < item < _FLOAT_LIMIT:
        raise MslError(ErrorCode.MSL_ENCODE_ERROR, "number is not finite")
    return item


_FLOAT_LIMIT = float("inf")
