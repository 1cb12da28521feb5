"""Groups for DIFFIE_HELLMAN: what one is, how it is written when it is sent, and which ones are well known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from asn1crypto.algos import DHParameters

from hsm_msl.errors import ErrorCode, MslError


@dataclass(frozen=True, slots=True)
class DhGroup:
    """A prime and a generator both ends know."""

    prime: int
    generator: int

    @property
    def size(self) -> int:
        """The length of a value of the group, in bytes."""
        return (self.prime.bit_length() + 7) // 8


def encode_group(group: DhGroup) -> bytes:
    """Write a group as PKCS #3 DHParameter, DER (RFC 2631 section 2.2; RFC 3279 section 2.3.3 for its use)."""
    encoded: bytes = DHParameters({"p": group.prime, "g": group.generator}).dump()
    return encoded


def decode_group(der: bytes) -> DhGroup:
    """Read a PKCS #3 DHParameter; whether the group is any good is for the receiver's policy.

    Raises:
        MslError: INVALID_ALGORITHM_PARAMS for bytes that are no such structure, or a generator outside 2 to p - 2.
    """
    try:
        parameters = DHParameters.load(der, strict=True)
        group = DhGroup(parameters["p"].native, parameters["g"].native)
    except (ValueError, TypeError):
        raise MslError(ErrorCode.INVALID_ALGORITHM_PARAMS) from None
    if not 2 <= group.generator <= group.prime - 2:
        raise MslError(ErrorCode.INVALID_ALGORITHM_PARAMS)
    return group


_GUARD_BITS = 64


def _scaled_e(bits: int) -> int:
    term = total = 1 << (bits + _GUARD_BITS)
    divisor = 1
    while term:
        term //= divisor
        total += term
        divisor += 1
    return total >> _GUARD_BITS


def _scaled_arc_tangent_of_inverse(value: int, bits: int) -> int:
    term = total = (1 << bits) // value
    divisor, sign = 1, 1
    while term:
        term //= value * value
        divisor, sign = divisor + 2, -sign
        total += sign * (term // divisor)
    return total


def _scaled_pi(bits: int) -> int:
    wide = bits + _GUARD_BITS
    machin = 4 * _scaled_arc_tangent_of_inverse(5, wide) - _scaled_arc_tangent_of_inverse(239, wide)
    return 4 * machin >> _GUARD_BITS


def _group(bits: int, scaled: Callable[[int], int], offset: int) -> DhGroup:
    # The published formula instead of the published digits: nothing to mistype, nothing up a sleeve.
    return DhGroup(2**bits - 2 ** (bits - 64) + (scaled(bits - 130) + offset) * 2**64 - 1, 2)


STANDARD_GROUPS = {
    "modp-1536": _group(1536, _scaled_pi, 741804),
    "modp-2048": _group(2048, _scaled_pi, 124476),
    "modp-3072": _group(3072, _scaled_pi, 1690314),
    "modp-4096": _group(4096, _scaled_pi, 240904),
    "ffdhe-2048": _group(2048, _scaled_e, 560316),
    "ffdhe-3072": _group(3072, _scaled_e, 2625351),
    "ffdhe-4096": _group(4096, _scaled_e, 5736041),
}
"""Safe-prime groups of RFC 3526 (modp) and RFC 7919 appendix A (ffdhe); a configuration gives them IDs."""
