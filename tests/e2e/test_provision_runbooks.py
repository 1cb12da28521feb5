"""The runbooks, executed as they stand: every `sh` block in order, in one shell per runbook."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from ceremony_fixture import PROVISIONING, CeremonyBench

BLOCK = re.compile(r"^```sh(?: expect=(?P<code>\d+))?\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
AFTER = {"rotation": ["first-ceremony"]}
RUNBOOKS = sorted(path.stem for path in (PROVISIONING / "runbooks").glob("*.md"))


def script(names: Sequence[str]) -> str:
    lines = ["set -uo pipefail"]
    for name in names:
        for block in BLOCK.finditer((PROVISIONING / "runbooks" / f"{name}.md").read_text()):
            code = block["code"] or "0"
            lines.append(block["body"] if code != "0" else f"set -e\n{block['body']}\nset +e")
            if code != "0":
                lines.append(
                    f'found=$?; [ "$found" = {code} ] || {{ echo "exit code $found, not {code}" >&2; exit 99; }}'
                )
    return "\n".join(lines)


@pytest.mark.parametrize("name", RUNBOOKS)
def test_runbook(bench: CeremonyBench, name: str) -> None:
    shutil.copytree(PROVISIONING / "ceremonies", bench.work / "ceremonies")
    shutil.copytree(PROVISIONING / "profiles", bench.work / "profiles")
    old = bench.work / "old"
    old.mkdir()
    for role, size in (("encryption", 16), ("mac", 32), ("wrap", 16)):
        (old / f"{role}.hex").write_text(os.urandom(size).hex())
    variables = {
        "CEREMONIES": str(bench.work / "ceremonies"),
        "WORK": str(bench.work / "work"),
        "SECOND": str(bench.work / "second"),
        "OLD": str(old),
        "PATH": f"{Path(sys.executable).parent}:{bench.environment['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-c", script([*AFTER.get(name, []), name])],
        env={**bench.environment, **variables},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert "Traceback" not in done.stderr


def test_there_are_runbooks_for_what_happens_to_keys() -> None:
    assert {"first-ceremony", "rotation", "loss-of-a-token", "migration", "damaged-softhsm-token"} <= set(RUNBOOKS)
