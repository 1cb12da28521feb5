"""What the command says when it fails: one line, and nothing that a terminal would obey."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from hsm_msl.cli import main
from hsm_msl.cli.failures import CONFIGURATION, USAGE, say


def test_what_a_server_says_does_not_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("refused:\n \x1b]0;title\x07\x1b[2Jall is well, M\u00fcller\u202e")
    assert capsys.readouterr().err == (
        "hsm-msl: refused: \\x1b]0;title\\x07\\x1b[2Jall is well, M\u00fcller\\u202e\n"
    )


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["hsm-msl", *arguments])
    with pytest.raises(SystemExit) as caught:
        main.main()
    return caught.value.code


def test_dialog_without_a_command_shows_its_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "dialog") == USAGE
    shown = capsys.readouterr()
    assert "verify-packet" in shown.out
    assert shown.err == "hsm-msl: no command given. Start with: hsm-msl dialog serve CONFIG\n"


@pytest.mark.parametrize(
    "command",
    [("serve",), ("public-key",), ("revoke", "--list"), ("doctor",), ("send",), ("dialog", "show")],
    ids=" ".join,
)
def test_an_unreadable_configuration_is_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, command: tuple[str, ...]
) -> None:
    file = tmp_path / "server.toml"
    file.touch(mode=0)
    monkeypatch.setattr("hsm_msl.cli.serve.set_up_logging", lambda: None)
    monkeypatch.setattr(os, "access", lambda *arguments, **options: False)  # what root is not told
    url = ("http://127.0.0.1:1/", "x") if command == ("send",) else ()
    assert run(monkeypatch, *command, str(file), *url) == CONFIGURATION
    assert str(file) in capsys.readouterr().err
