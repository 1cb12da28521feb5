"""What holds for every input of the wire layer: round trips, any split, a result or a named error for any bytes."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hsm_msl.errors import MslError
from hsm_msl.wire import binary, codec, compression, envelope, jose, lzw
from hsm_msl.wire.tokenizer import Tokenizer, read_all

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALARS = st.one_of(
    TEXT, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=12
)
OBJECTS = st.dictionaries(TEXT, VALUES, max_size=5)
REPETITIVE = st.lists(st.sampled_from([b"a", b"ab", b"abc", b"\x00" * 50, b"{}", b"xyz" * 9])).map(b"".join)


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_nulls(item) for name, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


@given(OBJECTS)
def test_encode_then_decode_gives_the_object_in_ascii_and_in_order(value: dict[str, Any]) -> None:
    data = codec.encode(value)
    assert data.isascii()
    decoded = codec.decode(data)
    assert decoded == value
    assert list(decoded) == list(value)


@given(OBJECTS | st.dictionaries(TEXT, VALUES | st.none()), st.sampled_from([None, 1, "\t"]), st.booleans())
def test_any_legal_spelling_is_read_as_the_standard_reader_reads_it(
    value: Any, indent: Any, ascii_only: bool
) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    assert codec.decode(text.encode()) == without_nulls(value)


@given(st.lists(st.tuples(TEXT, VALUES), max_size=4), st.lists(st.tuples(TEXT, VALUES), max_size=3), st.booleans())
def test_objects_are_read_exactly_when_no_key_comes_twice(
    outer: list[tuple[str, Any]], inner: list[tuple[str, Any]], spaces: bool
) -> None:
    comma, colon = (", ", ": ") if spaces else (",", ":")

    def spelled(pairs: list[tuple[str, str]]) -> str:
        return "{" + comma.join(json.dumps(name) + colon + value for name, value in pairs) + "}"

    nested = spelled([(name, json.dumps(value)) for name, value in inner])
    pairs = [*((name, json.dumps(value)) for name, value in outer), ("nested", nested)]
    text = spelled(pairs).encode()
    names = [name for name, _ in pairs]
    unique = len(set(names)) == len(names) and len(dict(inner)) == len(inner)
    if unique:
        assert codec.decode(text) == {**dict(outer), "nested": dict(inner)}
    else:
        with pytest.raises(MslError):
            codec.decode(text)


@st.composite
def mutilated(draw: st.DrawFn) -> bytes:
    data = bytearray(codec.encode(draw(OBJECTS)))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(data)))
        data[place : place + draw(st.integers(0, 2))] = draw(
            st.sampled_from(
                [b"", b'"', b"{", b"}", b"[", b"]", b":", b",", b"\\", b"\xed\xa0\xbd", b"\xed\xb8\x80", b"0"]
            )
        )
    return bytes(data)


@given(mutilated() | st.binary(max_size=60))
@example(b'{"a":"\xed\xa0\xbd\xed\xb8\x80"}')
def test_any_bytes_are_read_or_refused_and_agree_with_the_standard_reader(data: bytes) -> None:
    try:
        value = codec.decode(data)
    except MslError:
        return
    text = data.decode("utf-8", "surrogatepass").encode("utf-16", "surrogatepass").decode("utf-16")
    assert without_nulls(json.loads(text)) == value


@given(st.lists(OBJECTS, max_size=5), st.data(), st.sampled_from(["", " ", "\r\n\t "]))
def test_any_split_of_a_stream_gives_the_same_objects(
    values: list[dict[str, Any]], data: st.DataObject, space: str
) -> None:
    body = b"".join(codec.encode(value) + space.encode() for value in values)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=20)))
    tokenizer = Tokenizer()
    objects: list[dict[str, Any]] = []
    for begin, end in zip([0, *cuts], [*cuts, len(body)], strict=True):
        tokenizer.feed(body[begin:end])
        if data.draw(st.booleans()):
            while (value := tokenizer.next_object()) is not None:
                objects.append(value)
    while (value := tokenizer.next_object()) is not None:
        objects.append(value)
    assert objects == values
    assert not tokenizer.pending
    assert read_all(body) == values


@given(mutilated() | st.binary(max_size=60), mutilated(), st.integers(1, 7))
def test_a_damaged_stream_gives_the_same_in_any_split(first: bytes, second: bytes, size: int) -> None:
    body = first + second

    def run(pieces: list[bytes]) -> tuple[list[Any], bool, bool]:
        tokenizer = Tokenizer()
        objects: list[Any] = []
        try:
            for piece in pieces:
                tokenizer.feed(piece)
                while (value := tokenizer.next_object()) is not None:
                    objects.append(value)
        except MslError:
            return objects, True, False
        return objects, False, tokenizer.pending

    assert run([body]) == run([body[place : place + size] for place in range(0, len(body), size)])


@given(st.binary())
def test_base64_round_trips(data: bytes) -> None:
    assert binary.decode(binary.encode(data)) == data
    assert binary.decode_url(binary.encode_url(data)) == data


@given(st.text(st.sampled_from("QUJDAA+/-_= \n\t\u00e9."), max_size=12))
def test_any_text_is_base64_or_refused(text: str) -> None:
    for read in (binary.decode, binary.decode_url):
        try:
            data = read(text)
        except MslError:
            continue
        assert len(data) * 4 <= len(text) * 3


@given(TEXT, st.binary(min_size=16, max_size=16) | st.none(), st.binary())
def test_ciphertext_envelopes_round_trip(key_id: str, iv: bytes | None, ciphertext: bytes) -> None:
    data = envelope.encode_ciphertext(envelope.key_id_json(key_id), iv, ciphertext)
    assert envelope.decode_ciphertext(data) == (iv, ciphertext)
    # The same envelope through the general reader: another member order takes the short cut away.
    members = codec.decode(data)
    turned = codec.encode(dict(reversed(members.items())))
    assert envelope.decode_ciphertext(turned) == (iv, ciphertext)


@given(
    st.lists(
        st.sampled_from(
            [
                '{"ciphertext":"',
                "QUI=",
                "QUJ",
                '"',
                ',"sha256":"AA=="',
                ',"keyid":"k"',
                ',"iv":"',
                "A" * 22 + "==",
                "}",
                "\\",
                " ",
                "\u00e9",
                ":",
            ]
        ),
        max_size=12,
    ).map("".join)
)
def test_the_envelope_short_cut_reads_what_the_general_reader_reads(text: str) -> None:
    data = text.encode()
    spaced = b"{ " + data[1:] if data.startswith(b"{") else data

    def run(attempt: bytes) -> tuple[bytes | None, bytes] | None:
        try:
            return envelope.decode_ciphertext(attempt)
        except MslError:
            return None

    assert run(data) == run(spaced)


@given(st.binary(max_size=80) | mutilated())
def test_any_bytes_are_an_envelope_or_refused(data: bytes) -> None:
    assert envelope.decode_signature(data)[1] is not None
    for read in (envelope.decode_ciphertext, jose.decode_jwe, jose.decode_jwk):
        try:
            read(data)
        except MslError:
            continue


@given(st.sampled_from(sorted(envelope.SIGNATURE_ALGORITHMS)), st.binary())
def test_signature_envelopes_round_trip(algorithm: str, signature: bytes) -> None:
    assert envelope.decode_signature(envelope.encode_signature(algorithm, signature)) == (algorithm, signature)


@given(st.binary() | REPETITIVE)
def test_lzw_round_trips(data: bytes) -> None:
    packed = lzw.compress(data, 2 * len(data) + 2)
    assert packed is not None
    assert lzw.uncompress(packed, len(data)) == data


@settings(max_examples=20)
@given(st.integers(0, 3), st.integers(0, 2**32), st.integers(20_000, 60_000))
def test_lzw_round_trips_across_many_widths(symbols: int, seed: int, length: int) -> None:
    state = seed
    data = bytearray()
    for _ in range(length):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        data.append(state >> 33 & (4**symbols * 4 - 1))
    packed = lzw.compress(bytes(data), 2 * length)
    assert packed is not None
    assert lzw.uncompress(packed, length) == bytes(data)


@given(st.sampled_from(compression.ALGORITHMS), st.binary() | REPETITIVE)
def test_compression_is_shorter_and_comes_back(algorithm: str, data: bytes) -> None:
    packed = compression.compress(algorithm, data)
    if packed is not None:
        assert len(packed) < len(data) <= 200 * len(packed)
        assert compression.uncompress(algorithm, packed) == data


@given(
    st.sampled_from(compression.ALGORITHMS), st.binary() | st.binary().map(lambda data: b"\x1f\x8b\x08\x00" + data)
)
def test_any_bytes_are_uncompressed_within_the_limit_or_refused(algorithm: str, data: bytes) -> None:
    try:
        result = compression.uncompress(algorithm, data, 10)
    except MslError:
        return
    assert len(result) <= 10 * len(data)


@given(
    st.sampled_from(sorted(jose.JWK_USES)) | st.none(),
    st.lists(st.sampled_from(sorted(jose.JWK_KEY_OPS)), unique=True).map(tuple) | st.none(),
    st.sampled_from(sorted(jose.JWK_ALGORITHMS)) | st.none(),
    TEXT | st.none(),
    st.booleans(),
    st.binary(min_size=1),
)
def test_jwks_round_trip_padded(
    use: str | None, key_ops: tuple[str, ...] | None, alg: str | None, kid: str | None, extractable: bool, k: bytes
) -> None:
    jwk = jose.Jwk("oct", use, key_ops, alg, kid, extractable, k=k)
    padded = jose.pad_jwk(jose.encode_jwk(jwk))
    assert len(padded) % 8 == 0
    assert jose.decode_jwk(padded) == jwk


PART = st.binary(min_size=1, max_size=40)


@given(TEXT, TEXT, PART, PART, PART, PART)
def test_jwes_round_trip_in_both_forms(
    algorithm: str, encryption: str, encrypted_key: bytes, iv: bytes, ciphertext: bytes, tag: bytes
) -> None:
    associated = jose.associated_data(algorithm, encryption, encrypted_key, iv)
    expected = jose.Jwe(algorithm, encryption, encrypted_key, iv, ciphertext, tag, associated)
    for write in (jose.encode_jwe_compact, jose.encode_jwe_json):
        assert jose.decode_jwe(write(associated, ciphertext, tag)) == expected


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_finite_numbers_survive(number: float) -> None:
    assert math.isclose(codec.decode(codec.encode({"k": number}))["k"], number, rel_tol=0)
