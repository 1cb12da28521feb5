"""How the key that signs manifests names the one that signs them next, so that servers follow without new trust."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

import msgspec

from hsm_msl.audit.chain import AuditSigner
from hsm_msl.audit.signatures import signature_fits


class SignerHandOver(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One hand-over; public halves and signature are Base64, the signature is the former key's."""

    former: str
    next: str
    label: str
    signature: str


def hand_over_signer(signer: AuditSigner, to: AuditSigner) -> SignerHandOver:
    """Return the statement by which one key hands over to another. Raises BackendError."""
    made = signer.sign(_text(to.spki, to.label))
    former, successor, signature = (base64.b64encode(part).decode() for part in (signer.spki, to.spki, made))
    return SignerHandOver(former, successor, to.label, signature)


def signers_after(trusted: bytes, hand_overs: Sequence[SignerHandOver]) -> tuple[bytes, ...]:
    """Return a trusted key and those it handed over to, in order (SubjectPublicKeyInfo DER).

    Args:
        trusted: the key that is trusted beforehand.
        hand_overs: statements, oldest first; those that do not follow from the trusted key count for nothing.
    """
    keys = [trusted]
    for step in hand_overs:
        try:
            former, successor = base64.b64decode(step.former), base64.b64decode(step.next)
            signature = base64.b64decode(step.signature)
        except ValueError:
            continue
        if former == keys[-1] and signature_fits(former, _text(successor, step.label), signature):
            keys.append(successor)
    return tuple(keys)


def _text(successor: bytes, label: str) -> bytes:
    return f"hsm-provision manifest hand-over v1\n{hashlib.sha256(successor).hexdigest()}\n{label}\n".encode()
