"""What a ceremony asks for, spelled out: every key version with its profile, size, state and source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hsm_msl.errors import ConfigurationError
from hsm_provision.ceremony import CeremonyFile, KeySection, PresharedSection
from hsm_provision.key_material import (
    Form,
    OpenMaterial,
    SecretMaterial,
    derive_wrapping_key,
    read_key_file,
    read_material,
    write_new_secret,
)
from hsm_provision.labels import KeyName, make_name
from hsm_provision.profiles import KeyProfile
from hsm_provision.transport import SealedMaterial, read_sealed

Material = OpenMaterial | SealedMaterial


@dataclass(frozen=True, slots=True)
class FileSource:
    """A key read from a file; ``create`` lets a development ceremony make a missing one."""

    path: Path
    form: Form
    create: bool = False


@dataclass(frozen=True, slots=True)
class DerivedSource:
    """A pre-shared wrapping key derived from the other two (msl-schemes section 9.3)."""

    encryption: FileSource
    mac: FileSource


Source = FileSource | DerivedSource


@dataclass(frozen=True, slots=True)
class DesiredKey:
    """One key version a ceremony wants to exist."""

    name: KeyName
    profile: KeyProfile
    size: int | str
    state: Literal["pre-active", "primary", "active"]
    source: Source | None = None
    backup: bool = False
    """Wrapped under the backup key at its creation."""

    @property
    def source_text(self) -> str | None:
        """Say where the key comes from, for plans and reports; None for a generated one."""
        match self.source:
            case FileSource(path, form):
                return f"{form} file {path.name}"
            case DerivedSource():
                return "derived from encryption and mac key"
            case _:
                return None


def desired_keys(file: CeremonyFile, profiles: Mapping[str, KeyProfile]) -> tuple[DesiredKey, ...]:
    """Return every key version the ceremony asks for, in the order of the file.

    Raises:
        ConfigurationError: a profile is unknown, a size is not allowed, a label appears twice, or two versions of one
            key are both to be primary.
    """
    wanted: list[DesiredKey] = []
    for index, section in enumerate(file.document.key):
        wanted.append(_from_key(file, section, profiles, f"{file.path}: key[{index}]"))
    for index, preshared in enumerate(file.document.preshared):
        wanted.extend(_from_preshared(file, preshared, profiles, f"{file.path}: preshared[{index}]"))
    seen: set[str] = set()
    primaries: set[str] = set()
    for key in wanted:
        if key.name.label in seen:
            raise ConfigurationError(f"{file.path}: {key.name.label!r} is asked for twice")
        seen.add(key.name.label)
        if key.state == "primary":
            if key.name.family in primaries:
                raise ConfigurationError(
                    f"{file.path}: {key.name.family!r} has two primary versions; exactly one may be"
                )
            primaries.add(key.name.family)
    return tuple(wanted)


def load_material(key: DesiredKey) -> Material:
    """Read the value of a key to import. The caller drops it as soon as it is in the token.

    Raises:
        ConfigurationError: a file is missing, unreadable or holds something else.
        UsageError: the key has no source.
    """
    if isinstance(key.source, DerivedSource):
        encryption = _read_secret(key.source.encryption, 16)
        mac = _read_secret(key.source.mac, 32)
        return SecretMaterial(derive_wrapping_key(encryption, mac))
    if key.source is None:
        raise ConfigurationError(f"{key.name.label}: has no source to import from")
    if key.source.form == "sealed":
        return read_sealed(key.source.path, key.profile)
    return read_material(key.source.path, key.source.form, key.profile)


def create_missing_files(key: DesiredKey) -> tuple[Path, ...]:
    """Make the key files a development ceremony may invent; return those that were made.

    Raises:
        ConfigurationError: a file cannot be written.
    """
    if not isinstance(key.source, FileSource) or not key.source.create or key.source.path.exists():
        return ()
    write_new_secret(key.source.path, int(key.size) // 8)
    return (key.source.path,)


def source_missing(key: DesiredKey) -> bool:
    """Tell whether the key's value is not known yet because a file is still to be made."""
    match key.source:
        case FileSource(path):
            return not path.exists()
        case DerivedSource(encryption, mac):
            return not (encryption.path.exists() and mac.path.exists())
        case _:
            return False


def _from_key(file: CeremonyFile, section: KeySection, profiles: Mapping[str, KeyProfile], where: str) -> DesiredKey:
    profile = _profile(profiles, section.profile, where)
    purpose = section.purpose or profile.purpose
    if purpose is None:
        raise ConfigurationError(
            f"{where}.purpose: this key is required: profile {profile.name} has no default purpose"
        )
    source = None
    if section.import_ is not None:
        source = FileSource(file.working_path(section.import_.file), section.import_.form)
    return DesiredKey(
        make_name(purpose, profile.role, section.version),
        profile,
        _size(section, profile, where),
        section.state,
        source,
        _backup(file, profile, section.backup, where),
    )


def _from_preshared(
    file: CeremonyFile, section: PresharedSection, profiles: Mapping[str, KeyProfile], where: str
) -> tuple[DesiredKey, ...]:
    create = section.create_missing_files
    encryption = FileSource(file.working_path(section.encryption), "hex", create)
    mac = FileSource(file.working_path(section.mac), "hex", create)
    sources: Mapping[str, Source] = {
        "psk-encryption": encryption,
        "psk-mac": mac,
        "psk-wrap": (
            FileSource(file.working_path(section.wrap), "hex", create)
            if section.wrap is not None
            else DerivedSource(encryption, mac)
        ),
    }
    backup = _backup(file, _profile(profiles, "psk-encryption", where), section.backup, where)
    keys = []
    for profile_name, source in sources.items():
        profile = _profile(profiles, profile_name, where)
        name = make_name(f"psk.{section.identity}", profile.role, section.version)
        keys.append(DesiredKey(name, profile, profile.bits[0], "primary", source, backup))
    return tuple(keys)


def _backup(file: CeremonyFile, profile: KeyProfile, asked: bool, where: str) -> bool:
    wanted = asked or profile.backup == "at-creation"
    if wanted and file.document.backup is None:
        raise ConfigurationError(f"{where}.backup: the ceremony needs a [backup] section, which names the backup key")
    return wanted


def _profile(profiles: Mapping[str, KeyProfile], name: str, where: str) -> KeyProfile:
    if name not in profiles:
        raise ConfigurationError(f"{where}.profile: no profile {name!r}; there are: {', '.join(sorted(profiles))}")
    return profiles[name]


def _size(section: KeySection, profile: KeyProfile, where: str) -> int | str:
    if profile.type == "ec":
        if section.bits is not None:
            raise ConfigurationError(
                f"{where}.bits: an ec key has a curve instead; allowed: {', '.join(profile.curves)}"
            )
        curve = section.curve or profile.curves[0]
        if curve not in profile.curves:
            raise ConfigurationError(f"{where}.curve: allowed by {profile.name}: {', '.join(profile.curves)}")
        return curve
    if section.curve is not None:
        raise ConfigurationError(f"{where}.curve: only ec keys have a curve")
    bits = section.bits or profile.bits[0]
    if bits not in profile.bits:
        raise ConfigurationError(f"{where}.bits: allowed by {profile.name}: {', '.join(map(str, profile.bits))}")
    return bits


def _read_secret(source: FileSource, size: int) -> bytes:
    try:
        value = bytes.fromhex(read_key_file(source.path).decode("ascii"))
    except ValueError:
        raise ConfigurationError(f"{source.path}: not hexadecimal") from None
    if len(value) != size:
        raise ConfigurationError(f"{source.path}: holds {len(value)} bytes; {size} are needed")
    return value
