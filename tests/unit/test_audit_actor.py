"""Who runs a command is recorded, with or without an account of a name."""

from __future__ import annotations

import os
import pwd

import pytest

from hsm_msl.audit.actor import login_name


def test_a_container_without_accounts_has_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(number: int) -> object:
        raise KeyError(number)

    monkeypatch.setenv("LOGNAME", "ada")
    assert login_name() == "ada"
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert login_name() == f"user {os.getuid()}"
