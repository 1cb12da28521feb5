"""Certificate requests and certificates whose signatures a token key makes (RFC 2986, RFC 5280).

asn1crypto builds the structures and cryptography reads them back before anything is written, so that what leaves was
parsed by a second implementation and its signature verified.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from asn1crypto import algos, core, csr, keys, pem
from asn1crypto import x509 as asn1
from cryptography import x509

from hsm_msl.audit.signatures import signature_fits
from hsm_msl.errors import ConfigurationError
from hsm_provision.errors import VerificationError
from hsm_provision.profiles import KeyProfile

Sign = Callable[[bytes], bytes]
_SIGNATURE = {"rsa": "sha256_rsa", "ec": "sha256_ecdsa"}
_USAGES = {
    "sign": "digital_signature",
    "decrypt": "key_encipherment",
    "unwrap": "key_encipherment",
    "derive": "key_agreement",
}


_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DNS = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")
_LONGEST_DNS = 253
_URI = re.compile("[A-Za-z][A-Za-z0-9+.-]*:[!#-;=?-\\[\\]_a-z~]+")


@dataclass(frozen=True, slots=True)
class Names:
    """Whom a certificate is for: a subject (RFC 4514 text) and alternative names."""

    subject: str
    dns: tuple[str, ...] = ()
    uris: tuple[str, ...] = ()


def build_request(spki: bytes, profile: KeyProfile, names: Names, sign: Sign) -> bytes:
    """Return a PKCS#10 request in PEM, signed by the key it is for.

    Args:
        spki: the public key, SubjectPublicKeyInfo DER.
        profile: its kind; must be a signing key.
        names: the subject.
        sign: signs with the private half, SHA-256.

    Raises:
        ConfigurationError: the subject is not RFC 4514 text, or the key does not sign.
        VerificationError: the finished request does not verify.
        BackendError: the token does not sign.
    """
    if "sign" not in profile.usage:
        raise ConfigurationError(f"a {profile.name} key does not sign, so it cannot ask for its own certificate")
    extensions = asn1.Extensions([asn1.Extension(item) for item in _extensions(profile, names, None)])
    info = csr.CertificationRequestInfo(
        {
            "version": "v1",
            "subject": _name(names.subject),
            "subject_pk_info": keys.PublicKeyInfo.load(spki),
            "attributes": [{"type": "extension_request", "values": [extensions]}],
        }
    )
    request = csr.CertificationRequest(
        {
            "certification_request_info": info,
            "signature_algorithm": algos.SignedDigestAlgorithm({"algorithm": _SIGNATURE[profile.type]}),
            "signature": sign(info.dump()),
        }
    )
    text: bytes = pem.armor("CERTIFICATE REQUEST", request.dump())
    if not x509.load_pem_x509_csr(text).is_signature_valid:
        raise VerificationError("the finished certificate request does not verify")
    return text


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who signs a certificate: subject text, public key (SubjectPublicKeyInfo DER), kind of key, and the signing."""

    subject: str
    spki: bytes
    profile: KeyProfile
    sign: Sign


def build_certificate(
    spki: bytes, profile: KeyProfile, names: Names, issuer: Issuer, *, now: float, days: int
) -> bytes:
    """Return an end-entity certificate in PEM.

    Args:
        spki: the public key it is for, SubjectPublicKeyInfo DER.
        profile: the kind of that key; sets the key usage.
        names: the subject.
        issuer: who signs; the same key for a self-signed certificate.
        now: seconds since the epoch; the certificate is valid from a minute before.
        days: how long it is valid.

    Raises:
        ConfigurationError: a subject is not RFC 4514 text, or the issuer does not sign.
        VerificationError: the finished certificate does not verify.
        BackendError: the token does not sign.
    """
    if "sign" not in issuer.profile.usage:
        raise ConfigurationError(f"a {issuer.profile.name} key does not sign; name a signing key with --issuer")
    begin = datetime.fromtimestamp(int(now), UTC) - timedelta(minutes=1)
    algorithm = algos.SignedDigestAlgorithm({"algorithm": _SIGNATURE[issuer.profile.type]})
    body = asn1.TbsCertificate(
        {
            "version": "v3",
            "serial_number": int.from_bytes(os.urandom(19), "big") | 1,
            "signature": algorithm,
            "issuer": _name(issuer.subject),
            "validity": {
                "not_before": asn1.Time({"utc_time": begin}),
                "not_after": asn1.Time(_time(begin + timedelta(days=days))),
            },
            "subject": _name(names.subject),
            "subject_public_key_info": keys.PublicKeyInfo.load(spki),
            "extensions": _extensions(profile, names, issuer.spki, own=spki),
        }
    )
    certificate = asn1.Certificate(
        {"tbs_certificate": body, "signature_algorithm": algorithm, "signature_value": issuer.sign(body.dump())}
    )
    text: bytes = pem.armor("CERTIFICATE", certificate.dump())
    _verify(text, issuer)
    return text


def _verify(text: bytes, issuer: Issuer) -> None:
    parsed = x509.load_pem_x509_certificate(text)
    if not signature_fits(issuer.spki, parsed.tbs_certificate_bytes, parsed.signature):
        raise VerificationError("the finished certificate does not verify")


def _extensions(
    profile: KeyProfile, names: Names, issuer_spki: bytes | None, *, own: bytes | None = None
) -> list[dict[str, object]]:
    usages = {_USAGES[usage] for usage in profile.usage if usage in _USAGES}
    found: list[dict[str, object]] = [
        {"extn_id": "basic_constraints", "critical": True, "extn_value": {"ca": False}},
        {"extn_id": "key_usage", "critical": True, "extn_value": usages},
    ]
    alternatives = [asn1.GeneralName("dns_name", name) for name in names.dns]
    alternatives += [asn1.GeneralName("uniform_resource_identifier", uri) for uri in names.uris]
    if alternatives:
        found.append({"extn_id": "subject_alt_name", "critical": False, "extn_value": alternatives})
    if own is not None and issuer_spki is not None:
        found.append({"extn_id": "key_identifier", "critical": False, "extn_value": core.OctetString(_key_id(own))})
        found.append(
            {
                "extn_id": "authority_key_identifier",
                "critical": False,
                "extn_value": {"key_identifier": _key_id(issuer_spki)},
            }
        )
    return found


def _key_id(spki: bytes) -> bytes:
    # RFC 7093 method 1: the leftmost 160 bits of SHA-256 over the public key bits.
    bits = keys.PublicKeyInfo.load(spki)["public_key"].contents[1:]
    return hashlib.sha256(bits).digest()[:20]


def _name(text: str) -> asn1.Name:
    try:
        if not text.strip():
            raise ValueError("it is empty")
        return asn1.Name.load(x509.Name.from_rfc4514_string(text).public_bytes())
    except ValueError as error:
        reason = f": {error}" if str(error) else ""
        raise ConfigurationError(f"subject {text!r}: write it as in CN=server.example,O=Example{reason}") from error


def _is_uri(text: str) -> bool:
    try:
        return _URI.fullmatch(text) is not None and bool(urlsplit(text).scheme)
    except ValueError:  # a host that is none
        return False


def _time(moment: datetime) -> dict[str, datetime]:
    # RFC 5280 section 4.1.2.5: dates through 2049 are UTCTime, later ones GeneralizedTime.
    return {"utc_time": moment} if moment.year < 2050 else {"general_time": moment}


def split_names(subject: str, dns: Sequence[str], uris: Sequence[str]) -> Names:
    """Return checked names.

    Args:
        subject: RFC 4514 text.
        dns: host names in ASCII, the first label of each may be ``*`` (RFC 5280 section 4.2.1.6).
        uris: absolute URIs.

    Raises:
        ConfigurationError: one of them is something else.
    """
    _name(subject)
    for name in dns:
        if len(name) > _LONGEST_DNS or _DNS.fullmatch(name) is None:
            raise ConfigurationError(
                f"--dns {name!r}: write a host name in ASCII, as in server.example or xn--4ca.example"
            )
    for uri in uris:
        if not _is_uri(uri):
            raise ConfigurationError(f"--uri {uri!r}: write an absolute URI in ASCII, as in urn:example:a")
    return Names(subject, tuple(dns), tuple(uris))
