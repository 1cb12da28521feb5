"""``seal``, ``import-fleet`` and ``rewrap-fleet``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, TextIO

import msgspec
import typer

from hsm_msl.errors import ConfigurationError
from hsm_provision.cli.audits import read_public_key
from hsm_provision.cli.console import ActorOption, CeremonyArgument, DirectoryOption, out, progress, workspace
from hsm_provision.errors import ConflictError, ExitCode
from hsm_provision.key_material import read_material
from hsm_provision.private_files import create_private_file
from hsm_provision.profiles import read_profiles
from hsm_provision.token.fleet import FleetWrapper
from hsm_provision.transport import seal as seal_key
from hsm_provision.workspace import Workspace

FAMILY = "fleet.storage"


def seal(
    profile: Annotated[str, typer.Argument(help="Name of the key profile, e.g. msl-token-mac.")],
    file: Annotated[Path, typer.Argument(help="The key; /dev/stdin keeps it off the disk.")],
    to: Annotated[Path, typer.Option("--for", help="Public half of the token's transport key, PEM or DER.")],
    target: Annotated[Path, typer.Option("--out", help="File to write; must not exist.")],
    profiles: Annotated[Path, typer.Option("--profiles", help="Directory of the key profiles.")],
    form: Annotated[
        Literal["hex", "raw", "base64", "pkcs8", "jwk"], typer.Option("--form", help="The form the key file has.")
    ] = "hex",
    carrier: Annotated[str, typer.Option("--carrier", help="Label of the transport key.")] = "transport.unwrap.v1",
) -> int:
    """Seal an existing key for a token, where the key is now; needs no token.

    The ceremony of the receiving token imports it with `import = { file = "...", form = "sealed" }`. The plaintext is
    then never on the receiving host.

    Example: hsm-provision seal msl-token-mac /dev/stdin --for t.pem --out mac.sealed --profiles profiles < mac.hex
    """
    known = read_profiles(profiles)
    if profile not in known:
        raise ConfigurationError(f"no profile {profile!r}; there are: {', '.join(sorted(known))}")
    material = read_material(file, form, known[profile])
    sealed = seal_key(material, known[profile], carrier, read_public_key(to))
    create_private_file(target, msgspec.json.encode(sealed, order="sorted") + b"\n")
    out().print(f"{target}: check value {sealed.check.short} ({sealed.check.method})", markup=False)
    return int(ExitCode.DONE)


def import_fleet_keys(
    ceremony: CeremonyArgument,
    file: Annotated[Path, typer.Argument(help="CSV or JSON lines; - reads standard input.", allow_dash=True)],
    form: Annotated[
        Literal["csv", "jwk"], typer.Option("--form", help="csv (hexadecimal) or jwk (JSON lines).")
    ] = "csv",
    job: Annotated[str, typer.Option("--job", help="Name of this import; the same name continues it.")] = "",
    directory: DirectoryOption = None,
    actor: ActorOption = "",
) -> int:
    """Wrap the pre-shared keys of many entities under the token's fleet storage key and store them wrapped.

    Columns: identity,encryption,mac[,wrapping]. Memory does not grow with the fleet; an interrupted import goes on
    where it stopped when it is started again with the same input.

    Example: gpg -d fleet.csv.gpg | hsm-provision import-fleet cluster.toml - --job 2026-05 -C /secure/ceremony
    """
    # The database library takes half of the command's start; the other verbs never need it.
    from hsm_provision.fleet_import import import_fleet, open_fleet, read_fleet

    opened = workspace(ceremony, directory, actor)
    name = job or file.name
    with opened.office() as office, open_fleet(_fleet_url(opened)) as store, _source(file) as stream:
        primary = office.manifest().primary_of(FAMILY)
        if primary is None:
            raise ConflictError(f"there is no primary {FAMILY} key; let a ceremony create it (profile fleet-storage)")
        rows = read_fleet(stream, form, str(file))
        wrapper = FleetWrapper(office.session, primary.label)
        count = import_fleet(rows, wrapper, store, job=name, stored=_report)
        opened.records.audit().append("fleet imported", {"job": name, "entities": str(count), "under": primary.label})
    out().print(f"{count} entities stored, wrapped under {primary.label}", markup=False)
    return int(ExitCode.DONE)


def rewrap_fleet_keys(ceremony: CeremonyArgument, directory: DirectoryOption = None, actor: ActorOption = "") -> int:
    """Wrap every entity anew that is still under an older fleet storage key, after a rotation.

    Example: hsm-provision rotate cluster.toml fleet; hsm-provision rewrap-fleet cluster.toml -C /secure/ceremony
    """
    from hsm_provision.fleet_import import open_fleet, rewrap_fleet

    opened = workspace(ceremony, directory, actor)
    total = 0
    with opened.office() as office, open_fleet(_fleet_url(opened)) as store:
        primary = office.manifest().primary_of(FAMILY)
        if primary is None:
            raise ConflictError(f"there is no primary {FAMILY} key")
        wrapper = FleetWrapper(office.session, primary.label)
        for older in sorted(store.count()):
            if older != primary.label:
                total += rewrap_fleet(wrapper, older, store, stored=_report)
        opened.records.audit().append("fleet wrapped anew", {"entities": str(total), "under": primary.label})
    out().print(f"{total} entities wrapped anew under {primary.label}", markup=False)
    return int(ExitCode.DONE)


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    app.command()(seal)
    app.command("import-fleet")(import_fleet_keys)
    app.command("rewrap-fleet")(rewrap_fleet_keys)


def _fleet_url(opened: Workspace) -> str:
    section = opened.file.document.fleet
    if section is None:
        raise ConfigurationError(f"{opened.file.path}: fleet.database: this key is required for a fleet")
    return (
        section.database if "://" in section.database else f"sqlite:///{opened.file.working_path(section.database)}"
    )


@contextlib.contextmanager
def _source(file: Path) -> Iterator[TextIO]:
    if str(file) == "-":
        yield sys.stdin
        return
    try:
        stream = file.open(encoding="utf-8", newline="")
    except OSError as error:
        raise ConfigurationError(f"{file}: cannot be read: {error.strerror}") from error
    with stream:
        yield stream


def _report(count: int) -> None:
    progress(f"{count} entities stored")
