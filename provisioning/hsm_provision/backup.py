"""Backup bundles: wrapped keys with everything needed to prove them, and a signed file that holds them all."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from hsm_msl.errors import ConfigurationError, DataRejectedError
from hsm_msl.private_files import create_private_file
from hsm_provision.check_values import CheckValue
from hsm_provision.desired_keys import Material
from hsm_provision.errors import ConflictError, VerificationError
from hsm_provision.labels import KeyName, parse_label
from hsm_provision.manifest import Base64, ManifestBody, ManifestKey
from hsm_provision.profiles import KeyProfile
from hsm_provision.records import Records
from hsm_provision.token.escrow import make_and_wrap, unwrap_to_token, wrap_mechanism, wrapped_check_value
from hsm_provision.token.objects import TokenSession

FORMAT = "hsm-provision backup 1"


class Bundle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One wrapped key. ``wrapped`` and ``spki`` are Base64; ``under`` names the backup key and its check value."""

    label: str
    profile: str
    type: str
    size: int | str
    mechanism: str
    wrapped: str
    check: CheckValue
    under: str
    under_check: CheckValue
    token_serial: str
    created: str
    spki: str | None = None

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON, hexadecimal; what the manifest records."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()


class BackupFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All bundles of a token with the manifest they belong to, signed by the token's signing key when it has one."""

    format: str
    manifest: ManifestBody
    bundles: tuple[Bundle, ...]
    signed_by: str | None = None
    spki: Base64 | None = None
    signature: Base64 | None = None

    def signed_bytes(self) -> bytes:
        """Return what the signature covers."""
        bare = msgspec.structs.replace(self, signed_by=None, spki=None, signature=None)
        return msgspec.json.encode(bare, order="sorted")


def create_backed_up(
    session: TokenSession,
    profile: KeyProfile,
    name: KeyName,
    size: int | str,
    material: Material | None,
    *,
    under: ManifestKey,
    records: Records,
) -> Bundle:
    """Make or import a key, keep its wrapped form, and put it into the token by opening that form.

    The bundle is on disk before the key exists for good; a bundle whose key was never made is harmless.

    Args:
        session: the token.
        profile: the kind of key.
        name: its label and ID.
        size: bits or curve name.
        material: an existing key; None generates one.
        under: the backup key's entry.
        records: where bundles are kept.

    Returns:
        The bundle.

    Raises:
        KeyPolicyError: an object of that label or ID exists.
        VerificationError: the wrapped form does not open to the same key.
        ConfigurationError: the bundle cannot be written.
        BackendError: the token fails.
    """
    wrapped, spki = make_and_wrap(session, profile, size, material, under.label)
    check = wrapped_check_value(session, profile, wrapped, spki, under.label)
    if check is None:
        raise VerificationError(f"the wrapped form of {name.label} does not open to the key that was wrapped")
    bundle = Bundle(
        label=name.label,
        profile=profile.name,
        type=profile.type,
        size=size,
        mechanism=wrap_mechanism(profile),
        wrapped=base64.b64encode(wrapped).decode(),
        check=check,
        under=under.label,
        under_check=under.check,
        token_serial=session.identity.serial,
        created=records.now(),
        spki=base64.b64encode(spki).decode() if spki is not None else None,
    )
    create_private_file(records.bundle_path(bundle.digest), msgspec.json.encode(bundle, order="sorted") + b"\n")
    unwrap_to_token(session, profile, name, wrapped, spki, under.label)
    return bundle


def read_bundle(path: Path, digest: str) -> Bundle:
    """Read one bundle. Raises ConfigurationError when it is missing or not the one with that digest."""
    try:
        bundle = msgspec.json.decode(path.read_bytes(), type=Bundle)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigurationError(f"{path}: not a backup bundle: {error}") from error
    if bundle.digest != digest:
        raise ConfigurationError(f"{path}: is not the bundle with that digest")
    return bundle


def collect(body: ManifestBody, records: Records) -> tuple[Bundle, ...]:
    """Return the bundle of every backed-up key that still exists. Raises ConfigurationError."""
    return tuple(
        read_bundle(records.bundle_path(entry.backup), entry.backup)
        for entry in body.keys
        if entry.backup is not None and entry.state != "destroyed"
    )


def prove_bundles(
    session: TokenSession, profiles: Mapping[str, KeyProfile], bundles: Sequence[Bundle]
) -> tuple[str, ...]:
    """Open every bundle in the token and compare check values.

    Returns:
        What is wrong, in words; empty when every bundle opens to its key.

    Raises:
        BackendError: the token fails or lacks the backup key.
    """
    problems = []
    for bundle in bundles:
        try:
            check = wrapped_check_value(
                session, _profile(profiles, bundle), _bytes(bundle.wrapped), _spki(bundle), bundle.under
            )
        except DataRejectedError:
            problems.append(f"{bundle.label}: does not open under {bundle.under}")
            continue
        if check != bundle.check:
            problems.append(f"{bundle.label}: opens to another key")
    return tuple(problems)


def restore_bundle(session: TokenSession, profiles: Mapping[str, KeyProfile], bundle: Bundle) -> None:
    """Put one key back into a token; the caller proves it afterwards.

    Raises:
        ConflictError: the bundle's label or profile is not known here.
        DataRejectedError: it does not open.
        KeyPolicyError: an object of that label or ID exists.
        BackendError: the token fails.
    """
    name = parse_label(bundle.label)
    if name is None:
        raise ConflictError(f"{bundle.label!r} is not a label of this tool")
    unwrap_to_token(session, _profile(profiles, bundle), name, _bytes(bundle.wrapped), _spki(bundle), bundle.under)


def _profile(profiles: Mapping[str, KeyProfile], bundle: Bundle) -> KeyProfile:
    profile = profiles.get(bundle.profile)
    if profile is None or profile.type != bundle.type or wrap_mechanism(profile) != bundle.mechanism:
        raise ConflictError(f"{bundle.label}: its profile {bundle.profile!r} is not known here, or is another one")
    return profile


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise ConfigurationError("a backup holds text that is not Base64") from None


def _spki(bundle: Bundle) -> bytes | None:
    return _bytes(bundle.spki) if bundle.spki is not None else None
