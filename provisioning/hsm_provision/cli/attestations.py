"""``attest``: a vendor's evidence about a key, kept and bound to the manifest."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from hsm_msl.private_files import create_private_file
from hsm_provision.attestation import VERIFIERS, read_evidence
from hsm_provision.cli.console import ActorOption, CeremonyArgument, DirectoryOption, out, workspace
from hsm_provision.cli.keys import LabelArgument
from hsm_provision.errors import ConflictError, ExitCode, VerificationError
from hsm_provision.manifest import Attestation


def attest(
    ceremony: CeremonyArgument,
    label: LabelArgument,
    evidence: Annotated[Path, typer.Argument(help="What the vendor's tool gave: any file.", dir_okay=False)],
    kind: Annotated[str, typer.Option("--kind", help=f"How it is checked: {', '.join(VERIFIERS)}.")] = "opaque",
    directory: DirectoryOption = None,
    actor: ActorOption = "",
) -> int:
    """Attach a vendor's evidence about a key; `verify` and `report` check it from then on.

    The file is kept in records/attestations under its SHA-256, which the signed manifest names. Kind x509-chain is a
    PEM chain whose first certificate is about the key and whose last was issued by a certificate in the file the
    ceremony names ([attestation] trust); kind opaque is kept unchecked. Evidence that does not hold is refused.

    Example: hsm-provision attest cluster.toml identity.rsa.v1 key.pem --kind x509-chain -C /secure/ceremony
    """
    opened = workspace(ceremony, directory, actor)
    content = read_evidence(evidence)
    digest = sha256(content).hexdigest()
    shelf = opened.evidence
    with opened.office() as office:
        body = office.manifest()
        entry = body.key(label)
        if entry is None:
            raise ConflictError(f"the manifest knows no key {label!r}")
        problem = shelf.problem(content, kind, entry)
        if problem is not None:
            raise VerificationError(f"{evidence}: {problem}")
        if not shelf.path(digest).exists():
            create_private_file(shelf.path(digest), content)
        office.records.audit().append("evidence attached", {"label": label, "kind": kind, "sha256": digest})
        attached = Attestation(kind, digest, office.records.now())
        office.store(body, [msgspec.structs.replace(entry, attestation=attached)])
    checked = "kept unchecked" if kind == "opaque" else "checked"
    out().print(f"{label}: evidence {digest[:16]} ({kind}), {checked}", markup=False)
    return int(ExitCode.DONE)


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
    app.command()(attest)
