"""The form of a tamper-evident log: one JSON record per line, each holding the hash of the one before it.

A record is ``{"sequence", "time", "event", "actor", "details", "previous", "hash"}``; ``hash`` is SHA-256 over the
canonical JSON of the others, ``previous`` the hash of the preceding record (64 zeros for the first). Two events carry
a token key's signature over ``previous`` and the sequence number, so that a rewritten chain is found with the public
key alone: ``checkpoint``, and ``key hand-over``, which also names the key that signs from then on.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

START = "0" * 64
CHECKPOINT = "checkpoint"
HAND_OVER = "key hand-over"
SIGNED = frozenset({CHECKPOINT, HAND_OVER})


class AuditRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of the log."""

    sequence: int
    time: str
    event: str
    actor: str
    details: dict[str, str]
    previous: str
    hash: str = ""

    @property
    def head(self) -> AuditHead:
        """How others name this record."""
        return AuditHead(self.sequence, self.hash)


class AuditHead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A record known from elsewhere (a signed manifest, a kept checkpoint), so that a cut tail shows."""

    sequence: int
    hash: str


@dataclass(frozen=True, slots=True)
class AuditSigner:
    """A key that signs checkpoints.

    Attributes:
        label: its name.
        spki: its public half, SubjectPublicKeyInfo DER.
        sign: signs bytes with it, ECDSA SHA-256 (DER) or RSASSA-PKCS1-v1_5 SHA-256; raises BackendError.
    """

    label: str
    spki: bytes
    sign: Callable[[bytes], bytes]


def record_hash(record: AuditRecord) -> str:
    """Return the hash a record must carry."""
    bare = msgspec.structs.replace(record, hash="")
    return hashlib.sha256(msgspec.json.encode(bare, order="sorted")).hexdigest()


def encoded(record: AuditRecord) -> bytes:
    """Return the line of a record."""
    return msgspec.json.encode(record, order="sorted") + b"\n"


def checkpoint_text(sequence: int, previous: str) -> bytes:
    """Return what the signature of a checkpoint covers."""
    return f"hsm-provision audit checkpoint v1\n{sequence}\n{previous}\n".encode()


def hand_over_text(sequence: int, previous: str, next_key: str, next_spki: bytes) -> bytes:
    """Return what the signature of a hand-over covers.

    Args:
        sequence: the record's number.
        previous: the hash it follows.
        next_key: name of the key that signs from then on.
        next_spki: its public half, SubjectPublicKeyInfo DER.
    """
    digest = hashlib.sha256(next_spki).hexdigest()
    return f"hsm-provision audit hand-over v1\n{sequence}\n{previous}\n{digest}\n{next_key}\n".encode()


def checkpoint_details(signer: AuditSigner, sequence: int, previous: str) -> dict[str, str]:
    """Return the details of a checkpoint. Raises BackendError."""
    signature = signer.sign(checkpoint_text(sequence, previous))
    return {"key": signer.label, "signature": base64.b64encode(signature).decode()}


def hand_over_details(signer: AuditSigner, to: AuditSigner, sequence: int, previous: str) -> dict[str, str]:
    """Return the details of a hand-over. Raises BackendError.

    Args:
        signer: the key that signed so far.
        to: the key that signs from then on.
        sequence: the record's number.
        previous: the hash it follows.
    """
    signature = signer.sign(hand_over_text(sequence, previous, to.label, to.spki))
    return {
        "key": signer.label,
        "next key": to.label,
        "next spki": base64.b64encode(to.spki).decode(),
        "signature": base64.b64encode(signature).decode(),
    }
