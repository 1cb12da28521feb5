"""Roll-back of key manifests: what a server remembers across restarts."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from hsm_msl.backend.manifest_memory import ManifestMemory, SeenManifest
from hsm_msl.errors import ConfigurationError

FIRST, NEXT = "1" * 64, "2" * 64


def seen(number: int, content: str = "a", signer: str = FIRST) -> SeenManifest:
    return SeenManifest(number, content * 64, signer)


def admit(path: Path, manifest: SeenManifest, token: str = "serial", also: str | None = None) -> None:
    """As a server that starts: with nothing but the file."""
    signers = {manifest.signer} if also is None else {manifest.signer, also}
    ManifestMemory(path).admit(token, manifest, frozenset(signers))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "manifest.seen"


def test_the_same_and_newer_ones_are_admitted_and_older_ones_not(path: Path) -> None:
    for number in (3, 3, 4, 9):
        admit(path, seen(number, "abcdefghi"[number - 1]))
    with pytest.raises(ConfigurationError, match=rf"number 4 is older than 9, which was in use.*remove {path}"):
        admit(path, seen(4, "d"))
    admit(path, seen(9, "i"))
    assert path.stat().st_mode & 0o077 == 0


def test_two_manifests_of_one_number_are_not_one(path: Path) -> None:
    """As when a backup was restored and other steps were done since."""
    admit(path, seen(3, "a"))
    with pytest.raises(ConfigurationError, match="number 3 is another manifest"):
        admit(path, seen(3, "b"))


def test_a_signer_that_handed_over_signs_no_more(path: Path) -> None:
    admit(path, seen(3, signer=FIRST))
    admit(path, seen(4, signer=NEXT), also=FIRST)
    with pytest.raises(ConfigurationError, match="number 5 is signed by another key than number 4"):
        admit(path, seen(5, signer=FIRST))
    admit(path, seen(5, signer=NEXT))


def test_each_token_has_numbers_of_its_own(path: Path) -> None:
    admit(path, seen(9), token="lost")
    admit(path, seen(1), token="replacement")
    with pytest.raises(ConfigurationError, match="older than 9"):
        admit(path, seen(8), token="lost")


def test_without_the_file_everything_begins_anew(path: Path) -> None:
    admit(path, seen(9))
    path.unlink()
    admit(path, seen(2))


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"manifest\.seen: cannot be written"):
        admit(tmp_path / "file/manifest.seen", seen(1))
    (tmp_path / "manifest.seen").mkdir()
    with pytest.raises(ConfigurationError, match=r"manifest\.seen: cannot be read"):
        admit(tmp_path / "manifest.seen", seen(1))


def admit_many(path: Path, first: int) -> None:
    for number in range(first, 200, 3):
        try:
            admit(path, seen(number))
        except ConfigurationError as error:
            assert "older" in str(error)  # noqa: PT017  # which of them come too late is chance


def test_processes_that_share_it_never_go_back(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=admit_many, args=(path, first)) for first in (1, 2, 3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    with pytest.raises(ConfigurationError, match="older than 199"):
        admit(path, seen(198))
