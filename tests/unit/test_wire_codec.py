"""JSON codec: msl-wire sections 2.2 to 2.4, and the recorded encoder and parser tables."""

from __future__ import annotations

import datetime
import time
from types import MappingProxyType

import pytest

from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.wire import codec, fields
from hsm_msl.wire.limits import MAX_NESTING, MAX_OBJECT_BYTES, MAX_VALUES
from vector_files import load

VECTORS = load("primitives/json.json")
EMOJI = "\U0001f600"
CESU8_EMOJI = b"\xed\xa0\xbd\xed\xb8\x80"

# The recorded parser is lenient where section 2.4 advises to refuse.
LENIENT_SYNTAX = {
    "{k:5}",
    "{'k':'v'}",
    '{"k":5,}',
    '{"k":5}x',
    '{"k":0x10}',
    '{"k":010}',
    '{"k":NaN}',
}

ENCODED = {
    "int": {"k": 5},
    "negative": {"k": -17},
    "zero": {"k": 0},
    "long_2_53": {"k": 2**53},
    "long_max": {"k": 2**63 - 1},
    "double_1_0": {"k": 1},
    "double_1_5": {"k": 1.5},
    "double_1e21": {"k": 1e21},
    "double_1e-7": {"k": 1e-7},
    "double_neg0": {"k": 0},
    "float_0_1": {"k": 0.1},
    "true": {"k": True},
    "false": {"k": False},
    "binary_empty": {"k": ""},
    "binary_1": {"k": "AA=="},
    "binary_3": {"k": "//79"},
    "string_empty": {"k": ""},
    "string_slash": {"k": "a/b</c"},
    "string_quote": {"k": 'q"\\'},
    "string_control": {"k": "\b\f\n\r\t\x01\x1f\x7f\x80\u2028\u2029"},
    "string_unicode": {"k": "h\u00e9\u4e2d" + EMOJI},
    "null_value": {"k": None},
    "nested": {"arr": [1, "two", "Aw==", True, {"a": "AQI=", "z": 1}], "obj": {"a": "AQI=", "z": 1}},
    "key_order": {
        "handshake": 1,
        "sender": 1,
        "recipient": 1,
        "timestamp": 1,
        "messageid": 1,
        "nonreplayableid": 1,
        "renewable": 1,
        "capabilities": 1,
        "keyrequestdata": 1,
        "userauthdata": 1,
        "useridtoken": 1,
        "servicetokens": 1,
    },
}


def refused(data: bytes, code: ErrorCode = ErrorCode.MSL_PARSE_ERROR) -> MslError:
    with pytest.raises(MslError) as caught:
        codec.decode(data, code)
    assert caught.value.code is code
    return caught.value


def attempt(read: object, *arguments: object) -> object:
    try:
        return read(*arguments)  # type: ignore[operator]  # one of the accessors, chosen by the table
    except MslError:
        return "error"


@pytest.mark.parametrize("case", VECTORS["encode"], ids=lambda case: case["name"])
def test_recorded_encodings_carry_the_same_values(case: dict[str, str]) -> None:
    value = ENCODED[case["name"]]
    assert codec.decode(codec.encode(value)) == codec.decode(case["encoded"].encode())


def test_every_recorded_encoding_is_compared() -> None:
    assert {case["name"] for case in VECTORS["encode"]} == set(ENCODED)


@pytest.mark.parametrize("case", VECTORS["parse"], ids=lambda case: case["input"])
def test_recorded_parser_table(case: dict[str, object]) -> None:
    data = str(case["input"]).encode()
    if case["input"] in LENIENT_SYNTAX:
        refused(data)
        return
    if case["input"] == '{"k":null}':
        # Java refuses the object, JavaScript takes the member as absent; section 2.4 advises the latter.
        assert codec.decode(data) == {}
        return
    if case.get("parse_error"):
        refused(data)
        return
    obj = codec.decode(data)
    assert attempt(fields.string, obj, "k") == case["get_string"]
    expected_boolean = {"true": True, "false": False}.get(str(case["get_boolean"]), "error")
    assert attempt(fields.boolean, obj, "k") == expected_boolean
    expected_long: object = "error" if case["get_long"] == "error" else int(str(case["get_long"]))
    if case["input"] == '{"k":92233720368547758080}':
        expected_long = 2**63 - 1  # The recorded 0 is an overflow of the recording side.
    assert attempt(fields.integer, obj, "k") == expected_long
    recorded = str(case["get_bytes"])
    expected_bytes = "error" if recorded == "error" else bytes.fromhex(recorded.removeprefix("hex:"))
    assert attempt(fields.binary, obj, "k") == expected_bytes


def test_capability_encodings_read_and_write_the_same_bytes() -> None:
    vectors = load("primitives/capabilities.json")
    texts = [text.encode() for text in vectors["encodings"]]
    texts += [case[side].encode() for case in vectors["intersections"] for side in ("a", "b", "intersection")]
    assert len(texts) > 80
    for text in texts:
        assert codec.encode(codec.decode(text)) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({}, b"{}"),
        ({"b": 1, "a": 2}, b'{"b":1,"a":2}'),
        ({"s": "\u00e9" + EMOJI}, b'{"s":"\\u00e9\\ud83d\\ude00"}'),
        ({"\u00e9": [True, "x", {"n": None, "m": 2**53}]}, b'{"\\u00e9":[true,"x",{"m":9007199254740992}]}'),
        ({"n": None}, b"{}"),
        ({"t": ("a", "b"), "m": MappingProxyType({"x": "y"})}, b'{"t":["a","b"],"m":{"x":"y"}}'),
        ({"code": ErrorCode.MSL_PARSE_ERROR}, b'{"code":100000}'),
        (MappingProxyType({"a": {}}), b'{"a":{}}'),
    ],
)
def test_writer_rules_2_3(value: dict[str, object], text: bytes) -> None:
    assert codec.encode(value) == text


@pytest.mark.parametrize(
    "value",
    [
        {"a": b"raw"},
        {"a": float("nan")},
        {"a": float("inf")},
        {"a": [None]},
        {"a": {"b": object()}},
        {"a": datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)},
        {"a": 2**64},
        {"a": "\ud800"},
        {1: "a"},
    ],
)
def test_what_the_wire_cannot_carry_is_an_encode_error(value: dict[str, object]) -> None:
    with pytest.raises(MslError) as caught:
        codec.encode(value)
    assert caught.value.code is ErrorCode.MSL_ENCODE_ERROR


def test_endless_nesting_is_an_encode_error() -> None:
    value: dict[str, object] = {}
    value["self"] = value
    with pytest.raises(MslError) as caught:
        codec.encode(value)
    assert caught.value.code is ErrorCode.MSL_ENCODE_ERROR


def test_text_is_written_quoted_and_ascii() -> None:
    assert codec.encode_text('dev"ice\\1') == b'"dev\\"ice\\\\1"'
    assert codec.encode_text("\u00e9" + EMOJI) == b'"\\u00e9\\ud83d\\ude00"'
    with pytest.raises(MslError) as caught:
        codec.encode_text("\udc00")
    assert caught.value.code is ErrorCode.MSL_ENCODE_ERROR


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"k":5} \r\n\t', {"k": 5}),
        (b'{ "k" : [ 1 , 2 ] , "l" : { } }', {"k": [1, 2], "l": {}}),
        (b'{"k":null,"l":{"m":null,"n":[{"o":null}]}}', {"l": {"n": [{}]}}),
        (b'{"k":[null]}', {"k": [None]}),
        (b'{"k":"a:b:c"}', {"k": "a:b:c"}),
        (b'{"a:b":"\\u003a"}', {"a:b": ":"}),
        (b'{"k":[[],[1,[2.5,true,false,"x"]]]}', {"k": [[], [1, [2.5, True, False, "x"]]]}),
        ('{"k":"h\u00e9\u4e2d"}'.encode(), {"k": "h\u00e9\u4e2d"}),
        (('{"k":"' + EMOJI + '"}').encode(), {"k": EMOJI}),
        (b'{"k":"\\ud83d\\ude00"}', {"k": EMOJI}),
        (b'{"k":"' + CESU8_EMOJI + b'"}', {"k": EMOJI}),
        (b'{"' + CESU8_EMOJI + b'":"' + CESU8_EMOJI * 2 + b':"}', {EMOJI: EMOJI * 2 + ":"}),
    ],
)
def test_reader_accepts_2_4(data: bytes, value: dict[str, object]) -> None:
    assert codec.decode(data) == value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" {}",
        b"\xef\xbb\xbf{}",
        b"[1]",
        b"null",
        b'"x"',
        b"{",
        b"{}x",
        b"{}{}",
        b"{},",
        b"{}\x00",
        b"{k:5}",
        b"{'k':5}",
        b'{"k":5,}',
        b'{"k"=5}',
        b'{"k":5;"l":6}',
        b'{"k":TRUE}',
        b'{"k":NaN}',
        b'{"k":-Infinity}',
        b'{"k":1e999}',
        b'{"k":01}',
        b'{"k":"\x01"}',
        b'{"k":"\xff"}',
        b'{"k":"\xc0\x80"}',
        b'{"k":"\\ud83d"}',
        b'{"k":"\\ude00\\ud83d"}',
        b'{"k":"\xed\xa0\xbd"}',
        b'{"k":"\xed\xb8\x80\xed\xa0\xbd"}',
        b'{"k":"\xed\xa0\xbd\\ude00"}',
        b'{"k":"\xe4' + CESU8_EMOJI + b'"}',
    ],
)
def test_reader_refuses_2_4(data: bytes) -> None:
    refused(data)


@pytest.mark.parametrize(
    "data",
    [
        b'{"k":5,"k":6}',
        b'{"k":5,"k":5}',
        b'{"k":null,"k":1}',
        b'{"a":{"k":1,"k":2}}',
        b'{"a":[{"k":1,"k":2}]}',
        b'{"k":1,"\\u006b":2}',
        b'{"a":"\\u003a\\u003a","k":1,"k":2}',
        b'{"k":":","k":2}',
        b'{"k":1000,"k":1e3}',
        b'{"k":{"l":{"m":1}},"k":2}',
        b'{"k":' + b"9" * 5000 + b'.0e-4990,"k":1}',
        b'{"' + CESU8_EMOJI + b'":1,"\\ud83d\\ude00":2}',
    ],
)
def test_duplicate_keys_are_refused_however_they_are_written(data: bytes) -> None:
    error = refused(data)
    assert error.detail == "duplicate key"


@pytest.mark.parametrize("levels", [100, 990, 1010, 1022])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"n":', "}")])
def test_a_hidden_duplicate_may_be_as_deep_as_it_likes(opening: str, closing: str, levels: int) -> None:
    """The reader that looks for equal keys has a limit of its own, and an error of its own for it."""
    inside = opening * levels + ("1" if opening != "[" else "") + closing * levels
    assert refused(f'{{"k":{inside},"k":1}}'.encode()).code is ErrorCode.MSL_PARSE_ERROR


@pytest.mark.parametrize(
    "last",
    ["true", "false", "0", "-17", "1.5", "1e9", '""', '"x"', "[]", "[1]", "{}", '{"a":true}', '[true,false,"",{}]'],
)
def test_no_length_of_a_hidden_duplicate_passes_for_compact_text(last: str) -> None:
    """The proof by shortest length must never count more than the text needs."""
    for length in range(40):
        hidden = '"' + "x" * length + '"' if length else "0"
        assert refused(f'{{"k":{hidden},"k":{last}}}'.encode()).detail == "duplicate key"


def test_the_callers_code_is_used_for_every_refusal() -> None:
    code = ErrorCode.CIPHERTEXT_ENVELOPE_PARSE_ERROR
    for data in (b"", b"{", b'{"k":1,"k":2}', b'{"k":' + b"[" * 40 + b"]" * 40 + b"}"):
        refused(data, code)


@pytest.mark.parametrize(("opening", "closing"), [(b'{"a":', b"}"), (b"[", b"]"), (b'[{"a":', b"}]")])
def test_nesting_limit(opening: bytes, closing: bytes) -> None:
    levels = len(closing)
    fitting = (MAX_NESTING - 1) // levels
    codec.decode(b'{"k":' + opening * fitting + b"1" + closing * fitting + b"}")
    deep = fitting + 1
    error = refused(b'{"k":' + opening * deep + b"1" + closing * deep + b"}")
    assert error.detail == "nested too deeply"


@pytest.mark.parametrize("levels", [100, 1000, 1025, 100_000])
def test_any_depth_is_refused_without_exhausting_the_stack(levels: int) -> None:
    refused(b'{"a":' * levels + b"1" + b"}" * levels)
    refused(b'{"a":' + b"[" * levels + b"]" * levels + b"}")


def test_size_limit() -> None:
    frame = len(b'{"k":""}')
    largest = b'{"k":"' + b"A" * (MAX_OBJECT_BYTES - frame) + b'"}'
    assert len(codec.decode(largest)["k"]) == MAX_OBJECT_BYTES - frame
    assert refused(largest + b" ").detail == "object too large"


@pytest.mark.parametrize("value", [b"{}", b"[]", b"1", b'""', b"null", b'{"a":[0]}'])
def test_value_limit(value: bytes) -> None:
    """What costs memory is the number of values, not their length (section 19 rule 15 of msl-engine)."""
    most = MAX_VALUES // (1 + value.count(b"{") + value.count(b"["))
    few = b'{"k":[' + b",".join([value] * (most - 2)) + b"]}"
    assert len(codec.decode(few)["k"]) == most - 2
    assert refused(b'{"k":[' + b",".join([value] * (most + 1)) + b"]}").detail == "too many values"


def test_members_count_as_values() -> None:
    members = b",".join(b'"%x":0' % number for number in range(MAX_VALUES + 1))
    assert refused(b"{" + members + b"}").detail == "too many values"


def test_an_object_full_of_surrogate_pairs_takes_no_longer_than_another() -> None:
    most = MAX_VALUES // 2
    begun = time.process_time()
    assert codec.decode(b'{"k":"' + CESU8_EMOJI * most + b'"}')["k"] == EMOJI * most
    assert refused(b'{"k":"' + CESU8_EMOJI * 1_500_000 + b'"}').detail == "malformed JSON"
    assert time.process_time() - begun < 2


def test_refusals_do_not_carry_the_input() -> None:
    error = refused(b'{"password":"secret"')
    assert "secret" not in str(error)
    assert error.__cause__ is None
    assert error.__context__ is None
