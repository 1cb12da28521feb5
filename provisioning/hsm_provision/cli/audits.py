"""``audit``: read and verify the tamper-evident log, offline."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives import serialization

from hsm_msl.errors import ConfigurationError
from hsm_provision.audit_log import read_records, verify_log
from hsm_provision.cli.console import out, print_table
from hsm_provision.errors import ExitCode
from hsm_provision.manifest import Manifest, read_manifest

LogArgument = Annotated[Path, typer.Argument(help="The log, audit.jsonl.", dir_okay=False)]


def verify(
    log: LogArgument,
    public_key: Annotated[Path, typer.Option("--public-key", help="Public half of the signing key, PEM or DER.")],
    manifest: Annotated[
        Path | None, typer.Option("--manifest", help="A manifest that knows the end of the log; finds a cut tail.")
    ] = None,
) -> int:
    """Verify a log with nothing but the public key. Names the first bad record; exit code 5 then.

    Example: hsm-provision audit verify audit.jsonl --public-key audit.pem --manifest manifest.json
    """
    spki = read_public_key(public_key)
    known = _trusted(manifest, spki).body.audit if manifest else None
    verdict = verify_log(log, spki, known=known)
    out().print(
        f"{verdict.records} record(s), {verdict.checkpoints} signed checkpoint(s), "
        f"{verdict.unsigned_tail} record(s) after the last checkpoint",
        markup=False,
    )
    if verdict.problem:
        out().print(f"PROBLEM: {verdict.problem}", markup=False)
        return int(ExitCode.NOT_VERIFIED)
    out().print("the log is whole", markup=False)
    return int(ExitCode.DONE)


def show(log: LogArgument) -> int:
    """Print a log as a table, without judging it.

    Example: hsm-provision audit show /secure/ceremony/records/audit.jsonl
    """
    rows = [
        {
            "record": str(record.sequence),
            "time": record.time,
            "who": record.actor,
            "event": record.event,
            "details": ", ".join(f"{name} {value}" for name, value in record.details.items() if name != "signature"),
        }
        for record in read_records(log)
    ]
    print_table(str(log), rows)
    return int(ExitCode.DONE)


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    group = typer.Typer(no_args_is_help=True, help="Read and verify the tamper-evident log.", rich_markup_mode=None)
    group.command()(verify)
    group.command()(show)
    app.add_typer(group, name="audit")


def read_public_key(path: Path) -> bytes:
    """Return a public key file as SubjectPublicKeyInfo DER.

    Raises:
        ConfigurationError: it cannot be read or is no public key.
    """
    try:
        content = path.read_bytes()
        load = (
            serialization.load_pem_public_key
            if content.lstrip().startswith(b"-----BEGIN")
            else serialization.load_der_public_key
        )
        key = load(content)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path}: not a public key: {error}") from error
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _trusted(path: Path, spki: bytes) -> Manifest:
    manifest = read_manifest(path)
    if manifest is None or manifest.signature is None:
        raise ConfigurationError(f"{path}: there is no signed manifest")
    if base64.b64decode(manifest.signature.spki) != spki:
        raise ConfigurationError(f"{path}: the manifest was signed by another key")
    return manifest
