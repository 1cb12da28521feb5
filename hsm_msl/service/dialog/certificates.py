"""Reads the certificates that a dialog configuration names; what is wrong with one is said with its file."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from hsm_msl.dialog.binding import certificate_facts
from hsm_msl.dialog.names import MAX_CHAIN
from hsm_msl.errors import ConfigurationError


def read_certificate(path: Path) -> bytes:
    """Return the first certificate in a PEM or DER file as DER, of a service. Raises ConfigurationError."""
    return _usable(path, read_chain(path))[0]


def read_presented(path: Path) -> tuple[bytes, ...]:
    """Return a service's own certificates, as it presents them, as DER. Raises ConfigurationError."""
    chain = _usable(path, read_chain(path))
    if len(chain) > MAX_CHAIN:
        raise ConfigurationError(
            f"{path}: holds {len(chain)} certificates and peers take {MAX_CHAIN}: leave the service's own in it,"
            " first, and those between it and the trusted issuer"
        )
    return chain


def read_chain(path: Path) -> tuple[bytes, ...]:
    """Return the certificates in a PEM file, or the one in a DER file, as DER. Raises ConfigurationError."""
    try:
        data = path.read_bytes()
        if b"-----BEGIN" in data:
            found = x509.load_pem_x509_certificates(data)
        else:
            found = [x509.load_der_x509_certificate(data)]
        return tuple(certificate.public_bytes(serialization.Encoding.DER) for certificate in found)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise ConfigurationError(f"{path}: no certificate in PEM or DER") from None


def _usable(path: Path, chain: tuple[bytes, ...]) -> tuple[bytes, ...]:
    try:
        certificate_facts(chain[0])
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None
    return chain
