"""What the commands share about talking to people: tables, progress, one clear line for an error."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from hsm_msl.audit.actor import login_name
from hsm_msl.errors import ConfigurationError
from hsm_provision.errors import ApprovalError
from hsm_provision.user_import import UserDirectory
from hsm_provision.workspace import Workspace, open_workspace

CeremonyArgument = Annotated[Path, typer.Argument(help="Ceremony file (TOML).", dir_okay=False)]
DirectoryOption = Annotated[
    Path | None,
    typer.Option(
        "--directory", "-C", help="Where working paths of the ceremony start; default: the ceremony's own directory."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for a program instead of a table.")]
WitnessOption = Annotated[
    list[str] | None,
    typer.Option("--witness", help="A witness, for log and report; may be given several times."),
]
ActorOption = Annotated[str, typer.Option("--actor", help="Who acts, for the audit log; default: the login name.")]
LONGEST_NAME = 128
"""Characters of a person's name."""
LONGEST_REASON = 1000


def out() -> Console:
    """Return the console for results."""
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


def err() -> Console:
    """Return the console for progress and errors."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def actor_name(given: str) -> str:
    """Return who acts: the name given, or the login name. Raises ConfigurationError for one no log can hold."""
    return _person("--actor", given) if given else login_name()


def witness_names(given: Sequence[str] | None) -> tuple[str, ...]:
    """Return who is present. Raises ConfigurationError for a name that no log can hold, or that looks like two."""
    for name in given or ():
        if ";" in _person("--witness", name):
            raise ConfigurationError(f"--witness {name!r}: name one person; give the option again for the next")
    return tuple(given or ())


def demand_text(option: str, text: str, longest: int) -> None:
    """Refuse text that a record or a page would not show as it is.

    Args:
        option: where it was given.
        text: what was given.
        longest: characters it may have.

    Raises:
        ConfigurationError: it is longer, or holds control characters or bytes that are no text.
    """
    if len(text) > longest or not text.isprintable():
        raise ConfigurationError(f"{option}: at most {longest} printable characters are taken")


def _person(option: str, name: str) -> str:
    demand_text(option, name, LONGEST_NAME)
    if name != name.strip() or not name:
        raise ConfigurationError(f"{option} {name!r}: is no name; no blanks around it")
    return name


def workspace(
    ceremony: Path, directory: Path | None, actor: str = "", witnesses: Sequence[str] | None = None
) -> Workspace:
    """Open a ceremony for a command. Raises as ``open_workspace``."""
    return open_workspace(
        ceremony,
        directory,
        clock=time.time,
        actor=actor_name(actor),
        witnesses=witness_names(witnesses),
        open_users=_open_users,
    )


def _open_users(url: str) -> AbstractContextManager[UserDirectory]:
    # The database library takes half of the command's start; most verbs never need it.
    from hsm_provision.user_database import open_user_database

    return open_user_database(url)


def print_table(title: str, rows: Sequence[Mapping[str, str]]) -> None:
    """Print rows of equal keys as a plain table, columns that are empty everywhere left out."""
    if not rows:
        return
    columns = [name for name in rows[0] if any(row[name] for row in rows)]
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, no_wrap=True)
    for row in rows:
        table.add_row(*(row[name] for name in columns))
    # As wide as its rows: a label or a check value that is cut to the screen is worth nothing.
    widest = sum(max(len(name), *(len(row[name]) for row in rows)) + 2 for name in columns)
    # Labels, names and details are other people's text: nothing in it is markup or the name of an emoji.
    plain = Console(highlight=False, markup=False, emoji=False, width=max(widest, len(title)), height=len(rows))
    plain.print(table, soft_wrap=True)


def progress(text: str) -> None:
    """Say on standard error what happens now."""
    err().print(f"  {text}", markup=False)


def confirm(question: str, yes: bool, *, typed: str | None = None) -> None:
    """Ask a person before a step that matters.

    Args:
        question: what is asked.
        yes: True where the command line has answered already.
        typed: what must be typed exactly; None asks for yes or no.

    Raises:
        ApprovalError: the answer is no, or there is nobody to ask.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise ApprovalError(f"{question} Nobody is there to answer; give --yes to go on")
    agreed = typer.prompt(question) == typed if typed is not None else typer.confirm(question)
    if not agreed:
        raise ApprovalError("not confirmed; nothing was changed")
