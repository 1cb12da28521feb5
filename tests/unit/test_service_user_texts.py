"""Texts for users by language, and the load that puts renewals off."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsm_msl.errors import ConfigurationError, ErrorCode
from hsm_msl.service.config import read_server_config
from hsm_msl.service.load import Load
from hsm_msl.service.user_texts import UserText, user_texts

SAMPLE = Path(__file__).parents[2] / "softhsm/demo/server.toml"
TEXTS = """
[user_texts.default]
EMAILPASSWORD_INCORRECT = "wrong"
[user_texts.de]
EMAILPASSWORD_INCORRECT = "falsch"
[user_texts."pt-BR"]
EMAILPASSWORD_INCORRECT = "errado"
"""


def texts(tmp_path: Path, text: str) -> UserText | None:
    path = tmp_path / "server.toml"
    path.write_text(SAMPLE.read_text() + text)
    return user_texts(read_server_config(path))


@pytest.mark.parametrize(
    ("languages", "expected"),
    [
        (["de"], "falsch"),
        (["de-AT"], "falsch"),
        (["PT-br"], "errado"),
        (["pt"], "wrong"),
        (["fr", "de"], "falsch"),
        ([], "wrong"),
    ],
)
def test_the_best_language_there_is(tmp_path: Path, languages: list[str], expected: str) -> None:
    find = texts(tmp_path, TEXTS)
    assert find is not None
    assert find(ErrorCode.EMAILPASSWORD_INCORRECT, languages) == expected
    assert find(ErrorCode.ENTITY_REVOKED, languages) is None


def test_without_texts_there_is_nothing_to_look_up(tmp_path: Path) -> None:
    assert texts(tmp_path, "") is None


def test_a_name_that_is_no_error_is_named_with_the_closest(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"user_texts\.en.*EMAILPASSWORD_WRONG.*EMAILPASSWORD_"):
        texts(tmp_path, '[user_texts.en]\nEMAILPASSWORD_WRONG = "no"\n')


def test_a_process_is_busy_beyond_its_limit_and_never_without_one() -> None:
    load, unlimited = Load(1), Load(0)
    with load, unlimited:
        assert not load.busy()
        with load, unlimited:
            assert load.busy()
            assert not unlimited.busy()
        assert not load.busy()
