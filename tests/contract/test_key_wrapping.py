"""What every ``WrappingKey`` does, wherever the key is. Vectors: RFC 3394 section 4, RFC 5649 section 6, peers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hsm_msl.backend import rfc3394
from hsm_msl.backend.software import SoftwareAesKey, SoftwareWrappingKey
from hsm_msl.errors import DataRejectedError, KeyPolicyError, MechanismUnsupportedError, UsageError
from hsm_msl.ports import MacAlgorithm, WrappingKey
from key_backends import KeyBackend

RECORDED: list[dict[str, str]] = json.loads((Path(__file__).parents[1] / "vectors/primitives/aeskw.json").read_text())
KEK = bytes(range(16))
RFC_3394 = [  # KEK, data, wrapped
    (
        "000102030405060708090a0b0c0d0e0f",
        "00112233445566778899aabbccddeeff",
        "1fa68b0a8112b447aef34bd8fb5a7b829d3e862371d2cfe5",
    ),
    (
        "000102030405060708090a0b0c0d0e0f1011121314151617",
        "00112233445566778899aabbccddeeff0001020304050607",
        "031d33264e15d33268f24ec260743edce1c6c7ddee725a936ba814915c6762d2",
    ),
    (
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
        "00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f",
        "28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21",
    ),
]
RFC_5649_KEK = bytes.fromhex("5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8")
RFC_5649 = [
    (
        "c37b7e6492584340bed12207808941155068f738",
        "138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a",
    ),
    ("466f7250617369", "afbeb0f07dfbf5419200f2ccb50bb24f"),
]


@pytest.mark.parametrize(("kek", "data", "wrapped"), RFC_3394)
def test_wrapping_agrees_with_rfc_3394(backend: KeyBackend, kek: str, data: str, wrapped: str) -> None:
    key = backend.wrapping(bytes.fromhex(kek))
    assert key.wrap(bytes.fromhex(data)).hex() == wrapped
    assert key.unwrap(bytes.fromhex(wrapped)).hex() == data


@pytest.mark.parametrize("number", range(len(RECORDED)))
def test_wrapping_agrees_with_recorded_peers(backend: KeyBackend, number: int) -> None:
    case = RECORDED[number]
    key = backend.wrapping(bytes.fromhex(case["key_hex"]))
    plain, wrapped = bytes.fromhex(case.get("plain_hex", "")), bytes.fromhex(case.get("wrapped_hex", ""))
    if "wrap_error" in case:
        with pytest.raises(UsageError):
            key.wrap(plain)
    elif "unwrap_error" in case:
        with pytest.raises(DataRejectedError):
            key.unwrap(wrapped)
    elif len(plain) == 8 and backend.name == "softhsm":  # one unit, which RFC 3394 leaves out
        with pytest.raises(MechanismUnsupportedError):
            key.wrap(plain)
    else:
        assert key.wrap(plain) == wrapped
        assert key.unwrap(wrapped) == plain


def test_one_unit_of_a_stranger_is_bad_input_everywhere(backend: KeyBackend) -> None:
    """A ladder's blob comes from whoever sends it; what is too short for the token is no outage of the token."""
    with pytest.raises(DataRejectedError):
        backend.wrapping(RFC_5649_KEK).unwrap(bytes(16))


@pytest.mark.parametrize(("data", "wrapped"), RFC_5649)
def test_padded_wrapping_agrees_with_rfc_5649_or_is_refused(backend: KeyBackend, data: str, wrapped: str) -> None:
    key = backend.wrapping(RFC_5649_KEK)
    if backend.name == "softhsm":  # it fills up to 8 bytes before the RFC does, so the length would come out wrong
        with pytest.raises(MechanismUnsupportedError):
            key.wrap(bytes.fromhex(data), pad=True)
    else:
        assert key.wrap(bytes.fromhex(data), pad=True).hex() == wrapped
    assert key.unwrap(bytes.fromhex(wrapped), pad=True).hex() == data


@pytest.mark.parametrize("size", [8, 16, 24, 32, 136])
def test_padded_wrapping_of_whole_units(backend: KeyBackend, size: int) -> None:
    data = os.urandom(size)
    wrapped = backend.wrapping(KEK).wrap(data, pad=True)
    assert wrapped == SoftwareWrappingKey(KEK).wrap(data, pad=True)
    assert backend.wrapping(KEK).unwrap(wrapped, pad=True) == data


@pytest.mark.parametrize("pad", [False, True])
def test_wrapping_by_blocks_is_the_same(pad: bool) -> None:
    """The fallback for tokens without AES key wrap, against the library."""
    block = SoftwareAesKey(KEK)
    for size in (16, 24, 112, 1000, *((1, 7, 8, 9, 20, 1001) if pad else ())):
        data = os.urandom(size)
        wrapped = rfc3394.wrap(block.encrypt_ecb, data, pad=pad)
        assert SoftwareWrappingKey(KEK).unwrap(wrapped, pad=pad) == data
        assert rfc3394.unwrap(block.decrypt_ecb, wrapped, pad=pad) == data


@pytest.fixture
def kek(backend: KeyBackend) -> WrappingKey:
    return backend.wrapping(KEK)


@pytest.mark.parametrize("size", [0, 1, 15, 17])
def test_lengths_that_cannot_be_wrapped(kek: WrappingKey, size: int) -> None:
    with pytest.raises(UsageError):
        kek.wrap(bytes(size))


@pytest.mark.parametrize("size", [0, 8, 15, 23, 24, 25, 40])
@pytest.mark.parametrize("pad", [False, True])
def test_what_was_not_wrapped_is_refused(kek: WrappingKey, size: int, pad: bool) -> None:
    with pytest.raises(DataRejectedError):
        kek.unwrap(bytes(size), pad=pad)


def test_any_changed_bit_is_refused(kek: WrappingKey) -> None:
    wrapped = kek.wrap(bytes(range(32)))
    for index in range(0, len(wrapped), 7):
        changed = bytearray(wrapped)
        changed[index] ^= 0x10
        for call in (kek.unwrap, kek.unwrap_aes, kek.unwrap_wrapping):
            with pytest.raises(DataRejectedError):
                call(bytes(changed))
        with pytest.raises(DataRejectedError):
            kek.unwrap_mac(bytes(changed), MacAlgorithm.HMAC_SHA256)
    assert kek.unwrap(wrapped) == bytes(range(32))


@pytest.mark.parametrize("size", [16, 24, 32])
def test_an_unwrapped_aes_key_works_like_the_original(kek: WrappingKey, size: int) -> None:
    value = os.urandom(size)
    assert kek.unwrap_aes(kek.wrap(value)).encrypt_cbc(bytes(16), bytes(64)) == SoftwareAesKey(value).encrypt_cbc(
        bytes(16), bytes(64)
    )


def test_an_unwrapped_mac_key_works_like_the_original(kek: WrappingKey, backend: KeyBackend) -> None:
    value = bytes(range(32))
    for algorithm in (MacAlgorithm.HMAC_SHA256, MacAlgorithm.AES_CMAC):
        key = kek.unwrap_mac(kek.wrap(value), algorithm)
        assert key.algorithm is algorithm
        assert key.sign(b"data") == backend.mac(value, algorithm).sign(b"data")


def test_an_unwrapped_wrapping_key_unwraps_in_turn(kek: WrappingKey) -> None:
    """The ladder of msl-schemes section 8: a key, opened by a key, opened by a key."""
    second, third, data = os.urandom(16), os.urandom(32), os.urandom(16)
    ladder = kek.unwrap_wrapping(kek.wrap(second)).unwrap_wrapping(SoftwareWrappingKey(second).wrap(third))
    wrapped = SoftwareWrappingKey(third).wrap(data)
    assert ladder.wrap(data) == wrapped
    assert ladder.unwrap(wrapped) == data
    assert ladder.unwrap_aes(wrapped).encrypt_ecb(bytes(16)) == SoftwareAesKey(data).encrypt_ecb(bytes(16))


@pytest.mark.parametrize("size", [8, 40, 48, 64])
def test_what_is_no_aes_key_is_not_unwrapped_as_one(kek: WrappingKey, size: int) -> None:
    """SoftHSMv2 itself would make an AES key of 40 bytes."""
    wrapped = SoftwareWrappingKey(KEK).wrap(bytes(size))
    for call in (kek.unwrap_aes, kek.unwrap_wrapping):
        with pytest.raises(DataRejectedError):
            call(wrapped)
    with pytest.raises(DataRejectedError):
        kek.unwrap_mac(wrapped, MacAlgorithm.AES_CMAC)


def test_a_key_that_lives_elsewhere_is_not_wrapped(kek: WrappingKey, backend: KeyBackend) -> None:
    class Foreign(SoftwareAesKey):
        """Not one of this backend's keys."""

    key = backend.aes(KEK) if backend.name == "softhsm" else object()
    with pytest.raises(KeyPolicyError):
        kek.wrap_key(key)  # type: ignore[arg-type]
