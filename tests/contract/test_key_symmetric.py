"""What every ``AesKey`` and ``MacKey`` does, wherever the key is. Vectors: SP 800-38A/D, RFC 2202, 4231, 4493."""

from __future__ import annotations

import hashlib
import hmac
import os

import pytest

from hsm_msl.errors import DataRejectedError, UsageError
from hsm_msl.ports import AesKey, MacAlgorithm, MacKey
from key_backends import KeyBackend

KEYS = {
    128: bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c"),
    192: bytes.fromhex("8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b"),
    256: bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4"),
}
BLOCKS = bytes.fromhex(
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)
IV = bytes(range(16))
COUNTER = bytes(range(0xF0, 0x100))
FIRST_BLOCKS = {  # SP 800-38A appendix F: first ciphertext block under ECB, CBC, CTR
    128: ("3ad77bb40d7a3660a89ecaf32466ef97", "7649abac8119b246cee98e9b12e9197d", "874d6191b620e3261bef6864990db6ce"),
    192: ("bd334f1d6e45f25ff712a214571fa5cc", "4f021db243bc633d7178183a9fa071e8", "1abc932417521ca24f2b0459fe7e6e0b"),
    256: ("f3eed1bdb5d2a03c064b5a7e3db181f8", "f58c4c04d6e5f1ba779eabfb5f7bfbd6", "601ec313775789a5b7a7f504bbf3d228"),
}


@pytest.mark.parametrize("bits", KEYS)
def test_aes_modes_agree_with_sp_800_38a(backend: KeyBackend, bits: int) -> None:
    key = backend.aes(KEYS[bits])
    results = (key.encrypt_ecb(BLOCKS), key.encrypt_cbc(IV, BLOCKS), key.crypt_ctr(COUNTER, BLOCKS))
    assert [result[:16].hex() for result in results] == list(FIRST_BLOCKS[bits])
    assert [len(result) for result in results] == [64, 64, 64]
    assert key.decrypt_ecb(results[0]) == BLOCKS
    assert key.decrypt_cbc(IV, results[1]) == BLOCKS
    assert key.crypt_ctr(COUNTER, results[2]) == BLOCKS


def test_gcm_agrees_with_the_test_case_of_its_specification(backend: KeyBackend) -> None:
    """McGrew and Viega, test case 4: associated data and a last block that is not whole."""
    key = backend.aes(bytes.fromhex("feffe9928665731c6d6a8f9467308308"))
    nonce = bytes.fromhex("cafebabefacedbaddecaf888")
    plain = bytes.fromhex(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
        "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
    )
    associated = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
    sealed = key.encrypt_gcm(nonce, plain, associated)
    assert sealed.hex() == (
        "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e"
        "21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091"
        "5bc94fbc3221a5db94fae95ae7121a47"
    )
    assert key.decrypt_gcm(nonce, sealed, associated) == plain
    assert key.decrypt_gcm(nonce, key.encrypt_gcm(nonce, b"", b""), b"") == b""


@pytest.fixture
def aes(backend: KeyBackend) -> AesKey:
    return backend.aes(KEYS[128])


@pytest.mark.parametrize("size", [0, 15, 16])
def test_gcm_refuses_what_was_not_sealed_with_the_key(aes: AesKey, size: int) -> None:
    with pytest.raises(DataRejectedError):
        aes.decrypt_gcm(bytes(12), bytes(size), b"")


def test_gcm_refuses_any_change_of_text_tag_nonce_or_associated_data(aes: AesKey) -> None:
    sealed = aes.encrypt_gcm(bytes(12), b"text", b"associated")
    changed = [
        (bytes(12), bytes([sealed[0] ^ 1]) + sealed[1:], b"associated"),
        (bytes(12), sealed[:-1] + bytes([sealed[-1] ^ 1]), b"associated"),
        (bytes(11) + b"\x01", sealed, b"associated"),
        (bytes(12), sealed, b"Associated"),
    ]
    for nonce, text, associated in changed:
        with pytest.raises(DataRejectedError):
            aes.decrypt_gcm(nonce, text, associated)
    assert aes.decrypt_gcm(bytes(12), sealed, b"associated") == b"text"


def test_the_counter_wraps_as_a_128_bit_number(aes: AesKey) -> None:
    """SP 800-38A appendix B.1 with m = 128; SoftHSMv2 itself refuses to count on."""
    start = b"\xff" * 15 + b"\xfe"
    stream = aes.crypt_ctr(start, bytes(70))
    counters = [start, b"\xff" * 16, *(bytes(15) + bytes([number]) for number in range(3))]
    blocks = b"".join(aes.encrypt_ecb(counter) for counter in counters)
    assert stream == blocks[:70]


def test_counter_mode_takes_any_length(aes: AesKey) -> None:
    for size in (1, 15, 17, 1000):
        assert aes.crypt_ctr(COUNTER, aes.crypt_ctr(COUNTER, bytes(size))) == bytes(size)


def test_nothing_in_is_nothing_out(aes: AesKey) -> None:
    assert aes.encrypt_ecb(b"") == aes.decrypt_ecb(b"") == aes.encrypt_cbc(IV, b"") == aes.decrypt_cbc(IV, b"") == b""
    assert aes.crypt_ctr(COUNTER, b"") == b""


def test_large_inputs_pass_whole(aes: AesKey) -> None:
    data = os.urandom(1 << 20)
    assert aes.decrypt_cbc(IV, aes.encrypt_cbc(IV, data)) == data


@pytest.mark.parametrize("size", [1, 15, 17])
def test_blocks_that_are_not_whole(aes: AesKey, size: int) -> None:
    """A caller that did not pad made a mistake; a peer that sent such a ciphertext sent bad data."""
    with pytest.raises(UsageError):
        aes.encrypt_ecb(bytes(size))
    with pytest.raises(UsageError):
        aes.encrypt_cbc(IV, bytes(size))
    with pytest.raises(DataRejectedError):
        aes.decrypt_ecb(bytes(size))
    with pytest.raises(DataRejectedError):
        aes.decrypt_cbc(IV, bytes(size))


@pytest.mark.parametrize("size", [0, 8, 15, 17, 32])
def test_vectors_counters_and_nonces_of_wrong_length(aes: AesKey, size: int) -> None:
    for call in (aes.encrypt_cbc, aes.decrypt_cbc, aes.crypt_ctr):
        with pytest.raises(DataRejectedError):
            call(bytes(size), bytes(16))
    for call in (aes.encrypt_gcm, aes.decrypt_gcm):
        with pytest.raises(DataRejectedError):
            call(bytes(size), bytes(16), b"")


RFC_KEYS = {MacAlgorithm.HMAC_SHA1: b"\xaa" * 80}
RFC_DATA = b"Test Using Larger Than Block-Size Key - Hash Key First"
RFC_TAGS = {  # RFC 2202 section 3 case 6, RFC 4231 section 4.7
    MacAlgorithm.HMAC_SHA1: "aa4ae5e15272d00e95705637ce8a3b55ed402112",
    MacAlgorithm.HMAC_SHA256: "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
    MacAlgorithm.HMAC_SHA384: "4ece084485813e9088d2c63a041bc5b44f9ef1012a2b588f3cd11f05033ac4c6"
    "0c2ef6ab4030fe8296248df163f44952",
    MacAlgorithm.HMAC_SHA512: "80b24263c7c1a3ebb71493c1dd7be8b49b46d1f41b4aeec1121b013783f8f352"
    "6b56d037e05f2598bd0fd2215d6a1e5295e64f73f63f0aec8b915a985d786598",
}


@pytest.mark.parametrize("algorithm", RFC_TAGS)
def test_hmac_agrees_with_the_rfcs(backend: KeyBackend, algorithm: MacAlgorithm) -> None:
    key = backend.mac(RFC_KEYS.get(algorithm, b"\xaa" * 131), algorithm)
    assert key.sign(RFC_DATA).hex() == RFC_TAGS[algorithm]
    assert key.algorithm is algorithm


@pytest.mark.parametrize(
    ("size", "tag"),
    [
        (0, "bb1d6929e95937287fa37d129b756746"),
        (16, "070a16b46b4d4144f79bdd9dd04a287c"),
        (40, "dfa66747de9ae63030ca32611497c827"),
        (64, "51f0bebf7e3b9d92fc49741779363cfe"),
    ],
)
def test_cmac_agrees_with_rfc_4493(backend: KeyBackend, size: int, tag: str) -> None:
    key = backend.mac(KEYS[128], MacAlgorithm.AES_CMAC)
    assert key.sign(BLOCKS[:size]).hex() == tag
    assert key.verify(BLOCKS[:size], bytes.fromhex(tag))


@pytest.fixture
def mac(backend: KeyBackend) -> MacKey:
    return backend.mac(bytes(range(32)), MacAlgorithm.HMAC_SHA256)


def test_tags_over_any_length(mac: MacKey) -> None:
    for size in (0, 1, 63, 64, 65, 1 << 18):
        data = bytes(size)
        assert mac.sign(data) == hmac.digest(bytes(range(32)), data, hashlib.sha256)


def test_a_tag_that_does_not_fit_is_false_and_no_error(mac: MacKey) -> None:
    tag = mac.sign(b"data")
    assert mac.verify(b"data", tag)
    for wrong in (b"", tag[:-1], tag + b"\0", bytes([tag[0] ^ 1]) + tag[1:], tag[:16], bytes(32)):
        assert not mac.verify(b"data", wrong)
    assert not mac.verify(b"Data", tag)
