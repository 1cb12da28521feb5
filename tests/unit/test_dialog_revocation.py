"""Revocation lists and OCSP responses in files: read again when they change, absent when they cannot be read."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from dialog_authority import Authority
from dialog_keys import ec_key
from dialog_world import START
from hsm_msl.service.dialog.revocation import FileEvidence

ROOT = Authority("root", START)


def test_files_are_read_again_when_they_change(tmp_path: Path) -> None:
    path, other, seconds = tmp_path / "root.crl", tmp_path / "root.ocsp", [0.0]
    leaf = ROOT.issue("urn:x", ec_key("x"), "digital_signature")
    path.write_bytes(ROOT.crl())
    other.write_bytes(ROOT.response(leaf))
    evidence = FileEvidence([path], [other], lambda: seconds[0])
    first = evidence.current()
    assert (first.lists, first.responses) == ((path.read_bytes(),), (other.read_bytes(),))
    revoking = ROOT.crl(leaf)
    path.write_bytes(x509.load_der_x509_crl(revoking).public_bytes(serialization.Encoding.PEM))
    assert evidence.current() is first, "looked at once a second"
    seconds[0] = 1.0
    second = evidence.current()
    assert second.lists == (revoking,)
    assert second.version != first.version
    seconds[0] = 2.0
    assert evidence.current() is second


def test_what_cannot_be_read_is_absent_and_complained_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, seconds = tmp_path / "root.crl", [0.0]
    evidence = FileEvidence([path], [path], lambda: seconds[0])
    with caplog.at_level(logging.WARNING):
        for step in range(3):
            seconds[0] = 2.0 * step
            assert evidence.current().lists == ()
        assert len(caplog.records) == 2
        path.write_bytes(b"junk")
        seconds[0] = 8.0
        assert evidence.current().lists == ()
    assert "no revocation list or OCSP response" in caplog.text
    path.write_bytes(ROOT.crl())
    seconds[0] = 10.0
    assert len(evidence.current().lists) == 1
