"""The hash-chained audit log (provisioning field notes, feature 11 and its acceptance test)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hsm_msl.errors import ConfigurationError
from hsm_provision.audit_log import AuditHead, AuditLog, verify_log

KEY = ec.generate_private_key(ec.SECP256R1())
SPKI = KEY.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def sign(data: bytes) -> bytes:
    return KEY.sign(data, ec.ECDSA(hashes.SHA256()))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "records/audit.jsonl"
    writer = AuditLog(path, now=lambda: "2026-01-01T00:00:00Z", actor="alice")
    for number in range(5):
        writer.append("event", {"number": str(number)})
    writer.checkpoint("audit.signing.v1", sign)
    writer.append("event", {"number": "last"})
    return path


def test_a_whole_log_verifies_with_the_public_key_alone(log: Path) -> None:
    verdict = verify_log(log, SPKI)
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
    problem = verify_log(log, SPKI).problem
    assert problem is not None
    assert problem.startswith(bad), problem


def test_every_single_flipped_bit_is_found(log: Path) -> None:
    content = log.read_bytes()
    head = content[: content.index(b"\n") + 1]
    for position in range(0, len(head) - 1, 7):
        flipped = bytearray(content)
        flipped[position] ^= 1
        log.write_bytes(bytes(flipped))
        assert verify_log(log, SPKI).problem is not None, position


def test_a_cut_tail_is_found_through_the_signed_head(log: Path) -> None:
    last = json.loads(log.read_bytes().splitlines()[-1])
    head = AuditHead(last["sequence"], last["hash"])
    assert verify_log(log, SPKI, known=head).problem is None
    rewrite(log, lambda lines: lines[:-1])
    assert verify_log(log, SPKI, known=head).problem == "record 7: missing; 7 are known"


def test_a_chain_written_anew_fails_without_the_signing_key(log: Path, tmp_path: Path) -> None:
    forged = tmp_path / "forged.jsonl"
    writer = AuditLog(forged, now=lambda: "2026-01-01T00:00:00Z", actor="mallory")
    writer.append("event", {"number": "0"})
    assert "no signed checkpoint" in str(verify_log(forged, SPKI).problem)
    other = ec.generate_private_key(ec.SECP256R1())
    writer.checkpoint("audit.signing.v1", lambda data: other.sign(data, ec.ECDSA(hashes.SHA256())))
    assert verify_log(forged, SPKI).problem == "record 2: checkpoint signature does not fit this public key"


def test_a_checkpoint_moved_elsewhere_does_not_fit(log: Path) -> None:
    lines = log.read_bytes().splitlines()
    signature = json.loads(lines[5])["details"]["signature"]
    writer = AuditLog(log, now=lambda: "2026-01-01T00:00:00Z", actor="mallory")
    writer.append("checkpoint", {"key": "audit.signing.v1", "signature": signature})
    assert str(verify_log(log, SPKI).problem).startswith("record 8: checkpoint signature")


def test_a_damaged_end_is_not_written_over(log: Path) -> None:
    log.write_bytes(log.read_bytes()[:-20])
    before = log.read_bytes()
    with pytest.raises(ConfigurationError, match="last record is damaged"):
        AuditLog(log, now=lambda: "2026-01-01T00:00:00Z", actor="alice").append("event")
    assert log.read_bytes() == before
