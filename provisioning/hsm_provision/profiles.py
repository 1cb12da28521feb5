"""Key profiles: what a kind of key is for, and nothing that could weaken it.

A profile is one TOML file. It chooses type, size, usage, validity and backup need. The protective attributes are
not in it: they are the same for every key and live in ``templates``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from hsm_msl.errors import ConfigurationError
from hsm_msl.toml_document import read_document

KeyKind = Literal["aes", "hmac-sha256", "rsa", "ec"]
Usage = Literal["encrypt", "decrypt", "wrap", "unwrap", "sign", "verify", "derive"]
Curve = Literal["P-256", "P-384"]
BackupRule = Literal["none", "at-creation"]

SAFE_USAGES: Mapping[KeyKind, tuple[frozenset[str], ...]] = {
    # One purpose per key. Wrapping beside data decryption would open wrapped keys in host memory (field note M7).
    # Deriving is encrypting for the token, so a key that derives encrypts, and does nothing else.
    "aes": (frozenset({"encrypt", "decrypt"}), frozenset({"wrap", "unwrap"}), frozenset({"encrypt", "derive"})),
    "hmac-sha256": (frozenset({"sign", "verify"}),),
    "rsa": (frozenset({"sign"}), frozenset({"decrypt"}), frozenset({"unwrap"})),
    "ec": (frozenset({"sign"}), frozenset({"derive"})),
}
SIZES: Mapping[KeyKind, frozenset[int]] = {
    "aes": frozenset({128, 192, 256}),
    "hmac-sha256": frozenset({256, 384, 512}),
    "rsa": frozenset({2048, 3072, 4096}),
    "ec": frozenset(),
}


class KeyProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kind of key.

    ``purpose`` is the label prefix used when a ceremony gives none; ``bits``/``curves`` list what is allowed, the
    first being the default. ``validity_days`` sets the end of use recorded in the manifest (0: no end). With
    ``blocks`` such a key may wrap by blocks on a token without AES key wrap: what it wraps is the host's, and no key
    of the token.
    """

    name: str
    description: str
    role: Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9-]*$")]
    type: KeyKind
    usage: tuple[Usage, ...]
    purpose: str | None = None
    bits: tuple[int, ...] = ()
    curves: tuple[Curve, ...] = ()
    validity_days: Annotated[int, msgspec.Meta(ge=0, le=36500)] = 0
    backup: BackupRule = "none"
    blocks: bool = False


def read_profiles(directory: Path) -> dict[str, KeyProfile]:
    """Read every ``*.toml`` profile of a directory, by name.

    Raises:
        ConfigurationError: the directory is missing or empty, a profile does not fit, is unsafe, or two share a name.
    """
    files = sorted(directory.glob("*.toml"))
    if not files:
        raise ConfigurationError(f"{directory}: no key profiles (*.toml) here; set `profiles` in the ceremony")
    profiles: dict[str, KeyProfile] = {}
    for file in files:
        profile = read_document(file, KeyProfile)
        _check(profile, file)
        if profile.name in profiles:
            raise ConfigurationError(f"{file}: name: profile {profile.name!r} exists twice")
        profiles[profile.name] = profile
    return profiles


def _check(profile: KeyProfile, file: Path) -> None:
    """Refuse a profile that mixes purposes or asks for a size nobody should use."""
    if profile.name != file.stem:
        raise ConfigurationError(f"{file}: name: must equal the file name, {file.stem!r}")
    safe = SAFE_USAGES[profile.type]
    if frozenset(profile.usage) not in safe:
        options = " or ".join("[" + ", ".join(sorted(group)) + "]" for group in safe)
        raise ConfigurationError(
            f"{file}: usage: {sorted(profile.usage)} is not a safe combination for {profile.type}; allowed: {options}"
        )
    if profile.blocks and "wrap" not in profile.usage:
        raise ConfigurationError(f"{file}: blocks: only keys that wrap can do it by blocks")
    if profile.type == "ec":
        if not profile.curves or profile.bits:
            raise ConfigurationError(f"{file}: curves: an ec profile lists curves (P-256, P-384) and no bits")
        return
    if profile.curves:
        raise ConfigurationError(f"{file}: curves: only ec profiles have curves")
    sizes = SIZES[profile.type]
    if not profile.bits or not sizes.issuperset(profile.bits):
        raise ConfigurationError(f"{file}: bits: allowed for {profile.type}: {', '.join(map(str, sorted(sizes)))}")
