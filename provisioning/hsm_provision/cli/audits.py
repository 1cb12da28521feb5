"""``audit``: read and verify the tamper-evident log, offline."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives import serialization

from hsm_msl.audit.chain import AuditHead
from hsm_msl.audit.verification import checkpoint_fits, read_checkpoint, read_records, verify_log
from hsm_msl.errors import ConfigurationError
from hsm_provision.cli.console import out, print_table
from hsm_provision.errors import ExitCode
from hsm_provision.manifest import read_manifest

LogArgument = Annotated[Path, typer.Argument(help="The log, audit.jsonl.", dir_okay=False)]
LogsArgument = Annotated[list[Path], typer.Argument(help="The log, audit.jsonl; its files, oldest first.")]
_HEAD = re.compile("([1-9][0-9]*):([0-9a-f]{64})")


def verify(
    log: LogsArgument,
    public_key: Annotated[
        Path, typer.Option("--public-key", help="Public half of the first signing key, PEM or DER.")
    ],
    manifest: Annotated[
        Path | None, typer.Option("--manifest", help="A manifest that knows the end of the log; finds a cut tail.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="The last checkpoint of a server; finds a cut tail.")
    ] = None,
    after: Annotated[
        str | None,
        typer.Option("--after", help="SEQUENCE:HASH of the last record before these files, verified earlier."),
    ] = None,
) -> int:
    """Verify a log with nothing but the public key. Names the first bad record; exit code 5 then.

    Gives the log of the provisioning or of a server; several files of one log oldest first. A later signing key is
    believed when the one before it signed the hand-over.

    Example: hsm-provision audit verify audit.jsonl --public-key audit.pem --manifest manifest.json
    """
    spki = read_public_key(public_key)
    start = None if after is None else _head(after)
    keys = verify_log(log, spki, after=start).keys
    known = [
        *([] if manifest is None else _heads(manifest, keys)),
        *([] if checkpoint is None else [_signed_head(checkpoint, keys)]),
    ]
    verdict = verify_log(log, spki, known=known, after=start)
    out().print(
        f"{verdict.records} record(s), {verdict.checkpoints} signed checkpoint(s), "
        f"{verdict.unsigned_tail} record(s) after the last checkpoint",
        markup=False,
    )
    if verdict.head is not None:
        out().print(f"last record {verdict.head.sequence}:{verdict.head.hash}", markup=False)
    for key in verdict.keys[1:]:
        out().print(f"handed over to the key {hashlib.sha256(key).hexdigest()}", markup=False)
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
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigurationError(f"{path}: not a public key: {error}") from error
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _heads(path: Path, keys: Sequence[bytes]) -> list[AuditHead]:
    """Return what a manifest knows of the log, once it is one that the log's signers signed."""
    manifest = read_manifest(path)
    if manifest is None or manifest.signature is None:
        raise ConfigurationError(f"{path}: there is no signed manifest")
    if base64.b64decode(manifest.signature.spki) not in keys:
        raise ConfigurationError(f"{path}: the manifest was signed by another key")
    return [] if manifest.body.audit is None else [manifest.body.audit]


def _signed_head(path: Path, keys: Sequence[bytes]) -> AuditHead:
    record = read_checkpoint(path)
    if not checkpoint_fits(record, keys):
        raise ConfigurationError(f"{path}: the checkpoint was signed by another key")
    return record.head


def _head(text: str) -> AuditHead:
    match = _HEAD.fullmatch(text)
    if match is None:
        raise ConfigurationError(f"--after: {text!r} is not of the form SEQUENCE:HASH, as `audit verify` prints it")
    return AuditHead(int(match[1]), match[2])
