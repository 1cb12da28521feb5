"""Tables show other people's text as it is: labels, identities, names, details of records."""

from __future__ import annotations

import pytest

from hsm_provision.cli.console import err, out, print_table

TEXTS = ("psk.box[a]x.mac.v1", "psk.[/b].mac.v1", "dialog.:key:.signing.v1", "[red]x[/red]")


@pytest.mark.parametrize("text", TEXTS)
def test_nothing_in_a_cell_a_title_or_a_line_is_markup(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_table(f"Token {text!r}", [{"key": text, text: "value"}])
    assert capsys.readouterr().out.count(text) == 3
    out().print(f"problem: {text}", markup=False)
    err().print(f"hsm-provision: {text}", markup=False)
    assert all(text in said for said in capsys.readouterr())
