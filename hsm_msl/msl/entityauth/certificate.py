"""An X.509 certificate as this project needs it: names as text, dates, and who signed it."""

from __future__ import annotations

from dataclasses import dataclass, field

from asn1crypto.x509 import Certificate as Structure
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.msl.entityauth.x500_name import x500_text

UNLIMITED = 2**31 - 1
"""Path length of a CA whose certificate states none."""

_BROKEN_HASHES = frozenset(("md5",))


@dataclass(frozen=True, slots=True)
class Certificate:
    """A parsed certificate.

    Attributes:
        der: the certificate as received.
        subject: the subject's name, as identities are printed.
        issuer: the issuer's name, in the same form.
        not_before: start of validity, seconds since the epoch.
        not_after: end of validity, seconds since the epoch.
        public_key: SubjectPublicKeyInfo DER.
    """

    der: bytes
    subject: str
    issuer: str
    not_before: float
    not_after: float
    public_key: bytes
    parsed: x509.Certificate = field(repr=False, compare=False)

    @property
    def self_issued(self) -> bool:
        """Whether subject and issuer are the same name."""
        return self.subject == self.issuer

    def path_length(self) -> int | None:
        """Return how long paths below this CA may be, ``UNLIMITED`` when it does not say, None when it is no CA."""
        try:
            constraints = self.parsed.extensions.get_extension_for_class(x509.BasicConstraints).value
        except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
            return None
        if not constraints.ca:
            return None
        return UNLIMITED if constraints.path_length is None else constraints.path_length

    def signed_by(self, issuer: Certificate) -> bool:
        """Tell whether the issuer's key verifies this certificate; names and dates are not looked at."""
        certificate, key = self.parsed, issuer.parsed.public_key()
        data, signature = certificate.tbs_certificate_bytes, certificate.signature
        try:
            algorithm = certificate.signature_hash_algorithm
            parameters = certificate.signature_algorithm_parameters
            if algorithm is not None and algorithm.name in _BROKEN_HASHES:
                return False
            if isinstance(key, rsa.RSAPublicKey):
                if algorithm is None or not isinstance(parameters, padding.PKCS1v15 | padding.PSS):
                    return False
                key.verify(signature, data, parameters, algorithm)
            elif isinstance(key, ec.EllipticCurvePublicKey):
                if not isinstance(parameters, ec.ECDSA):
                    return False
                key.verify(signature, data, parameters)
            elif isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
                key.verify(signature, data)
            else:
                return False
        except (InvalidSignature, UnsupportedAlgorithm, ValueError):
            return False
        return True


def parse_certificate(der: bytes) -> Certificate:
    """Read a certificate.

    Args:
        der: the DER bytes.

    Raises:
        MslError: X509CERT_PARSE_ERROR, also for a serial number that is not positive (RFC 5280 section 4.1.2.2),
            which the library will refuse some day.
    """
    try:
        # The library re-encodes names; the identity is printed from the bytes as they are.
        fields = Structure.load(der)["tbs_certificate"]
        if fields["serial_number"].native <= 0:
            raise MslError(ErrorCode.X509CERT_PARSE_ERROR)
        parsed = x509.load_der_x509_certificate(der)
        return Certificate(
            der,
            x500_text(fields["subject"].dump()),
            x500_text(fields["issuer"].dump()),
            parsed.not_valid_before_utc.timestamp(),
            parsed.not_valid_after_utc.timestamp(),
            parsed.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            parsed,
        )
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
        raise MslError(ErrorCode.X509CERT_PARSE_ERROR) from None
