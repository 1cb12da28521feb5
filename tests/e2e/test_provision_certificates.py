"""Certificate requests and certificates signed inside a real token (RFC 2986, RFC 5280)."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from ceremony_fixture import CeremonyBench
from hsm_msl.errors import ConfigurationError
from hsm_provision.certificates import Names, split_names

KEYS = (
    'profile = "rsa-identity"',
    'profile = "ec-identity"',
    'profile = "dialog-signing-ec"\npurpose = "dialog.a"',
    'profile = "dialog-kek"\npurpose = "dialog.a"\nbits = 2048',
)


@pytest.mark.parametrize("label", ["identity.rsa.v1", "identity.ec.v1"])
def test_a_request_verifies_and_carries_its_names(bench: CeremonyBench, label: str) -> None:
    ceremony = bench.ceremony(*KEYS)
    bench.apply(ceremony)
    outcome = bench.run(
        "csr",
        ceremony,
        label,
        "--subject",
        "CN=msl.example,O=Example \\, Inc",
        "--dns",
        "msl.example",
        "--out",
        "r.pem",
    )
    assert outcome.code == 0, outcome.err
    request = x509.load_pem_x509_csr((bench.work / "r.pem").read_bytes())
    assert request.is_signature_valid
    assert request.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value == "Example , Inc"
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["msl.example"]
    again = bench.run("csr", ceremony, label, "--subject", "CN=x", "--out", "r.pem")
    assert again.code == 2
    assert "cannot be created" in again.err


@pytest.mark.parametrize("label", ["identity.rsa.v1", "identity.ec.v1"])
def test_a_self_signed_certificate_verifies(bench: CeremonyBench, label: str) -> None:
    ceremony = bench.ceremony(*KEYS)
    bench.apply(ceremony)
    outcome = bench.run("certificate", ceremony, label, "--subject", "CN=me", "--days", "30", "--out", "c.pem")
    assert outcome.code == 0, outcome.err
    certificate = x509.load_pem_x509_certificate((bench.work / "c.pem").read_bytes())
    certificate.verify_directly_issued_by(certificate)
    left = certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    assert 28 < left.days <= 30
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert not usage.key_encipherment
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_an_encryption_key_is_certified_by_the_signing_key_of_its_service(bench: CeremonyBench) -> None:
    """Dialog section 9: separate certificates for signing and encryption, SAN URI = service name."""
    ceremony = bench.ceremony(*KEYS)
    bench.apply(ceremony)
    alone = bench.run("certificate", ceremony, "dialog.a.kek.v1", "--subject", "CN=a", "--out", "kek.pem")
    assert alone.code == 2
    assert "--issuer" in alone.err
    arguments = ["--subject", "CN=a encryption", "--issuer-subject", "CN=a", "--uri", "sdp://example/a"]
    made = bench.run(
        "certificate", ceremony, "dialog.a.kek.v1", "--issuer", "dialog.a.signing.v1", *arguments, "--out", "kek.pem"
    )
    assert made.code == 0, made.err
    signing = bench.run("certificate", ceremony, "dialog.a.signing.v1", "--subject", "CN=a", "--out", "signing.pem")
    assert signing.code == 0, signing.err
    kek = x509.load_pem_x509_certificate((bench.work / "kek.pem").read_bytes())
    issuer = x509.load_pem_x509_certificate((bench.work / "signing.pem").read_bytes())
    kek.verify_directly_issued_by(issuer)
    assert kek.extensions.get_extension_for_class(x509.KeyUsage).value.key_encipherment
    names = kek.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["sdp://example/a"]


@pytest.mark.parametrize("subject", ["", "nonsense", "CN"])
def test_an_unusable_subject_is_named(bench: CeremonyBench, subject: str) -> None:
    ceremony = bench.ceremony(KEYS[1])
    bench.apply(ceremony)
    outcome = bench.run("csr", ceremony, "identity.ec.v1", "--subject", subject, "--out", "r.pem")
    assert outcome.code == 2
    assert "subject" in outcome.err
    assert not outcome.err.rstrip().endswith(":")
    assert not (bench.work / "r.pem").exists()


@pytest.mark.parametrize("name", ["", "b ä", "a..b", "-a.example", "a.*.example", "x" * 64, "a." * 127, "a\n"])
def test_a_dns_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="--dns"):
        split_names("CN=a", [name], [])


@pytest.mark.parametrize("uri", ["", "//[", "http://[", "a", "urn:ä", "urn:a b", "urn:", "urn:a\n"])
def test_a_uri_that_is_none_is_refused(uri: str) -> None:
    with pytest.raises(ConfigurationError, match="--uri"):
        split_names("CN=a", [], [uri])


def test_names_that_certificates_carry() -> None:
    dns = ("a", "*.example", "server-1.example", "xn--4ca.example")
    uris = ("urn:demo:a", "sdp://example/a", "https://[::1]:443/p?q=%20#f")
    assert split_names("CN=a", dns, uris) == Names("CN=a", dns, uris)
