"""Certificates trusted for who issued them: chain, dates, service name, purpose (dialog section 9)."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509 import verification
from cryptography.x509.oid import ObjectIdentifier

from hsm_msl.dialog.errors import CertificateRefusedError
from hsm_msl.dialog.names import CERTIFICATE_USAGE_OID, MIN_RSA_BITS
from hsm_msl.errors import ConfigurationError

_USAGE = ObjectIdentifier(CERTIFICATE_USAGE_OID)
_DEPTH = 3
_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What the library raises about certificates that a stranger made up."""

RevocationMode = Literal["required", "if_available", "off"]


class Use(Enum):
    """What a certificate is shown for; the value is for people."""

    SIGNING = "signing"
    ENCRYPTION = "encryption"


class IssuerTrust(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may issue the certificates of a remote service.

    Args:
        issuers: trusted certificates of authorities, DER.
        subject: name attributes that every certificate's subject must have (RFC 4514 text), may be empty.
        revocation: ``required`` refuses a certificate about which no current list or response says anything,
            ``if_available`` refuses only what a list or response says is revoked, ``off`` asks nobody.
        dual_use: whether a certificate may serve for signing and for encryption.
    """

    issuers: tuple[bytes, ...]
    subject: str = ""
    revocation: RevocationMode = "required"
    dual_use: bool = False

    def validate(self) -> None:
        """Raise ConfigurationError for what could never trust anybody."""
        if not self.issuers:
            raise ConfigurationError("trust by issuer needs the certificate of an issuer")
        try:
            for der in self.issuers:
                certificate = _load(der)
                if not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
                    raise ConfigurationError(f"{_shown(certificate)} is not the certificate of an authority")
            x509.Name.from_rfc4514_string(self.subject)
        except x509.ExtensionNotFound:
            raise ConfigurationError("an issuer's certificate does not say that it is one") from None
        except ValueError as error:
            raise ConfigurationError(f"issuer or subject of a binding cannot be read: {error}") from None


@dataclass(frozen=True, slots=True)
class Chain:
    """A certificate and its issuers up to a trusted one; times are Unix seconds in which all of them are valid."""

    certificates: tuple[x509.Certificate, ...]
    not_before: float
    not_after: float


def build_chain(trust: IssuerTrust, presented: Sequence[bytes], name: str, use: Use, now: float) -> Chain:
    """Return the chain from a presented certificate to a trusted issuer.

    Args:
        trust: who is trusted.
        presented: the certificate, then any others that may lie between it and the issuer; DER.
        name: the service it must name, byte for byte, as a URI among its alternative names.
        use: what it is shown for.
        now: seconds since the Unix epoch.

    Raises CertificateRefusedError with the reason.
    """
    try:
        certificate, *others = [_load(der) for der in presented]
        subject = set(certificate.subject)
        problem = too_small(certificate.public_key())
        _check_dates(certificate, now)
    except _UNREADABLE as error:
        raise CertificateRefusedError("the certificate cannot be read") from error
    if problem:
        raise CertificateRefusedError(f"the certificate has {problem}")
    try:
        _check_purpose(certificate, name, use, dual_use=trust.dual_use)
    except (x509.ExtensionNotFound, *_UNREADABLE) as error:
        raise CertificateRefusedError(f"the certificate lacks what a service's must say: {error}") from error
    wanted = set(x509.Name.from_rfc4514_string(trust.subject))
    if not wanted <= subject:
        raise CertificateRefusedError("the certificate's subject is not the one that is asked for")
    try:
        found = _verifier(trust.issuers, now).verify(certificate, others).chain
    except (verification.VerificationError, *_UNREADABLE) as error:
        raise CertificateRefusedError(f"no chain to a trusted issuer: {error}") from error
    return Chain(
        tuple(found),
        max(link.not_valid_before_utc.timestamp() for link in found),
        min(link.not_valid_after_utc.timestamp() for link in found),
    )


def too_small(key: CertificatePublicKeyTypes) -> str:
    """Say what is wrong with the size of a service's public key; empty when nothing is (section 2)."""
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        return f"an RSA key of {key.key_size} bits; {MIN_RSA_BITS} is the least"
    return ""


def _verifier(issuers: tuple[bytes, ...], now: float) -> verification.ClientVerifier:
    # Name constraints the library cannot judge, such as those on URIs, are refused by it.
    ends = verification.ExtensionPolicy.permit_all()
    for extension in (x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage, x509.SubjectAlternativeName):
        ends = ends.may_be_present(extension, verification.Criticality.AGNOSTIC, None)
    return (
        verification.PolicyBuilder()
        .store(_store(issuers))
        .time(datetime.datetime.fromtimestamp(now, datetime.UTC).replace(tzinfo=None))
        .max_chain_depth(_DEPTH)
        .extension_policies(ca_policy=verification.ExtensionPolicy.webpki_defaults_ca(), ee_policy=ends)
        .build_client_verifier()
    )


@functools.lru_cache(maxsize=64)
def _store(issuers: tuple[bytes, ...]) -> verification.Store:
    return verification.Store([_load(der) for der in issuers])


@functools.lru_cache(maxsize=1024)
def _load(der: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(der)


def _check_dates(certificate: x509.Certificate, now: float) -> None:
    if now < certificate.not_valid_before_utc.timestamp():
        raise CertificateRefusedError("the certificate is not valid yet")
    if now > certificate.not_valid_after_utc.timestamp():
        raise CertificateRefusedError("the certificate has expired")


def _check_purpose(certificate: x509.Certificate, name: str, use: Use, *, dual_use: bool) -> None:
    extensions = certificate.extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    if name not in names.get_values_for_type(x509.UniformResourceIdentifier):
        raise CertificateRefusedError("the certificate names another service")
    if _USAGE not in extensions.get_extension_for_class(x509.ExtendedKeyUsage).value:
        raise CertificateRefusedError(
            f"the certificate is not for dialogs (extended key usage {_USAGE.dotted_string})"
        )
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    opens = usage.key_encipherment or usage.key_agreement
    if not (usage.digital_signature if use is Use.SIGNING else opens):
        raise CertificateRefusedError(f"the certificate is not for {use.value}")
    if usage.digital_signature and opens and not dual_use:
        raise CertificateRefusedError("one certificate for signing and encryption needs allow_dual_use")


def _shown(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string() or "a certificate without a name"
