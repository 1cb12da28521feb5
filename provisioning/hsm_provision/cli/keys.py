"""``verify``, ``inventory`` and the life of key versions."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from hsm_msl.private_files import replace_private_file
from hsm_provision.approvals import Request, demand_approvals, demand_recorded, named, read_approvals, read_request
from hsm_provision.cli.audits import read_public_key
from hsm_provision.cli.console import (
    LONGEST_REASON,
    ActorOption,
    CeremonyArgument,
    DirectoryOption,
    JsonOption,
    WitnessOption,
    confirm,
    demand_text,
    err,
    out,
    print_table,
    progress,
    workspace,
)
from hsm_provision.errors import ApprovalError, ExitCode
from hsm_provision.inventory import inventory as take_inventory
from hsm_provision.inventory import inventory_table
from hsm_provision.lifecycle import (
    demand_destroyable,
    destroy_version,
    promote_versions,
    retire_version,
    stage_versions,
)
from hsm_provision.record_signing import unsigned_reason
from hsm_provision.spoken import spoken
from hsm_provision.usage import read_usage
from hsm_provision.workspace import Workspace

LabelArgument = Annotated[str, typer.Argument(help="Label of one key version, e.g. msl.token.mac.v1.")]
PurposeArgument = Annotated[str, typer.Argument(help="What the keys serve, e.g. msl.token.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask; for scripts.")]


def verify(
    ceremony: CeremonyArgument,
    directory: DirectoryOption = None,
    public_key: Annotated[
        Path | None,
        typer.Option(
            "--public-key", help="The key the manifest must be signed by, PEM or DER; default: the token's."
        ),
    ] = None,
    json: JsonOption = False,
) -> int:
    """Compare the token with the signed manifest: drift, replaced and unknown objects, weak flags.

    Every recorded key is read back, tried, and compared with its check value. Exit code 5 when anything differs.

    Example: hsm-provision verify provisioning/ceremonies/single-server.toml -C /secure/ceremony
    """
    opened = workspace(ceremony, directory)
    trusted = read_public_key(public_key) if public_key else None
    manifest = opened.required_manifest()
    with opened.session() as session:
        verdict = opened.verdict(session, manifest, trusted, progress)
    if json:
        typer.echo(
            msgspec.json.encode({"sound": verdict.sound, "problems": verdict.problems, "keys": verdict.proofs})
        )
    else:
        rows = [
            {
                "key": proof.label,
                "check value": proof.check.short if proof.check else "",
                "words": spoken(proof.check) if proof.check else "",
                "verdict": "; ".join(proof.problems) or "as recorded",
            }
            for proof in verdict.proofs
        ]
        print_table(f"Token {manifest.body.token.label!r}, manifest {manifest.body.sequence}", rows)
        for problem in verdict.problems:
            out().print(f"problem: {problem}", markup=False)
        out().print("the token is as the manifest says" if verdict.sound else "THE TOKEN DIFFERS", markup=False)
    return int(ExitCode.DONE if verdict.sound else ExitCode.NOT_VERIFIED)


def inventory(
    ceremony: CeremonyArgument,
    directory: DirectoryOption = None,
    within: Annotated[
        int, typer.Option("--within", min=0, max=36500, help="Days before the end of use that count as a warning.")
    ] = 30,
    json: JsonOption = False,
) -> int:
    """List what is recorded: states, check values, days to expiry, last use by servers. Needs no token and no PIN.

    Exit code 10 when a key in use has expired or will within the given days; meant for monitoring.

    Example: hsm-provision inventory provisioning/ceremonies/cluster.toml -C /secure/ceremony --within 60
    """
    opened = workspace(ceremony, directory)
    manifest = opened.required_manifest()
    doubt = unsigned_reason(manifest, opened.file.document.records.signing_key)
    if doubt is not None:
        err().print(f"hsm-provision: warning: {opened.records.manifest_path}: {doubt}; run `verify`", markup=False)
    body = manifest.body
    rows = take_inventory(body, time.time(), within, read_usage(opened.records.usage_directory))
    if json:
        typer.echo(msgspec.json.encode({"token": body.token, "sequence": body.sequence, "keys": rows}))
    else:
        print_table(f"Token {body.token.label!r} (serial {body.token.serial})", inventory_table(rows))
    return int(ExitCode.EXPIRING if any(row.warning for row in rows) else ExitCode.DONE)


def rotate(
    ceremony: CeremonyArgument,
    purpose: PurposeArgument,
    directory: DirectoryOption = None,
    stage: Annotated[
        bool, typer.Option("--stage", help="Only create the new versions; `promote` makes them primary later.")
    ] = False,
    yes: YesOption = False,
    actor: ActorOption = "",
) -> int:
    """Create the next version of every key of a purpose and make it primary; the old version still opens.

    Running servers pick the change up from the manifest. With several servers use --stage first, wait until all
    of them have seen the new version, then `promote`: so no server meets a version it does not know.

    Example: hsm-provision rotate provisioning/ceremonies/cluster.toml msl.token -C /secure/ceremony --stage
    """
    opened = workspace(ceremony, directory, actor)
    confirm(f"Create the next version of every key of {purpose}?", yes)
    with opened.office() as office:
        staged = stage_versions(office, purpose, progress)
        changed = () if stage else promote_versions(office, purpose)
    for entry in changed or staged:
        out().print(f"{entry.label} is {entry.state} ({entry.check.short}, {spoken(entry.check)})", markup=False)
    return int(ExitCode.DONE)


def promote(
    ceremony: CeremonyArgument,
    purpose: PurposeArgument,
    directory: DirectoryOption = None,
    yes: YesOption = False,
    actor: ActorOption = "",
) -> int:
    """Make the newest versions of a purpose primary, all in one step.

    Example: hsm-provision promote provisioning/ceremonies/cluster.toml msl.token -C /secure/ceremony
    """
    opened = workspace(ceremony, directory, actor)
    confirm(f"Make the newest versions of {purpose} primary?", yes)
    with opened.office() as office:
        changed = promote_versions(office, purpose)
    for entry in changed:
        out().print(f"{entry.label} is {entry.state}", markup=False)
    if not changed:
        out().print("nothing to do: the newest versions are primary", markup=False)
    return int(ExitCode.DONE)


def retire(
    ceremony: CeremonyArgument,
    label: LabelArgument,
    directory: DirectoryOption = None,
    idle: Annotated[int, typer.Option("--idle", min=0, max=36500, help="Days without use that are demanded.")] = 7,
    without_evidence: Annotated[
        bool,
        typer.Option("--without-evidence", help="Retire although use continues or is not reported; is recorded."),
    ] = False,
    yes: YesOption = False,
    actor: ActorOption = "",
) -> int:
    """Take a version out of use. Refused while servers report that they still use it.

    Example: hsm-provision retire provisioning/ceremonies/cluster.toml msl.token.mac.v1 -C /secure/ceremony --idle 30
    """
    opened = workspace(ceremony, directory, actor)
    confirm(f"Retire {label}? What it protects can then not be opened any more.", yes)
    with opened.office() as office:
        entry = retire_version(
            office,
            label,
            usage=read_usage(opened.records.usage_directory),
            idle_days=idle,
            without_evidence=without_evidence,
        )
    out().print(f"{entry.label} is {entry.state}", markup=False)
    return int(ExitCode.DONE)


def destroy(
    ceremony: CeremonyArgument,
    label: LabelArgument,
    directory: DirectoryOption = None,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the request and the audit log.")] = "",
    request: Annotated[str | None, typer.Option("--request", help="Hash of the approved request.")] = None,
    witness: WitnessOption = None,
    yes: YesOption = False,
    actor: ActorOption = "",
) -> int:
    """Destroy a retired version for good. Needs the approval of two different people.

    Without --request this writes a request and prints its hash; approvers sign it with `approve`; then the same
    command with --request HASH destroys the key.

    Example: hsm-provision destroy provisioning/ceremonies/cluster.toml msl.token.mac.v1 -C /secure/ceremony
    """
    demand_text("--reason", reason, LONGEST_REASON)
    opened = workspace(ceremony, directory, actor, witness)
    if request is None:
        return _request_destruction(opened, label, reason)
    asked = read_request(opened.records.request_path(request), request)
    approved = demand_approvals(
        read_approvals(opened.records.approvals_path(request)),
        approvers=opened.file.document.approver,
        step="destroy",
        digest=request,
        needed=opened.file.document.policy.destroy_approvals,
    )
    with opened.office() as office:
        body = office.manifest()
        demand_recorded(body.approving, opened.file.document.authority)
        entry = demand_destroyable(body, label)
        if (asked.subject, asked.check, asked.token_serial) != (
            label,
            entry.check.value,
            office.session.identity.serial,
        ):
            raise ApprovalError(f"request {request[:12]} is for {asked.subject} on token {asked.token_serial}")
        confirm(f"Destroy {label} for ever? Type its name:", yes, typed=label)
        destroy_version(office, label, {"approved by": named(approved), "ceremony sha256": opened.file.digest})
    out().print(f"{label} is destroyed; approved by {', '.join(one.name for one in approved)}", markup=False)
    if entry.backup is not None:
        out().print(
            "its wrapped form is removed from the records; every backup that was exported while the key existed "
            "still holds it: destroy those too",
            markup=False,
        )
    return int(ExitCode.DONE)


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    for verb in (verify, inventory, rotate, promote, retire, destroy):
        app.command()(verb)


def _request_destruction(opened: Workspace, label: str, reason: str) -> int:
    body = opened.required_manifest().body
    entry = demand_destroyable(body, label)
    asked = Request(
        step="destroy",
        token_serial=body.token.serial,
        subject=label,
        check=entry.check.value,
        reason=reason,
        asked=opened.records.now(),
        asked_by=opened.records.actor,
    )
    replace_private_file(opened.records.request_path(asked.hash), msgspec.json.encode(asked, order="sorted") + b"\n")
    opened.records.audit().append("destruction requested", {"label": label, "request": asked.hash, "reason": reason})
    out().print(f"request: {asked.hash}", markup=False)
    needed = opened.file.document.policy.destroy_approvals
    err().print(f"{needed} different approvers must now run: hsm-provision approve ... {asked.hash}", markup=False)
    return int(ExitCode.APPROVAL_MISSING)
