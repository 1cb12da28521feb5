"""Which version of the signing key signs the records, and how one version hands over to the next."""

from __future__ import annotations

import base64
from pathlib import Path

import msgspec

from hsm_msl.audit.chain import SIGNED, START, AuditHead, AuditRecord, AuditSigner, record_hash
from hsm_msl.audit.hand_over import signers_after
from hsm_msl.errors import ConfigurationError
from hsm_provision.labels import parse_label
from hsm_provision.manifest import Manifest, ManifestBody, signed_by
from hsm_provision.token.objects import TokenSession, list_keys, public_spki
from hsm_provision.token.signing import sign_with


def current_signer(body: ManifestBody, signing_key: str | None) -> str | None:
    """Return the label of the key that signs now: the primary version of the one the ceremony names.

    Args:
        body: what exists.
        signing_key: any version of the signing key.

    Returns:
        None until it exists; the first ceremony creates it together with the rest.
    """
    name = None if signing_key is None else parse_label(signing_key)
    primary = None if name is None else body.primary_of(name.family)
    if primary is not None:
        return primary.label
    return signing_key if signing_key is not None and body.key(signing_key) is not None else None


def token_signer(session: TokenSession, label: str) -> AuditSigner:
    """Return a key pair on the token as a signer of records. Raises KeyNotFoundError, BackendError."""
    return AuditSigner(label, public_spki(session, label), lambda data: sign_with(session, label, data))


def signed_here(session: TokenSession, manifest: Manifest, signing_key: str | None) -> bool:
    """Tell whether a manifest is signed by a version of the signing key on this token, or none exists yet.

    Args:
        session: the token.
        manifest: what is to be trusted.
        signing_key: any version of the signing key; without one, nothing is demanded.

    Raises:
        BackendError: the token fails.
    """
    name = None if signing_key is None else parse_label(signing_key)
    if name is None:
        return True
    versions = set()
    for found in list_keys(session).objects:
        version = parse_label(found.label)
        if version is not None and version.family == name.family:
            versions.add(found.label)
    if not versions:
        return True
    signature = manifest.signature
    return (
        signature is not None
        and signature.key in versions
        and signed_by(manifest, public_spki(session, signature.key))
    )


def signed_for(manifest: Manifest, trusted: bytes) -> bool:
    """Tell whether a manifest is signed by a trusted public key (its DER form) or by one it handed over to."""
    if manifest.signature is None:
        return False
    spki = base64.b64decode(manifest.signature.spki)
    return spki in signers_after(trusted, manifest.hand_overs) and signed_by(manifest, spki)


def unsigned_reason(manifest: Manifest, signing_key: str | None) -> str | None:
    """Say why a manifest does not count as signed by a version of the signing key; None where it does.

    Needs no token, and so believes the public key the manifest itself records: that finds a signature taken away or
    of another key, not a manifest that somebody wrote and signed from beginning to end.

    Args:
        manifest: as ``read_manifest`` returned it, its own signature checked.
        signing_key: any version of the signing key; without one, nothing is demanded.
    """
    name = None if signing_key is None else parse_label(signing_key)
    if name is None:
        return None
    signature = manifest.signature
    if signature is None:
        return f"it is not signed, although the ceremony names {signing_key}"
    entry = manifest.body.key(signature.key)
    if entry is None or entry.family != name.family or entry.spki != signature.spki:
        return f"it is signed by another key than {signing_key}"
    return None


def first_signer(manifest: Manifest) -> bytes | None:
    """Return the public key with which a manifest's audit log begins (SubjectPublicKeyInfo DER), or None."""
    if manifest.signature is None:
        return None
    first = manifest.hand_overs[0].former if manifest.hand_overs else manifest.signature.spki
    return base64.b64decode(first)


def demand_log_holds(path: Path, head: AuditHead | None) -> None:
    """Refuse to go on with a log that lacks the record the manifest knows, or whose chain is broken.

    The next checkpoint signs whatever the log is by then, so a log that was cut must never get one.

    Args:
        path: the log.
        head: the record the signed manifest knows; None where it knows none.

    Raises:
        ConfigurationError: the log is not the one the manifest knows.
    """
    if head is None:
        return
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError:
        lines = []
    previous, found = START, False
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):
            break  # what a crash cut short: the next record keeps it as text
        try:
            record = msgspec.json.decode(line, type=AuditRecord)
        except (msgspec.DecodeError, UnicodeDecodeError):
            record = None
        if (
            record is None
            or (record.sequence, record.previous) != (number, previous)
            or record_hash(record) != record.hash
        ):
            raise ConfigurationError(f"{path}: record {number} was changed, removed or inserted; {_ASK}")
        previous = record.hash
        found = found or record.head == head
    if not found:
        raise ConfigurationError(
            f"{path}: was cut or written anew: the signed manifest knows its record {head.sequence}; {_ASK}"
        )


_ASK = "nothing is signed on top of it: verify it (`audit verify`) and bring back the whole log"


def log_tells(path: Path, event: str, label: str) -> bool:
    """Tell whether a log holds an event about a key."""
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            record = msgspec.json.decode(line, type=AuditRecord)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue  # what a crash cut short
        if record.event == event and record.details.get("label") == label:
            return True
    return False


def log_signer(path: Path) -> str | None:
    """Return the label of the key that signs an audit log from its end on; None before the first signature."""
    if not path.exists():
        return None
    # From the end: every manifest write leaves a signature, so the last one is near.
    for line in reversed(path.read_bytes().splitlines()):
        try:
            record = msgspec.json.decode(line, type=AuditRecord)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue  # what a crash cut short; verifying is not done here
        if record.event in SIGNED:
            return record.details.get("next key", record.details.get("key"))
    return None
