"""``import-fleet`` and ``rewrap-fleet``."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import quote

import typer

from hsm_msl.errors import ConfigurationError
from hsm_provision.cli.console import ActorOption, CeremonyArgument, DirectoryOption, out, progress, workspace
from hsm_provision.cli.fleet_progress import fleet_progress
from hsm_provision.cli.input_files import private_source
from hsm_provision.errors import ConflictError, ExitCode
from hsm_provision.fleet_reading import FleetForm, FleetReader
from hsm_provision.fleet_rejects import RejectsFile
from hsm_provision.kept_pin import KeptPin
from hsm_provision.token.fleet import RenewedWrapper
from hsm_provision.workspace import Workspace

if TYPE_CHECKING:
    from hsm_provision.fleet_import import FleetCount

FAMILY = "fleet.storage"
REASONS_SHOWN = 12

_FORMS: dict[str, FleetForm] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


def import_fleet_keys(
    ceremony: CeremonyArgument,
    file: Annotated[Path, typer.Argument(help="CSV or JSON lines; - reads standard input.", allow_dash=True)],
    form: Annotated[
        Literal["auto", "csv", "jsonl"],
        typer.Option(
            "--form", help="auto goes by the file's extension (.csv, .jsonl, .ndjson); standard input is csv."
        ),
    ] = "auto",
    job: Annotated[str, typer.Option("--job", help="Name of this import; the same name continues it.")] = "",
    rejects: Annotated[
        Path | None,
        typer.Option(
            "--rejects", help="Report of refused lines; default: records/rejects/JOB.jsonl.", dir_okay=False
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first line that would be refused.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Let a line replace other keys of its entity, the last line counting.")
    ] = False,
    directory: DirectoryOption = None,
    actor: ActorOption = "",
) -> int:
    """Wrap the pre-shared keys of many entities under the token's fleet storage key and store them wrapped.

    One line is one entity: identity,encryption,mac[,wrapping]. CSV has a header line and keys in hexadecimal; JSON
    lines have members of those names, hexadecimal or oct JWKs. Memory does not grow with the fleet. An interrupted
    import goes on where it stopped when it is started again with the same input. Refused lines are reported (number,
    identity, reason; never a key), the others are stored, and the exit code is 11.

    Example: gpg -d fleet.csv.gpg | hsm-provision import-fleet cluster.toml - --job 2026-05 -C /secure/ceremony
    """
    # The database library takes half of the command's start; the other verbs never need it.
    from hsm_provision.fleet_import import import_fleet, open_fleet

    opened = _pin_kept(workspace(ceremony, directory, actor))
    chosen = _form(file, form)
    name = job or file.name
    report = RejectsFile(rejects or opened.records.directory / "rejects" / f"{quote(name, safe='')}.jsonl")
    with contextlib.ExitStack() as stack:
        stack.enter_context(opened.records.held())
        label = _primary(opened)
        stream, size = stack.enter_context(private_source(file, "keys"))
        store = stack.enter_context(open_fleet(_fleet_url(opened)))
        reader = FleetReader(stream, chosen, str(file))
        with RenewedWrapper(opened.session, label) as wrapper, fleet_progress(reader, size) as settled:
            count = import_fleet(
                reader, wrapper, store, report, job=name, replace=replace, strict=strict, settled=settled
            )
        details = {"job": name, "entities": str(count.stored), "rejected": str(count.rejected), "under": label}
        opened.records.audit().append("fleet imported", details)
        opened.seal()
    _summarise(count, report, label)
    return int(ExitCode.REJECTED if count.rejected else ExitCode.DONE)


def rewrap_fleet_keys(ceremony: CeremonyArgument, directory: DirectoryOption = None, actor: ActorOption = "") -> int:
    """Wrap every entity anew that is still under an older fleet storage key, after a rotation.

    Example: hsm-provision rotate cluster.toml fleet; hsm-provision rewrap-fleet cluster.toml -C /secure/ceremony
    """
    from hsm_provision.fleet_import import open_fleet, rewrap_fleet

    opened = _pin_kept(workspace(ceremony, directory, actor))
    total = 0
    with opened.records.held(), open_fleet(_fleet_url(opened)) as store:
        label = _primary(opened)
        with RenewedWrapper(opened.session, label) as wrapper:
            for older in sorted(store.count()):
                if older != label:
                    total += rewrap_fleet(wrapper, older, store, stored=_report)
        opened.records.audit().append("fleet wrapped anew", {"entities": str(total), "under": label})
        opened.seal()
    out().print(f"{total} entities wrapped anew under {label}", markup=False)
    return int(ExitCode.DONE)


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    app.command("import-fleet")(import_fleet_keys)
    app.command("rewrap-fleet")(rewrap_fleet_keys)


def _pin_kept(opened: Workspace) -> Workspace:
    """Let a person type the PIN once, although the token is opened several times."""
    return dataclasses.replace(opened, user_pin=KeptPin(opened.user_pin))


def _primary(opened: Workspace) -> str:
    with opened.session() as session:
        manifest = opened.records.manifest_for(session, opened.file.document.records.signing_key)
    primary = manifest.primary_of(FAMILY)
    if primary is None:
        raise ConflictError(f"there is no primary {FAMILY} key; let a ceremony create it (profile fleet-storage)")
    return primary.label


def _fleet_url(opened: Workspace) -> str:
    section = opened.file.document.fleet
    if section is None:
        raise ConfigurationError(f"{opened.file.path}: fleet.database: this key is required for a fleet")
    return (
        section.database if "://" in section.database else f"sqlite:///{opened.file.working_path(section.database)}"
    )


def _form(file: Path, given: Literal["auto", "csv", "jsonl"]) -> FleetForm:
    if given != "auto":
        return given
    if str(file) == "-":
        return "csv"
    found = _FORMS.get(file.suffix.lower())
    if found is None:
        raise ConfigurationError(f"{file}: the extension tells no form; give --form csv or --form jsonl")
    return found


def _summarise(count: FleetCount, report: RejectsFile, label: str) -> None:
    console = out()
    if count.resumed_after:
        console.print(f"went on after line {count.resumed_after}", markup=False)
    console.print(f"{count.stored} entities stored, wrapped under {label}", markup=False)
    if count.repeated:
        console.print(f"{count.repeated} lines repeat keys that are stored already", markup=False)
    if not count.rejected:
        return
    console.print(f"{count.rejected} lines rejected, listed in {report.path}:", markup=False)
    reasons = list(report.reasons.items())
    for reason, lines in reasons[:REASONS_SHOWN]:
        console.print(f"  {lines:8} {reason}", markup=False)
    if len(reasons) > REASONS_SHOWN:
        console.print(f"  {sum(lines for _, lines in reasons[REASONS_SHOWN:]):8} for other reasons", markup=False)


def _report(count: int) -> None:
    progress(f"{count} entities wrapped anew")
