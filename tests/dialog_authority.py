"""A certificate authority for dialog tests: certificates, revocation lists and OCSP responses, right and wrong."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from dialog_keys import PrivateKey, ec_key
from hsm_msl.dialog.names import CERTIFICATE_USAGE_OID
from hsm_msl.ports.dialog import Evidence

DAY = 86400
DIALOG = ObjectIdentifier(CERTIFICATE_USAGE_OID)
Extension = tuple[x509.ExtensionType, bool]


def moment(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


def named(text: str, organization: str = "Example") -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization), x509.NameAttribute(NameOID.COMMON_NAME, text)]
    )


def usage(*names: str) -> x509.KeyUsage:
    every = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: name in names for name in every})


@dataclass
class Shelf:
    """Revocation lists and responses at hand (``RevocationEvidence``)."""

    lists: list[bytes] = field(default_factory=list)
    responses: list[bytes] = field(default_factory=list)
    version: int = 0

    def current(self) -> Evidence:
        return Evidence(self.version, tuple(self.lists), tuple(self.responses))

    def put(self, *lists: bytes, responses: Sequence[bytes] = ()) -> None:
        self.lists, self.responses = list(lists), list(responses)
        self.version += 1


class Authority:
    """An issuer, by itself or under another one."""

    def __init__(
        self, name: str, now: float, parent: Authority | None = None, extensions: Sequence[Extension] = ()
    ) -> None:
        self.key = ec_key("authority " + name)
        self.name = named(name)
        self.now = now
        self._serial = 100
        issuer = parent or self
        ca: list[Extension] = [
            (x509.BasicConstraints(ca=True, path_length=None), True),
            (usage("key_cert_sign", "crl_sign"), True),
            (x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), False),
            *extensions,
        ]
        self.certificate = issuer.sign(self.name, self.key, now - DAY, now + 1000 * DAY, ca)
        self.der = der(self.certificate)

    def sign(
        self, subject: x509.Name, key: PrivateKey, begin: float, end: float, extensions: Sequence[Extension]
    ) -> x509.Certificate:
        self._serial += 1
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(self._serial)
            .not_valid_before(moment(begin))
            .not_valid_after(moment(end))
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.key, hashes.SHA256())

    def issue(
        self,
        service: str,
        key: PrivateKey,
        *uses: str,
        begin: float = -DAY,
        end: float = 90 * DAY,
        purpose: ObjectIdentifier | None = DIALOG,
        organization: str = "Example",
        extensions: Sequence[Extension] = (),
    ) -> bytes:
        """A service's certificate; times are relative to now."""
        said: list[Extension] = [
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (usage(*uses), True),
            (x509.SubjectAlternativeName([x509.UniformResourceIdentifier(service)]), False),
            *extensions,
        ]
        if purpose is not None:
            said.append((x509.ExtendedKeyUsage([purpose]), False))
        return der(self.sign(named(service, organization), key, self.now + begin, self.now + end, said))

    def crl(
        self,
        *revoked: bytes,
        begin: float = -DAY,
        end: float = 7 * DAY,
        reason: x509.ReasonFlags | None = None,
        extensions: Sequence[Extension] = (),
    ) -> bytes:
        """A revocation list; times are relative to now."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.name)
            .last_update(moment(self.now + begin))
            .next_update(moment(self.now + end))
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        for one in revoked:
            entry = (
                x509.RevokedCertificateBuilder()
                .serial_number(x509.load_der_x509_certificate(one).serial_number)
                .revocation_date(moment(self.now - DAY))
            )
            if reason is not None:
                entry = entry.add_extension(x509.CRLReason(reason), critical=False)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)

    def responder(self, name: str, *, allowed: bool = True) -> tuple[PrivateKey, x509.Certificate]:
        """A responder that may answer for this authority, or one that may not."""
        key = ec_key("responder " + name)
        purpose = ExtendedKeyUsageOID.OCSP_SIGNING if allowed else ExtendedKeyUsageOID.CLIENT_AUTH
        extensions: list[Extension] = [(x509.ExtendedKeyUsage([purpose]), False)]
        return key, self.sign(named(name), key, self.now - 1000 * DAY, self.now + 30 * DAY, extensions)

    def response(
        self,
        certificate: bytes,
        status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD,
        *,
        begin: float = -DAY,
        end: float = DAY,
        by: tuple[PrivateKey, x509.Certificate] | None = None,
    ) -> bytes:
        """An OCSP response, of the authority itself or of a responder."""
        key, signer = by or (self.key, self.certificate)
        revoked = status is ocsp.OCSPCertStatus.REVOKED
        builder = (
            ocsp.OCSPResponseBuilder()
            .add_response(
                cert=x509.load_der_x509_certificate(certificate),
                issuer=self.certificate,
                algorithm=hashes.SHA256(),
                cert_status=status,
                this_update=moment(self.now + begin),
                next_update=moment(self.now + end),
                revocation_time=moment(self.now - DAY) if revoked else None,
                revocation_reason=None,
            )
            .responder_id(ocsp.OCSPResponderEncoding.HASH, signer)
        )
        if by is not None:
            builder = builder.certificates([signer])
        return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)
