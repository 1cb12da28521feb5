"""Every vendor's token that starts from Debian packages: the contract, whole exchanges and the doctor, run on it."""

from __future__ import annotations

import pytest

from vendor_runs import COMMAND, TABLE, VENDORS, recorded, run


@pytest.mark.parametrize("name", VENDORS)
def test_the_suites_pass_and_the_matrix_says_what_they_show(name: str) -> None:
    column = run(name)
    assert not column.failures, "\n".join(column.failures)
    documented = recorded(name)
    changed = {
        row: (documented.get(row, "yes"), cell)
        for row, cell in column.cells.items()
        if cell != documented.get(row, "yes")  # a new row that is right everywhere may come into the table later
    }
    assert not changed, f"{TABLE.name} says otherwise; look at it, then run: {COMMAND}"
