"""``report``: the page to hand to an auditor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hsm_msl.private_files import create_private_file
from hsm_provision.cli.console import (
    ActorOption,
    CeremonyArgument,
    DirectoryOption,
    out,
    progress,
    witness_names,
    workspace,
)
from hsm_provision.errors import ExitCode
from hsm_provision.report import make_report
from hsm_provision.report_page import render


def report(
    ceremony: CeremonyArgument,
    to: Annotated[Path, typer.Option("--out", help="File to write (HTML); must not exist.")],
    witness: Annotated[
        list[str] | None, typer.Option("--witness", help="A witness to be named; may be given several times.")
    ] = None,
    directory: DirectoryOption = None,
    actor: ActorOption = "",
) -> int:
    """Prove every key once more and write a self-contained page: who, what, check values, attributes, timeline.

    It prints well and ends with lines to sign. Exit code 5 when something did not verify; the page says what.

    Example: hsm-provision report cluster.toml --out report.html --witness "A. Auditor" -C /secure/ceremony
    """
    opened = workspace(ceremony, directory, actor)
    present = witness_names(witness)
    manifest = opened.required_manifest()
    with opened.session() as session:
        verdict, module = opened.verdict(session, manifest, progress=progress), session.module.path
    made = make_report(opened.file, module, verdict, manifest, opened.profiles, opened.records, present)
    create_private_file(to, render(made).encode())
    out().print(f"{to}: {'everything is verified' if made.sound else 'NOT VERIFIED, see the page'}", markup=False)
    return int(ExitCode.DONE if made.sound else ExitCode.NOT_VERIFIED)


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
    app.command()(report)
