"""Carry out a plan: create or import each key, prove it, record it, and go on only then."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from hsm_provision.approvals import named
from hsm_provision.backup import Bundle, create_backed_up
from hsm_provision.ceremony import ApproverSection, Authority, CeremonyFile
from hsm_provision.desired_keys import DesiredKey, create_missing_files, load_material
from hsm_provision.errors import StalePlanError, VerificationError
from hsm_provision.manifest import ManifestBody, ManifestKey
from hsm_provision.plan import CREATING, REMAKING, Plan, PlannedKey, demand_applicable
from hsm_provision.records import PlanStatus, Progress, Records, not_after
from hsm_provision.token.creation import generate_key, import_key
from hsm_provision.token.objects import TokenSession, destroy_label, public_spki
from hsm_provision.user_import import OpenUsers, apply_user, users_url
from hsm_provision.verification import KeyProof, prove_key


@dataclass(frozen=True, slots=True)
class Applied:
    """What an ``apply`` did: the plan, the proof of each key, and the manifest now in force."""

    plan: Plan
    proofs: Mapping[str, KeyProof]
    manifest: ManifestBody
    changes: int
    """How many things were changed since the plan under which the work began."""
    resumed: bool = False


def demand_agreed(plan: Plan, records: Records, agreed: str | None) -> None:
    """Check that the plan is the one that was agreed to, or the rest of it after an interruption.

    Args:
        plan: what would be done now.
        records: where agreed plans are kept.
        agreed: the hash people agreed to; None where the ceremony may run without one.

    Raises:
        StalePlanError: another plan was agreed to.
        ConfigurationError: the record of the agreed plan is damaged.
    """
    if agreed is None or agreed == plan.hash:
        return
    journal = records.journal(agreed)
    if journal is None:
        raise StalePlanError(
            f"the agreed plan {agreed[:12]} is stale: now it would be {plan.hash[:12]}; run `plan` again and compare"
        )
    if journal.plan.ceremony_sha256 != plan.ceremony_sha256:
        raise StalePlanError(f"the agreed plan {agreed[:12]} is stale: the ceremony file changed; run `plan` again")
    before = {key.label: key for key in journal.plan.keys}
    for key in plan.keys:
        planned = before.get(key.label)
        done = planned is not None and key.action in ("keep", "adopt", *REMAKING)
        if not done and (planned is None or _creation(planned) != _creation(key)):
            raise StalePlanError(
                f"the agreed plan {agreed[:12]} is stale: {key.label} changed since; run `plan` again"
            )


def apply_plan(
    file: CeremonyFile,
    plan: Plan,
    wanted: Sequence[DesiredKey],
    session: TokenSession,
    records: Records,
    *,
    open_users: OpenUsers,
    progress: Progress,
    begun: Plan,
    resumed: bool,
    approved: Sequence[ApproverSection],
) -> Applied:
    """Bring the token to what the ceremony asks for. Doing it again changes nothing.

    Each key is created, read back, tried, compared with its expected check value and recorded before the next one is
    touched; a key that fails its proof is destroyed at once.

    Args:
        file: the ceremony.
        plan: what to do, made from this token just now.
        wanted: the ceremony's keys.
        session: the token.
        records: where manifest, audit log and plans are kept.
        open_users: opens (and creates) the users database.
        progress: told what happens.
        begun: the plan under which the work is journalled: this one, or the one made before the token was
            initialised.
        resumed: whether this continues an interrupted run.
        approved: who approved, for the record.

    Returns:
        What was done.

    Raises:
        ConflictError: the token holds something else; nothing was changed.
        VerificationError: a key did not prove itself; it was destroyed, earlier ones stay and are recorded.
        BackendError: the token failed; run again to continue.
        ConfigurationError: a file cannot be read or written.
        StoreError: the users database gives no answer.
    """
    demand_applicable(plan)
    body = records.manifest_for(session, file.document.records.signing_key)
    proofs: dict[str, KeyProof] = {}
    if plan.changes:
        records.write_journal(begun, "started")
        details = {
            "ceremony": plan.ceremony,
            "ceremony sha256": file.digest,
            "plan": begun.hash,
            "token": session.identity.serial,
            **({"approved by": named(approved)} if approved else {}),
        }
        records.audit().append("apply resumed" if resumed else "apply started", records.witnessed(details))
    if isinstance(plan.authority, Authority):
        records.audit().append("approvers changed", _authority_details(body.approving, plan.authority))
        # Written with the next entry, not before: until the signing key is recorded nothing would sign it.
        body = msgspec.structs.replace(body, authority=plan.authority)
    planned = {key.label: key for key in plan.keys}
    for key in wanted:
        step = planned[key.name.label]
        if step.action == "keep":
            continue
        progress(f"{step.action} {key.name.label}")
        proof, bundle = _create(session, key, step, body, records)
        proofs[key.name.label] = proof
        entry = _entry(file, key, step, proof, session, records)
        if bundle is not None:
            entry = msgspec.structs.replace(entry, backup=bundle.digest)
        records.audit().append(
            f"key {_PAST[step.action]}",
            {"label": entry.label, "check": f"{entry.check.method}:{entry.check.value}", "profile": entry.profile},
        )
        body = records.store(session, body, [entry], file.document.records.signing_key)
    _apply_users(file, plan, records, open_users, progress)
    unfinished = [(open_plan, _outcome(open_plan, plan)) for open_plan in records.plans(plan.ceremony, "started")]
    if unfinished:
        # In this order, so that a run which is cut off here is completed in the log by the next one.
        for open_plan, outcome in unfinished:
            records.audit().append(f"apply {outcome}", {"ceremony": plan.ceremony, "plan": open_plan.hash})
        body = records.store(session, body, [], file.document.records.signing_key)
    for open_plan, outcome in unfinished:
        records.write_journal(open_plan, outcome)
    return Applied(plan, proofs, body, begun.changes, resumed)


def _outcome(begun: Plan, now: Plan) -> PlanStatus:
    """Return what a started plan has come to: nobody carried out what another version of the file had asked for."""
    return "completed" if begun.ceremony_sha256 == now.ceremony_sha256 else "abandoned"


_PAST = {
    "generate": "generated",
    "import": "imported",
    "regenerate": "generated after an interruption",
    "reimport": "imported after an interruption",
    "adopt": "adopted",
}


def _create(
    session: TokenSession, key: DesiredKey, step: PlannedKey, body: ManifestBody, records: Records
) -> tuple[KeyProof, Bundle | None]:
    expected = step.check
    bundle = None
    if step.action in REMAKING:
        destroy_label(session, key.name.label)
    if step.action in CREATING:
        create_missing_files(key)
        material = load_material(key) if key.source is not None else None
        under = body.key(step.backup) if step.backup is not None else None
        if under is not None:
            bundle = create_backed_up(
                session, key.profile, key.name, key.size, material, under=under, records=records
            )
            expected = expected or bundle.check
        elif material is not None:
            import_key(session, key.profile, key.name, material)
        else:
            generate_key(session, key.profile, key.name, key.size)
    proof = prove_key(session, key.profile, key.name, key.size, step.provenance, expected)
    if not proof.sound:
        created = step.action in CREATING
        if created:
            destroy_label(session, key.name.label)
        consequence = "it was destroyed again" if created else "it is left as it is"
        raise VerificationError(f"{key.name.label} did not prove itself ({'; '.join(proof.problems)}); {consequence}")
    return proof, bundle


def _entry(
    file: CeremonyFile, key: DesiredKey, step: PlannedKey, proof: KeyProof, session: TokenSession, records: Records
) -> ManifestKey:
    if proof.check is None:
        raise VerificationError(f"{key.name.label} has no check value")
    pair = key.profile.type in ("rsa", "ec")
    return ManifestKey(
        label=key.name.label,
        id=key.name.key_id.hex(),
        profile=key.profile.name,
        type=key.profile.type,
        size=key.size,
        state=key.state,
        check=proof.check,
        provenance=step.provenance,
        created=records.now(),
        ceremony=file.document.ceremony,
        not_after=not_after(records.clock(), key.profile.validity_days),
        spki=base64.b64encode(public_spki(session, key.name.label)).decode() if pair else None,
        source=step.source,
    )


def _apply_users(file: CeremonyFile, plan: Plan, records: Records, open_users: OpenUsers, progress: Progress) -> None:
    section = file.document.users
    if section is None or not any(user.action != "keep" for user in plan.users):
        return
    entries = {entry.email: entry for entry in section.user}
    with open_users(users_url(file)) as users:
        for user in plan.users:
            if user.action != "keep":
                progress(f"{user.action} user {user.email}")
                apply_user(file, entries[user.email], users)
                records.audit().append(f"user {user.action}d", {"email": user.email, "identity": user.identity})


def _authority_details(before: Authority, after: Authority) -> dict[str, str]:
    return {
        "before": named(before.approvers) or "none",
        "from now on": named(after.approvers) or "none",
        "apply approvals": str(after.apply_approvals),
        "destroy approvals": str(after.destroy_approvals),
    }


def _creation(key: PlannedKey) -> tuple[object, ...]:
    return (
        key.id,
        key.profile,
        key.type,
        key.size,
        key.validity_days,
        key.backup,
        key.source,
        sorted(key.templates.items()),
    )
