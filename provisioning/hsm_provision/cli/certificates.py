"""``csr`` and ``certificate`` for key pairs in the token."""

from __future__ import annotations

import base64
import time
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives import serialization

from hsm_msl.errors import ConfigurationError
from hsm_msl.private_files import create_private_file
from hsm_provision.certificates import Issuer, build_certificate, build_request, split_names
from hsm_provision.cli.console import ActorOption, CeremonyArgument, DirectoryOption, out, workspace
from hsm_provision.cli.keys import LabelArgument
from hsm_provision.errors import ExitCode, VerificationError
from hsm_provision.manifest import ManifestBody
from hsm_provision.profiles import KeyProfile
from hsm_provision.record_signing import unsigned_reason
from hsm_provision.token.signing import sign_with
from hsm_provision.workspace import Workspace

SubjectOption = Annotated[str, typer.Option("--subject", help="As in CN=server.example,O=Example (RFC 4514).")]
DnsOption = Annotated[list[str] | None, typer.Option("--dns", help="A DNS name; may be given several times.")]
UriOption = Annotated[list[str] | None, typer.Option("--uri", help="A URI, such as a service name; likewise.")]
OutputOption = Annotated[Path, typer.Option("--out", help="File to write (PEM); must not exist.")]


def csr(
    ceremony: CeremonyArgument,
    label: LabelArgument,
    subject: SubjectOption,
    to: OutputOption,
    dns: DnsOption = None,
    uri: UriOption = None,
    directory: DirectoryOption = None,
    actor: ActorOption = "",
) -> int:
    """Write a certificate request for a signing key pair, signed in the token.

    Example: hsm-provision csr cluster.toml identity.rsa.v1 --subject CN=msl.example --out msl.csr -C /secure/ceremony
    """
    opened = workspace(ceremony, directory, actor)
    names = split_names(subject, dns or (), uri or ())
    with opened.office() as office:
        spki, profile = _pair(opened, label, opened.signed_manifest(office.session))
        request = build_request(spki, profile, names, lambda data: sign_with(office.session, label, data))
        create_private_file(to, request)
        opened.records.audit().append("certificate requested", {"label": label, "subject": subject})
    out().print(f"{to}: request for {label}", markup=False)
    return int(ExitCode.DONE)


def certificate(
    ceremony: CeremonyArgument,
    label: LabelArgument,
    subject: SubjectOption,
    to: OutputOption,
    dns: DnsOption = None,
    uri: UriOption = None,
    days: Annotated[int, typer.Option("--days", min=1, max=36500, help="How long it is valid.")] = 397,
    issuer: Annotated[
        str | None, typer.Option("--issuer", help="Label of the signing key; default: the key itself (self-signed).")
    ] = None,
    issuer_subject: Annotated[
        str | None, typer.Option("--issuer-subject", help="The issuer's subject; default: the same subject.")
    ] = None,
    directory: DirectoryOption = None,
    actor: ActorOption = "",
) -> int:
    """Write a self-signed certificate, or one signed by another key of the token.

    A key that may not sign (a dialog's encryption key) needs --issuer, e.g. the signing key of the same service.

    Example: hsm-provision certificate both.toml dialog.a.kek.v1 --issuer dialog.a.signing.v1 --subject CN=a --out a
    """
    opened = workspace(ceremony, directory, actor)
    signer = issuer or label
    names = split_names(subject, dns or (), uri or ())
    with opened.office() as office:
        body = opened.signed_manifest(office.session)
        spki, profile = _pair(opened, label, body)
        signer_spki, signer_profile = _pair(opened, signer, body)
        authority = Issuer(
            issuer_subject or subject,
            signer_spki,
            signer_profile,
            lambda data: sign_with(office.session, signer, data),
        )
        made = build_certificate(spki, profile, names, authority, now=time.time(), days=days)
        create_private_file(to, made)
        opened.records.audit().append("certificate made", {"label": label, "subject": subject, "issuer": signer})
    out().print(f"{to}: certificate of {label}, signed by {signer}", markup=False)
    return int(ExitCode.DONE)


def public_key(
    ceremony: CeremonyArgument,
    label: LabelArgument,
    to: OutputOption,
    directory: DirectoryOption = None,
) -> int:
    """Write the public half of a pair as PEM, from the manifest; needs no token and no PIN.

    Refused where the manifest is not signed by the ceremony's signing key as recorded in it. A manifest forged as a
    whole is found by the token alone: run `verify` first, or compare what is written.

    Example: hsm-provision public-key cluster.toml audit.signing.v1 --out audit.pem -C /secure/ceremony
    """
    opened = workspace(ceremony, directory)
    manifest = opened.required_manifest()
    doubt = unsigned_reason(manifest, opened.file.document.records.signing_key)
    if doubt is not None:
        raise VerificationError(f"{opened.records.manifest_path}: {doubt}; its keys are not given out")
    spki, _ = _pair(opened, label, manifest.body)
    key = serialization.load_der_public_key(spki)
    encoded = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    create_private_file(to, encoded)
    out().print(f"{to}: public half of {label}", markup=False)
    return int(ExitCode.DONE)


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    app.command()(csr)
    app.command()(certificate)
    app.command("public-key")(public_key)


def _pair(opened: Workspace, label: str, body: ManifestBody) -> tuple[bytes, KeyProfile]:
    entry = body.key(label)
    if entry is None or entry.spki is None:
        raise ConfigurationError(f"{label!r} is no recorded key pair")
    profile = opened.profiles.get(entry.profile)
    if profile is None:
        raise ConfigurationError(f"{label}: its profile {entry.profile!r} is not known any more")
    return base64.b64decode(entry.spki), profile
