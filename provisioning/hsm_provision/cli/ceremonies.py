"""``plan`` and ``apply``: what a ceremony would do, and doing it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import typer

from hsm_provision.apply import Applied
from hsm_provision.approvals import named
from hsm_provision.ceremony import Authority, Ceremony
from hsm_provision.cli.console import (
    ActorOption,
    CeremonyArgument,
    DirectoryOption,
    JsonOption,
    WitnessOption,
    out,
    print_table,
    progress,
    workspace,
)
from hsm_provision.errors import ExitCode
from hsm_provision.plan import Plan, plan_rows
from hsm_provision.profiles import KeyProfile


def plan(
    ceremony: CeremonyArgument,
    directory: DirectoryOption = None,
    templates: Annotated[bool, typer.Option("--templates", help="Also print every attribute to be set.")] = False,
    json: JsonOption = False,
) -> int:
    """Read the token and show exactly what `apply` would do. Changes nothing.

    Prints a plan hash. People who agree with the plan give that hash to `apply`; if token, ceremony or key files
    changed in between, `apply` refuses.

    Example: hsm-provision plan provisioning/ceremonies/single-server.toml -C /secure/ceremony
    """
    made = workspace(ceremony, directory).plan()
    if json:
        typer.echo(msgspec.json.encode({"hash": made.hash, "plan": made}, order="sorted"))
    else:
        _print_plan(made, templates=templates)
    return int(ExitCode.CONFLICT if made.conflicts else ExitCode.DONE)


def apply(
    ceremony: CeremonyArgument,
    directory: DirectoryOption = None,
    plan_hash: Annotated[
        str | None, typer.Option("--plan-hash", help="The hash `plan` printed; required in production.")
    ] = None,
    witness: WitnessOption = None,
    json: JsonOption = False,
    actor: ActorOption = "",
) -> int:
    """Create and import what the ceremony asks for, and prove every key. Running it again changes nothing.

    Example: hsm-provision apply provisioning/ceremonies/development.toml -C .demo
    """
    done = workspace(ceremony, directory, actor, witness).apply(plan_hash, progress)
    if json:
        typer.echo(msgspec.json.encode({"plan": done.plan, "manifest": done.manifest}, order="sorted"))
    else:
        _print_applied(done)
    return int(ExitCode.DONE)


def schema(
    kind: Annotated[Literal["ceremony", "profile"], typer.Argument(help="Which kind of file.")] = "ceremony",
) -> int:
    """Print the JSON Schema of ceremony or profile files, for editors that check TOML while it is written.

    Example: hsm-provision schema ceremony > ceremony.schema.json
    """
    described = msgspec.json.schema(Ceremony if kind == "ceremony" else KeyProfile)
    typer.echo(msgspec.json.format(msgspec.json.encode(described, order="sorted"), indent=2))
    return int(ExitCode.DONE)


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    app.command()(plan)
    app.command()(apply)
    app.command()(schema)


def _print_plan(made: Plan, *, templates: bool) -> None:
    console = out()
    serial = f" (serial {made.token_serial})" if made.token_serial else ""
    state = "will be initialised" if made.initialise else "present"
    print_table(f"Plan for token {made.token_label!r}{serial}: {state}", plan_rows(made))
    for key in made.conflicts:
        console.print(f"conflict: {key.label}: {'; '.join(key.problems)}", markup=False)
    if made.bystanders:
        console.print(f"not mentioned by this ceremony: {', '.join(made.bystanders)}", markup=False)
    if isinstance(made.authority, Authority):
        console.print(
            f"approvers from then on: {named(made.authority.approvers) or 'none'}; "
            f"{made.authority.apply_approvals} must approve `apply`, {made.authority.destroy_approvals} `destroy`",
            markup=False,
        )
    if templates:
        for key in made.keys:
            for half, template in key.templates.items():
                attributes = ", ".join(f"{name}={'true' if value else 'false'}" for name, value in template.items())
                console.print(f"{key.label} {half}: ID={key.id}, {attributes}", markup=False)
    console.print(f"{made.changes} change(s)", markup=False)
    console.print(f"plan hash: {made.hash}", markup=False)


def _print_applied(done: Applied) -> None:
    console = out()
    rows = []
    for key in done.plan.keys:
        entry = done.manifest.key(key.label)
        rows.append(
            {
                "key": key.label,
                "done": key.action,
                "kind": f"{key.type} {key.size}",
                "state": entry.state if entry else "",
                "provenance": entry.provenance if entry else "",
                "check value": f"{entry.check.short} ({entry.check.method})" if entry else "",
            }
        )
    rows.extend(
        {"key": user.email, "done": user.action, "kind": "user", "state": "", "provenance": "", "check value": ""}
        for user in done.plan.users
    )
    token = done.manifest.token
    print_table(f"Token {token.label!r} (serial {token.serial})", rows)
    if done.resumed:
        console.print("continued an interrupted run; every key is proved", markup=False)
    elif done.changes == 0:
        console.print("nothing to do: the token is as the ceremony asks", markup=False)
    else:
        console.print(f"{done.changes} change(s) made; every key is proved", markup=False)
