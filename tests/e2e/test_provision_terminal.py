"""The command as a person meets it: questions in a terminal, answers, second thoughts, Ctrl-C."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ceremony_fixture import CeremonyBench
from terminal import CTRL_D, Terminal, terminal

OFFICER, USER = "Security officer PIN of 'ceremony test': ", "User PIN of 'ceremony test': "
AGAIN = {OFFICER: "The same security officer PIN", USER: "The same user PIN"}
KEYS = ('profile = "msl-token-encryption"', 'profile = "msl-token-mac"')


@contextmanager
def command(bench: CeremonyBench, *arguments: str | Path) -> Iterator[Terminal]:
    words = [sys.executable, "-m", "hsm_provision", *map(str, arguments)]
    with terminal(words, bench.environment, bench.work) as started:
        yield started


def prompted(bench: CeremonyBench, *keys: str) -> Path:
    """Write a ceremony whose PINs are typed."""
    ceremony = bench.ceremony(*keys)
    text = ceremony.read_text().replace("create_missing_pin_files = true\n", "")
    ceremony.write_text(text.replace("file:pins/so.pin", "prompt").replace("file:pins/user.pin", "prompt"))
    return ceremony


def set_pins(shown: Terminal, officer: str, user: str) -> None:
    for question, answer in ((OFFICER, officer), (USER, user)):
        shown.expect(question)
        shown.type(answer)
        shown.expect(AGAIN[question])
        shown.type(answer)


def last_line(shown: Terminal) -> str:
    assert "Traceback" not in shown.screen
    return shown.screen.strip().splitlines()[-1]


def test_pins_are_asked_for_by_name_and_new_ones_twice(bench: CeremonyBench) -> None:
    ceremony = prompted(bench, *KEYS)
    with command(bench, "apply", ceremony) as shown:
        set_pins(shown, "officer-pin-4711", "user-pin-0815")
        assert shown.finish() == 0, shown.screen
        assert "every key is proved" in shown.screen
        assert "4711" not in shown.screen
        assert "0815" not in shown.screen
    with command(bench, "verify", ceremony) as shown:
        shown.expect(USER)
        shown.type("user-pin-0815")
        assert shown.finish() == 0, shown.screen
        assert shown.screen.count("PIN") == 1


def test_a_slip_of_the_finger_sets_no_pin(bench: CeremonyBench) -> None:
    ceremony = prompted(bench, *KEYS)
    with command(bench, "apply", ceremony) as shown:
        shown.expect(OFFICER)
        shown.type("officer-pin-4711")
        shown.expect(AGAIN[OFFICER])
        shown.type("officer-pin-4712")
        assert shown.finish() == 8
        assert last_line(shown).endswith(
            "entries of the security officer PIN of 'ceremony test' differ; nothing was changed"
        )
    assert not list((bench.directory / "tokens").iterdir())


def test_a_token_left_without_a_user_pin_gets_it(bench: CeremonyBench) -> None:
    """The token takes the officer's PIN and refuses the user's: the same command puts it right."""
    ceremony = prompted(bench, *KEYS)
    with command(bench, "apply", ceremony) as shown:
        set_pins(shown, "officer-pin-4711", "1")
        assert shown.finish() == 8
        assert last_line(shown).endswith(
            "the user PIN for token 'ceremony test' is too short or too long for the token"
        )
    with command(bench, "apply", ceremony) as shown:
        set_pins(shown, "officer-pin-4712", "user-pin-0815")
        assert shown.finish() == 8
        assert last_line(shown).endswith("the security officer PIN for token 'ceremony test' is wrong")
    with command(bench, "apply", ceremony) as shown:
        set_pins(shown, "officer-pin-4711", "user-pin-0815")
        assert shown.finish() == 0, shown.screen


def test_ctrl_c_and_no_answer_change_nothing(bench: CeremonyBench) -> None:
    ceremony = prompted(bench, *KEYS)
    with command(bench, "apply", ceremony) as shown:
        shown.expect(OFFICER)
        shown.press_ctrl_c()
        assert shown.finish() == 130
        assert last_line(shown) == "interrupted; run the same command again to continue"
    assert not list((bench.directory / "tokens").iterdir())
    with command(bench, "apply", ceremony) as shown:
        set_pins(shown, "officer-pin-4711", "user-pin-0815")
        assert shown.finish() == 0, shown.screen
    manifest = (bench.work / "records/manifest.json").read_bytes()
    question = "Create the next version of every key of msl.token? [y/N]: "
    for answer, code, told in (
        ("n", 6, "not confirmed; nothing was changed"),
        ("", 6, "not confirmed; nothing was changed"),
        (CTRL_D, 130, "interrupted; run the same command again to continue"),
    ):
        with command(bench, "rotate", ceremony, "msl.token") as shown:
            shown.expect(question)
            shown.type(answer)
            assert shown.finish() == code, shown.screen
            assert last_line(shown).endswith(told)
    with command(bench, "rotate", ceremony, "msl.token") as shown:
        shown.expect(question)
        shown.type("y")
        shown.expect(USER)
        shown.type(CTRL_D)
        assert shown.finish() == 8
        assert last_line(shown).endswith("nothing was typed")
    assert (bench.work / "records/manifest.json").read_bytes() == manifest


def test_the_destruction_of_a_key_is_typed_out(bench: CeremonyBench) -> None:
    people = ""
    for name in ("alice", "bob"):
        bench.write(f"{name}.pass", f"passphrase of {name}\n")
        people += bench.run("approver-key", f"{name}.pem", "--passphrase", f"file:{bench.work}/{name}.pass").out
    ceremony = bench.ceremony(*KEYS, extra="\n" + people)
    bench.apply(ceremony)
    bench.run("rotate", ceremony, "msl.token", "--yes")
    label = "msl.token.mac.v1"
    bench.run("retire", ceremony, label, "--without-evidence", "--yes")
    digest = bench.run("destroy", ceremony, label, "--reason", "end of life").out.split()[-1]
    for name in ("alice", "bob"):
        with command(bench, "approve", ceremony, digest, "--key", f"{name}.pem") as shown:
            shown.expect(f"Passphrase of {name}.pem: ")
            shown.type(f"passphrase of {name}")
            assert shown.finish() == 0, shown.screen
            assert "reason: end of life" in shown.screen
    for answer, code in (("msl.token.mac.v2", 6), ("y", 6), (label, 0)):
        with command(bench, "destroy", ceremony, label, "--request", digest) as shown:
            shown.expect(f"Destroy {label} for ever? Type its name:")
            shown.type(answer)
            assert shown.finish() == code, shown.screen
    assert bench.entry(label)["state"] == "destroyed"


@pytest.mark.parametrize(
    "verb", [("version",), ("schema", "ceremony"), ("inventory", "test.toml"), ("verify", "test.toml", "--json")]
)
def test_a_full_standard_output_is_one_line(bench: CeremonyBench, verb: tuple[str, ...]) -> None:
    bench.apply(bench.ceremony())
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "hsm_provision", *verb],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=bench.environment,
            cwd=bench.work,
            timeout=60,
        )
    assert done.returncode == 1
    assert done.stderr == "hsm-provision: standard output cannot be written: No space left on device\n"


def test_tables_are_never_cut_to_the_screen(bench: CeremonyBench) -> None:
    """A label or check value that ends in dots is worth nothing to people who compare it."""
    ceremony = bench.ceremony(*KEYS)
    bench.apply(ceremony)
    bench.environment["COLUMNS"] = "40"
    with command(bench, "inventory", ceremony) as shown:
        assert shown.finish() == 0
        for key in bench.manifest()["keys"]:
            assert key["label"] in shown.screen
            assert f"{key['check']['method']}:{key['check']['value'][:6]}" in shown.screen
        assert "…" not in shown.screen
