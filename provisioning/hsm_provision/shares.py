"""The backup key in the hands of several people: M of N shares (SLIP-39), each a line of words.

SLIP-39 is Shamir's scheme with a checksum in each share and a digest of the secret, so that a mistyped share or one
of another set is noticed. Its library computes in the open (no side-channel hardening): split and combine on the
ceremony machine, away from others.
"""

from __future__ import annotations

from collections.abc import Sequence

from shamir_mnemonic import MnemonicError, Share, combine_mnemonics, generate_mnemonics

from hsm_msl.errors import ConfigurationError

KEY_BYTES = 32
MAXIMUM_SHARES = 16


def demand_threshold(needed: int, total: int) -> None:
    """Refuse numbers of shares that make no sense. Raises ConfigurationError."""
    if not 2 <= needed <= total <= MAXIMUM_SHARES:
        raise ConfigurationError(
            f"{needed} of {total} shares: at least 2 must be needed, no more than there are, and at most "
            f"{MAXIMUM_SHARES} can be made"
        )


def split(secret: bytes, needed: int, total: int) -> tuple[str, ...]:
    """Split a secret into shares.

    Args:
        secret: 32 bytes.
        needed: how many shares give it back, at least 2.
        total: how many shares there are, at most 16.

    Returns:
        The shares, each a line of words.

    Raises:
        ConfigurationError: the numbers make no sense.
    """
    demand_threshold(needed, total)
    groups = generate_mnemonics(group_threshold=1, groups=[(needed, total)], master_secret=secret)
    shares = tuple(groups[0])
    if combine(shares[:needed]) != secret:
        raise ConfigurationError("the shares do not give the key back; nothing was written")
    return shares


def combine_sets(shares: Sequence[str]) -> tuple[bytes, ...]:
    """Return the secret of each set the shares belong to. Raises as ``combine``, for every set."""
    sets: dict[int, list[str]] = {}
    for share in shares:
        try:
            found = Share.from_mnemonic(" ".join(share.split()).lower()).identifier
        except (MnemonicError, ValueError) as error:
            raise ConfigurationError(f"the shares do not fit: {error}") from None
        sets.setdefault(found, []).append(share)
    return tuple(combine(one) for one in sets.values())


def combine(shares: Sequence[str]) -> bytes:
    """Return the secret from at least as many shares as are needed; more are fine.

    Raises:
        ConfigurationError: too few shares, a mistyped one, or shares of different sets.
    """
    cleaned = [" ".join(share.split()).lower() for share in shares]
    try:
        return bytes(combine_mnemonics(cleaned))
    except MnemonicError as error:
        raise ConfigurationError(f"the shares do not fit: {error}") from None
    except ValueError:
        raise ConfigurationError("the shares do not fit: a word is mistyped") from None
