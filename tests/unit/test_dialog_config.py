"""The configuration of dialogs: what its keys become, without a token."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from dialog_authority import Authority
from dialog_keys import certificate, ec_key
from dialog_world import START
from hsm_msl.dialog.binding import Binding, PinnedCertificate
from hsm_msl.dialog.context import CacheSizes
from hsm_msl.errors import ConfigurationError
from hsm_msl.service.dialog.certificates import read_certificate, read_chain, read_presented
from hsm_msl.service.dialog.compose import _sizes, read_binding_section, read_bindings
from hsm_msl.service.dialog.config import read_dialog_config

SERVICE = """
[service]
name = "urn:a"
signing_key = "s"
signing_certificate = "s.pem"
encryption_key = "e"
encryption_certificate = "e.pem"
storage_key = "k"

[tokens.t]
module = "softhsm"
label = "t"
"""
ROOT = Authority("root", START)
MIDDLE = Authority("middle", START, ROOT)


def binding(directory: Path, text: str) -> Binding:
    path = directory / "dialog.toml"
    path.write_text(f'{SERVICE}\n[[bindings]]\nremote = "urn:b"\n{text}')
    config = read_dialog_config(path)
    found = read_binding_section(config, config.document.bindings[0])
    found.validate()
    return found


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with certificates of an authority."""
    (tmp_path / "root.cer").write_bytes(ROOT.der)
    (tmp_path / "b.sign").write_bytes(ROOT.issue("urn:b", ec_key("b"), "digital_signature"))
    (tmp_path / "b.open").write_bytes(ROOT.issue("urn:b", ec_key("b open"), "key_agreement"))
    chain = (MIDDLE.issue("urn:b", ec_key("b open"), "key_agreement"), MIDDLE.der)
    pem = [x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM) for der in chain]
    (tmp_path / "b.chain").write_bytes(b"".join(pem))
    return tmp_path


def test_a_pinned_binding_with_an_end(directory: Path) -> None:
    found = binding(
        directory,
        'signing = ["b.sign"]\nencryption = ["b.open"]\nnot_after = 2027-02-01T00:00:00Z\nack_mode = "on_commit"\n'
        "split_keys = true\n",
    )
    assert found.not_after == 1801440000.0
    assert found.active(1801440000.0)
    assert not found.active(1801440001.0)
    assert (found.ack_mode, found.split_keys, found.trust) == ("on_commit", True, None)


def test_a_binding_that_trusts_an_issuer(directory: Path) -> None:
    text = 'issuers = ["root.cer"]\ncertificates = ["b.chain"]\nsubject = "O=Example"\nrevocation = "if_available"\n'
    found = binding(directory, text)
    assert found.trust is not None
    assert (found.trust.issuers, found.trust.revocation, found.trust.subject) == (
        (ROOT.der,),
        "if_available",
        "O=Example",
    )
    assert found.certificates == (read_chain(directory / "b.chain"),)
    assert len(found.certificates[0]) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('encryption = ["b.open"]\n', "trusts nobody"),
        ('signing = ["b.sign"]\n', "nothing to encrypt to"),
        ('issuers = ["b.sign"]\n', "not the certificate of an authority"),
        ('signing = ["b.sign"]\nencryption = ["b.open"]\ncertificates = ["b.open"]\n', "need that issuer"),
        ('signing = ["b.sign"]\nencryption = ["b.open"]\nsuites = [4]\nsplit_keys = true\n', "split_keys: suite 4"),
        ('signing = ["b.sign"]\nencryption = ["b.open"]\nack_mode = "sometimes"\n', "ack_mode"),
        ('signing = ["b.sign"]\nencryption = ["b.open"]\nnot_after = 5\n', "not_after"),
        ('signing = ["none"]\nencryption = ["b.open"]\n', "none: cannot be read"),
        ('signing = ["dialog.toml"]\nencryption = ["b.open"]\n', "no certificate in PEM or DER"),
        ('signing = ["b.sign"]\nencryption = ["b.open"]\n\n[cache]\nkeks = -1\n', "cache.keks"),
        ('signing = ["b.sign"]\nencryption = ["b.open"]\n\n[session_keys]\nresidency = "disk"\n', "residency"),
    ],
)
def test_what_is_wrong_is_named(directory: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        binding(directory, text)


def test_bindings_are_checked_before_anything_is_tried(directory: Path) -> None:
    path = directory / "dialog.toml"
    path.write_text(f'{SERVICE}\n[[bindings]]\nremote = "urn:b"\nissuers = ["b.sign"]\n')
    with pytest.raises(ConfigurationError, match="not the certificate of an authority"):
        read_bindings(read_dialog_config(path))


def test_caches_may_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "dialog.toml"
    path.write_text(SERVICE)
    assert _sizes(read_dialog_config(path)) == CacheSizes()
    path.write_text(SERVICE + "\n[cache]\nkeks = 0\nsession_keys = 0\nfailures = 0\ncertificates = 0\n")
    assert _sizes(read_dialog_config(path)) == CacheSizes(0, 0, 0, 0)


def test_a_chain_that_peers_would_refuse_is_named(directory: Path) -> None:
    five = (directory / "b.chain").read_bytes() * 3
    (directory / "own.pem").write_bytes(five[: five.rindex(b"-----BEGIN")])
    with pytest.raises(ConfigurationError, match=r"own\.pem: holds 5 certificates and peers take 4"):
        read_presented(directory / "own.pem")
    assert read_presented(directory / "b.chain") == read_chain(directory / "b.chain")


def test_a_small_key_is_named(directory: Path) -> None:
    small = certificate(rsa.generate_private_key(65537, 1024), "urn:b", START, START + 1)
    (directory / "small.cer").write_bytes(small)
    for read in (read_certificate, read_presented):
        with pytest.raises(ConfigurationError, match=r"small\.cer: .* RSA key of 1024 bits; 2048 is the least"):
            read(directory / "small.cer")
    stored = Binding(local="urn:a", remote="urn:b", encryption=(PinnedCertificate(small),))
    with pytest.raises(ConfigurationError, match="RSA key of 1024 bits"):
        stored.validate()
