"""``backup-key``, ``backup`` and ``restore``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hsm_msl.errors import ConfigurationError
from hsm_provision.backup import BackupFile
from hsm_provision.backup_steps import export_backup, make_backup_key, open_shares, read_backup, restore_backup
from hsm_provision.cli.audits import read_public_key
from hsm_provision.cli.console import (
    ActorOption,
    CeremonyArgument,
    DirectoryOption,
    WitnessOption,
    confirm,
    err,
    out,
    print_table,
    progress,
    workspace,
)
from hsm_provision.cli.keys import YesOption
from hsm_provision.errors import ExitCode
from hsm_provision.plan import backup_key_name
from hsm_provision.shares import demand_threshold, read_share
from hsm_provision.spoken import spoken


def backup_key(
    ceremony: CeremonyArgument,
    shares_to: Annotated[Path, typer.Option("--shares-to", help="Directory for the share files.")],
    needed: Annotated[int, typer.Option("--needed", help="How many shares give the key back.")] = 3,
    shares: Annotated[int, typer.Option("--shares", help="How many shares there are.")] = 5,
    directory: DirectoryOption = None,
    witness: WitnessOption = None,
    yes: YesOption = False,
    actor: ActorOption = "",
) -> int:
    """Make the backup key and split it among custodians. Do this before `apply` creates keys with `backup = true`.

    Each share file holds 33 words to be copied on paper or taken away; then delete the files. Nobody below the
    threshold learns anything about the key.

    Example: hsm-provision backup-key cluster.toml --needed 3 --shares 5 --shares-to /media/usb -C /secure/ceremony
    """
    opened = workspace(ceremony, directory, actor, witness)
    demand_threshold(needed, shares)
    confirm(f"Make the backup key and {shares} shares, {needed} of which give it back?", yes)
    opened.ensure_token(progress)
    with opened.office() as office:
        opened.make_signing_key(office, progress)
        name = backup_key_name(opened.file)
        files = make_backup_key(office, name, needed, shares, shares_to)
        entry = office.manifest().key(name.label)
    for path in files:
        out().print(str(path), markup=False)
    if entry is not None:
        out().print(f"{name.label}: check value {entry.check.short}, {spoken(entry.check)}", markup=False)
    return int(ExitCode.DONE)


def backup(
    ceremony: CeremonyArgument,
    file: Annotated[Path, typer.Argument(help="File to write; must not exist.")],
    directory: DirectoryOption = None,
    actor: ActorOption = "",
) -> int:
    """Prove every wrapped key in the token and write all of them into one signed file.

    The file is useless without the shares of the backup key. Keep it away from them.

    Example: hsm-provision backup cluster.toml /media/usb/backup.json -C /secure/ceremony
    """
    opened = workspace(ceremony, directory, actor)
    with opened.office() as office:
        made = export_backup(office, file)
    bare = [
        entry.label
        for entry in made.manifest.keys
        if entry.backup is None and entry.state in ("primary", "active", "pre-active")
    ]
    out().print(f"{len(made.bundles)} key(s) in {file}, each opened and proved", markup=False)
    if made.signature is None:
        err().print(
            "hsm-provision: warning: the backup is not signed, as the ceremony names no records.signing_key: a "
            "ceremony for production will not restore it",
            markup=False,
        )
    if bare:
        out().print(f"not in the backup: {', '.join(bare)}", markup=False)
    return int(ExitCode.DONE)


def restore(
    ceremony: CeremonyArgument,
    file: Annotated[Path, typer.Argument(help="The backup file.", dir_okay=False)],
    share: Annotated[list[Path], typer.Option("--share", help="A share file; give as many as are needed.")],
    directory: DirectoryOption = None,
    public_key: Annotated[
        Path | None,
        typer.Option(
            "--public-key", help="The key the backup must be signed by, PEM or DER; required in production."
        ),
    ] = None,
    witness: WitnessOption = None,
    yes: YesOption = False,
    actor: ActorOption = "",
) -> int:
    """Bring the keys of a backup back on another token; every one is proved and marked restored.

    Use a ceremony that names the new token and a records directory of its own. Running it again continues.

    Example: hsm-provision restore cluster-2.toml backup.json --share s1.txt --share s4.txt --share s5.txt -C /secure
    """
    opened = workspace(ceremony, directory, actor, witness)
    source = read_backup(file, read_public_key(public_key) if public_key else None)
    if public_key is None and opened.file.document.environment == "production":
        raise ConfigurationError(
            "a ceremony for production restores a backup with --public-key, the public half of the key that signed it"
        )
    shares = [read_share(path) for path in share]
    open_shares(source, shares, opened.profiles)  # before a token is touched for nothing
    if public_key is None:
        _warn(source)
    confirm(f"Restore {len(source.bundles)} key(s) of token {source.manifest.token.serial}?", yes)
    opened.ensure_token(progress)
    with opened.office() as office:
        opened.make_signing_key(office, progress)
        restored = restore_backup(office, source, shares, progress)
    rows = [
        {"key": entry.label, "state": entry.state, "check value": entry.check.short, "words": spoken(entry.check)}
        for entry in restored
    ]
    print_table("Restored", rows)
    if not restored:
        out().print("nothing to do: every key of the backup is on this token", markup=False)
    return int(ExitCode.DONE)


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    app.command("backup-key")(backup_key)
    app.command()(backup)
    app.command()(restore)


def _warn(source: BackupFile) -> None:
    """Say that nobody who is trusted vouches for a backup."""
    doubt = (
        "it is not signed, so whoever had the file may have changed it"
        if source.signature is None
        else f"it is signed by {source.signed_by}, as it says of itself; without --public-key that proves nothing"
    )
    err().print(f"hsm-provision: warning: this backup is taken on trust: {doubt}", markup=False)
