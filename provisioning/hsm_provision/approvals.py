"""Dual control: people who are named in the ceremony sign, each with a key of their own, what they agree to.

What is signed is ``hsm-provision approval v1``, the kind of step and the SHA-256 of its request, one per line. An
approver's key is Ed25519; the ceremony holds the public half, the person holds the private half, encrypted.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from hsm_msl.errors import ConfigurationError
from hsm_msl.private_files import create_private_file, make_private_directory, replace_private_file
from hsm_provision.ceremony import ApproverSection, Authority
from hsm_provision.errors import ApprovalError


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A step that needs approval: what, on which token, to which key, asked when and by whom."""

    step: str
    token_serial: str
    subject: str
    check: str
    reason: str
    asked: str
    asked_by: str

    @property
    def hash(self) -> str:
        """SHA-256 over the canonical JSON, hexadecimal."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()


class Approval(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One person's signature over a request or plan."""

    approver: str
    time: str
    signature: str


def read_request(path: Path, digest: str) -> Request:
    """Read a request. Raises ConfigurationError when there is none, or not the one with that hash."""
    try:
        stored = msgspec.json.decode(path.read_bytes(), type=Request)
    except OSError as error:
        raise ConfigurationError(f"{path}: there is no such request: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: not a request: {error}") from error
    if stored.hash != digest:
        raise ConfigurationError(f"{path}: is not the request with that hash")
    return stored


def approval_text(step: str, digest: str) -> bytes:
    """Return the bytes an approver signs."""
    return f"hsm-provision approval v1\n{step}\n{digest}\n".encode()


def new_approver_key(path: Path, passphrase: bytes) -> str:
    """Create an approver's encrypted private key file and return the public half for the ceremony (Base64).

    Raises:
        ConfigurationError: the file exists or cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase),
    )
    create_private_file(path, pem)
    return _raw(key.public_key())


def approve(
    path: Path, passphrase: bytes, *, approvers: Sequence[ApproverSection], step: str, digest: str, time: str
) -> tuple[Approval, ApproverSection]:
    """Sign a step with an approver's key, and say whose it is.

    Args:
        path: the approver's private key file.
        passphrase: what protects it.
        approvers: who may approve.
        step: the kind of step.
        digest: hash of the plan or request.
        time: now, for the record.

    Raises:
        ConfigurationError: the key cannot be read.
        ApprovalError: its holder is no approver of this ceremony.
    """
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), passphrase)
    except (OSError, ValueError, TypeError):
        raise ConfigurationError(
            f"{path}: cannot be opened; is this an approver key, and the passphrase right?"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(f"{path}: not an approver key (Ed25519)")
    public = _raw(key.public_key())
    who = next((entry for entry in approvers if entry.public_key == public), None)
    if who is None:
        raise ApprovalError(f"the holder of {path.name} is no approver of this ceremony")
    signature = key.sign(approval_text(step, digest))
    return Approval(who.name, time, base64.b64encode(signature).decode()), who


def fingerprint(public_key: str) -> str:
    """Return the SHA-256 of an approver's public key (Base64), hexadecimal."""
    return hashlib.sha256(base64.b64decode(public_key)).hexdigest()


def named(approvers: Iterable[ApproverSection]) -> str:
    """Return approvers with the fingerprints of their keys, for log and report: a name alone proves nobody."""
    return "; ".join(f"{entry.name} (key {fingerprint(entry.public_key)})" for entry in approvers)


def demand_recorded(recorded: Authority, named_now: Authority) -> None:
    """Refuse a ceremony whose approvers are not those the last ``apply`` recorded.

    Raises:
        ApprovalError: their keys or numbers differ.
    """
    if recorded != named_now:
        raise ApprovalError(
            "this ceremony names other approvers, or another number of them, than the last `apply` recorded: "
            f"{named(recorded.approvers) or 'none'}; nothing was changed. Where that is meant, `apply` it first"
        )


def demand_approvals(
    approvals: Iterable[Approval], *, approvers: Sequence[ApproverSection], step: str, digest: str, needed: int
) -> tuple[ApproverSection, ...]:
    """Return the distinct people who validly approved, ordered by name.

    Raises:
        ApprovalError: they are fewer than ``needed``.
    """
    keys = {entry.name: entry.public_key for entry in approvers}
    valid = {
        item.approver
        for item in approvals
        if item.approver in keys and _fits(item, keys[item.approver], step, digest)
    }
    if len(valid) < needed:
        have = f"; approved so far by {', '.join(sorted(valid))}" if valid else ""
        raise ApprovalError(f"{step} {digest[:12]} needs {needed} approval(s) of different people{have}")
    return tuple(sorted((entry for entry in approvers if entry.name in valid), key=lambda entry: entry.name))


def read_approvals(path: Path) -> tuple[Approval, ...]:
    """Return the approvals collected in a file; none when it does not exist. Raises ConfigurationError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=tuple[Approval, ...])
    except FileNotFoundError:
        return ()
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigurationError(f"{path}: not a list of approvals: {error}") from error


def add_approval(path: Path, approval: Approval) -> None:
    """Add one approval to a file; people who approve at the same moment wait for each other.

    Raises:
        ConfigurationError: the file cannot be read or written.
    """
    make_private_directory(path.parent)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        replace_private_file(path, msgspec.json.encode([*read_approvals(path), approval], order="sorted") + b"\n")
    finally:
        os.close(directory)


def _fits(approval: Approval, public: str, step: str, digest: str) -> bool:
    try:
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public, validate=True))
        key.verify(base64.b64decode(approval.signature, validate=True), approval_text(step, digest))
    except (InvalidSignature, ValueError):
        return False
    return True


def _raw(key: Ed25519PublicKey) -> str:
    return base64.b64encode(key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)).decode()
