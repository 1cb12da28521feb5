"""Fleet files line by line, the report of rejected lines and the progress shown (issue 3)."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from hsm_msl.backend.pin import FilePin
from hsm_msl.errors import ConfigurationError
from hsm_provision.cli.fleet_progress import fleet_progress
from hsm_provision.fleet_import import FleetCount
from hsm_provision.fleet_reading import MAX_LINE_BYTES, FleetReader, FleetRow, RejectedLine
from hsm_provision.fleet_rejects import RejectsFile
from hsm_provision.kept_pin import KeptPin
from hsm_provision.key_material import derive_wrapping_key

E, M = "0f" * 16, "1e" * 32
HEADER = b"identity,encryption,mac,wrapping\n"


def csv(*lines: bytes) -> FleetReader:
    return FleetReader(io.BytesIO(HEADER + b"\n".join(lines)), "csv", "f")


def jsonl(*lines: str) -> FleetReader:
    return FleetReader(io.BytesIO("\n".join(lines).encode()), "jsonl", "f")


def reason(reader: FleetReader) -> str:
    (found,) = reader
    assert isinstance(found, RejectedLine)
    return found.reason


def test_lines_keep_their_numbers_and_the_wrapping_key_is_derived_when_it_is_missing() -> None:
    reader = csv(f"a,{E},{M},".encode(), b"", b"bad", f'"b,c",{E},{M},{"2d" * 16}\r'.encode())
    first, second, third = reader
    assert first == FleetRow("a", 2, b"\x0f" * 16, b"\x1e" * 32, derive_wrapping_key(b"\x0f" * 16, b"\x1e" * 32))
    assert second == RejectedLine(4, None, "4 columns are expected")
    assert third == FleetRow("b,c", 5, b"\x0f" * 16, b"\x1e" * 32, b"\x2d" * 16)
    assert E not in repr(first)


def test_a_byte_order_mark_is_passed_over() -> None:
    (row,) = FleetReader(io.BytesIO(b"\xef\xbb\xbf" + HEADER + f"a,{E},{M},".encode()), "csv", "f")
    assert isinstance(row, FleetRow)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("[1]", "a JSON object is expected"),
        ("{", "not JSON"),
        ("[" * 9000, "not JSON"),
        ('{"identity": "a", "identity": "b"}', "a member is there twice"),
        ('{"identity": 7}', "identity: printable"),
        ('{"identity": "\\ud800"}', "identity: printable"),
        ('{"identity": " a"}', "identity: printable"),
        ('{"identity": "a"}', "encryption: not a key"),
        ('{"identity": "a", "encryption": {"kty": "RSA"}}', "encryption: not a key"),
        (json.dumps({"identity": "a", "encryption": E, "mac": "00"}), "mac: 1 bytes; 32 are needed"),
        (json.dumps({"identity": "a", "encryption": E, "mac": M, "wrapping": 0}), "wrapping: not a key"),
        ("x" * (MAX_LINE_BYTES + 1), "longer than"),
    ],
)
def test_a_bad_json_line_has_a_reason(line: str, expected: str) -> None:
    assert reason(jsonl(line)).startswith(expected)


def test_a_line_that_is_no_text_and_one_without_end_do_not_hide_the_next() -> None:
    reader = csv(b"\xff", b"y" * (5 * MAX_LINE_BYTES), f"a,{E},{M},".encode())
    first, second, third = reader
    assert first == RejectedLine(2, None, "not UTF-8 text")
    assert isinstance(second, RejectedLine)
    assert (second.line, third.line) == (3, 4)
    assert isinstance(third, FleetRow)


@pytest.mark.parametrize(
    "shifted", [E, M, "Dw8PDw8PDw8PDw8PDw8PDw", "Dw8PDw8PDw8PDw8PDw8PDw==", "Hh4e" * 10 + "Hh4="]
)
def test_a_key_in_the_column_of_the_identity_is_not_reported(shifted: str) -> None:
    (found,) = csv(f"{shifted},esn-1,{M},".encode())
    assert isinstance(found, RejectedLine)
    assert found.identity is None


def test_only_the_same_lines_are_passed_over() -> None:
    lines = [f"{name},{E},{M},".encode() for name in "abcd"]
    reader = csv(*lines)
    rows = iter(reader)
    next(rows), next(rows)
    position, fingerprint = reader.line, reader.fingerprint
    again = csv(*lines)
    again.skip_to(position, fingerprint)
    assert [row.line for row in again] == [4, 5]
    for other in (csv(lines[1], lines[0], *lines[2:]), csv(lines[0])):
        with pytest.raises(ConfigurationError, match="are not those"):
            other.skip_to(position, fingerprint)


def test_the_report_keeps_what_is_settled(tmp_path: Path) -> None:
    path = tmp_path / "deep/rejects.jsonl"
    report = RejectsFile(path)
    report.append([])
    assert not path.exists()
    report.append([RejectedLine(2, "a", "bad"), RejectedLine(9, None, "worse")])
    report.append([RejectedLine(12, "ü\n", "bad")])
    assert report.reasons == {"bad": 2, "worse": 1}
    later = RejectsFile(path)
    later.begin(9)
    assert (later.count, later.reasons) == (2, {"bad": 1, "worse": 1})
    assert [json.loads(line)["line"] for line in path.read_text().splitlines()] == [2, 9]
    later.begin(0)
    assert (later.count, path.exists()) == (0, False)


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(terminal: bool) -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=terminal, width=120)
    data = HEADER + f"a,{E},{M},\n".encode()
    reader = FleetReader(io.BytesIO(data), "csv", "f")
    with fleet_progress(reader, len(data), console) as settled:
        list(reader)
        settled(FleetCount(1, 0, 2, 0))
    assert "1 entities stored, 2 rejected" in shown.getvalue()
    assert ("100%" in shown.getvalue(), "\x1b" in shown.getvalue()) == (terminal, terminal)
    assert ("line 2:" in shown.getvalue()) is not terminal


def test_a_pin_is_asked_for_once_though_the_token_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "pin"
    path.write_text("1234\n")
    path.chmod(0o600)
    kept = KeptPin(FilePin(path))
    first = kept.read()
    path.unlink()
    assert kept.read() == first
