"""Whole fleets wrapped on the way in: rejected lines, repetition, interruption, the next storage key (issue 3)."""

from __future__ import annotations

import base64
import json
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from ceremony_fixture import CeremonyBench

STORAGE = 'profile = "fleet-storage"'
FLEET = '\n[fleet]\ndatabase = "fleet.sqlite"\n'
HEADER = "identity,encryption,mac\n"

_RENEWAL = """
import sys
from hsm_msl.backend.pin import FilePin
from hsm_msl.backend.pkcs11.module import load
from hsm_provision.token.fleet import RenewedWrapper
from hsm_provision.token.objects import token_session
from pathlib import Path
module = load(sys.argv[1])
open_session = lambda: token_session(module, sys.argv[2], None, FilePin(Path(sys.argv[3])))
wrapped, seen = set(), set()
with RenewedWrapper(open_session, "fleet.storage.v1", renew_after=5) as wrapper:
    for number in range(12):
        current = wrapper.current()
        seen.add(id(current)), wrapped.add(current.wrap(bytes(32))), wrapped.add(current.wrap(bytes(32)))
print(len(wrapped), module.generation)
"""


@pytest.fixture
def ceremony(bench: CeremonyBench) -> Path:
    """Return a ceremony that is applied: a token with a fleet storage key."""
    made = bench.ceremony(STORAGE, extra=FLEET)
    bench.apply(made)
    return made


def rows(bench: CeremonyBench) -> dict[str, tuple[bytes, bytes, bytes, str]]:
    with sqlite3.connect(bench.work / "fleet.sqlite") as database:
        found = database.execute("select identity, encryption, mac, wrapping, kek from fleet_key").fetchall()
    return {row[0]: tuple(row[1:]) for row in found}


def line_of(number: int) -> str:
    return f"esn-{number:05d},{number:032x},{number:064x}\n"


def csv_of(count: int) -> str:
    return HEADER + "".join(map(line_of, range(count)))


def report(bench: CeremonyBench, job: str) -> list[dict[str, object]]:
    return [json.loads(one) for one in (bench.work / f"records/rejects/{job}.jsonl").read_text().splitlines()]


def opens(bench: CeremonyBench, wrapped: bytes, label: str) -> str:
    return bench.python(
        f"k = key({label!r}).unwrap_key(C.SECRET_KEY, T.GENERIC_SECRET, bytes.fromhex({wrapped.hex()!r}),"
        " mechanism=M.AES_KEY_WRAP, template={A.SENSITIVE: False, A.EXTRACTABLE: True})\nresult = k[A.VALUE].hex()"
    )


def test_a_fleet_is_stored_wrapped_from_a_stream(bench: CeremonyBench, ceremony: Path) -> None:
    outcome = bench.run("import-fleet", ceremony, "-", stdin=csv_of(1300))
    assert outcome.code == 0, outcome.err
    assert "1300 entities stored, wrapped under fleet.storage.v1" in outcome.out
    assert "entities stored" in outcome.err, "plain lines of progress where there is no terminal"
    assert "\x1b" not in outcome.err
    found = rows(bench)
    assert len(found) == 1300
    encryption, mac, wrapping, kek = found["esn-00255"]
    assert (len(encryption), len(mac), len(wrapping), kek) == (24, 40, 24, "fleet.storage.v1")
    assert opens(bench, encryption, kek) == f"{255:032x}"
    assert opens(bench, mac, kek) == f"{255:064x}"
    assert not (bench.work / "records/rejects").exists()


def test_bad_lines_are_reported_without_their_keys_and_the_others_stored(
    bench: CeremonyBench, ceremony: Path
) -> None:
    secret = "5ec7e7" * 10 + "0a0b"
    bad = {
        3: (
            "esn-x,nothex" + secret[:10] + "," + secret,
            "esn-x",
            "encryption: not a key in hexadecimal or an oct JWK",
        ),
        4: (f"esn-y,{secret[:30]},{secret}", "esn-y", "encryption: 15 bytes; 16 are needed"),
        6: (f",{secret[:32]},{secret}", None, "identity: printable text without blanks around it is required"),
        7: (f"{'z' * 1025},{secret[:32]},{secret}", None, "identity: longer than 1024 bytes"),
        8: (f"esn-w,{secret[:32]}", None, "3 columns are expected"),
        9: (f'"esn-v,{secret[:32]},{secret}', None, "not CSV"),
        10: (f"{secret[:32]},esn-shifted,{secret}", None, "encryption: not a key in hexadecimal or an oct JWK"),
        11: (f"esn-00000,{secret[:32]},{secret}", "esn-00000", "identity: it is there already with other keys"),
    }
    good = iter(range(100))
    lines = "".join(bad[number][0] + "\n" if number in bad else line_of(next(good)) for number in range(2, 15))
    bench.write("fleet.csv", HEADER + lines)
    outcome = bench.run("import-fleet", ceremony, "fleet.csv")
    assert outcome.code == 11, outcome.err
    assert "5 entities stored" in outcome.out
    assert "8 lines rejected" in outcome.out
    assert "2 encryption: not a key" in outcome.out
    assert report(bench, "fleet.csv") == [
        {"line": number, "identity": identity, "reason": reason} for number, (_, identity, reason) in bad.items()
    ]
    path = bench.work / "records/rejects/fleet.csv.jsonl"
    assert path.stat().st_mode & 0o777 == 0o600
    for text in (outcome.out, outcome.err, path.read_text(), (bench.work / "records/audit.jsonl").read_text()):
        assert "5ec7e7" not in text
    assert sorted(rows(bench)) == [f"esn-{number:05d}" for number in range(5)]
    assert opens(bench, rows(bench)["esn-00000"][0], "fleet.storage.v1") == f"{0:032x}"


def test_strict_stops_at_the_first_bad_line_and_goes_on_after_its_correction(
    bench: CeremonyBench, ceremony: Path
) -> None:
    good = csv_of(1500)
    bad = good.replace("esn-01200," + f"{1200:032x}", "esn-01200,nothexnothex")
    outcome = bench.run("import-fleet", ceremony, "-", "--job", "may", "--strict", stdin=bad)
    assert outcome.code == 2
    assert "line 1202: encryption: not a key" in outcome.err
    assert "nothexnothex" not in outcome.err
    assert len(rows(bench)) == 1200
    again = bench.run("import-fleet", ceremony, "-", "--job", "may", "--strict", stdin=good)
    assert again.code == 0, again.err
    assert "went on after line 1001" in again.out
    assert "300 entities stored" in again.out
    assert len(rows(bench)) == 1500


def test_a_repeated_import_changes_nothing_and_other_keys_need_replace(bench: CeremonyBench, ceremony: Path) -> None:
    assert bench.run("import-fleet", ceremony, "-", stdin=csv_of(5) + line_of(3)).code == 0
    before = rows(bench)
    again = bench.run("import-fleet", ceremony, "-", stdin=csv_of(5))
    assert (again.code, rows(bench)) == (0, before)
    assert "0 entities stored" in again.out
    assert "5 lines repeat" in again.out
    other = HEADER + f"esn-00002,{'ab' * 16},{'cd' * 32}\n"
    refused = bench.run("import-fleet", ceremony, "-", "--job", "other", "--rejects", "r.jsonl", stdin=other)
    assert (refused.code, rows(bench)) == (11, before)
    assert json.loads((bench.work / "r.jsonl").read_text())["identity"] == "esn-00002"
    replaced = bench.run("import-fleet", ceremony, "-", "--replace", stdin=other)
    assert replaced.code == 0, replaced.err
    assert opens(bench, rows(bench)["esn-00002"][0], "fleet.storage.v1") == "ab" * 16


def test_json_lines_are_known_by_their_extension(bench: CeremonyBench, ceremony: Path) -> None:
    def jwk(value: bytes) -> dict[str, str]:
        return {"kty": "oct", "k": base64.urlsafe_b64encode(value).decode().rstrip("=")}

    lines = [
        json.dumps(
            {"identity": "e", "encryption": jwk(b"e" * 16), "mac": jwk(b"m" * 32), "wrapping": jwk(b"w" * 16)}
        ),
        json.dumps({"identity": "f", "encryption": "0f" * 16, "mac": "1e" * 32}),
        '{"identity": "g", "encryption": ',
    ]
    bench.write("fleet.jsonl", "\n".join(lines))
    outcome = bench.run("import-fleet", ceremony, "fleet.jsonl")
    assert outcome.code == 11, outcome.err
    assert report(bench, "fleet.jsonl") == [{"line": 3, "identity": None, "reason": "not JSON"}]
    assert opens(bench, rows(bench)["e"][2], "fleet.storage.v1") == (b"w" * 16).hex()
    assert opens(bench, rows(bench)["f"][0], "fleet.storage.v1") == "0f" * 16
    piped = bench.run("import-fleet", ceremony, "-", "--form", "jsonl", stdin=lines[1] + "\n")
    assert "1 lines repeat" in piped.out, piped.err


def test_an_import_killed_half_way_goes_on_without_losing_or_repeating_a_line(
    bench: CeremonyBench, ceremony: Path
) -> None:
    """kill -9 after the first batches; every 97th line is bad, before and after."""
    count = 4000
    bad = [number for number in range(count) if number % 97 == 0]
    text = HEADER + "".join(f"esn-{n:05d},bad,\n" if n in bad else line_of(n) for n in range(count))
    bench.write("fleet.csv", text)
    command = [sys.executable, "-m", "hsm_provision", "import-fleet", str(ceremony), "fleet.csv"]
    with subprocess.Popen(
        command, cwd=bench.work, env=bench.environment, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert "line 1001" in process.stderr.readline()
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert 0 < len(rows(bench)) < count - len(bad)
    rejects = bench.work / "records/rejects/fleet.csv.jsonl"
    with rejects.open("a") as file:  # what a batch that was never stored leaves behind, its last line cut short
        file.write('{"line": 3999, "identity": null, "reason": "x"}\n{"line": 4')
    other = bench.write("other.csv", text.replace("esn-00000,bad", "esn-00000,bax"))
    refused = bench.run("import-fleet", ceremony, other, "--job", "fleet.csv")
    assert refused.code == 2
    assert "are not those the interrupted import has read" in refused.err
    again = bench.run("import-fleet", ceremony, "fleet.csv")
    assert again.code == 11, again.err
    assert "went on after line" in again.out
    assert f"{len(bad)} lines rejected" in again.out
    assert "repeat" not in again.out
    assert [one["line"] for one in report(bench, "fleet.csv")] == [number + 2 for number in bad]
    assert sorted(rows(bench)) == [f"esn-{number:05d}" for number in range(count) if number not in bad]
    with sqlite3.connect(bench.work / "fleet.sqlite") as database:
        assert database.execute("select count(*) from fleet_import").fetchone() == (0,)


@pytest.mark.parametrize("text", ["a,b\n", "", "\xff\n", '"identity\n'])
def test_an_unusable_fleet_file_is_named(bench: CeremonyBench, ceremony: Path, text: str) -> None:
    outcome = bench.run("import-fleet", ceremony, "-", stdin=text)
    assert outcome.code == 2
    assert "the first line must be identity,encryption,mac,wrapping" in outcome.err


def test_a_file_of_keys_that_others_may_read_and_an_unknown_extension_are_refused(
    bench: CeremonyBench, ceremony: Path
) -> None:
    path = bench.write("fleet.csv", csv_of(1))
    path.chmod(0o640)
    outcome = bench.run("import-fleet", ceremony, "fleet.csv")
    assert outcome.code == 2
    assert "is open to others (mode 0640); run: chmod 600 fleet.csv" in outcome.err
    bench.write("fleet.txt", csv_of(1))
    unknown = bench.run("import-fleet", ceremony, "fleet.txt")
    assert (unknown.code, "give --form" in unknown.err) == (2, True)


def test_a_fleet_moves_under_the_next_storage_key(bench: CeremonyBench, ceremony: Path) -> None:
    assert bench.run("import-fleet", ceremony, "-", stdin=csv_of(20)).code == 0
    assert bench.run("rotate", ceremony, "fleet", "--yes").code == 0
    repeated = bench.run("import-fleet", ceremony, "-", stdin=csv_of(20))
    assert "20 lines repeat" in repeated.out, "equal keys are known again under another storage key"
    outcome = bench.run("rewrap-fleet", ceremony)
    assert outcome.code == 0, outcome.err
    assert "20 entities wrapped anew under fleet.storage.v2" in outcome.out
    assert {row[3] for row in rows(bench).values()} == {"fleet.storage.v2"}
    assert opens(bench, rows(bench)["esn-00007"][0], "fleet.storage.v2") == f"{7:032x}"
    assert "0 entities" in bench.run("rewrap-fleet", ceremony).out


def test_the_module_is_started_anew_while_keys_are_wrapped(bench: CeremonyBench, ceremony: Path) -> None:
    """SoftHSMv2 keeps memory of every session object until it is finalised."""
    outcome = bench.script(_RENEWAL, bench.module, bench.label, bench.work / "pins/user.pin")
    assert (outcome.code, outcome.out) == (0, "1 4\n"), outcome.err
