"""What a vendor says in evidence that a key was made inside its device (field notes F22: no common format).

The evidence is an opaque file: it is kept beside the manifest under its SHA-256, and the signed manifest names that
hash. What can be checked depends on its kind; each kind has a verifier in ``VERIFIERS``, so a vendor is one entry.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsm_msl.errors import ConfigurationError
from hsm_provision.manifest import Attestation, ManifestBody, ManifestKey

MAXIMUM_BYTES = 1024 * 1024

Verifier = Callable[[bytes, ManifestKey, bytes | None], str | None]
"""Takes evidence, the key it is about and the vendor's roots (PEM); returns what is wrong, or None."""


def _x509_chain(evidence: bytes, key: ManifestKey, roots: bytes | None) -> str | None:
    """Check a PEM chain whose first certificate is about the key and whose last a root of the vendor issued.

    Dates are not checked: a device certifies at a moment, and the evidence is kept for longer. Every issuer must be a
    certification authority, or else an attested signing key could attest to keys of its own making.
    """
    if key.spki is None:
        return "a certificate is evidence about a key pair, and this is a secret key"
    if roots is None:
        return "the ceremony names no roots of the vendor ([attestation] trust)"
    try:
        chain = x509.load_pem_x509_certificates(evidence)
        trusted = x509.load_pem_x509_certificates(roots)
        spki = chain[0].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, TypeError):
        return "it is no chain of PEM certificates"
    if spki != base64.b64decode(key.spki):
        return "its first certificate is about another key"
    for subject, issuer in pairwise(chain):
        if not _issued(subject, issuer):
            return f"the certificate of {subject.subject.rfc4514_string()!r} is not issued by the next one"
    if not any(root == chain[-1] or _issued(chain[-1], root) for root in trusted):
        return "no root of the vendor issued its last certificate"
    return None


def _issued(subject: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        authority = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        subject.verify_directly_issued_by(issuer)
    except (x509.ExtensionNotFound, InvalidSignature, ValueError, TypeError):
        return False
    return authority


VERIFIERS: Mapping[str, Verifier | None] = {"opaque": None, "x509-chain": _x509_chain}
"""How each kind of evidence is checked; ``opaque`` is only kept, for people with the vendor's tool."""


@dataclass(frozen=True, slots=True)
class EvidenceShelf:
    """The evidence of one token.

    Args:
        directory: where the files are.
        roots: the file with the vendor's root certificates (PEM), where the ceremony names one.
    """

    directory: Path
    roots: Path | None = None

    def path(self, digest: str) -> Path:
        """Return the file that holds the evidence with this SHA-256."""
        return self.directory / f"{digest}.evidence"

    def problem(self, evidence: bytes, kind: str, key: ManifestKey) -> str | None:
        """Check evidence. Returns what is wrong, or None. Raises ConfigurationError when the roots cannot be read."""
        if kind not in VERIFIERS:
            return f"no verifier for evidence of kind {kind!r}; there are: {', '.join(VERIFIERS)}"
        verifier = VERIFIERS[kind]
        if verifier is None:
            return None
        return verifier(evidence, key, None if self.roots is None else read_evidence(self.roots))

    def problems(self, body: ManifestBody) -> tuple[str, ...]:
        """Return what is wrong with the evidence a manifest names, a sentence each."""
        found = ((entry.label, self._kept_problem(entry)) for entry in body.keys if entry.state != "destroyed")
        return tuple(f"attestation of {label}: {problem}" for label, problem in found if problem is not None)

    def _kept_problem(self, entry: ManifestKey) -> str | None:
        if not isinstance(entry.attestation, Attestation):
            return None
        path = self.path(entry.attestation.sha256)
        try:
            evidence = read_evidence(path)
        except ConfigurationError as error:
            return str(error)
        if sha256(evidence).hexdigest() != entry.attestation.sha256:
            return f"{path.name} is not the file that was attached"
        return self.problem(evidence, entry.attestation.kind, entry)


def read_evidence(path: Path) -> bytes:
    """Return a file of evidence or roots. Raises ConfigurationError when it cannot be read, is empty or too large."""
    try:
        with path.open("rb") as file:
            content = file.read(MAXIMUM_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    if not 0 < len(content) <= MAXIMUM_BYTES:
        raise ConfigurationError(f"{path}: evidence has 1 to {MAXIMUM_BYTES} bytes")
    return content
