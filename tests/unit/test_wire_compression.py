"""Compression: msl-wire section 10 and the recorded GZIP and LZW results."""

from __future__ import annotations

import base64
import gzip
import json
import os
import tracemalloc
import zlib

import pytest

from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.wire import compression, lzw
from hsm_msl.wire.limits import MAX_GZIP_MEMBERS, MAX_INFLATED_BYTES
from vector_files import load

RECORDED = load("primitives/compression.json")
PAIRS = load("msl-wire-vectors.json")["lzw"]
CASES = pytest.mark.parametrize("case", RECORDED["cases"], ids=lambda case: f"{case['algorithm']}-{case['name']}")


def assert_refused(algorithm: str, data: bytes, max_ratio: int = 200) -> MslError:
    with pytest.raises(MslError) as caught:
        compression.uncompress(algorithm, data, max_ratio)
    assert caught.value.code is ErrorCode.UNCOMPRESSION_ERROR
    return caught.value


def codes(*values: tuple[int, int]) -> bytes:
    bits = "".join(format(value, f"0{width}b") for value, width in values)
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def test_preference_order() -> None:
    assert compression.ALGORITHMS == ("GZIP", "LZW")
    assert RECORDED["preferred_of_both"] == "GZIP"


@CASES
def test_recorded_results_are_read(case: dict[str, object]) -> None:
    packed = bytes.fromhex(str(case["raw_compressed_hex"]))
    if case["uncompress_result"] == "equal":
        data = bytes.fromhex(str(case["data_hex"]))
        assert compression.uncompress(str(case["algorithm"]), packed) == data
    else:
        assert str(case["uncompress_result"]).startswith("MslError 106002")
        assert "limit" in assert_refused(str(case["algorithm"]), packed).detail


@CASES
def test_recorded_inputs_are_compressed(case: dict[str, object]) -> None:
    data = bytes.fromhex(str(case["data_hex"]))
    packed = compression.compress(str(case["algorithm"]), data)
    unreadable = case["uncompress_result"] != "equal"
    assert (packed is None) is (bool(case["compress_returns_null"]) or unreadable)
    if packed is not None:
        assert compression.uncompress(str(case["algorithm"]), packed) == data


@CASES
def test_lzw_output_is_the_recorded_one(case: dict[str, object]) -> None:
    if case["algorithm"] == "LZW":
        data = bytes.fromhex(str(case["data_hex"]))
        recorded = str(case["raw_compressed_hex"])
        assert lzw.compress(data, len(recorded)) == bytes.fromhex(recorded)


@pytest.mark.parametrize(
    "case", RECORDED["odd_inputs"], ids=lambda case: f"{case['algorithm']}-{case['compressed_hex']}"
)
def test_recorded_odd_inputs(case: dict[str, str]) -> None:
    packed = bytes.fromhex(case["compressed_hex"])
    if case["result"].startswith("ok"):
        expected = bytes.fromhex(case["result"].removeprefix("ok").strip())
        assert compression.uncompress(case["algorithm"], packed) == expected
    else:
        assert case["result"] == "MslError 106002"
        assert_refused(case["algorithm"], packed)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair["in_hex"])
def test_lzw_pairs_10_3(pair: dict[str, str]) -> None:
    data, packed = bytes.fromhex(pair["in_hex"]), bytes.fromhex(pair["out_hex"])
    assert lzw.compress(data, 1000) == packed
    assert lzw.uncompress(packed, 1000) == data


def test_worked_example_chunks_14_5() -> None:
    text = b"TOBEORNOTTOBEORTOBEORNOT" * 4
    packed = base64.b64decode("VCeQiKTykTieVIBAoJCYHBYPDIJBoRAYbEIdE4VF4tFolHIfFIXIIuA=")
    assert compression.compress("LZW", text) == packed
    packed = base64.b64decode("H4sIAAAAAAAA/wvxd3L1D/LzDwkBM0JQuZSLAwB5vDzbYAAAAA==")
    assert compression.uncompress("GZIP", packed) == text


@pytest.mark.parametrize("algorithm", compression.ALGORITHMS)
@pytest.mark.parametrize("data", [b"", b"a", b"ab", os.urandom(21), os.urandom(5000)], ids=len)
def test_nothing_is_gained_on_short_or_random_data(algorithm: str, data: bytes) -> None:
    assert compression.compress(algorithm, data) is None


@pytest.mark.parametrize("algorithm", compression.ALGORITHMS)
def test_large_data_is_judged_by_its_beginning_middle_and_end(algorithm: str) -> None:
    noise, text = os.urandom(30_000), b"all work and no play " * 1500
    assert compression.compress(algorithm, noise) is None
    for data in (text + noise[:9000], noise[:4000] + text + noise[:4000], noise[:9000] + text):
        packed = compression.compress(algorithm, data)
        assert packed is not None
        assert compression.uncompress(algorithm, packed) == data


@pytest.mark.parametrize("length", [8191, 8192, 8193, 40_000])
def test_gzip_is_readable_and_good_at_either_window_size(length: int) -> None:
    data = json.dumps([{"row": row, "value": row * 7919 % 10007} for row in range(3000)]).encode()[:length]
    packed = compression.compress("GZIP", data)
    assert packed is not None
    assert gzip.decompress(packed) == data
    assert len(packed) < 1.05 * len(gzip.compress(data, 6, mtime=0))


def test_own_output_stays_below_the_peers_expansion_guard_10_1() -> None:
    assert compression.compress("GZIP", bytes(10_000)) is None
    assert compression.compress("LZW", bytes(200_000)) is None
    packed = compression.compress("LZW", bytes(100_000))
    assert packed is not None
    assert len(packed) == 527


def test_equal_data_compresses_to_equal_bytes() -> None:
    packed = compression.compress("GZIP", b"ab" * 500)
    assert packed is not None
    assert packed[:8] == bytes.fromhex("1f8b080000000000")
    assert gzip.decompress(packed) == b"ab" * 500


@pytest.mark.parametrize("algorithm", compression.ALGORITHMS)
def test_expansion_limit_is_exact(algorithm: str) -> None:
    data = b"a" * 3000
    packed = compression.compress(algorithm, data)
    assert packed is not None
    ratio = -(-len(data) // len(packed))
    assert compression.uncompress(algorithm, packed, ratio) == data
    assert "limit" in assert_refused(algorithm, packed, ratio - 1).detail


@pytest.mark.parametrize("algorithm", compression.ALGORITHMS)
def test_a_bomb_is_stopped_while_inflating(algorithm: str) -> None:
    data = bytes(20_000_000)
    packed = gzip.compress(data, mtime=0) if algorithm == "GZIP" else lzw.compress(data, len(data))
    assert packed is not None
    tracemalloc.start()
    try:
        assert_refused(algorithm, packed)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * 200 * len(packed) + 1_000_000


def test_absolute_limit_whatever_the_ratio() -> None:
    packed = gzip.compress(bytes(MAX_INFLATED_BYTES + 1), mtime=0)
    assert "limit" in assert_refused("GZIP", packed, 10_000_000).detail


def test_several_gzip_members_are_one_stream_10_2() -> None:
    members = [gzip.compress(part, mtime=0) for part in (b"one ", b"", b"two")]
    assert compression.uncompress("GZIP", b"".join(members)) == b"one two"
    member = gzip.compress(b"x", mtime=0)
    assert compression.uncompress("GZIP", member * MAX_GZIP_MEMBERS) == b"x" * MAX_GZIP_MEMBERS
    assert "members" in assert_refused("GZIP", member * (MAX_GZIP_MEMBERS + 1)).detail


def test_the_limit_counts_all_members() -> None:
    data = b"a" * 1000
    member = gzip.compress(data, mtime=0)
    ratio = -(-len(data) // len(member))
    assert compression.uncompress("GZIP", member * 3, ratio) == data * 3
    assert "limit" in assert_refused("GZIP", member * 3, ratio - 1).detail


def test_corrupt_gzip() -> None:
    packed = gzip.compress(b"some text to compress, some text", mtime=0)
    for broken in (packed[:-1], packed[:12], packed + b"x", packed + b"\x00", packed[:10] + b"\xff" + packed[11:]):
        assert_refused("GZIP", broken)
    wrong_sum = bytearray(packed)
    wrong_sum[-5] ^= 1
    assert_refused("GZIP", bytes(wrong_sum))
    assert_refused("GZIP", zlib.compress(b"zlib, not gzip"))


@pytest.mark.parametrize("packed", [codes((65, 8), (257, 9)), codes((65, 8), (256, 9), (300, 9)), b"\xff\xff\xff"])
def test_a_code_that_does_not_exist_yet_10_3(packed: bytes) -> None:
    assert "code" in assert_refused("LZW", packed).detail


def test_lzw_leftover_bits_are_ignored() -> None:
    assert lzw.uncompress(codes((65, 8), (66, 9)) + b"", 10) == b"AB"
    assert lzw.uncompress(b"A\xff", 10) == b"A"


def test_lzw_widths_grow_without_bound() -> None:
    """178,983 bytes of varied text reach 16-bit codes, as the reference's example of that length does."""
    text = json.dumps([[number, number * 7919 % 10007] for number in range(20_000)]).encode()[:178_983]
    packed = lzw.compress(text, len(text))
    assert packed is not None
    assert lzw.uncompress(packed, len(text)) == text


def test_lzw_codes_cost_little_memory() -> None:
    """A stream of single bytes is valid, produces less than it is long, and adds a phrase to the table per code."""
    packed = codes((65, 8), *((number % 256, (number + 255).bit_length()) for number in range(1, 200_000)))
    tracemalloc.start()
    try:
        assert len(lzw.uncompress(packed, 10**9)) == 200_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000


def test_lzw_limit_is_exact() -> None:
    for data in (b"A", b"AB", b"A" * 100, b"ABCABCABCABC"):
        packed = lzw.compress(data, 200)
        assert packed is not None
        assert lzw.uncompress(packed, len(data)) == data
        with pytest.raises(MslError):
            lzw.uncompress(packed, len(data) - 1)


def test_lzw_gives_up_when_longer_than_allowed() -> None:
    data = os.urandom(2000)
    needed = lzw.compress(data, 10_000)
    assert needed is not None
    assert lzw.compress(data, len(needed)) == needed
    assert lzw.compress(data, len(needed) - 1) is None
    assert lzw.compress(data, 100) is None


@pytest.mark.parametrize("algorithm", ["", "gzip", "DEFLATE"])
def test_unknown_names_are_the_callers_to_refuse(algorithm: str) -> None:
    with pytest.raises(KeyError):
        compression.uncompress(algorithm, b"x")
    with pytest.raises(KeyError):
        compression.compress(algorithm, b"x")
