"""``import-users``: users of another system, with the password hashes they have."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from hsm_msl.errors import ConfigurationError
from hsm_msl.private_files import replace_private_file
from hsm_provision.cli.console import ActorOption, CeremonyArgument, DirectoryOption, out, progress, workspace
from hsm_provision.cli.input_files import private_source
from hsm_provision.errors import ExitCode
from hsm_provision.user_hashes import UserCount, import_hashed_users, read_hashed_users
from hsm_provision.user_import import users_url
from hsm_provision.workspace import Workspace

LINES_PER_REPORT = 1000


def import_users(
    ceremony: CeremonyArgument,
    file: Annotated[Path, typer.Argument(help="CSV; - reads standard input.", allow_dash=True)],
    replace: Annotated[
        bool, typer.Option("--replace", help="Let a line replace another hash or identity of its email.")
    ] = False,
    directory: DirectoryOption = None,
    actor: ActorOption = "",
) -> int:
    """Take over users with their argon2id hashes (PHC strings); nobody has to choose a new password.

    CSV with the header email,hash or email,hash,identity, into the ceremony's users database. Needs no token. Hashes
    of a lower cost are made anew when their user next comes in. Refused lines are listed without their hash in
    records/rejects/users.jsonl, the others are stored, and the exit code is 11. Repeating it changes nothing.

    Example: ssh old-host dump-users | hsm-provision import-users single-server.toml - -C /secure/ceremony
    """
    # The database library takes half of the command's start; the other verbs never need it.
    from hsm_provision.user_database import open_user_database

    opened = workspace(ceremony, directory, actor)
    if opened.file.document.users is None:
        raise ConfigurationError(f"{ceremony}: users.database: this key is required to import users")
    with contextlib.ExitStack() as stack:
        stack.enter_context(opened.records.held())
        stream, _ = stack.enter_context(private_source(file, "password hashes"))
        users = stack.enter_context(open_user_database(users_url(opened.file)))
        count = import_hashed_users(read_hashed_users(stream, str(file)), users, replace=replace, settled=_settled)
        details = {"stored": str(count.stored), "refused": str(len(count.refused)), "file": file.name}
        opened.records.audit().append("users imported", details)
    _summarise(count, opened)
    return int(ExitCode.REJECTED if count.refused else ExitCode.DONE)


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
    app.command("import-users")(import_users)


def _settled(read: int) -> None:
    if read % LINES_PER_REPORT == 0:
        progress(f"{read} lines read")


def _summarise(count: UserCount, opened: Workspace) -> None:
    console = out()
    console.print(f"{count.stored} user(s) stored, {count.repeated} as before", markup=False)
    report = opened.records.directory / "rejects" / "users.jsonl"
    if not count.refused:
        report.unlink(missing_ok=True)
        return
    lines = (json.dumps({"line": one.line, "email": one.email, "reason": one.reason}) for one in count.refused)
    replace_private_file(report, "".join(f"{line}\n" for line in lines).encode())
    console.print(f"{len(count.refused)} line(s) refused, listed in {report}:", markup=False)
    for reason, number in Counter(one.reason for one in count.refused).most_common():
        console.print(f"  {number:8} {reason}", markup=False)
