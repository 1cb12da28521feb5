"""Certificates made for tests: authorities with path lengths, and what they sign."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from hsm_msl.msl.entityauth.certificate import Certificate, parse_certificate
from msl_keys import rsa_key

START = 1_700_000_000
END = 1_900_000_000


@dataclass(frozen=True)
class Authority:
    """A certificate with the private key that belongs to it."""

    certificate: Certificate
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@cache
def ec_key(name: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def make(
    subject: str,
    issuer: Authority | None = None,
    *,
    ca: bool = True,
    path_length: int | None = None,
    start: int = START,
    end: int = END,
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | None = None,
    issuer_name: str | None = None,
    constraints: bool = True,
) -> Authority:
    """Make a certificate; self-signed without an issuer."""
    own = rsa_key(subject) if key is None else key
    signer = own if issuer is None else issuer.key
    issued_by = subject if issuer is None else issuer.certificate.subject.removeprefix("CN=")
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer_name or issued_by))
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime.fromtimestamp(start, datetime.UTC))
        .not_valid_after(datetime.datetime.fromtimestamp(end, datetime.UTC))
    )
    if constraints:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
    signed = builder.sign(signer, SHA256())
    return Authority(parse_certificate(signed.public_bytes(Encoding.DER)), own)


def leaf(subject: str, issuer: Authority, *, start: int = START, end: int = END) -> Authority:
    """Make an entity's certificate."""
    return make(subject, issuer, ca=False, start=start, end=end)
