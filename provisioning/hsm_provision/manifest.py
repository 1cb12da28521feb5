"""The signed manifest: what exists on a token, in what state, and how to recognise it.

A token cannot hold this reliably (dates are not readable everywhere, attributes can drift, keys can be replaced),
so the manifest is the reference that ``verify``, ``rotate``, ``retire`` and running servers go by.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec

from hsm_msl.audit.chain import AuditHead, AuditSigner
from hsm_msl.audit.hand_over import SignerHandOver
from hsm_msl.audit.signatures import signature_fits
from hsm_msl.errors import ConfigurationError
from hsm_msl.private_files import replace_private_file
from hsm_provision.ceremony import Authority, KeyState
from hsm_provision.check_values import CheckValue
from hsm_provision.labels import parse_label
from hsm_provision.templates import Provenance

FORMAT = "hsm-provision manifest 1"


class ManifestToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The token the manifest describes."""

    label: str
    serial: str
    manufacturer: str
    model: str


class Attestation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A vendor's evidence about a key: its kind, the SHA-256 of the file that is kept, when it was attached."""

    kind: str
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
    attached: str


class ManifestKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key version. Times are UTC in ISO 8601; ``spki`` is Base64 DER for pairs."""

    label: str
    id: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$")]
    profile: str
    type: str
    size: int | str
    state: KeyState
    check: CheckValue
    provenance: Provenance
    created: str
    ceremony: str
    changed: str | None = None
    """When the state last changed."""
    not_after: str | None = None
    spki: str | None = None
    backup: str | None = None
    source: str | None = None
    attestation: Attestation | msgspec.UnsetType = msgspec.UNSET
    """Left out of what is signed where there is none, so that manifests from before it was known still verify."""

    @property
    def family(self) -> str:
        """Purpose and role, common to all versions of the key."""
        name = parse_label(self.label)
        return name.family if name else self.label

    @property
    def version(self) -> int:
        """The version number in the label."""
        name = parse_label(self.label)
        return name.version if name else 0


class ManifestBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is signed."""

    format: str
    sequence: int
    written: str
    tool: str
    token: ManifestToken
    keys: tuple[ManifestKey, ...] = ()
    audit: AuditHead | None = None
    authority: Authority | msgspec.UnsetType = msgspec.UNSET
    """Left out of what is signed where nobody approves, as in manifests from before it was known."""

    @property
    def approving(self) -> Authority:
        """Who approves, as the last ``apply`` recorded it."""
        return self.authority if isinstance(self.authority, Authority) else Authority()

    def key(self, label: str) -> ManifestKey | None:
        """Return the entry with this label, or None."""
        return next((entry for entry in self.keys if entry.label == label), None)

    def primary_of(self, family: str) -> ManifestKey | None:
        """Return the primary version of a family, or None."""
        return next((entry for entry in self.keys if entry.family == family and entry.state == "primary"), None)

    def versions(self, family: str) -> tuple[ManifestKey, ...]:
        """Return every version of a family, oldest first."""
        return tuple(
            sorted((entry for entry in self.keys if entry.family == family), key=lambda entry: entry.version)
        )

    def families_of(self, purpose: str) -> tuple[str, ...]:
        """Return the families a purpose consists of, e.g. encryption, mac and wrap of ``msl.token``."""
        names = (parse_label(entry.label) for entry in self.keys)
        return tuple(sorted({name.family for name in names if name is not None and name.purpose == purpose}))

    def with_keys(self, changed: Iterable[ManifestKey], *, written: str, tool: str) -> ManifestBody:
        """Return the next manifest, in which the changed entries replace or join the present ones."""
        entries = {entry.label: entry for entry in self.keys}
        entries.update((entry.label, entry) for entry in changed)
        ordered = tuple(sorted(entries.values(), key=lambda entry: (entry.family, entry.version)))
        return msgspec.structs.replace(self, sequence=self.sequence + 1, written=written, tool=tool, keys=ordered)


Base64 = Annotated[str, msgspec.Meta(pattern=r"^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$")]
"""Text that always decodes, so that a file changed by other means ends in one line."""


class ManifestSignature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who signed: key label, public half and signature, Base64."""

    key: str
    spki: Base64
    signature: Base64


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A manifest as stored: the body, and its signature where a signing key exists."""

    body: ManifestBody
    signature: ManifestSignature | None = None
    hand_overs: tuple[SignerHandOver, ...] = ()
    """How the first signing key led to the one that signed this; each is signed by the key before it."""


def canonical(body: ManifestBody) -> bytes:
    """Return the bytes that are signed: JSON with sorted keys and no white space."""
    return msgspec.json.encode(body, order="sorted")


def empty_manifest(token: ManifestToken, *, written: str, tool: str) -> ManifestBody:
    """Return the manifest of a token nothing was done to yet."""
    return ManifestBody(FORMAT, 0, written, tool, token)


def read_manifest(path: Path) -> Manifest | None:
    """Read a manifest, or return None when there is none.

    Raises:
        ConfigurationError: the file cannot be read, is no manifest, or its own signature does not fit.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: not a manifest: {error}") from error
    if manifest.body.format != FORMAT:
        raise ConfigurationError(f"{path}: format {manifest.body.format!r} is not known; expected {FORMAT!r}")
    if manifest.signature is not None and not signed_by(manifest, base64.b64decode(manifest.signature.spki)):
        raise ConfigurationError(f"{path}: the signature does not fit: the manifest was changed by other means")
    return manifest


def signed_by(manifest: Manifest, spki: bytes) -> bool:
    """Tell whether the manifest carries a signature of this public key (SubjectPublicKeyInfo DER)."""
    if manifest.signature is None:
        return False
    return signature_fits(spki, canonical(manifest.body), base64.b64decode(manifest.signature.signature))


def write_manifest(
    path: Path, body: ManifestBody, signer: AuditSigner | None, hand_overs: tuple[SignerHandOver, ...] = ()
) -> Manifest:
    """Sign and store a manifest in one step.

    Args:
        path: where.
        body: what.
        signer: the signing key; None leaves the manifest unsigned.
        hand_overs: how the first signing key led to this one.

    Raises:
        ConfigurationError: the file cannot be written.
        BackendError: the token does not sign.
    """
    signature = None
    if signer is not None:
        spki, made = (base64.b64encode(part).decode() for part in (signer.spki, signer.sign(canonical(body))))
        signature = ManifestSignature(signer.label, spki, made)
    manifest = Manifest(body, signature, hand_overs)
    encoded = msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=2)
    replace_private_file(path, encoded + b"\n")
    return manifest
