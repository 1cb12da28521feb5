"""``approver-key`` and ``approve``: dual control."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hsm_msl.errors import ConfigurationError
from hsm_provision.approvals import add_approval, fingerprint, new_approver_key, read_request
from hsm_provision.approvals import approve as sign_approval
from hsm_provision.cli.console import ActorOption, CeremonyArgument, DirectoryOption, out, workspace
from hsm_provision.errors import ExitCode
from hsm_provision.typed_secrets import read_new, secret_source

UnlockOption = Annotated[
    str,
    typer.Option(
        "--passphrase", help="Where the passphrase comes from: prompt, file:/path, fd:N, cred:NAME, exec:/path."
    ),
]


def approver_key(
    file: Annotated[Path, typer.Argument(help="Where to write the private key; keep it to yourself.")],
    unlock: UnlockOption = "prompt",
) -> int:
    """Create an approver's key: writes the encrypted private half, prints the public half for the ceremony.

    Example: hsm-provision approver-key alice.pem
    """
    public = new_approver_key(file, read_new(secret_source(unlock, f"passphrase of {file.name}")).reveal())
    out().print(f'[[approver]]\nname = "{file.stem}"\npublic_key = "{public}"', markup=False)
    return int(ExitCode.DONE)


def approve(
    ceremony: CeremonyArgument,
    digest: Annotated[str, typer.Argument(help="Hash of the plan or request.")],
    key: Annotated[Path, typer.Option("--key", help="Your approver key.")],
    directory: DirectoryOption = None,
    unlock: UnlockOption = "prompt",
    actor: ActorOption = "",
) -> int:
    """Sign a plan or a request for destruction with your approver key.

    Example: hsm-provision approve provisioning/ceremonies/cluster.toml 3f2a... --key alice.pem -C /secure/ceremony
    """
    opened = workspace(ceremony, directory, actor)
    if len(digest) != 64 or not all(letter in "0123456789abcdef" for letter in digest):
        raise ConfigurationError(f"{digest!r} is no hash: 64 hexadecimal digits are expected")
    if not key.is_file():
        raise ConfigurationError(f"{key}: cannot be read: there is no such file")
    path = opened.records.request_path(digest)
    step = "apply"
    if path.exists():
        request = read_request(path, digest)
        step = request.step
        out().print(
            f"{request.step} {request.subject} on token {request.token_serial}; asked by {request.asked_by} at "
            f"{request.asked}; reason: {request.reason or '(none given)'}",
            markup=False,
        )
    # Those of the last `apply` as well: a change of approvers is theirs to approve.
    recorded = opened.records.manifest()
    approvers = (*opened.file.document.approver, *(recorded.body.approving.approvers if recorded else ()))
    approval, who = sign_approval(
        key,
        secret_source(unlock, f"passphrase of {key.name}").read().reveal(),
        approvers=approvers,
        step=step,
        digest=digest,
        time=opened.records.now(),
    )
    add_approval(opened.records.approvals_path(digest), approval)
    opened.records.audit().append(
        "step approved",
        {
            "step": step,
            "hash": digest,
            "approver": who.name,
            "approver key": fingerprint(who.public_key),
            "ceremony sha256": opened.file.digest,
        },
    )
    out().print(f"{who.name} approved {step} {digest[:12]}", markup=False)
    return int(ExitCode.DONE)


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    app.command("approver-key")(approver_key)
    app.command()(approve)
