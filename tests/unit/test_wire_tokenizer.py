"""Stream framing: msl-wire section 3, and the message streams of the worked examples."""

from __future__ import annotations

import base64
import time

import pytest

from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.wire.limits import MAX_NESTING
from hsm_msl.wire.tokenizer import Tokenizer, read_all
from vector_files import load

VECTORS = load("msl-wire-vectors.json")["vectors"]
TRICKY = b'{"a":"}{\\"","b":"}\\\\","c":[{},{"d":"\\\\\\""}],"{":"}"}'


def drain(tokenizer: Tokenizer) -> list[dict[str, object]]:
    objects = []
    while (value := tokenizer.next_object()) is not None:
        objects.append(value)
    return objects


def bytewise(body: bytes, max_object: int = 1 << 20) -> list[dict[str, object]]:
    tokenizer = Tokenizer(max_object)
    objects = []
    for position in range(len(body)):
        tokenizer.feed(body[position : position + 1])
        objects += drain(tokenizer)
    return objects


def assert_refused(body: bytes, max_object: int = 1 << 20) -> None:
    whole = Tokenizer(max_object)
    whole.feed(body)
    with pytest.raises(MslError) as caught:
        drain(whole)
    assert caught.value.code is ErrorCode.MSL_PARSE_ERROR
    with pytest.raises(MslError):
        bytewise(body, max_object)


@pytest.mark.parametrize("name", ["psk_stream", "psk_header", "psk_chunk_plain", "error_header", "session_header"])
def test_recorded_streams(name: str) -> None:
    body = base64.b64decode(VECTORS[name])
    objects = read_all(body)
    assert len(objects) == (3 if name == "psk_stream" else 1)
    assert ("headerdata" in objects[0]) is (("header" in name and "error" not in name) or "stream" in name)
    assert bytewise(body) == objects


def test_unauthenticated_message_14_7() -> None:
    body = base64.b64decode(VECTORS["none_header"]) + base64.b64decode(VECTORS["none_chunk"])
    header, chunk = read_all(body)
    assert header["entityauthdata"] == {"scheme": "NONE", "authdata": {"identity": "anon-1"}}
    assert chunk["signature"] == ""


@pytest.mark.parametrize(
    ("body", "objects"),
    [
        (b"", []),
        (b"{}", [{}]),
        (b"{}{}", [{}, {}]),
        (b'{"a":1} \r\n\t{"b":2}\n', [{"a": 1}, {"b": 2}]),
        (TRICKY * 3, [{"a": '}{"', "b": "}\\", "c": [{}, {"d": '\\"'}], "{": "}"}] * 3),
        (b'{"a":"} "}{"b":"}"}', [{"a": "} "}, {"b": "}"}]),
        (b'{"a":{"b":{}}}' + b'{"c":[[]]}', [{"a": {"b": {}}}, {"c": [[]]}]),
    ],
)
def test_objects_stand_back_to_back(body: bytes, objects: list[dict[str, object]]) -> None:
    assert read_all(body) == objects
    assert bytewise(body) == objects


@pytest.mark.parametrize(
    "body",
    [
        b" {}",
        b"\n",
        b"\xef\xbb\xbf{}",
        b"[1]",
        b"x",
        b"{},{}",
        b"{};",
        b"{}x",
        b'{} "x"',
        b"{}\x00",
        b"{]",
        b'{"a":1]',
        b'{"a":1,}',
        b'{"a":1,"a":2}{}',
        b'{"a":"}{"} x',
        b'{"a":' + b"[" * MAX_NESTING,
        b'{"a":"} ","b":' + b"[" * MAX_NESTING + b"]" * MAX_NESTING + b"}",
    ],
)
def test_everything_else_is_a_parse_error(body: bytes) -> None:
    assert_refused(body)


def test_an_error_is_final() -> None:
    tokenizer = Tokenizer()
    tokenizer.feed(b'{"a":1},{"b":2}')
    assert tokenizer.next_object() == {"a": 1}
    for _ in range(2):
        with pytest.raises(MslError) as caught:
            tokenizer.next_object()
        assert caught.value.code is ErrorCode.MSL_PARSE_ERROR
        tokenizer.feed(b'{"b":2}')


def test_size_limit_holds_for_whole_and_unfinished_objects() -> None:
    fitting = b'{"a":"' + b"x" * 92 + b'"}'
    assert len(fitting) == 100
    assert len(read_all(fitting * 3, 100)) == 3
    assert len(bytewise(fitting * 3, 100)) == 3
    assert_refused(fitting[:-2] + b'x"}', 100)
    assert_refused(fitting[:-2] + b"x" * 20, 100)


def test_nothing_behind_the_closing_brace_is_consumed() -> None:
    tokenizer = Tokenizer()
    tokenizer.feed(b'{"a":1}')
    assert tokenizer.next_object() == {"a": 1}
    assert not tokenizer.pending
    tokenizer.feed(b'{"b":')
    assert tokenizer.next_object() is None
    assert tokenizer.pending
    tokenizer.feed(b'{"c":2}')
    assert tokenizer.next_object() is None
    tokenizer.feed(b'} {"d"')
    assert tokenizer.next_object() == {"b": {"c": 2}}
    assert tokenizer.pending
    tokenizer.feed(b":3}  ")
    assert tokenizer.next_object() == {"d": 3}
    assert not tokenizer.pending
    assert tokenizer.next_object() is None


def test_white_space_is_not_pending_but_an_unread_object_is() -> None:
    tokenizer = Tokenizer()
    assert not tokenizer.pending
    tokenizer.feed(b"{}")
    assert tokenizer.pending
    assert tokenizer.next_object() == {}
    tokenizer.feed(b" \n")
    assert not tokenizer.pending
    tokenizer.feed(b" {}")
    assert tokenizer.next_object() == {}


def test_many_objects_fed_in_one_piece_with_the_rest_following() -> None:
    body = b"".join(b'{"n":%d}' % number for number in range(50))
    tokenizer = Tokenizer()
    tokenizer.feed(body[:123])
    objects = [tokenizer.next_object() for _ in range(3)]
    tokenizer.feed(body[123:])
    objects += drain(tokenizer)
    assert objects == [{"n": number} for number in range(50)]


def test_many_inner_braces_before_the_end() -> None:
    value = b'{"a":[' + b",".join([b"{}"] * 500) + b"]}"
    assert read_all(value + value)[1] == {"a": [{}] * 500}


def test_a_body_that_ends_inside_an_object_is_refused() -> None:
    with pytest.raises(MslError) as caught:
        read_all(b'{"a":1}{"b":')
    assert caught.value.code is ErrorCode.MSL_PARSE_ERROR


@pytest.mark.parametrize(
    "filling",
    [b"A", b"}", b"} ", b"}{", b"\\\\", b'\\"', b"\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\", b"{"],
    ids=["plain", "brace", "brace-space", "braces", "backslashes", "quotes", "run", "open"],
)
def test_time_is_linear_however_the_stream_is_split(filling: bytes) -> None:
    """100 kB in 3-byte pieces: rescanning from the start each time would take many times as long."""
    body = b'{"a":"' + filling * (99_000 // len(filling)) + b'"}'
    begun = time.process_time()
    tokenizer = Tokenizer()
    found = []
    for position in range(0, len(body), 3):
        tokenizer.feed(body[position : position + 3])
        found += drain(tokenizer)
    assert len(found) == 1
    assert time.process_time() - begun < 4


def test_many_small_objects_in_one_feed_take_linear_time() -> None:
    begun = time.process_time()
    assert len(read_all(b"{}" * 100_000)) == 100_000
    assert time.process_time() - begun < 10
