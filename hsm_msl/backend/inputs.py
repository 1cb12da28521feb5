"""The checks of sizes that every key backend makes alike, before any key is touched.

What a peer may have sent is refused as data; what only the caller can have got wrong is a usage error.
"""

from __future__ import annotations

from hsm_msl.errors import DataRejectedError, UsageError

BLOCK = 16
GCM_NONCE = 12
GCM_TAG = 16
AES_KEY_SIZES = frozenset((16, 24, 32))


def check_plain_blocks(data: bytes) -> None:
    """Check that the caller padded. Raises UsageError for anything but whole 16-byte blocks.

    Args:
        data: what is to be encrypted.
    """
    if len(data) % BLOCK:
        raise UsageError(f"{len(data)} bytes are not whole AES blocks; pad before encrypting")


def check_cipher_blocks(data: bytes) -> None:
    """Check a ciphertext's length. Raises DataRejectedError for anything but whole 16-byte blocks.

    Args:
        data: what is to be decrypted.
    """
    if len(data) % BLOCK:
        raise DataRejectedError("the ciphertext is not whole blocks")


def check_block(block: bytes) -> None:
    """Check an initialisation vector or counter. Raises DataRejectedError for anything but 16 bytes.

    Args:
        block: it travels beside the ciphertext, so a wrong length is bad input.
    """
    if len(block) != BLOCK:
        raise DataRejectedError("the initialisation vector or counter is not 16 bytes")


def check_nonce(nonce: bytes) -> None:
    """Check a GCM nonce. Raises DataRejectedError for anything but 12 bytes.

    Args:
        nonce: it travels beside the ciphertext.
    """
    if len(nonce) != GCM_NONCE:
        raise DataRejectedError("the nonce is not 12 bytes")


def check_to_wrap(data: bytes, pad: bool) -> None:
    """Check what is to be wrapped. Raises UsageError for a length RFC 3394 (or RFC 5649 with ``pad``) cannot wrap.

    Args:
        data: the caller's bytes.
        pad: whether RFC 5649 pads them.
    """
    if not data or (not pad and len(data) % 8):
        raise UsageError(f"{len(data)} bytes cannot be wrapped: RFC 3394 takes whole units of 8")


def check_wrapped(wrapped: bytes) -> None:
    """Check the length of a wrapped key. Raises DataRejectedError for what no wrapping can have made.

    Args:
        wrapped: the result of RFC 3394 or RFC 5649.
    """
    if len(wrapped) < 16 or len(wrapped) % 8:
        raise DataRejectedError("the wrapped key has an impossible length")


def check_wrapped_aes(wrapped: bytes) -> None:
    """Check that an RFC 3394 result can hold an AES key. Raises DataRejectedError when it cannot.

    Args:
        wrapped: the wrapped key, 8 bytes longer than the key. Not every token looks at this itself.
    """
    check_wrapped(wrapped)
    if len(wrapped) - 8 not in AES_KEY_SIZES:
        raise DataRejectedError("the wrapped key is not as long as an AES key")


def check_dh_value(peer: bytes, prime: int) -> int:
    """Return a peer's Diffie-Hellman value. Raises DataRejectedError outside 2..p-2 (NIST SP 800-56A 5.6.2.3.1).

    Args:
        peer: big-endian; leading zeros do not matter.
        prime: the modulus p.
    """
    value = int.from_bytes(peer, "big")
    if not 2 <= value <= prime - 2:
        raise DataRejectedError("the peer's Diffie-Hellman value is out of range")
    return value
