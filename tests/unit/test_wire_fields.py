"""Typed member access: msl-wire section 2.4 and its checklist item 13."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.wire import codec, fields
from hsm_msl.wire.limits import MAX_LONG

VALUES: dict[str, object] = {
    "text": "x",
    "base64": "QUI=",
    "number": 7,
    "fraction": 5.7,
    "true": True,
    "object": {"a": 1},
    "array": [{"a": 1}],
    "texts": ["a", "b"],
    "nulls": ["a", None],
    "null": None,
}
MANDATORY: list[tuple[Callable[..., Any], dict[str, object]]] = [
    (fields.string, {"text": "x", "base64": "QUI="}),
    (fields.integer, {"number": 7, "fraction": 5}),
    (fields.boolean, {"true": True}),
    (fields.binary, {"base64": b"AB"}),
    (fields.mapping, {"object": {"a": 1}}),
    (fields.array, {"array": [{"a": 1}], "texts": ["a", "b"]}),
    (fields.strings, {"texts": ["a", "b"]}),
    (fields.mappings, {"array": [{"a": 1}]}),
]
OPTIONAL: list[tuple[Callable[..., Any], dict[str, object]]] = [
    (fields.optional_string, {"text": "x", "base64": "QUI="}),
    (fields.optional_integer, {"number": 7, "fraction": 5}),
    (lambda obj, name, error: fields.optional_boolean(obj, name, True, error), {"true": True}),
    (fields.optional_binary, {"base64": b"AB"}),
    (fields.optional_mapping, {"object": {"a": 1}}),
    (fields.optional_array, {"array": [{"a": 1}], "texts": ["a", "b"]}),
]


@pytest.mark.parametrize("name", [*VALUES, "absent"])
@pytest.mark.parametrize(("accessor", "accepted"), MANDATORY + OPTIONAL)
def test_each_accessor_takes_its_type_and_nothing_else(
    accessor: Callable[..., Any], accepted: dict[str, object], name: str
) -> None:
    optional = any(accessor is each for each, _ in OPTIONAL)
    code = ErrorCode.USERIDTOKEN_TOKENDATA_PARSE_ERROR
    if name in accepted:
        assert accessor(VALUES, name, code) == accepted[name]
    elif optional and name in ("null", "absent"):
        assert accessor(VALUES, name, code) in (None, True)
    else:
        with pytest.raises(MslError) as caught:
            accessor(VALUES, name, code)
        assert caught.value.code is code


def test_the_default_code_is_a_parse_error_and_names_the_member_only() -> None:
    with pytest.raises(MslError) as caught:
        fields.integer({"messageid": "12345"}, "messageid")
    assert caught.value.code is ErrorCode.MSL_PARSE_ERROR
    assert caught.value.detail == "messageid: not an integer"
    with pytest.raises(MslError) as caught:
        fields.string({}, "keyid")
    assert caught.value.detail == "keyid: missing"


def test_optional_boolean_default() -> None:
    assert fields.optional_boolean({}, "handshake", False) is False
    assert fields.optional_boolean({"handshake": True}, "handshake", False) is True


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5.0", 5),
        ("5.7", 5),
        ("-5.7", -5),
        ("1e3", 1000),
        ("-0", 0),
        ("9007199254740993", 2**53 + 1),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        ("9223372036854775808", 2**63 - 1),
        ("-9223372036854775809", -(2**63)),
        ("92233720368547758080", 2**63 - 1),
        ("1e19", 2**63 - 1),
        ("-1e300", -(2**63)),
    ],
)
def test_integers_2_4(text: str, value: int) -> None:
    result = fields.integer(codec.decode(b'{"k":%s}' % text.encode()), "k")
    assert result == value
    assert type(result) is int


@pytest.mark.parametrize("text", ['"5"', "true", "[5]", "{}"])
def test_what_is_no_number_is_refused_2_4(text: str) -> None:
    with pytest.raises(MslError):
        fields.integer(codec.decode(b'{"k":%s}' % text.encode()), "k")


def test_protocol_range_is_inclusive() -> None:
    assert fields.ranged(0, ErrorCode.MESSAGE_ID_OUT_OF_RANGE) == 0
    assert fields.ranged(MAX_LONG, ErrorCode.MESSAGE_ID_OUT_OF_RANGE) == MAX_LONG
    for value in (-1, MAX_LONG + 1, 2**63 - 1, -(2**63)):
        with pytest.raises(MslError) as caught:
            fields.ranged(value, ErrorCode.MESSAGE_ID_OUT_OF_RANGE)
        assert caught.value.code is ErrorCode.MESSAGE_ID_OUT_OF_RANGE
