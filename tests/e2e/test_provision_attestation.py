"""A vendor's evidence about a key: kept, bound to the signed manifest, checked where its kind is known."""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from cryptography.x509.oid import NameOID

from ceremony_fixture import CeremonyBench

TRUST = '\n[attestation]\ntrust = "roots.pem"\n'
LABEL = "identity.ec.v1"
START = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


class Vendor:
    """A vendor's root and one device that certifies keys."""

    def __init__(self, name: str) -> None:
        self.root, self.root_key = self._authority(f"{name} root", None)
        self.device, self.device_key = self._authority(f"{name} device", (self.root, self.root_key))

    def certificate(
        self, key: ec.EllipticCurvePublicKey, name: str, issuer: str, by: ec.EllipticCurvePrivateKey, *, ca: bool
    ) -> x509.Certificate:
        def names(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        return (
            x509.CertificateBuilder()
            .subject_name(names(name))
            .issuer_name(names(issuer))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(START)
            .not_valid_after(START + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .sign(by, hashes.SHA256())
        )

    def attest(self, spki: bytes) -> bytes:
        key = load_der_public_key(spki)
        assert isinstance(key, ec.EllipticCurvePublicKey)
        issuer = self.device.subject.rfc4514_string().removeprefix("CN=")
        return pem(self.certificate(key, "attested", issuer, self.device_key, ca=False), self.device)

    def _authority(
        self, name: str, by: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None
    ) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = name if by is None else by[0].subject.rfc4514_string().removeprefix("CN=")
        return self.certificate(key.public_key(), name, issuer, key if by is None else by[1], ca=True), key


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(one.public_bytes(Encoding.PEM) for one in certificates)


@pytest.fixture(scope="module")
def vendor() -> Vendor:
    return Vendor("Maker")


@pytest.fixture
def ceremony(bench: CeremonyBench, vendor: Vendor) -> Path:
    """Return an applied ceremony with a key pair and a secret key, which trusts the vendor."""
    bench.write("roots.pem", pem(vendor.root).decode())
    ceremony = bench.ceremony('profile = "ec-identity"', 'profile = "msl-token-mac"', extra=TRUST)
    bench.apply(ceremony)
    return ceremony


def attest(
    bench: CeremonyBench, ceremony: Path, evidence: bytes, label: str = LABEL, kind: str = "x509-chain"
) -> Sequence[str | int]:
    (bench.work / "evidence").write_bytes(evidence)
    outcome = bench.run("attest", ceremony, label, "evidence", "--kind", kind)
    assert "Traceback" not in outcome.err
    return outcome.code, outcome.out + outcome.err


def spki(bench: CeremonyBench, label: str = LABEL) -> bytes:
    return base64.b64decode(bench.entry(label)["spki"])


def test_evidence_is_checked_kept_and_named_by_the_signed_manifest(
    bench: CeremonyBench, ceremony: Path, vendor: Vendor
) -> None:
    assert "attestation" not in bench.entry(LABEL)
    evidence = vendor.attest(spki(bench))
    code, told = attest(bench, ceremony, evidence)
    assert (code, str(told).endswith("checked\n")) == (0, True), told
    attached = bench.entry(LABEL)["attestation"]
    kept = bench.work / "records/attestations" / f"{attached['sha256']}.evidence"
    assert kept.read_bytes() == evidence
    assert bench.run("verify", ceremony).code == 0
    report = bench.run("report", ceremony, "--out", "report.html")
    assert report.code == 0, report.err
    assert "evidence (x509-chain)" in (bench.work / "report.html").read_text()
    events = [json.loads(line)["event"] for line in (bench.work / "records/audit.jsonl").read_text().splitlines()]
    assert "evidence attached" in events


@pytest.mark.parametrize("harm", ["changed", "gone", "roots"])
def test_evidence_that_holds_no_more_is_found_by_verify(
    bench: CeremonyBench, ceremony: Path, vendor: Vendor, harm: str
) -> None:
    assert attest(bench, ceremony, vendor.attest(spki(bench)))[0] == 0
    (kept,) = (bench.work / "records/attestations").iterdir()
    if harm == "changed":
        kept.write_bytes(kept.read_bytes() + b"\n")
    elif harm == "gone":
        kept.unlink()
    else:
        bench.write("roots.pem", pem(Vendor("Other").root).decode())
    outcome = bench.run("verify", ceremony)
    assert outcome.code == 5
    reason = {"changed": "not the file that was attached", "gone": "cannot be read", "roots": "no root of the vendor"}
    assert f"attestation of {LABEL}: " in outcome.out
    assert reason[harm] in outcome.out


def test_evidence_that_does_not_hold_is_refused(bench: CeremonyBench, ceremony: Path, vendor: Vendor) -> None:
    """Among them: a key that was attested to signs for another one, under a root that is trusted."""
    before = (bench.work / "records/manifest.json").read_bytes()
    good = vendor.attest(spki(bench))
    mine = ec.generate_private_key(ec.SECP256R1())
    attested = vendor.certificate(mine.public_key(), "mine", "Maker device", vendor.device_key, ca=False)
    key = load_der_public_key(spki(bench))
    assert isinstance(key, ec.EllipticCurvePublicKey)
    forged = pem(vendor.certificate(key, "attested", "mine", mine, ca=False), attested, vendor.device)
    for evidence, complaint in (
        (forged, "not issued by the next one"),
        (Vendor("Maker").attest(spki(bench)), "no root of the vendor"),
        (vendor.attest(spki(bench, "audit.signing.v1")), "about another key"),
        (good[: len(good) // 3], "no chain of PEM certificates"),
        (b"anything", "no chain of PEM certificates"),
    ):
        code, told = attest(bench, ceremony, evidence)
        assert code == 5, told
        assert complaint in str(told)
    code, told = attest(bench, ceremony, good, "msl.token.mac.v1")
    assert (code, "secret key" in str(told)) == (5, True)
    assert attest(bench, ceremony, good, kind="unheard-of")[0] == 5
    assert attest(bench, ceremony, good, "no.such.v1")[0] == 3
    assert attest(bench, ceremony, b"")[0] == 2
    assert (bench.work / "records/manifest.json").read_bytes() == before


def test_evidence_of_an_unknown_form_is_kept_as_it_is(bench: CeremonyBench, ceremony: Path) -> None:
    code, told = attest(bench, ceremony, b"\x00vendor blob\xff", "msl.token.mac.v1", "opaque")
    assert (code, "kept unchecked" in str(told)) == (0, True)
    (kept,) = (bench.work / "records/attestations").iterdir()
    assert kept.read_bytes() == b"\x00vendor blob\xff"
    assert bench.run("verify", ceremony).code == 0
