"""Rotations taken up from the manifest: in one step, tried again after a failure, and complained of once."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsm_msl.backend.key_manifest import FORMAT, KeyManifest, PurposeVersions
from hsm_msl.errors import BackendUnavailableError
from hsm_msl.service.rotation import KeyRotation

OLD = PurposeVersions(1, ())


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@pytest.fixture
def lines() -> Iterator[list[str]]:
    logger, handler = logging.getLogger("hsm_msl.keys"), Lines()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler.texts
    logger.removeHandler(handler)
    logger.setLevel(level)


class Views:
    """Takes versions into use, or fails as a token that is away does."""

    def __init__(self) -> None:
        self.used: list[PurposeVersions] = []
        self.away = False
        self.forgotten = 0

    def replace(self, purpose: str, versions: PurposeVersions) -> None:
        if self.away:
            raise BackendUnavailableError(f"no token for {purpose}")
        self.used.append(versions)

    def forget(self) -> None:
        self.forgotten += 1


def write(path: Path, sequence: int, **states: str) -> None:
    keys = [{"label": f"msl.token.mac.{version}", "state": state} for version, state in states.items()]
    write_keys(path, sequence, keys)


def write_keys(path: Path, sequence: int, keys: list[dict[str, str]]) -> None:
    path.write_text(json.dumps({"body": {"format": FORMAT, "sequence": sequence, "keys": keys}}))


@pytest.fixture
def views() -> Views:
    return Views()


@pytest.fixture
def rotation(tmp_path: Path, views: Views) -> KeyRotation:
    manifest = KeyManifest(tmp_path / "manifest.json", None)
    return KeyRotation(manifest, {"msl.token": OLD}, views.replace, views.forget, 3600)


def test_tokens_are_verified_anew_only_when_a_version_left(
    tmp_path: Path, views: Views, rotation: KeyRotation
) -> None:
    write(tmp_path / "manifest.json", 1, v1="active", v2="primary")
    rotation.look()
    assert (views.used, views.forgotten) == ([PurposeVersions(2, (1,))], 0)
    rotation.look()
    write(tmp_path / "manifest.json", 2, v1="retired", v2="primary")
    rotation.look()
    assert (views.used[1:], views.forgotten) == ([PurposeVersions(2, ())], 1)


def test_a_token_that_was_away_gets_the_rotation_later(
    tmp_path: Path, views: Views, rotation: KeyRotation, lines: list[str]
) -> None:
    write(tmp_path / "manifest.json", 1, v1="active", v2="primary")
    views.away = True
    rotation.look()
    rotation.look()
    assert lines == ["versions of msl.token not taken into use: no token for msl.token"]
    views.away = False
    rotation.look()
    assert views.used == [PurposeVersions(2, (1,))]
    assert lines[1:] == ["msl.token: version 2 makes, (1,) also open"]


def test_the_same_trouble_is_logged_once_and_new_trouble_again(
    tmp_path: Path, views: Views, rotation: KeyRotation, lines: list[str]
) -> None:
    path = tmp_path / "manifest.json"
    write(path, 5, v1="primary")
    rotation.look()
    write(path, 4, v1="active", v2="primary")
    rotation.look()
    rotation.look()
    path.unlink()
    rotation.look()
    write(path, 6, v1="primary")
    rotation.look()
    write(path, 4, v1="active", v2="primary")
    rotation.look()
    older, missing = "number 4 is older than", "cannot be read"
    assert [next(word for word in (older, missing) if word in line) for line in lines] == [older, missing, older]
    assert views.used == []


@pytest.mark.parametrize("state", ["retired", "destroyed"])
def test_a_version_of_which_one_key_is_gone_opens_nothing(tmp_path: Path, state: str) -> None:
    """``retire`` and ``destroy`` take one key at a time; what is left of the version cannot open anything."""
    path = tmp_path / "manifest.json"
    keys = [
        {"label": "msl.token.encryption.v1", "state": "active"},
        {"label": "msl.token.mac.v1", "state": state},
        {"label": "msl.token.encryption.v2", "state": "active"},
        {"label": "msl.token.mac.v2", "state": "active"},
        {"label": "msl.token.encryption.v3", "state": "primary"},
        {"label": "msl.token.mac.v3", "state": "primary"},
    ]
    write_keys(path, 1, keys)
    assert (KeyManifest(path, None).poll() or {})["msl.token"] == PurposeVersions(3, (2,))
