"""Check values as words, so that two people can confirm the same key on two tokens by voice.

The words are the SLIP-39 list: 1024 words of ten bits each, no two alike in their first four letters.
"""

from __future__ import annotations

from shamir_mnemonic.wordlist import WORDLIST

from hsm_provision.check_values import CheckValue

_BITS = 10
SYMMETRIC_WORDS = 4
PUBLIC_WORDS = 6


def spoken(check: CheckValue) -> str:
    """Return the first 40 bits of a symmetric check value, or 60 of a fingerprint, as words."""
    count = PUBLIC_WORDS if check.method == "spki-sha256" else SYMMETRIC_WORDS
    value = bytes.fromhex(check.value)
    number = int.from_bytes(value, "big") >> (len(value) * 8 - count * _BITS)
    places = range(count - 1, -1, -1)
    return " ".join(WORDLIST[number >> place * _BITS & (1 << _BITS) - 1] for place in places)
