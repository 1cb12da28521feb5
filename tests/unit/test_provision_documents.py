"""Ceremony and profile files: errors name the key and say what is allowed; unsafe profiles are refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hsm_msl.errors import ConfigurationError
from hsm_provision.ceremony import read_ceremony
from hsm_provision.desired_keys import desired_keys
from hsm_provision.labels import KeyName, key_id, make_name, parse_label
from hsm_provision.profiles import read_profiles
from hsm_provision.templates import Half, Traits, creation_template, expected_attributes

PROFILES = Path(__file__).parents[2] / "provisioning/profiles"

HEAD = """
ceremony = "test"
environment = "production"
[token]
module = "softhsm"
label = "t"
user_pin = "prompt"
[records]
directory = "r"
"""


def read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    file = read_ceremony(path)
    desired_keys(file, read_profiles(PROFILES))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["ceremony", "required"]),
        ("[", ["not valid TOML"]),
        (HEAD.replace('label = "t"', 'lable = "t"'), ["token.lable", "unknown key", "label"]),
        (HEAD.replace('"production"', '"prod"'), ["environment", "allowed: development, production"]),
        (HEAD.replace('label = "t"', "label = 5"), ["token.label", "str"]),
        (HEAD.replace('label = "t"', f'label = "{"ü" * 17}"'), ["token.label", "32 bytes"]),
        (HEAD.replace('label = "t"', 'label = "t"\nvendor = "softsm"'), ["token.vendor", "'softsm'", "softhsm"]),
        (HEAD.replace('label = "t"', 'label = "t"\nwrap = "host"'), ["token.wrap", "allowed: blocks, token"]),
        (HEAD + "[[key]]\nprofil = 'x'", ["key[0].profil", "unknown key", "purpose", "profile", "version"]),
        (HEAD + "[[key]]\n", ["key[0].profile", "required"]),
        (HEAD + "[[key]]\nprofile = 'x'", ["key[0].profile", "no profile 'x'", "msl-token-mac"]),
        (HEAD + "[[key]]\nprofile = 'msl-token-mac'\nversion = 0", ["key[0].version", ">= 1"]),
        (HEAD + "[[key]]\nprofile = 'msl-token-mac'\nstate = 'gone'", ["key[0].state", "pre-active, primary"]),
        (HEAD + "[[key]]\nprofile = 'msl-token-mac'\nbits = 64", ["key[0].bits", "256"]),
        (HEAD + "[[key]]\nprofile = 'ec-identity'\nbits = 256", ["key[0].bits", "curve"]),
        (HEAD + "[[key]]\nprofile = 'rsa-identity'\ncurve = 'P-256'", ["key[0].curve", "only ec"]),
        (HEAD + "[[key]]\nprofile = 'dialog-kek'", ["key[0].purpose", "required"]),
        (HEAD + "[[key]]\nprofile = 'msl-token-mac'\n" * 2, ["asked for twice"]),
        (
            HEAD + "[[key]]\nprofile = 'msl-token-mac'\n[[key]]\nprofile = 'msl-token-mac'\nversion = 2",
            ["two primary versions"],
        ),
        (
            HEAD + "[[key]]\nprofile = 'msl-token-mac'\nimport = { file = 'x', form = 'xml' }",
            ["key[0].import.form", "base64, hex, jwk, pkcs8, raw"],
        ),
        (
            HEAD.replace(
                "[records]", "[token.initialise]\nso_pin='prompt'\ncreate_missing_pin_files=true\n[records]"
            ),
            ["create_missing_pin_files", "development"],
        ),
        (
            HEAD + "[[preshared]]\nidentity='a'\nencryption='e'\nmac='m'\ncreate_missing_files=true",
            ["preshared[0].create_missing_files", "development"],
        ),
        (HEAD + "[[preshared]]\nidentity='a '\nencryption='e'\nmac='m'\n", ["psk.a ", "outer spaces"]),
        (HEAD + '[[preshared]]\nidentity="a\\n"\nencryption="e"\nmac="m"\n', ["printable"]),
    ],
)
def test_a_wrong_ceremony_names_the_key_and_what_is_allowed(tmp_path: Path, text: str, expected: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(tmp_path, text)
    assert [part for part in expected if part not in str(caught.value)] == [], str(caught.value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("usage = [", 'usage = ["wrap", '), "not a safe combination"),
        (("bits = [128]", "bits = [64]"), "allowed for aes: 128, 192, 256"),
        (('type = "aes"', 'type = "des"'), "allowed: aes, ec, hmac-sha256, rsa"),
        (('name = "msl-token-encryption"', 'name = "other"'), "file name"),
        (("bits = [128]", 'bits = [128]\ncurves = ["P-256"]'), "only ec"),
        (("bits = [128]", "bits = [128]\nextractable = true"), "unknown key"),
        (("bits = [128]", "bits = []"), "bits"),
        (("bits = [128]", "bits = [128]\nblocks = true"), "only keys that wrap"),
    ],
)
def test_an_unsafe_profile_is_refused(tmp_path: Path, change: tuple[str, str], expected: str) -> None:
    """Section 5, feature 3: usage separation is policy, not taste (measured M7)."""
    text = (PROFILES / "msl-token-encryption.toml").read_text()
    assert change[0] in text
    (tmp_path / "msl-token-encryption.toml").write_text(text.replace(*change))
    with pytest.raises(ConfigurationError, match=expected):
        read_profiles(tmp_path)


ATTRIBUTES = [
    ("msl-token-wrap", "secret", Traits(), {"WRAP", "UNWRAP"}),
    ("msl-token-wrap", "secret", Traits(by_blocks=True), {"ENCRYPT", "DECRYPT"}),
    ("fleet-storage", "secret", Traits(by_blocks=True), {"WRAP", "UNWRAP"}),
    ("msl-token-mac", "secret", Traits(by_blocks=True), {"SIGN", "VERIFY"}),
    ("transport-unwrap", "private", Traits(by_blocks=True), {"UNWRAP"}),
    ("rsa-identity", "private", Traits(), {"SIGN"}),
    ("rsa-identity", "private", Traits(forced=frozenset({"SIGN", "DECRYPT"})), {"SIGN", "DECRYPT"}),
    ("msl-token-mac", "secret", Traits(forced=frozenset({"SIGN", "DECRYPT"})), {"SIGN", "VERIFY"}),
]


@pytest.mark.parametrize(("name", "half", "traits", "rights"), ATTRIBUTES)
def test_what_is_particular_about_a_token_changes_rights_and_no_protection(
    name: str, half: Half, traits: Traits, rights: set[str]
) -> None:
    profile = read_profiles(PROFILES)[name]
    template, plain = creation_template(profile, half, traits), creation_template(profile, half)
    protections = {"TOKEN", "PRIVATE", "SENSITIVE", "EXTRACTABLE", "COPYABLE", "MODIFIABLE"}
    assert {flag for flag, on in template.items() if on and flag not in protections} == rights
    assert {flag: template[flag] for flag in protections} == {flag: plain[flag] for flag in protections}


def test_an_attribute_a_token_does_not_know_is_neither_set_nor_expected() -> None:
    profile = read_profiles(PROFILES)["msl-token-mac"]
    traits = Traits(unknown=frozenset({"COPYABLE"}))
    whole = creation_template(profile, "secret")
    assert set(whole) - set(creation_template(profile, "secret", traits)) == {"COPYABLE"}
    assert "COPYABLE" not in expected_attributes(profile, "secret", "generated", traits)


def test_no_profile_may_both_unwrap_and_decrypt() -> None:
    for profile in read_profiles(PROFILES).values():
        usage = set(profile.usage)
        assert not (usage & {"wrap", "unwrap"} and usage & {"encrypt", "decrypt"}), profile.name
        assert not ("sign" in usage and usage & {"decrypt", "unwrap", "derive"}), profile.name


@pytest.mark.parametrize("purpose", ["msl.token", "psk.a.b.c", "psk.esn-1 x", "psk.ü"])
def test_labels_parse_back(purpose: str) -> None:
    name = make_name(purpose, "encryption", 12)
    assert parse_label(name.label) == name
    assert len(name.key_id) == 16


@pytest.mark.parametrize(
    ("purpose", "version"), [("", 1), (" a", 1), ("a\x00b", 1), ("x" * 250, 1), ("a", 0), ("psk.\n", 1)]
)
def test_unusable_labels_are_refused(purpose: str, version: int) -> None:
    with pytest.raises(ConfigurationError):
        make_name(purpose, "mac", version)


def test_foreign_labels_are_not_ours() -> None:
    assert parse_label("some key") is None
    assert parse_label("a.b.v01") is None
    assert parse_label("a.mac.v1") == KeyName("a", "mac", 1)
    assert key_id("a.mac.v1") != key_id("a.mac.v2")


@pytest.mark.parametrize("kind", ["ceremony", "profile"])
def test_the_published_schema_is_the_one_the_code_reads_by(
    kind: str, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    from hsm_provision.cli.main import run

    assert run(["schema", kind]) == 0
    assert capsysbinary.readouterr().out == (PROFILES.parent / "schema" / f"{kind}.schema.json").read_bytes()


def test_every_feature_and_acceptance_test_names_what_shows_it() -> None:
    """The claims page has a line for each of the 25 features and the ten acceptance tests."""
    text = (PROFILES.parent / "CLAIMS.md").read_text()
    for title, numbers in (("Features", range(1, 26)), ("Acceptance tests", range(1, 11))):
        section = text.split(f"## {title}\n")[1].split("\n## ")[0]
        rows = re.findall(r"^\| (\d+) \| (.+)$", section, re.MULTILINE)
        assert [int(number) for number, _ in rows] == list(numbers)
        for number, row in rows:
            assert "`tests/" in row, (title, number)
