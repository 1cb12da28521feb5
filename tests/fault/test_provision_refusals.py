"""What provisioning refuses: each ends in one clear line, a documented exit code and an untouched token."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from ceremony_fixture import PROVISIONING, CeremonyBench

ENCRYPTION = 'profile = "msl-token-encryption"'
MAC = 'profile = "msl-token-mac"'
COUNT = "result = len(list(session.get_objects({A.TOKEN: True})))"
WEAK = (
    "session.generate_key(T.AES, 128, store=True, label='msl.token.encryption.v1', mechanism=M.AES_KEY_GEN,"
    " template={A.EXTRACTABLE: True, A.WRAP: True, A.UNWRAP: True, A.ENCRYPT: True, A.DECRYPT: True})"
)


def one_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("  ")]
    assert len(lines) == 1, text
    assert "Traceback" not in text
    return lines[0]


def test_a_wrong_pin_is_one_line_and_one_try(bench: CeremonyBench) -> None:
    bench.apply(bench.ceremony(ENCRYPTION, signing=False))
    pin = bench.pin
    (bench.work / "pins/user.pin").write_text("wrong pin\n")
    outcome = bench.run("apply", bench.ceremony(ENCRYPTION, MAC, signing=False))
    assert outcome.code == 8
    assert "refuses the PIN" in one_line(outcome.err)
    assert "wrong pin" not in outcome.err
    again = bench.run("apply", bench.ceremony(ENCRYPTION, MAC, signing=False))
    assert again.code == 8
    assert "refused this PIN before" in one_line(again.err)  # by a run that tried it; this one did not
    assert bench.python(COUNT, pin=pin) == 1
    (bench.work / "pins/user.pin").write_text(pin + "\n")
    assert bench.run("apply", bench.ceremony(ENCRYPTION, MAC, signing=False)).code == 0
    assert not list((bench.work / "records").glob("refused-pin*.json"))


def test_a_token_that_is_not_there(bench: CeremonyBench) -> None:
    bench.write("pins/user.pin", "1234\n")
    outcome = bench.run("apply", bench.ceremony(ENCRYPTION, signing=False, initialise=False))
    assert outcome.code == 8
    assert "no token" in one_line(outcome.err)


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_key_file_that_others_may_read_is_refused(bench: CeremonyBench, mode: int) -> None:
    bench.apply(bench.ceremony(signing=False))
    path = bench.write("k.hex", "02" * 32)
    bench.write("e.hex", "01" * 16)
    path.chmod(mode)
    preshared = '\n[[preshared]]\nidentity = "e"\nencryption = "e.hex"\nmac = "k.hex"\n'
    for ceremony in (
        bench.ceremony(MAC + '\nimport = { file = "k.hex" }', signing=False),
        bench.ceremony(extra=preshared, signing=False),
    ):
        for verb in ("plan", "apply"):
            outcome = bench.run(verb, ceremony)
            assert outcome.code == 2
            assert f"k.hex: holds a key and is open to others (mode {mode:04o})" in one_line(outcome.err)
    arguments = ("--profiles", PROVISIONING / "profiles", "--for", "none.pem", "--out", "k.sealed")
    sealed = bench.run("seal", "msl-token-mac", "k.hex", *arguments)
    assert (sealed.code, "is open to others" in one_line(sealed.err)) == (2, True)


def test_a_plan_that_failed_at_the_start_is_not_completed_by_another_file(bench: CeremonyBench) -> None:
    bench.write("pins/so.pin", "12345678\n")
    bench.write("pins/user.pin", "1\n")  # too short: the token is not initialised
    ceremony = bench.ceremony(ENCRYPTION, MAC)
    planned = bench.run("plan", ceremony, "--json").json["hash"]
    assert bench.run("apply", ceremony).code == 8
    journal = bench.work / f"records/plans/{planned}.json"
    assert json.loads(journal.read_text())["status"] == "started"
    bench.write("pins/user.pin", "12345678\n")
    outcome = bench.run("apply", bench.ceremony(ENCRYPTION))
    assert outcome.code == 0, outcome.err
    assert "interrupted run" not in outcome.out
    assert json.loads(journal.read_text())["status"] == "abandoned"
    log = [json.loads(line) for line in (bench.work / "records/audit.jsonl").read_text().splitlines()]
    ends = [(one["event"], one["details"]["plan"] == planned) for one in log if "plan" in one["details"]]
    assert sorted(ends) == [("apply abandoned", True), ("apply completed", False), ("apply started", False)]


def test_a_module_that_is_not_there(bench: CeremonyBench) -> None:
    ceremony = bench.ceremony(ENCRYPTION, signing=False)
    ceremony.write_text(ceremony.read_text().replace(bench.module, "/nonexistent/module.so"))
    outcome = bench.run("apply", ceremony)
    assert outcome.code == 8
    assert "/nonexistent/module.so" in one_line(outcome.err)


def test_a_weak_key_under_our_label_stops_the_ceremony_and_each_bad_attribute_is_named(bench: CeremonyBench) -> None:
    """Acceptance test 2 of section 5."""
    bench.apply(bench.ceremony(MAC, signing=False))
    bench.python(WEAK)
    outcome = bench.run("apply", bench.ceremony(MAC, ENCRYPTION, signing=False))
    assert outcome.code == 3
    for problem in ("EXTRACTABLE is true", "WRAP is true", "UNWRAP is true", "MODIFIABLE is true", "has ID"):
        assert problem in outcome.err
    assert bench.python(COUNT) == 2


def test_two_keys_of_one_label_are_never_chosen_between(bench: CeremonyBench) -> None:
    bench.apply(bench.ceremony(ENCRYPTION, signing=False))
    bench.python(WEAK)
    outcome = bench.run("apply", bench.ceremony(ENCRYPTION, signing=False))
    assert outcome.code == 3
    assert "2 secret objects carry this label" in outcome.err


def test_a_key_replaced_behind_our_back_is_noticed_by_its_check_value(bench: CeremonyBench) -> None:
    bench.apply(bench.ceremony(MAC, signing=False))
    bench.python(
        "k = key('msl.token.mac.v1')\ni = k[A.ID]\nk.destroy()\n"
        "f = {a: False for a in (A.ENCRYPT, A.DECRYPT, A.WRAP, A.UNWRAP, A.DERIVE)}\n"
        "session.generate_key(T.GENERIC_SECRET, 256, store=True, label='msl.token.mac.v1', id=i,"
        " mechanism=M.GENERIC_SECRET_KEY_GEN, template={**f, A.SIGN: True, A.VERIFY: True, A.PRIVATE: True,"
        " A.SENSITIVE: True, A.EXTRACTABLE: False, A.COPYABLE: False, A.MODIFIABLE: False})"
    )
    outcome = bench.run("apply", bench.ceremony(MAC, signing=False))
    assert outcome.code == 3
    assert "another key" in outcome.err


def test_a_missing_recorded_key_is_not_silently_made_anew(bench: CeremonyBench) -> None:
    bench.apply(bench.ceremony(ENCRYPTION, signing=False))
    bench.python("key('msl.token.encryption.v1').destroy()")
    outcome = bench.run("apply", bench.ceremony(ENCRYPTION, signing=False))
    assert outcome.code == 3
    assert "missing on the token; restore it" in outcome.err


def test_an_import_that_differs_from_the_key_on_the_token(bench: CeremonyBench) -> None:
    bench.write("k.hex", "00" * 32)
    ceremony = bench.ceremony(MAC + '\nimport = { file = "k.hex" }', signing=False)
    bench.apply(ceremony)
    (bench.work / "records/manifest.json").unlink()
    bench.write("k.hex", "01" * 32)
    outcome = bench.run("apply", ceremony)
    assert outcome.code == 3
    assert "another key" in outcome.err


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("00" * 31, "holds 31 bytes"),
        ("certainly not hexadecimal", "not a hmac-sha256 key in hex form"),
        (None, "cannot be read"),
    ],
)
def test_an_unusable_key_file(bench: CeremonyBench, content: str | None, complaint: str) -> None:
    if content is not None:
        bench.write("k.hex", content)
    outcome = bench.run("apply", bench.ceremony(MAC + '\nimport = { file = "k.hex" }', signing=False))
    assert outcome.code == 2
    assert complaint in one_line(outcome.err)
    assert content is None or content not in outcome.err


def test_a_stale_plan_is_refused_and_the_agreed_one_applied_twice(bench: CeremonyBench) -> None:
    """Acceptance test 3 of section 5."""
    bench.write("pins/so.pin", "87654321\n")
    bench.write("pins/user.pin", "12345678\n")
    first = bench.ceremony(ENCRYPTION, environment="production")
    planned = bench.run("plan", first, "--json").json
    assert bench.run("apply", first).code == 2
    changed = bench.ceremony(ENCRYPTION, MAC, environment="production")
    outcome = bench.run("apply", changed, "--plan-hash", planned["hash"])
    assert outcome.code == 4
    assert "stale" in one_line(outcome.err)
    assert not list((bench.directory / "tokens").iterdir())
    first = bench.ceremony(ENCRYPTION, environment="production")
    assert bench.run("apply", first, "--plan-hash", planned["hash"]).code == 0
    again = bench.run("apply", first, "--plan-hash", planned["hash"])
    assert again.code == 0, again.err
    assert "nothing to do" in again.out


def test_a_plan_changes_nothing(bench: CeremonyBench) -> None:
    outcome = bench.run("plan", bench.ceremony(ENCRYPTION), "--templates")
    assert outcome.code == 0
    assert "will be initialised" in outcome.out
    assert "EXTRACTABLE=false" in outcome.out
    assert not list((bench.directory / "tokens").iterdir())
    assert not (bench.work / "records").exists()
    assert not (bench.work / "pins").exists()


def test_an_interrupted_run_continues_and_says_so(bench: CeremonyBench) -> None:
    """Half a pair, left between two creations, is removed and made again; what was recorded is kept."""
    bench.apply(bench.ceremony(ENCRYPTION, signing=False))
    ceremony = bench.ceremony(ENCRYPTION, MAC, 'profile = "rsa-identity"', signing=False)
    plan = bench.run("plan", ceremony, "--json").json
    journal = bench.work / "records/plans" / f"{plan['hash']}.json"
    journal.write_text(json.dumps({"plan": plan["plan"], "status": "started"}))
    bench.python(
        "from pkcs11.util.rsa import decode_rsa_public_key\n"
        "p, q = session.generate_keypair(T.RSA, 2048, store=True, label='identity.rsa.v1',"
        " mechanism=M.RSA_PKCS_KEY_PAIR_GEN)\nq.destroy()"
    )
    outcome = bench.run("apply", ceremony, "--plan-hash", plan["hash"])
    assert outcome.code == 0, outcome.err
    assert "continued an interrupted run" in outcome.out
    assert "regenerate identity.rsa.v1" in outcome.err
    assert bench.python(COUNT) == 4
    assert json.loads(journal.read_text())["status"] == "completed"


FULL = """
import resource, signal, sys
from hsm_provision.cli import ceremonies, console
from hsm_provision.cli.main import run
def full(text):
    if sys.argv[2] in text:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
ceremonies.progress = full
sys.exit(run(["apply", sys.argv[1]]))
"""


@pytest.mark.parametrize("step", ["generate msl.token.mac.v1", "generate identity.rsa.v1"])
def test_a_full_token_leaves_a_clean_state(bench: CeremonyBench, step: str) -> None:
    """The medium takes no more from one step on: one line, exit code 7, and the next run completes the work."""
    ceremony = bench.ceremony(ENCRYPTION, MAC, 'profile = "rsa-identity"')
    full = bench.script(FULL, ceremony, step)
    assert full.code == 7, full.err
    assert step.removeprefix("generate ") in one_line(full.err)
    outcome = bench.run("apply", ceremony)
    assert outcome.code == 0, outcome.err
    assert "continued an interrupted run" in outcome.out
    labels = bench.python("result = sorted(o[A.LABEL] for o in list(session.get_objects({A.TOKEN: True})))")
    assert labels == sorted(
        ["audit.signing.v1"] * 2 + ["identity.rsa.v1"] * 2 + ["msl.token.encryption.v1", "msl.token.mac.v1"]
    )


def test_a_vanished_token_is_an_outage_in_one_line(bench: CeremonyBench) -> None:
    ceremony = bench.ceremony(ENCRYPTION)
    bench.apply(ceremony)
    tokens = bench.directory / "tokens"
    tokens.rename(bench.directory / "elsewhere")
    tokens.mkdir()
    outcome = bench.run("apply", bench.ceremony(ENCRYPTION, MAC, initialise=False))
    assert outcome.code == 8
    assert "no token" in one_line(outcome.err)
    tokens.rmdir()
    (bench.directory / "elsewhere").rename(tokens)
    assert bench.run("apply", ceremony).code == 0


def test_records_of_another_token_are_refused(bench: CeremonyBench) -> None:
    ceremony = bench.ceremony(ENCRYPTION)
    bench.apply(ceremony)
    for directory in (bench.directory / "tokens").iterdir():
        for file in directory.iterdir():
            file.unlink()
        directory.rmdir()
    outcome = bench.run("apply", ceremony)
    assert outcome.code == 2
    assert "describes token" in one_line(outcome.err)


def test_a_manifest_changed_by_hand_is_refused(bench: CeremonyBench) -> None:
    ceremony = bench.ceremony(ENCRYPTION)
    bench.apply(ceremony)
    path = bench.work / "records/manifest.json"
    path.write_text(path.read_text().replace('"state": "primary"', '"state": "retired"', 1))
    outcome = bench.run("apply", ceremony)
    assert outcome.code == 2
    assert "signature does not fit" in one_line(outcome.err)


HOLD = """
import subprocess, sys
from pathlib import Path
from hsm_provision.records import Records
with Records(Path("records"), lambda: 0.0, "holder").held():
    command = [sys.executable, "-m", "hsm_provision", "apply", sys.argv[1]]
    done = subprocess.run(command, capture_output=True, text=True)
print(done.stderr)
sys.exit(done.returncode)
"""


def test_two_runs_on_the_same_records_do_not_meet(bench: CeremonyBench) -> None:
    ceremony = bench.ceremony(ENCRYPTION)
    outcome = bench.script(HOLD, ceremony)
    assert outcome.code == 2
    assert "another hsm-provision is at work" in outcome.out
    assert bench.run("apply", ceremony).code == 0


VANISH = """
import os, sys
from hsm_provision.cli import ceremonies
from hsm_provision.cli.main import run
def vanish(text):
    if sys.argv[2] in text:
        os.rename(sys.argv[3], sys.argv[3] + ".away")
ceremonies.progress = vanish
sys.exit(run(["apply", sys.argv[1]]))
"""


def test_a_token_that_vanishes_in_the_middle_is_an_outage_in_one_line(bench: CeremonyBench) -> None:
    """Pulled out between two keys: nothing is said about the keys, and the next run completes the work."""
    ceremony = bench.ceremony(ENCRYPTION, MAC, 'profile = "ec-identity"')
    tokens = bench.directory / "tokens"
    outcome = bench.script(VANISH, ceremony, "generate msl.token.mac.v1", tokens)
    assert outcome.code == 7, outcome.err
    one_line(outcome.err)
    (bench.directory / "tokens.away").rename(tokens)
    done = bench.run("apply", ceremony)
    assert done.code == 0, done.err
    assert "continued an interrupted run" in done.out
    assert bench.run("verify", ceremony).code == 0


def test_the_agreed_plan_covers_how_long_keys_are_valid(bench: CeremonyBench) -> None:
    """A profile is a file beside the ceremony; changed after the plan was agreed to, the plan is stale."""
    text = bench.ceremony('profile = "msl-token-mac"').read_text()
    shutil.copytree(PROVISIONING / "profiles", bench.work / "profiles")
    ceremony = bench.write("test.toml", text.replace(str(PROVISIONING / "profiles"), "profiles"))
    agreed = bench.run("plan", ceremony, "--json").json["hash"]
    profile = bench.work / "profiles/msl-token-mac.toml"
    profile.write_text(re.sub(r"(?m)^validity_days.*$", "validity_days = 36500", profile.read_text()))
    assert bench.run("apply", ceremony, "--plan-hash", agreed).code == 4


def test_approvals_are_asked_for_in_development_as_well(bench: CeremonyBench) -> None:
    ceremony = bench.ceremony(extra="\n[policy]\napply_approvals = 2\n")
    outcome = bench.run("apply", ceremony)
    assert outcome.code == 2
    assert "--plan-hash" in outcome.err
    agreed = bench.run("plan", ceremony, "--json").json["hash"]
    assert bench.run("apply", ceremony, "--plan-hash", agreed).code == 6
