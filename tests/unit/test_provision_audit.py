"""The hash-chained audit log (provisioning field notes, feature 11 and its acceptance test)."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from audit_signers import full_at, signer
from hsm_msl.audit.chain import AuditHead, encoded
from hsm_msl.audit.log import AuditLog, put_aside
from hsm_msl.audit.verification import AuditVerdict, checkpoint_fits, read_checkpoint, read_records, verify_log
from hsm_msl.errors import ConfigurationError

NOW = "2026-01-01T00:00:00Z"


FIRST, SECOND, STRANGER = (signer(name) for name in ("audit.signing.v1", "audit.signing.v2", "audit.signing.v1"))
SPKI = FIRST.spki


def verdict_of(path: Path, *known: AuditHead) -> AuditVerdict:
    return verify_log([path], SPKI, known=known)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "records/audit.jsonl"
    writer = AuditLog(path, now=lambda: NOW, actor="alice")
    for number in range(5):
        writer.append("event", {"number": str(number)})
    writer.checkpoint(FIRST)
    writer.append("event", {"number": "last"})
    return path


def test_a_whole_log_verifies_with_the_public_key_alone(log: Path) -> None:
    verdict = verdict_of(log)
    assert verdict.problem is None
    assert (verdict.records, verdict.checkpoints, verdict.unsigned_tail) == (7, 1, 1)
    assert log.stat().st_mode & 0o077 == 0


def rewrite(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))


def reordered(lines: list[bytes]) -> list[bytes]:
    lines[1], lines[2] = lines[2], lines[1]
    return lines


@pytest.mark.parametrize(
    ("change", "bad"),
    [
        (lambda lines: [lines[0], lines[1].replace(b'"number":"1"', b'"number":"9"'), *lines[2:]], "record 2"),
        (lambda lines: [lines[0].replace(b"alice", b"malic"), *lines[1:]], "record 1"),
        (lambda lines: [*lines[:2], *lines[3:]], "record 3"),
        (reordered, "record 2"),
        (lambda lines: lines[1:], "record 1"),
        (lambda lines: [*lines[:3], lines[3][:-9] + b"\n", *lines[4:]], "record 4"),
        (lambda lines: [*lines[:4], lines[0], *lines[4:]], "record 5"),
    ],
    ids=["flip a byte", "change the actor", "remove", "reorder", "cut the head", "truncate a line", "insert"],
)
def test_tampering_is_found_at_the_first_bad_record(
    log: Path, change: Callable[[list[bytes]], list[bytes]], bad: str
) -> None:
    rewrite(log, change)
    problem = verdict_of(log).problem
    assert problem is not None
    assert problem.startswith(bad), problem


def test_every_single_flipped_bit_is_found(log: Path) -> None:
    content = log.read_bytes()
    head = content[: content.index(b"\n") + 1]
    for position in range(0, len(head) - 1, 7):
        flipped = bytearray(content)
        flipped[position] ^= 1
        log.write_bytes(bytes(flipped))
        assert verdict_of(log).problem is not None, position


def test_a_cut_tail_is_found_through_the_signed_head(log: Path) -> None:
    last = json.loads(log.read_bytes().splitlines()[-1])
    head = AuditHead(last["sequence"], last["hash"])
    assert verdict_of(log, head).problem is None
    rewrite(log, lambda lines: lines[:-1])
    assert verdict_of(log, head).problem == "record 7: missing; 7 are known"


def test_a_chain_written_anew_fails_without_the_signing_key(log: Path, tmp_path: Path) -> None:
    forged = tmp_path / "forged.jsonl"
    writer = AuditLog(forged, now=lambda: NOW, actor="mallory")
    writer.append("event", {"number": "0"})
    assert "no signed checkpoint" in str(verdict_of(forged).problem)
    writer.checkpoint(STRANGER)
    assert verdict_of(forged).problem == "record 2: checkpoint signature does not fit this public key"


def test_a_checkpoint_moved_elsewhere_does_not_fit(log: Path) -> None:
    lines = log.read_bytes().splitlines()
    signature = json.loads(lines[5])["details"]["signature"]
    writer = AuditLog(log, now=lambda: NOW, actor="mallory")
    writer.append("checkpoint", {"key": "audit.signing.v1", "signature": signature})
    assert str(verdict_of(log).problem).startswith("record 8: checkpoint signature")


def test_a_damaged_end_is_not_written_over(log: Path) -> None:
    log.write_bytes(log.read_bytes()[:-20] + b"\n")
    before = log.read_bytes()
    with pytest.raises(ConfigurationError, match="last record is damaged"):
        AuditLog(log, now=lambda: NOW, actor="alice").append("event")
    assert log.read_bytes() == before


@pytest.mark.parametrize("cut", [1, 20, 150])
def test_what_a_crash_cut_short_is_said_and_the_chain_goes_on(log: Path, cut: int) -> None:
    whole = log.read_bytes()
    line = whole.splitlines()[-1]
    log.write_bytes(whole[:-cut])
    assert verdict_of(log).problem == "record 7: torn: the line has no end"
    writer = AuditLog(log, now=lambda: NOW, actor="alice")
    last = writer.last()
    assert last is not None
    assert (last.sequence, last.event) == (6, "checkpoint")
    writer.append("event", {"number": "after"})
    records = list(read_records(log))
    assert [record.event for record in records[5:]] == ["checkpoint", "torn record found", "event"]
    assert records[6].details["text"] == line[: len(line) + 1 - cut].decode()
    assert verdict_of(log).problem is None


def test_a_log_torn_in_its_first_record_begins_again(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b'{"actor":"al')
    writer = AuditLog(path, now=lambda: NOW, actor="alice")
    writer.append("event")
    writer.checkpoint(FIRST)
    assert [record.event for record in read_records(path)] == ["torn record found", "event", "checkpoint"]
    assert verdict_of(path).problem is None


def test_a_large_file_is_put_aside_and_the_chain_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    writer = AuditLog(path, now=lambda: NOW, actor="alice", rotate_bytes=1500)
    for number in range(20):
        writer.append("event", {"number": str(number)})
    writer.checkpoint(FIRST)
    files = [*put_aside(path), path]
    assert len(files) > 3
    assert all(file.stat().st_size < 1800 for file in files)
    verdict = verify_log(files, SPKI)
    assert verdict.problem is None
    assert [number for number in numbers(files) if number] == [str(number) for number in range(20)]
    assert files[0].name == f"audit.jsonl.{list(read_records(files[0]))[-1].sequence:010}"
    # A file in the middle is judged with what came before it, or with where that ended.
    alone = verify_log(files[-1:], SPKI)
    assert "begins in the middle" in str(alone.problem)
    before = verify_log(files[:-1], SPKI)
    assert verify_log(files[-1:], SPKI, after=before.head).problem is None
    # A missing or exchanged file is named.
    assert f"in {files[2].name}: does not follow" in str(verify_log([files[0], *files[2:]], SPKI).problem)
    assert f"in {files[2].name}: does not follow" in str(
        verify_log([files[0], files[2], files[1], *files[3:]], SPKI).problem
    )


def test_a_crash_between_two_files_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    writer = AuditLog(path, now=lambda: NOW, actor="alice")
    writer.append("event")
    last = writer.checkpoint(FIRST)
    path.rename(path.with_name("audit.jsonl.0000000002"))
    assert writer.last() == last
    writer.append("event")
    assert [record.event for record in read_records(path)] == ["log continued", "event"]
    assert verify_log([*put_aside(path), path], SPKI).problem is None


def numbers(files: list[Path]) -> list[str]:
    return [record.details.get("number", "") for file in files for record in read_records(file)]


def append_many(path: Path, name: str) -> None:
    writer = AuditLog(path, now=lambda: NOW, actor=name, rotate_bytes=4000)
    for number in range(40):
        writer.append("event", {"number": str(number)})


def test_processes_append_to_one_log_in_turn(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=append_many, args=(path, f"p{number}")) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    AuditLog(path, now=lambda: NOW, actor="alice").checkpoint(FIRST)
    files = [*put_aside(path), path]
    assert len(files) > 2
    verdict = verify_log(files, SPKI)
    assert verdict.problem is None
    assert len([number for number in numbers(files) if number]) == 120


@pytest.mark.parametrize("room", [0, 30])
def test_a_full_medium_is_said_and_leaves_the_log_whole(log: Path, room: int) -> None:
    """Nothing or only a part of the record fits."""
    before = log.read_bytes()
    writer = AuditLog(log, now=lambda: NOW, actor="alice")
    with full_at(len(before) + room), pytest.raises(ConfigurationError, match=r"audit\.jsonl: cannot be written"):
        writer.append("event")
    assert log.read_bytes() == before
    writer.append("event")
    assert verdict_of(log).problem is None


def test_a_directory_that_may_not_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be"):
        AuditLog(tmp_path / "file/audit.jsonl", now=lambda: NOW, actor="alice").append("event")
    os.mkdir(tmp_path / "audit.jsonl")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        AuditLog(tmp_path / "audit.jsonl", now=lambda: NOW, actor="alice").append("event")


@pytest.fixture
def handed_over(log: Path) -> Path:
    writer = AuditLog(log, now=lambda: NOW, actor="alice")
    writer.hand_over(FIRST, SECOND)
    writer.append("event", {"number": "under the second key"})
    writer.checkpoint(SECOND)
    return log


def test_a_hand_over_is_followed_with_the_first_public_key_alone(handed_over: Path) -> None:
    verdict = verdict_of(handed_over)
    assert verdict.problem is None
    assert verdict.keys == (FIRST.spki, SECOND.spki)
    assert (verdict.records, verdict.checkpoints, verdict.unsigned_tail) == (10, 3, 0)


def test_the_former_key_signs_no_more(handed_over: Path) -> None:
    AuditLog(handed_over, now=lambda: NOW, actor="mallory").checkpoint(FIRST)
    assert verdict_of(handed_over).problem == "record 11: checkpoint signature does not fit this public key"


def test_the_next_key_cannot_name_itself(log: Path) -> None:
    AuditLog(log, now=lambda: NOW, actor="mallory").hand_over(STRANGER, SECOND)
    assert verdict_of(log).problem == "record 8: key hand-over signature does not fit this public key"


@pytest.mark.parametrize("detail", ["next spki", "next key"])
def test_a_hand_over_to_another_key_is_found(log: Path, detail: str) -> None:
    """With a chain that fits: only the signature can tell."""
    other = log.with_name("other.jsonl")
    honest = AuditLog(other, now=lambda: NOW, actor="alice")
    other.write_bytes(log.read_bytes())
    record = honest.hand_over(FIRST, SECOND)
    forged = AuditLog(other, now=lambda: NOW, actor="alice").hand_over(FIRST, STRANGER)
    details = {**record.details, detail: forged.details[detail] if detail == "next spki" else "mallory.v1"}
    AuditLog(log, now=lambda: NOW, actor="alice").append(record.event, details)
    assert verdict_of(log).problem == "record 8: key hand-over signature does not fit this public key"


def test_a_kept_checkpoint_finds_a_cut_tail(log: Path, tmp_path: Path) -> None:
    kept = tmp_path / "checkpoint.json"
    record = AuditLog(log, now=lambda: NOW, actor="alice").checkpoint(FIRST)
    kept.write_bytes(encoded(record))
    known = read_checkpoint(kept)
    assert checkpoint_fits(known, [SPKI])
    assert not checkpoint_fits(known, [STRANGER.spki])
    assert verdict_of(log, known.head).problem is None
    rewrite(log, lambda lines: lines[:-2])
    assert verdict_of(log).problem is None
    assert verdict_of(log, known.head).problem == "record 7: missing; 8 are known"


def test_a_log_that_was_written_anew_lacks_the_known_record(log: Path) -> None:
    other = AuditLog(log.with_name("other.jsonl"), now=lambda: NOW, actor="alice")
    for number in range(6):
        other.append("event", {"number": str(number)})
    record = other.checkpoint(FIRST)
    assert verdict_of(log, record.head).problem == "record 7: is another one than known"


@pytest.mark.parametrize("content", [b"", b"{}\n", b"no\n"])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "checkpoint.json"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"checkpoint\.json"):
        read_checkpoint(path)


def test_bytes_that_are_no_text_are_recorded_as_numbers(log: Path) -> None:
    """The name of a file on the command line may hold them; the step is done by the time it is recorded."""
    AuditLog(log, now=lambda: NOW, actor="alice").append("event", {"file": b"a\xff".decode(errors="surrogateescape")})
    assert verdict_of(log).problem is None
    assert list(read_records(log))[-1].details == {"file": "a\\udcff"}
