"""What revocation lists (RFC 5280) and OCSP responses (RFC 6960) say about a chain (dialog section 9)."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import CRLEntryExtensionOID, ExtendedKeyUsageOID, ExtensionOID

from hsm_msl.dialog.errors import CertificateRefusedError
from hsm_msl.dialog.issuers import Chain, RevocationMode
from hsm_msl.dialog.names import CLOCK_SKEW
from hsm_msl.ports.dialog import Evidence

# A list with one of these says something about a part of the certificates, or a part of what another list says.
_PARTIAL = frozenset({ExtensionOID.ISSUING_DISTRIBUTION_POINT, ExtensionOID.DELTA_CRL_INDICATOR})


def check_revocation(chain: Chain, evidence: Evidence, mode: RevocationMode, now: float) -> float:
    """Return the Unix time until which nothing new has to be asked about a chain that is not revoked.

    Args:
        chain: the certificates, the trusted issuer last; about that one nobody is asked.
        evidence: lists and responses at hand.
        mode: what it means that nothing current is at hand.
        now: seconds since the Unix epoch.

    Raises CertificateRefusedError when one is revoked or, with ``required``, when nothing current says it is not.
    """
    until = chain.not_after
    if mode == "off":
        return until
    for certificate, issuer in zip(chain.certificates, chain.certificates[1:], strict=False):
        said = [*_lists(certificate, issuer, evidence), *_responses(certificate, issuer, evidence)]
        if any(revoked and begun <= now + CLOCK_SKEW for revoked, begun, _ in said):
            raise CertificateRefusedError(f"the certificate {_shown(certificate)} is revoked")
        current = max(
            (ends for revoked, begun, ends in said if not revoked and begun <= now + CLOCK_SKEW), default=0.0
        )
        if current >= now:
            until = min(until, current)
        elif mode == "required":
            problem = "is out of date" if said else "is missing"
            raise CertificateRefusedError(
                f"what would say whether {_shown(certificate)} is revoked {problem}: give a current list of"
                f" {_shown(issuer)} (revocation.lists), or a response (revocation.responses)"
            )
    return until


_E = TypeVar("_E", bound=x509.ExtensionType)
_Said = tuple[bool, float, float]
"""Whether it is revoked, since when that is known, until when it holds."""


def _lists(certificate: x509.Certificate, issuer: x509.Certificate, evidence: Evidence) -> Iterator[_Said]:
    issuer_der = issuer.public_bytes(serialization.Encoding.DER)
    for der in evidence.lists:
        found = _list_of(der, issuer_der)
        if found is None or found.next_update_utc is None:
            continue
        entry = found.get_revoked_certificate_by_serial_number(certificate.serial_number)
        yield (
            entry is not None and not _removed(entry),
            found.last_update_utc.timestamp(),
            found.next_update_utc.timestamp(),
        )


@functools.lru_cache(maxsize=256)
def _list_of(der: bytes, issuer_der: bytes) -> x509.CertificateRevocationList | None:
    """Return a list when it is a whole one of an issuer, signed by it."""
    issuer = x509.load_der_x509_certificate(issuer_der)
    try:
        found = x509.load_der_x509_crl(der)
        if found.issuer != issuer.subject or any(extension.oid in _PARTIAL for extension in found.extensions):
            return None
        if any(e.critical and isinstance(e.value, x509.UnrecognizedExtension) for e in found.extensions):
            return None
        usage = _extension(issuer, x509.KeyUsage)
        if usage is not None and not usage.crl_sign:
            return None
        fits = found.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]  # other kinds are a TypeError
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return found if fits else None


def _removed(entry: x509.RevokedCertificate) -> bool:
    try:
        reason = entry.extensions.get_extension_for_oid(CRLEntryExtensionOID.CRL_REASON).value
    except x509.ExtensionNotFound:
        return False
    return isinstance(reason, x509.CRLReason) and reason.reason is x509.ReasonFlags.remove_from_crl


def _responses(certificate: x509.Certificate, issuer: x509.Certificate, evidence: Evidence) -> Iterator[_Said]:
    for der in evidence.responses:
        try:
            response = ocsp.load_der_ocsp_response(der)
            if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL or not _answers(response, issuer):
                continue
            for single in response.responses:
                ends = single.next_update_utc
                if ends is None or not _about(single, certificate, issuer):
                    continue
                status = single.certificate_status
                if status is not ocsp.OCSPCertStatus.UNKNOWN:
                    begun = single.this_update_utc.timestamp()
                    yield status is ocsp.OCSPCertStatus.REVOKED, begun, ends.timestamp()
        except (ValueError, TypeError, UnsupportedAlgorithm):
            continue


def _about(single: ocsp.OCSPSingleResponse, certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    request = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, single.hash_algorithm).build()
    return (single.serial_number, single.issuer_key_hash, single.issuer_name_hash) == (
        request.serial_number,
        request.issuer_key_hash,
        request.issuer_name_hash,
    )


def _answers(response: ocsp.OCSPResponse, issuer: x509.Certificate) -> bool:
    """Tell whether a response is signed by the issuer, or by a responder to whom it gave that right."""
    for signer in (issuer, *response.certificates):
        if signer is not issuer and not _responder(signer, issuer, response):
            continue
        if _signed(signer, response):
            return True
    return False


def _responder(certificate: x509.Certificate, issuer: x509.Certificate, response: ocsp.OCSPResponse) -> bool:
    usage = _extension(certificate, x509.ExtendedKeyUsage)
    if usage is None or ExtendedKeyUsageOID.OCSP_SIGNING not in usage:
        return False
    produced = response.produced_at_utc
    if not certificate.not_valid_before_utc <= produced <= certificate.not_valid_after_utc:
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _signed(signer: x509.Certificate, response: ocsp.OCSPResponse) -> bool:
    key, digest = signer.public_key(), response.signature_hash_algorithm
    signature, data = response.signature, response.tbs_response_bytes
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, data)
        elif isinstance(digest, hashes.SHA1) or digest is None:
            return False
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, data, padding.PKCS1v15(), digest)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data, ec.ECDSA(digest))
        else:
            return False
    except InvalidSignature:
        return False
    return True


def _extension(certificate: x509.Certificate, kind: type[_E]) -> _E | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _shown(certificate: x509.Certificate) -> str:
    return f"{certificate.subject.rfc4514_string()!r} (serial {certificate.serial_number:x})"
