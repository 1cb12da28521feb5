"""`kill -9` at every step of a ceremony: what is left is continued, and says so; nothing is made twice or lost."""

from __future__ import annotations

import signal

import pytest

from ceremony_fixture import CeremonyBench

KEYS = ('profile = "msl-token-mac"', 'profile = "ec-identity"')
EXPECTED = ["audit.signing.v1"] * 2 + ["identity.ec.v1"] * 2 + ["msl.token.mac.v1"]
LABELS = "result = sorted(o[A.LABEL] for o in list(session.get_objects({A.TOKEN: True})))"

# The steps of a run: every key made, proved, written to the log and to the manifest, each before and after.
KILLED = """
import os, signal, sys
from hsm_msl.audit.log import AuditLog
from hsm_provision import apply, records, workspace
from hsm_provision.cli.main import run
count = 0
def counted(owner, name):
    whole = getattr(owner, name)
    def step(*given, **named):
        global count
        for place in ("before", "after"):
            count += 1
            if count == int(sys.argv[2]):
                print(f"{place} {name} ({count})", file=sys.stderr, flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
            if place == "before":
                result = whole(*given, **named)
        return result
    setattr(owner, name, step)
counted(workspace, "initialise_token")
counted(apply, "generate_key")
counted(apply, "prove_key")
counted(AuditLog, "append")
counted(records, "write_manifest")
code = run(["apply", sys.argv[1]])
print("steps", count)
sys.exit(code)
"""
STEPS = 32
"""Every third, before and after in turn, is a part of each run of the tests; all of them belong to the long runs."""

# What the operators do next, in one process: each command with its exit code and what it said last.
AFTERWARDS = """
import contextlib, io, sys
from hsm_provision.cli.main import run
ceremony = sys.argv[1]
for arguments in (
    ["apply", ceremony],
    ["verify", ceremony],
    ["apply", ceremony],
    ["public-key", ceremony, "audit.signing.v1", "--out", "audit.pem"],
    ["audit", "verify", "records/audit.jsonl", "--public-key", "audit.pem", "--manifest", "records/manifest.json"],
):
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = run(arguments)
    print(arguments[0], code, said.getvalue().strip().splitlines()[-1:])
"""


def test_the_steps_are_counted(bench: CeremonyBench) -> None:
    """The test below kills at each step there is; a run with more steps needs more of them."""
    done = bench.script(KILLED, bench.ceremony(*KEYS), "0")
    assert done.code == 0, done.err
    assert done.out.split()[-1] == str(STEPS)


@pytest.mark.parametrize(
    "step", [pytest.param(step, marks=[] if step % 3 == 1 else pytest.mark.soak) for step in range(1, STEPS + 1)]
)
def test_a_ceremony_killed_at_any_step_is_continued(bench: CeremonyBench, step: int) -> None:
    ceremony = bench.ceremony(*KEYS)
    killed = bench.script(KILLED, ceremony, str(step))
    assert killed.code == -signal.SIGKILL, killed.out + killed.err
    outcome = bench.script(AFTERWARDS, ceremony)
    assert outcome.code == 0, killed.err + outcome.err
    assert outcome.out.splitlines() == [
        "apply 0 ['continued an interrupted run; every key is proved']",
        "verify 0 ['the token is as the manifest says']",
        "apply 0 ['nothing to do: the token is as the ceremony asks']",
        "public-key 0 ['audit.pem: public half of audit.signing.v1']",
        "audit 0 ['the log is whole']",
    ], killed.err + outcome.err
    assert bench.python(LABELS) == EXPECTED
