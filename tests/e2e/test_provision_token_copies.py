"""Copies of a SoftHSMv2 token's files: made when a ceremony changed something, few, and none with a destroyed key."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import msgspec
import pytest

from ceremony_fixture import CeremonyBench
from hsm_msl.errors import ConfigurationError
from hsm_provision.ceremony import KeyState
from hsm_provision.check_values import CheckValue
from hsm_provision.manifest import ManifestBody, ManifestKey, ManifestToken, empty_manifest
from hsm_provision.token_copies import TokenCopies, softhsm_directory

MAC = 'profile = "msl-token-mac"'
WHEN = "2026-01-01T00:00:10Z"
AT = 1767225610.0
SERIAL = "5d12aa96e289b000"


def copies(bench: CeremonyBench) -> list[str]:
    return sorted(path.name for path in (bench.work / "records/token-copies").glob("*"))


def test_a_ceremony_that_changed_something_leaves_a_copy_and_two_are_kept(bench: CeremonyBench) -> None:
    ceremony = bench.ceremony(MAC)
    bench.apply(ceremony)
    (first,) = copies(bench)
    file = bench.work / "records/token-copies" / first
    assert file.stat().st_mode & 0o777 == 0o600
    assert bench.run("apply", ceremony).code == 0
    assert bench.run("verify", ceremony).code == 0
    assert copies(bench) == [first]
    names = [first]
    for _ in range(2):
        assert bench.run("rotate", ceremony, "msl.token", "--yes").code == 0
        names.append(copies(bench)[-1])
    assert copies(bench) == names[-2:]
    with tarfile.open(bench.work / "records/token-copies" / names[-1]) as archive:
        (directory,) = {member.name.split("/")[0] for member in archive.getmembers()}
        held = {member.name.split("/")[1] for member in archive.getmembers()}
    assert held == set(os.listdir(bench.directory / "tokens" / directory))


def test_none_is_kept_where_none_is_wanted(bench: CeremonyBench) -> None:
    ceremony = bench.ceremony(MAC)
    text = ceremony.read_text()
    ceremony.write_text(text.replace('directory = "records"\n', 'directory = "records"\ntoken_copies = 0\n'))
    bench.apply(ceremony)
    assert not (bench.work / "records/token-copies").exists()


def test_a_copy_that_cannot_be_kept_is_told_and_spoils_nothing(bench: CeremonyBench) -> None:
    bench.write("records/token-copies", "in the way")
    (bench.work / "records").chmod(0o700)
    outcome = bench.run("apply", bench.ceremony(MAC))
    assert outcome.code == 0
    assert "no copy of the token's files is kept: " in outcome.err
    assert "every key is proved" in outcome.out


def body(sequence: int, *states: KeyState) -> ManifestBody:
    manifest = empty_manifest(ManifestToken("t", SERIAL, "SoftHSM project", "SoftHSM v2"), written=WHEN, tool="test")
    keys = [
        ManifestKey(
            f"k.mac.v{number}",
            id="0" * 32,
            profile="msl-token-mac",
            type="hmac-sha256",
            size=256,
            state=state,
            check=CheckValue("hmac-label", "00" * 8),
            provenance="generated",
            created=WHEN,
            ceremony="test",
            changed=WHEN,
        )
        for number, state in enumerate(states, start=1)
    ]
    return msgspec.structs.replace(manifest.with_keys(keys, written=WHEN, tool="test"), sequence=sequence)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    made = tmp_path / "tokens/1627e230-f535-022e-5d12-aa96e289b000"
    made.mkdir(parents=True)
    (made / "token.object").write_bytes(b"token")
    return made


def test_what_was_copied_before_a_key_was_destroyed_goes(tmp_path: Path, source: Path) -> None:
    kept = TokenCopies(tmp_path / "copies", 9)
    for sequence, made_at in ((1, AT - 60), (2, AT + 0.5), (3, AT + 60)):
        kept.take(source, body(sequence, "active"))
        os.utime(kept.directory / f"{SERIAL}-{sequence:06}.tar", (made_at, made_at))
    other = kept.directory / "ffff-000001.tar"
    other.write_bytes(b"another token's")
    kept.take(source, body(4, "active", "destroyed"))
    found = {path.name for path in kept.directory.iterdir()}
    assert found == {f"{SERIAL}-000003.tar", f"{SERIAL}-000004.tar", other.name}


def test_an_empty_token_is_not_kept(tmp_path: Path, source: Path) -> None:
    (source / "token.object").write_bytes(b"")
    kept = TokenCopies(tmp_path / "copies", 2)
    with pytest.raises(ConfigurationError, match="is empty"):
        kept.take(source, body(1, "active"))
    assert list(kept.directory.iterdir()) == []


def test_the_directory_is_found_as_the_library_finds_it(tmp_path: Path, source: Path) -> None:
    named = tmp_path / "named.conf"
    named.write_text(f"# a comment\nlog.level = ERROR\ndirectories.tokendir = {source.parent} # here\n")
    assert softhsm_directory(SERIAL, {"SOFTHSM2_CONF": str(named)}) == source
    own = tmp_path / ".config/softhsm2/softhsm2.conf"
    own.parent.mkdir(parents=True)
    own.write_text(f"directories.tokendir={source.parent}/\n")
    assert softhsm_directory(SERIAL.upper(), {"HOME": str(tmp_path)}) == source
    with pytest.raises(ConfigurationError, match="no directory of token 77"):
        softhsm_directory("77", {"SOFTHSM2_CONF": str(named)})
    with pytest.raises(ConfigurationError, match=r"absent\.conf: cannot be read"):
        softhsm_directory(SERIAL, {"SOFTHSM2_CONF": str(tmp_path / "absent.conf")})
