"""The steps people take with backups: make and split the backup key, export, restore on another token."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from hsm_msl.audit.signatures import signature_fits
from hsm_msl.errors import ConfigurationError
from hsm_msl.private_files import create_private_file
from hsm_provision import __version__
from hsm_provision.backup import FORMAT, BackupFile, collect, prove_bundles, restore_bundle
from hsm_provision.check_values import CheckValue, check_value_of_secret
from hsm_provision.errors import ConflictError, VerificationError
from hsm_provision.key_material import SecretMaterial
from hsm_provision.labels import KeyName, parse_label
from hsm_provision.lifecycle import BACKUP_PROFILE as PROFILE
from hsm_provision.lifecycle import BEGUN, KeyOffice
from hsm_provision.manifest import ManifestBody, ManifestKey
from hsm_provision.profiles import KeyProfile
from hsm_provision.record_signing import current_signer, log_tells
from hsm_provision.records import Progress, not_after
from hsm_provision.shares import KEY_BYTES, combine_sets, split
from hsm_provision.spoken import spoken
from hsm_provision.token.creation import import_key
from hsm_provision.token.objects import destroy_label, list_keys, public_spki
from hsm_provision.token.signing import sign_with
from hsm_provision.verification import prove_key


def make_backup_key(office: KeyOffice, name: KeyName, needed: int, total: int, directory: Path) -> tuple[Path, ...]:
    """Draw the backup key from the token's generator, split it, and keep it in the token for wrapping only.

    The value is on the host for the moment of the split and nowhere afterwards; the share files are for custodians
    to take away or copy onto paper.

    Args:
        office: where.
        name: label of the backup key.
        needed: how many shares give it back.
        total: how many shares there are.
        directory: where the share files go; created, must not hold shares yet.

    Returns:
        The share files.

    Raises:
        ConflictError: the key exists already, or the token has no AES key wrap.
        ConfigurationError: the numbers make no sense or a file exists.
        BackendError: the token fails.
    """
    _demand_key_wrap(office)
    if office.manifest().key(name.label) is not None:
        raise ConflictError(f"{name.label} exists already; its shares were handed out when it was made")
    _demand_free(office, [name.label])
    paths = [directory / f"{name.label}.share-{number}-of-{total}.txt" for number in range(1, total + 1)]
    for path in paths:
        if path.exists():
            raise ConfigurationError(
                f"{path}: exists already; name another directory, or remove it if a run was interrupted: shares of a "
                "key that was never recorded open nothing"
            )
    secret = office.session.random(KEY_BYTES)
    shares = split(secret, needed, total)
    check = check_value_of_secret(_backup_profile(office.profiles), secret)
    token = office.session.identity
    for number, (path, share) in enumerate(zip(paths, shares, strict=True), start=1):
        text = (
            f"Share {number} of {total} of {name.label}; {needed} shares give the key back.\n"
            f"Token {token.label} (serial {token.serial}), {office.records.now()}\n"
            f"Check value {check.short}: {spoken(check)}\n\n{share}\n"
        )
        create_private_file(path, text.encode())
    _record_backup_key(office, name, secret, check, f"split {needed} of {total}")
    office.records.audit().append(
        "backup key split",
        office.records.witnessed(
            {"label": name.label, "needed": str(needed), "shares": str(total), "check": check.value}
        ),
    )
    return tuple(paths)


def _demand_key_wrap(office: KeyOffice) -> None:
    if "AES_KEY_WRAP" not in office.session.mechanisms():
        raise ConflictError("the token lacks AES_KEY_WRAP, so no key is backed up from it or restored to it")


def export_backup(office: KeyOffice, path: Path) -> BackupFile:
    """Prove every bundle in the token and write them with the manifest into one signed file.

    Raises:
        VerificationError: a bundle does not open to its key; nothing is written.
        ConfigurationError: the file exists or a bundle is missing.
        BackendError: the token fails.
    """
    body = office.manifest()
    bundles = collect(body, office.records)
    problems = prove_bundles(office.session, office.profiles, bundles)
    if problems:
        raise VerificationError("the backup does not prove itself: " + "; ".join(problems))
    backup = BackupFile(FORMAT, body, bundles)
    key = current_signer(body, office.signing_key)
    if key is not None:
        signature = sign_with(office.session, key, backup.signed_bytes())
        backup = msgspec.structs.replace(
            backup,
            signed_by=key,
            spki=base64.b64encode(public_spki(office.session, key)).decode(),
            signature=base64.b64encode(signature).decode(),
        )
    encoded = msgspec.json.format(msgspec.json.encode(backup, order="sorted"), indent=2)
    create_private_file(path, encoded + b"\n")
    office.records.audit().append("backup exported", {"file": path.name, "keys": str(len(bundles))})
    return backup


def read_backup(path: Path, trusted: bytes | None = None) -> BackupFile:
    """Read an exported backup and check its signature.

    Args:
        path: the file.
        trusted: the public key that must have signed it (SubjectPublicKeyInfo DER); None accepts the key it names.

    Raises:
        ConfigurationError: the file cannot be read or is no backup.
        VerificationError: the signature does not fit, or a bundle is not the one the backup's manifest names.
    """
    backup = _decoded(path)
    if backup.signature is None or backup.spki is None:
        if trusted is not None:
            raise VerificationError(f"{path}: the backup is not signed")
    else:
        spki = base64.b64decode(backup.spki)
        if trusted not in (None, spki) or not signature_fits(
            spki, backup.signed_bytes(), base64.b64decode(backup.signature)
        ):
            raise VerificationError(
                f"{path}: the signature does not fit; the backup was changed or is another token's"
            )
    entries = {entry.label: entry.backup for entry in backup.manifest.keys}
    strange = [bundle.label for bundle in backup.bundles if entries.get(bundle.label) != bundle.digest]
    if strange:
        raise VerificationError(
            f"{path}: its manifest does not name the bundles of {', '.join(map(repr, strange))}; one was changed"
        )
    return backup


def _decoded(path: Path) -> BackupFile:
    try:
        backup = msgspec.json.decode(path.read_bytes(), type=BackupFile)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigurationError(f"{path}: not a backup: {error}") from error
    if backup.format != FORMAT:
        raise ConfigurationError(f"{path}: format {backup.format!r} is not known; expected {FORMAT!r}")
    return backup


def open_shares(
    backup: BackupFile, shares: Sequence[str], profiles: Mapping[str, KeyProfile]
) -> tuple[tuple[KeyName, bytes, CheckValue], ...]:
    """Return the backup keys a backup is under, from their shares: name, value, check value. Touches no token.

    Args:
        backup: what ``read_backup`` returned.
        shares: enough shares of every backup key.
        profiles: the key profiles.

    Raises:
        ConfigurationError: the shares do not fit together.
        VerificationError: the shares are of another backup key.
        ConflictError: the backup holds no bundle.
    """
    if not backup.bundles:
        raise ConflictError("the backup holds no keys")
    given = {
        check.value: (secret, check)
        for secret in combine_sets(shares)
        for check in [check_value_of_secret(_backup_profile(profiles), secret)]
    }
    wanted = {bundle.under: bundle.under_check for bundle in backup.bundles}
    opened = []
    for label, needed in sorted(wanted.items()):
        name = parse_label(label)
        if name is None:
            raise ConflictError(f"{label!r} is not a label of this tool")
        if needed.value not in given:
            raise VerificationError(
                f"the shares give {', '.join(f'a key with check value {check.short}' for _, check in given.values())}"
                f"; the backup is under {needed.short} ({label})"
                + (f"; give shares of each of {', '.join(sorted(wanted))}" if len(wanted) > 1 else "")
            )
        opened.append((name, *given[needed.value]))
    return tuple(opened)


def restore_backup(
    office: KeyOffice, backup: BackupFile, shares: Sequence[str], progress: Progress
) -> tuple[ManifestKey, ...]:
    """Bring every key of a backup back on this token, each proved by its check value and marked restored.

    Doing it again continues where an interrupted run stopped.

    Args:
        office: the new token.
        backup: what ``read_backup`` returned.
        shares: enough shares of the backup key.
        progress: told what happens.

    Returns:
        The restored entries.

    Raises:
        ConfigurationError: the shares do not fit together.
        VerificationError: the shares are of another backup key, or a key did not prove itself (it was destroyed).
        ConflictError: the backup holds no bundle, the token has no AES key wrap, or something else is in the way.
        BackendError: the token fails.
    """
    _demand_key_wrap(office)
    keys = open_shares(backup, shares, office.profiles)
    body = office.manifest()
    labels = [*(name.label for name, _, _ in keys), *(bundle.label for bundle in backup.bundles)]
    _demand_free(office, [label for label in labels if body.key(label) is None])
    for name, secret, check in keys:
        if body.key(name.label) is None:
            progress(f"import {name.label} from its shares")
            body = _record_backup_key(office, name, secret, check, "combined from shares")
    restored = []
    for bundle in backup.bundles:
        recorded = backup.manifest.key(bundle.label)
        if recorded is None or body.key(bundle.label) is not None:
            continue
        progress(f"restore {bundle.label}")
        leftover = list_keys(office.session).of_label(bundle.label)
        if leftover:
            # An interrupted restore began it and recorded nothing under this label; the blob is the truth.
            destroy_label(office.session, bundle.label)
        _begin(office, bundle.label)
        restore_bundle(office.session, office.profiles, bundle)
        entry = msgspec.structs.replace(
            recorded,
            provenance="restored",
            changed=office.records.now(),
            attestation=msgspec.UNSET,  # it was evidence about the lost device
        )
        _prove_restored(office, entry)
        keep_bundle(office, bundle.digest, msgspec.json.encode(bundle, order="sorted") + b"\n")
        office.records.audit().append(
            "key restored",
            office.records.witnessed(
                {"label": entry.label, "check": entry.check.value, "from token": backup.manifest.token.serial}
            ),
        )
        body = office.store(body, [entry])
        restored.append(entry)
    return tuple(restored)


def keep_bundle(office: KeyOffice, digest: str, content: bytes) -> None:
    """Keep a bundle on the new token's records, unless an earlier run has. Raises ConfigurationError."""
    path = office.records.bundle_path(digest)
    if not path.exists():
        create_private_file(path, content)


def _demand_free(office: KeyOffice, labels: Sequence[str]) -> None:
    """Refuse to touch keys these records know nothing of: they may be in use, and kept in records elsewhere."""
    listing = list_keys(office.session)
    log = office.records.audit_path
    foreign = [label for label in labels if listing.of_label(label) and not log_tells(log, BEGUN, label)]
    if foreign:
        raise ConflictError(
            f"token {office.session.identity.label!r} holds {', '.join(foreign)}, of which the records in "
            f"{office.records.directory} know nothing; are these its records? nothing was changed"
        )


def _begin(office: KeyOffice, label: str) -> None:
    if not log_tells(office.records.audit_path, BEGUN, label):
        office.records.audit().append(BEGUN, {"label": label})


def _prove_restored(office: KeyOffice, entry: ManifestKey) -> None:
    name = parse_label(entry.label)
    if name is None:
        raise ConflictError(f"{entry.label!r} is not a label of this tool")
    proof = prove_key(office.session, office.profiles[entry.profile], name, entry.size, "restored", entry.check)
    if not proof.sound:
        destroy_label(office.session, entry.label)
        raise VerificationError(
            f"{entry.label} did not come back as it was ({'; '.join(proof.problems)}); it was destroyed"
        )


def _record_backup_key(
    office: KeyOffice, name: KeyName, secret: bytes, check: CheckValue, source: str
) -> ManifestBody:
    profile = _backup_profile(office.profiles)
    if list_keys(office.session).of_label(name.label):
        # Begun by an interrupted run: nothing is recorded under it, so nothing was ever wrapped with it.
        destroy_label(office.session, name.label)
    _begin(office, name.label)
    import_key(office.session, profile, name, SecretMaterial(secret))
    proof = prove_key(office.session, profile, name, KEY_BYTES * 8, "imported", check)
    if not proof.sound:
        destroy_label(office.session, name.label)
        raise VerificationError(f"{name.label} did not prove itself ({'; '.join(proof.problems)}); it was destroyed")
    entry = ManifestKey(
        label=name.label,
        id=name.key_id.hex(),
        profile=profile.name,
        type=profile.type,
        size=KEY_BYTES * 8,
        state="primary",
        check=check,
        provenance="imported",
        created=office.records.now(),
        ceremony=office.ceremony,
        not_after=not_after(office.records.clock(), profile.validity_days),
        source=source,
    )
    body = office.manifest()
    former = body.primary_of(name.family)
    if former is not None and former.version > name.version:
        entry = msgspec.structs.replace(entry, state="active")
    elif former is not None:
        former = msgspec.structs.replace(former, state="active", changed=office.records.now())
        return office.store(body, [former, entry])
    return office.store(body, [entry])


def _backup_profile(profiles: Mapping[str, KeyProfile]) -> KeyProfile:
    if PROFILE not in profiles:
        raise ConfigurationError(f"the profile {PROFILE!r} is missing (hsm-provision {__version__})")
    return profiles[PROFILE]
