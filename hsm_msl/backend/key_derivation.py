"""The key derivation function of fleets: NIST SP 800-108r1 in counter mode, with AES-CMAC.

A 32-bit counter stands before the fixed data and a 32-bit length ends it.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFCMAC, CounterLocation, Mode

COUNTER_BYTES = 4
LENGTH_BYTES = 4


def fixed_data(label: bytes, context: bytes, size: int) -> bytes:
    """Return what every block of one derivation has in common: label, zero byte, context, length in bits.

    Args:
        label: the key's purpose.
        context: the identity.
        size: of the derived key, in bytes.

    Source: SP 800-108r1 section 4.
    """
    return b"".join((label, b"\x00", context, (size * 8).to_bytes(LENGTH_BYTES)))


def derive_bytes(master: bytes, label: bytes, context: bytes, size: int) -> bytes:
    """Return derived bytes.

    Args:
        master: an AES key, 16, 24 or 32 bytes.
        label: the key's purpose.
        context: the identity.
        size: in bytes.
    """
    fixed = fixed_data(label, context, size)
    kdf = KBKDFCMAC(AES, Mode.CounterMode, size, COUNTER_BYTES, None, CounterLocation.BeforeFixed, None, None, fixed)
    return kdf.derive(master)
