"""The backup key in the hands of several people: M of N shares (SLIP-39), each a line of words.

SLIP-39 is Shamir's scheme with a checksum in each share and a digest of the secret, so that a mistyped share or one
of another set is noticed. Its library computes in the open (no side-channel hardening): split and combine on the
ceremony machine, away from others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from shamir_mnemonic import MnemonicError, Share, combine_mnemonics, generate_mnemonics
from shamir_mnemonic.wordlist import WORDLIST

from hsm_msl.errors import ConfigurationError

KEY_BYTES = 32
WORDS = 33
"""Words of a share of a key of that size."""
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


def read_share(path: Path) -> str:
    """Return the share in a file, whose words may stand on several lines.

    Lines that are no words of a share, as those above it and notes, are passed over.

    Raises:
        ConfigurationError: the file cannot be read, or holds no whole share; the text names the file.
    """
    try:
        lines = [line.lower().split() for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path}: is no share: not UTF-8 text") from None
    words = [word for line in lines if _of_share(line) for word in line]
    strange = [word for word in words if word not in _KNOWN]
    if len(words) != WORDS:
        raise ConfigurationError(
            f"{path}: holds {len(words)} words of a share; a share has {WORDS}: copy them all, and notes elsewhere"
        )
    if strange:
        raise ConfigurationError(f"{path}: {strange[0]!r} is no word of a share: it is mistyped")
    share = " ".join(words)
    try:
        Share.from_mnemonic(share)
    except (MnemonicError, ValueError):
        raise ConfigurationError(
            f"{path}: the words are no share: one is mistyped, or they are in disorder"
        ) from None
    return share


_KNOWN = frozenset(WORDLIST)


def _of_share(line: Sequence[str]) -> bool:
    # More than half of it, so that a mistyped word is named instead of its line being taken for a note.
    return all(word.isalpha() for word in line) and 2 * sum(word in _KNOWN for word in line) > len(line)


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
