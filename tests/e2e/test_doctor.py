"""``hsm-msl doctor`` as an operator runs it, on a real SoftHSMv2 token (issue: eyes)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from token_fixture import TestToken


def run(*arguments: str, columns: int = 160) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hsm_msl.cli", "doctor", *arguments],
        env=dict(os.environ) | {"COLUMNS": str(columns)},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def options(fresh_token: TestToken) -> tuple[str, ...]:
    return ("--module", "softhsm", "--label", fresh_token.label, "--pin", f"file:{fresh_token.pin_file}")


def test_it_tells_everything_as_json(options: tuple[str, ...], fresh_token: TestToken) -> None:
    done = run(*options, "--json")
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["token"]["label"] == fresh_token.label
    assert told["token"]["profile"] == "softhsm"
    assert "TOKEN_INITIALIZED" in told["token"]["flags"]
    findings = {finding["name"]: finding["ability"] for finding in told["findings"]}
    assert findings["AES-CBC"] == findings["HMAC-SHA256"] == "yes"
    assert findings["RSA-OAEP SHA-256 decryption"] == "no"
    schemes = {scheme["name"]: scheme["served"] for scheme in told["schemes"]}
    assert schemes["PSK"]
    assert schemes["DIFFIE_HELLMAN"]
    assert all(speed["per_second"] > 0 for speed in told["speed"])


def test_it_tells_it_in_tables_too(options: tuple[str, ...], fresh_token: TestToken) -> None:
    done = run(*options)
    assert done.returncode == 0, done.stderr
    for text in ("SoftHSM project", "What it can do", "AES_KEY_WRAP_PAD", "DIFFIE_HELLMAN", "per second", "quirks"):
        assert text in done.stdout
    assert fresh_token.pin_file.read_text().strip() not in done.stdout + done.stderr


def test_it_reads_a_configuration_whose_other_parts_are_wrong(fresh_token: TestToken, tmp_path: Path) -> None:
    config = tmp_path / "server.toml"
    config.write_text(
        f'[nonsense]\n[tokens.main]\nmodule = "softhsm"\nlabel = "{fresh_token.label}"\n'
        f'pin = "file:{os.path.relpath(fresh_token.pin_file, tmp_path)}"\n'
    )
    done = run(str(config), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["token"]["label"] == fresh_token.label
    wrong = run(str(config), "--token", "mian")
    assert wrong.returncode == 78
    assert "did you mean 'main'" in wrong.stderr


def test_it_leaves_nothing_on_the_token(options: tuple[str, ...], fresh_token: TestToken) -> None:
    def objects() -> set[str]:
        return {path.name for path in fresh_token.directory.iterdir() if path.suffix == ".object"}

    before = objects()
    assert run(*options, "--json").returncode == 0
    assert objects() == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "give a configuration file"),
        (("--module", "softhsm", "--label", "no such token"), "no token of"),
        (("--module", "sofhtsm", "--label", "x"), "write an absolute path or one of"),
        (("--module", "softhsm", "--label", "x", "--vendor", "sofhtsm"), "did you mean 'softhsm'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(fresh_token: TestToken, arguments: tuple[str, ...], told: str) -> None:
    done = run(*arguments)
    assert done.returncode == 78
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
