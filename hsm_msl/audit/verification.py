"""Verifies a log with the public key alone, through every hand-over to a next key."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from hsm_msl.audit.chain import (
    CHECKPOINT,
    SIGNED,
    START,
    AuditHead,
    AuditRecord,
    checkpoint_text,
    hand_over_text,
    record_hash,
)
from hsm_msl.audit.signatures import signature_fits
from hsm_msl.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class AuditVerdict:
    """What reading a log showed.

    Attributes:
        records: how many records hold.
        checkpoints: how many of them are signed, and fit.
        unsigned_tail: how many came after the last signed one.
        problem: the first problem, led by the record it was found at; None for a whole log.
        keys: public halves of the keys that signed, in order; more than one after a hand-over.
        head: the last record that holds.
    """

    records: int
    checkpoints: int
    unsigned_tail: int
    problem: str | None
    keys: tuple[bytes, ...]
    head: AuditHead | None


@dataclass(slots=True)
class _Reading:
    keys: list[bytes]
    known: dict[int, str]
    sequence: int
    previous: str
    records: int = 0
    checkpoints: int = 0
    since: int = 0
    head: AuditHead | None = field(default=None)

    def judge(self, line: bytes) -> str | None:
        """Take one line up, or return what is wrong with it."""
        if not line.endswith(b"\n"):
            return "torn: the line has no end"
        try:
            record = msgspec.json.decode(line, type=AuditRecord)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return "not readable"
        problem = self._chained(record) or self._signed(record)
        if problem is not None:
            return problem
        if self.known.pop(record.sequence, record.hash) != record.hash:
            return "is another one than known"
        self.sequence, self.previous, self.head = record.sequence + 1, record.hash, record.head
        self.records += 1
        self.since = 0 if record.event in SIGNED else self.since + 1
        self.checkpoints += record.event in SIGNED
        return None

    def _chained(self, record: AuditRecord) -> str | None:
        if record_hash(record) != record.hash:
            return "its content was changed (hash does not fit)"
        if record.previous != self.previous:
            if self.records == 0 and record.sequence != self.sequence:
                return "the log begins in the middle: give the files before it too, or where it goes on"
            return "does not follow the record before it (removed, inserted or reordered)"
        if record.sequence != self.sequence:
            return f"carries sequence number {record.sequence}"
        return None

    def _signed(self, record: AuditRecord) -> str | None:
        if record.event not in SIGNED:
            return None
        try:
            signature = base64.b64decode(record.details["signature"], validate=True)
            if record.event == CHECKPOINT:
                text, successor = checkpoint_text(record.sequence, record.previous), None
            else:
                successor = base64.b64decode(record.details["next spki"], validate=True)
                text = hand_over_text(record.sequence, record.previous, record.details["next key"], successor)
        except (KeyError, ValueError):
            return f"{record.event} without a readable signature"
        if not signature_fits(self.keys[-1], text, signature):
            return f"{record.event} signature does not fit this public key"
        if successor is not None:
            self.keys.append(successor)
        return None


def verify_log(
    paths: Sequence[Path], spki: bytes, *, known: Iterable[AuditHead] = (), after: AuditHead | None = None
) -> AuditVerdict:
    """Check a log with the public key alone.

    Args:
        paths: its files, oldest first.
        spki: public half of the first signing key, SubjectPublicKeyInfo DER.
        known: records known from elsewhere that must still be in the log.
        after: the record before the first of these files, where earlier files were verified before.

    Returns:
        The verdict; ``problem`` names the first bad record.

    Raises:
        ConfigurationError: a file cannot be read.
    """
    first = AuditHead(0, START) if after is None else after
    # What lies before these files was judged when they were.
    wanted = {head.sequence: head.hash for head in known if head.sequence > first.sequence}
    reading = _Reading([spki], dict(wanted), first.sequence + 1, first.hash)
    problem = None
    for path in paths:
        for line in _lines(path):
            problem = reading.judge(line)
            if problem is not None:
                where = f" in {path.name}" if len(paths) > 1 else ""
                problem = f"record {reading.sequence}{where}: {problem}"
                break
        if problem is not None:
            break
    if problem is None and reading.known:
        problem = f"record {reading.sequence}: missing; {max(reading.known)} are known"
    if problem is None and not reading.records and after is None:
        problem = "record 1: missing; the log is empty"
    if problem is None and reading.records and not reading.checkpoints:
        problem = "no signed checkpoint: the whole log could have been written anew"
    return AuditVerdict(
        reading.records, reading.checkpoints, reading.since, problem, tuple(reading.keys), reading.head
    )


def read_records(path: Path) -> Iterator[AuditRecord]:
    """Yield the records of a log without judging the chain.

    Raises:
        ConfigurationError: the file cannot be read or a line is no record; the text names the line.
    """
    for number, line in enumerate(_lines(path), start=1):
        try:
            yield msgspec.json.decode(line, type=AuditRecord)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{path}: line {number} is not an audit record: {error}") from error


def read_checkpoint(path: Path) -> AuditRecord:
    """Return the signed record a checkpoint file holds; whether its signature fits is for ``checkpoint_fits``.

    Raises:
        ConfigurationError: the file cannot be read or holds something else.
    """
    records = list(read_records(path))
    if len(records) != 1 or records[0].event not in SIGNED or record_hash(records[0]) != records[0].hash:
        raise ConfigurationError(f"{path}: holds no checkpoint")
    return records[0]


def checkpoint_fits(record: AuditRecord, keys: Iterable[bytes]) -> bool:
    """Tell whether a checkpoint was signed by one of these public keys (SubjectPublicKeyInfo DER)."""
    return any(_Reading([spki], {}, record.sequence, record.previous)._signed(record) is None for spki in keys)


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from file
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
