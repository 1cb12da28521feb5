"""AES-CBC then MAC, in version 1 envelopes (msl-wire sections 4.2 to 4.4)."""

from __future__ import annotations

from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.ports import AesKey, MacAlgorithm, MacKey, RandomBytes, SymmetricKeys
from hsm_msl.wire import envelope

_BLOCK = 16
_PADDINGS = tuple(bytes([n]) * n for n in range(_BLOCK + 1))

WIRE_MAC_NAMES = {MacAlgorithm.HMAC_SHA256: "HmacSHA256", MacAlgorithm.AES_CMAC: "AESCmac"}


def pad(data: bytes) -> bytes:
    """Append PKCS#7 padding for 16-byte blocks (RFC 5652 section 6.3)."""
    return data + _PADDINGS[_BLOCK - len(data) % _BLOCK]


def unpad(data: bytes) -> bytes:
    """Remove PKCS#7 padding from whole 16-byte blocks.

    Raises:
        MslError: CIPHERTEXT_BAD_PADDING.
    """
    count = data[-1]
    if not 1 <= count <= _BLOCK or not data.endswith(_PADDINGS[count]):
        raise MslError(ErrorCode.CIPHERTEXT_BAD_PADDING)
    return data[:-count]


class SymmetricContext:
    """Protect with an AES key and a MAC key, either of which may be missing.

    Args:
        keys: the handles; an operation whose handle is missing is refused with its MSL code.
        key_id: text put into every envelope; peers log it and never compare it.
        random: source of the 16-byte initialisation vectors.
    """

    __slots__ = ("_encryption", "_key_id", "_mac", "_random")

    def __init__(self, keys: SymmetricKeys, key_id: str, random: RandomBytes) -> None:
        self._encryption: AesKey | None = keys.encryption
        self._mac: MacKey | None = keys.mac
        self._key_id = envelope.key_id_json(key_id)
        self._random = random

    def encrypt(self, plaintext: bytes) -> bytes:
        """Return the envelope; empty plaintext gives an envelope with an empty ciphertext, as the Java stack does.

        Raises:
            MslError: ENCRYPT_NOT_SUPPORTED without an encryption key.
            BackendError: the key operation did not happen.
        """
        key = self._encryption
        if key is None:
            raise MslError(ErrorCode.ENCRYPT_NOT_SUPPORTED)
        iv = self._random(_BLOCK)
        ciphertext = key.encrypt_cbc(iv, pad(plaintext)) if plaintext else b""
        return envelope.encode_ciphertext(self._key_id, iv, ciphertext)

    def decrypt(self, ciphertext: bytes) -> bytes:
        """Open an envelope. Verify first.

        Raises:
            MslError: DECRYPT_NOT_SUPPORTED without a key, CIPHERTEXT_ENVELOPE_PARSE_ERROR, CIPHERTEXT_BAD_PADDING,
                CIPHERTEXT_ILLEGAL_BLOCK_SIZE, INVALID_ALGORITHM_PARAMS for an initialisation vector that is absent or
                not 16 bytes.
            BackendError: the key operation did not happen.
        """
        key = self._encryption
        if key is None:
            raise MslError(ErrorCode.DECRYPT_NOT_SUPPORTED)
        iv, data = envelope.decode_ciphertext(ciphertext)
        if not data:
            return b""
        if iv is None or len(iv) != _BLOCK:
            raise MslError(ErrorCode.INVALID_ALGORITHM_PARAMS)
        if len(data) % _BLOCK:
            raise MslError(ErrorCode.CIPHERTEXT_ILLEGAL_BLOCK_SIZE)
        return unpad(key.decrypt_cbc(iv, data))

    def sign(self, data: bytes) -> bytes:
        """Return the bare MAC.

        Raises:
            MslError: SIGN_NOT_SUPPORTED without a MAC key.
            BackendError: the key operation did not happen.
        """
        if self._mac is None:
            raise MslError(ErrorCode.SIGN_NOT_SUPPORTED)
        return self._mac.sign(data)

    def verify(self, data: bytes, signature: bytes) -> bool:
        """Tell whether the MAC fits; a version 2 envelope counts only if it names this key's algorithm.

        Raises:
            MslError: VERIFY_NOT_SUPPORTED without a MAC key.
            BackendError: the key operation did not happen.
        """
        mac = self._mac
        if mac is None:
            raise MslError(ErrorCode.VERIFY_NOT_SUPPORTED)
        algorithm, value = envelope.decode_signature(signature)
        if algorithm is not None and algorithm != WIRE_MAC_NAMES.get(mac.algorithm):
            return False
        return mac.verify(data, value)
