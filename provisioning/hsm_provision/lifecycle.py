"""The life of key versions: rotate, promote, retire, destroy. Every change is one manifest write."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from hsm_provision.backup import create_backed_up
from hsm_provision.ceremony import KeyState
from hsm_provision.desired_keys import DesiredKey
from hsm_provision.errors import ApprovalError, ConflictError, VerificationError
from hsm_provision.labels import KeyName, make_name, parse_label
from hsm_provision.manifest import ManifestBody, ManifestKey
from hsm_provision.profiles import KeyProfile
from hsm_provision.record_signing import log_tells
from hsm_provision.records import Progress, Records, not_after
from hsm_provision.templates import Provenance, halves
from hsm_provision.token.creation import generate_key
from hsm_provision.token.objects import TokenSession, destroy_label, list_keys, public_spki
from hsm_provision.usage import UsageReport, reasons_in_use
from hsm_provision.verification import prove_key

BACKUP_PROFILE = "backup-wrap"
BEGUN = "key begun"
"""Recorded before a key is brought to a token, so that a later run knows what an interrupted one left."""

_NEXT: Mapping[KeyState, frozenset[KeyState]] = {
    "pre-active": frozenset({"primary", "retired"}),
    "primary": frozenset({"active"}),
    "active": frozenset({"retired", "primary"}),
    "retired": frozenset({"destroyed", "active"}),
    "destroyed": frozenset(),
}
"""Which state may follow which. A retired version may come back while it exists; a destroyed one never."""


@dataclass(frozen=True, slots=True)
class KeyOffice:
    """What every step of a key's life needs: token, records, profiles, the ceremony's name and signing key."""

    session: TokenSession
    records: Records
    profiles: Mapping[str, KeyProfile]
    ceremony: str
    signing_key: str | None

    def manifest(self) -> ManifestBody:
        """Return the manifest of this token. Raises as ``Records.manifest_for``."""
        return self.records.manifest_for(self.session, self.signing_key)

    def store(self, body: ManifestBody, changed: Sequence[ManifestKey]) -> ManifestBody:
        """Write the next manifest. Raises as ``Records.store``."""
        return self.records.store(self.session, body, changed, self.signing_key)


def stage_versions(office: KeyOffice, purpose: str, progress: Progress) -> tuple[ManifestKey, ...]:
    """Create the next version of every key of a purpose, pre-active: servers open with it and make nothing yet.

    Continues where an interrupted run stopped; a version that is staged already is returned as it is.

    Args:
        office: where.
        purpose: e.g. ``msl.token``.
        progress: told what happens.

    Returns:
        The staged versions.

    Raises:
        ConflictError: no such purpose, keys that are agreed with others, or a foreign object in the way.
        VerificationError: the new key did not prove itself and was destroyed.
        BackendError: the token failed; run again to continue.
    """
    body = office.manifest()
    families = body.families_of(purpose)
    if not families:
        raise ConflictError(f"the manifest knows no key of purpose {purpose!r}")
    current = [_newest(body, family) for family in families]
    staged_version = max(entry.version for entry in current)
    if not any(entry.state == "pre-active" and entry.version == staged_version for entry in current):
        staged_version += 1
    staged = []
    for family, newest in zip(families, current, strict=True):
        if newest.version == staged_version:
            staged.append(newest)
            continue
        profile = _profile(office, newest)
        if profile.name == BACKUP_PROFILE:
            raise ConflictError(
                f"{family} is in the hands of custodians: nobody would have shares of a version made here. Set "
                f"`version = {newest.version + 1}` in [backup] and run `backup-key`"
            )
        if newest.source is not None and profile.name.startswith("psk-"):
            raise ConflictError(f"{family} is agreed with its peer: import the next version with a ceremony instead")
        name = parse_label(newest.label)
        if name is None:
            raise ConflictError(f"{newest.label} is not a label of this tool")
        entry = _create_version(
            office,
            profile,
            make_name(name.purpose, name.role, staged_version),
            newest.size,
            backed_up=newest.backup is not None,
            progress=progress,
        )
        body = office.store(body, [entry])
        staged.append(entry)
    return tuple(staged)


def create_first(office: KeyOffice, key: DesiredKey, progress: Progress) -> ManifestKey:
    """Create, prove and record one generated key a ceremony asks for, outside ``apply``.

    Raises:
        ConflictError: a foreign object is in the way.
        VerificationError: the key did not prove itself and was destroyed.
        BackendError: the token fails.
    """
    entry = _create_version(office, key.profile, key.name, key.size, backed_up=False, progress=progress)
    entry = msgspec.structs.replace(entry, state=key.state)
    office.store(office.manifest(), [entry])
    return entry


def promote_versions(office: KeyOffice, purpose: str) -> tuple[ManifestKey, ...]:
    """Make the newest version of every key of a purpose primary, all in one step; the former ones stay active.

    Args:
        office: where.
        purpose: e.g. ``msl.token``.

    Returns:
        The entries that changed; empty when the newest versions are primary already.

    Raises:
        ConflictError: a version is in a state that cannot become primary, or must be backed up first.
        VerificationError: a key on the token is not the recorded one.
        BackendError: the token failed.
    """
    body = office.manifest()
    changed: list[ManifestKey] = []
    for family in body.families_of(purpose):
        newest = _newest(body, family)
        if newest.state == "primary":
            continue
        profile = _profile(office, newest)
        if profile.backup == "at-creation" and newest.backup is None:
            raise ConflictError(
                f"{newest.label} must be backed up before it may become primary (profile {profile.name})"
            )
        name = parse_label(newest.label)
        if name is None:
            raise ConflictError(f"{newest.label} is not a label of this tool")
        proof = prove_key(office.session, profile, name, newest.size, newest.provenance, newest.check)
        if not proof.sound:
            raise VerificationError(f"{newest.label} cannot become primary: {'; '.join(proof.problems)}")
        former = body.primary_of(family)
        if former is not None:
            changed.append(_moved(office, former, "active"))
        changed.append(_moved(office, newest, "primary"))
    if changed:
        for entry in changed:
            office.records.audit().append(f"key {entry.state}", {"label": entry.label})
        office.store(body, changed)
    return tuple(changed)


def retire_version(
    office: KeyOffice, label: str, *, usage: Sequence[UsageReport], idle_days: int, without_evidence: bool
) -> ManifestKey:
    """Take a version out of use, unless servers still use it.

    Args:
        office: where.
        label: the key version.
        usage: what servers report.
        idle_days: for how long nobody may have used it.
        without_evidence: retire even though usage was not reported or continues; recorded as such.

    Raises:
        ConflictError: no such version.
        ApprovalError: it is primary, already retired, or still in use.
        BackendError: the token failed.
    """
    body = office.manifest()
    entry = _entry(body, label)
    if entry.state == "primary":
        raise ApprovalError(f"{label} is primary; rotate first, so that a newer version makes what is made now")
    reasons = reasons_in_use(
        usage,
        label,
        demoted=entry.changed or entry.created,
        now=office.records.clock(),
        idle_days=idle_days,
    )
    if reasons and not without_evidence:
        raise ApprovalError(f"{label} is still in use: {'; '.join(reasons)}")
    retired = _moved(office, entry, "retired")
    evidence = "overridden: " + "; ".join(reasons) if reasons else f"idle for {idle_days} day(s)"
    office.records.audit().append("key retired", {"label": label, "evidence": evidence})
    office.store(body, [retired])
    return retired


def destroy_version(office: KeyOffice, label: str, approval: Mapping[str, str]) -> ManifestKey:
    """Destroy a retired version for good, with the wrapped form these records keep of it.

    The caller has checked the approvals.

    Args:
        office: where.
        label: the key version.
        approval: who approved, and under which ceremony, for the record.

    Raises:
        ConflictError: no such version.
        ApprovalError: it is not retired.
        VerificationError: objects with its label remain.
        ConfigurationError: its wrapped form cannot be removed, or a record cannot be written.
        BackendError: the token failed.
    """
    body = office.manifest()
    entry = demand_destroyable(body, label)
    office.records.audit().append("key destruction started", office.records.witnessed({"label": label, **approval}))
    count = destroy_label(office.session, label)
    if list_keys(office.session).of_label(label):
        raise VerificationError(f"{label} is still on the token after its destruction")
    destroyed = msgspec.structs.replace(_moved(office, entry, "destroyed"), backup=None)
    details = {"label": label, "objects": str(count), **approval}
    if entry.backup is not None:
        # With enough shares it would open to the key for as long as it exists.
        office.records.remove_bundle(entry.backup)
        details["backup removed"] = entry.backup
    office.records.audit().append("key destroyed", details)
    office.store(body, [destroyed])
    return destroyed


def demand_destroyable(body: ManifestBody, label: str) -> ManifestKey:
    """Return the entry of a version that may be destroyed.

    Raises:
        ConflictError: no such version.
        ApprovalError: it is not retired.
    """
    entry = _entry(body, label)
    if entry.state != "retired":
        raise ApprovalError(f"{label} is {entry.state}; only a retired version can be destroyed")
    return entry


def _entry(body: ManifestBody, label: str) -> ManifestKey:
    entry = body.key(label)
    if entry is None:
        raise ConflictError(f"the manifest knows no key {label!r}")
    return entry


def _newest(body: ManifestBody, family: str) -> ManifestKey:
    return body.versions(family)[-1]


def _profile(office: KeyOffice, entry: ManifestKey) -> KeyProfile:
    profile = office.profiles.get(entry.profile)
    if profile is None:
        raise ConflictError(f"{entry.label}: its profile {entry.profile!r} is not known any more")
    return profile


def _moved(office: KeyOffice, entry: ManifestKey, state: KeyState) -> ManifestKey:
    if state not in _NEXT[entry.state]:
        raise ApprovalError(f"{entry.label} is {entry.state} and cannot become {state}")
    return msgspec.structs.replace(entry, state=state, changed=office.records.now())


def _create_version(
    office: KeyOffice, profile: KeyProfile, name: KeyName, size: int | str, *, backed_up: bool, progress: Progress
) -> ManifestKey:
    found = list_keys(office.session).of_label(name.label)
    bundle = None
    if found and backed_up:
        # Not recorded, hence left by an interrupted run, and without a bundle it could never be restored.
        destroy_label(office.session, name.label)
        found = ()
    log = office.records.audit_path
    if found and len(found) < len(halves(profile)) and log_tells(log, BEGUN, name.label):
        # Half a pair, left by a run that was killed between its two objects.
        destroy_label(office.session, name.label)
        found = ()
    if not found and not log_tells(log, BEGUN, name.label):
        office.records.audit().append(BEGUN, {"label": name.label})
    progress(f"{'adopt' if found else 'generate'} {name.label}")
    if not found and backed_up:
        under = _backup_key(office)
        bundle = create_backed_up(office.session, profile, name, size, None, under=under, records=office.records)
    elif not found:
        generate_key(office.session, profile, name, size)
    provenance: Provenance = "generated" if bundle is None else "escrowed"
    proof = prove_key(office.session, profile, name, size, provenance, bundle.check if bundle else None)
    if not proof.sound or proof.check is None:
        if found:
            raise ConflictError(
                f"{name.label} is on the token and is not what it must be: {'; '.join(proof.problems)}"
            )
        destroy_label(office.session, name.label)
        raise VerificationError(
            f"{name.label} did not prove itself ({'; '.join(proof.problems)}); it was destroyed again"
        )
    pair = profile.type in ("rsa", "ec")
    office.records.audit().append(
        "key generated",
        {"label": name.label, "check": f"{proof.check.method}:{proof.check.value}", "profile": profile.name},
    )
    return ManifestKey(
        label=name.label,
        id=name.key_id.hex(),
        profile=profile.name,
        type=profile.type,
        size=size,
        state="pre-active",
        check=proof.check,
        provenance=provenance,
        created=office.records.now(),
        ceremony=office.ceremony,
        not_after=not_after(office.records.clock(), profile.validity_days),
        spki=base64.b64encode(public_spki(office.session, name.label)).decode() if pair else None,
        backup=bundle.digest if bundle else None,
    )


def _backup_key(office: KeyOffice) -> ManifestKey:
    key = office.manifest().primary_of("backup.wrap")
    if key is None:
        raise ConflictError("the former version was backed up, and there is no backup key on this token")
    return key
