"""What the command says when it fails: one line, and nothing that a terminal would obey."""

from __future__ import annotations

import pytest

from hsm_msl.cli.failures import say


def test_what_a_server_says_does_not_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("refused:\n \x1b]0;title\x07\x1b[2Jall is well, M\u00fcller\u202e")
    assert capsys.readouterr().err == (
        "hsm-msl: refused: \\x1b]0;title\\x07\\x1b[2Jall is well, M\u00fcller\\u202e\n"
    )
