"""The tamper-evident log: one JSON record per line, each holding the hash of the one before it.

A record is ``{"sequence", "time", "event", "actor", "details", "previous", "hash"}``; ``hash`` is SHA-256 over the
canonical JSON of the others, ``previous`` the hash of the preceding record (64 zeros for the first). A checkpoint is
a record of event ``checkpoint`` whose details carry a token key's signature over ``previous`` and the sequence
number, so that a cut tail or a rewritten chain is found with the public key alone.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from hsm_msl.errors import ConfigurationError
from hsm_provision.private_files import make_private_directory
from hsm_provision.signatures import signature_fits

START = "0" * 64
CHECKPOINT = "checkpoint"
LONGEST_RECORD_BYTES = 64 * 1024
"""How far back the last record is looked for, so that appending costs the same in a log of any length."""


class AuditRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of the log."""

    sequence: int
    time: str
    event: str
    actor: str
    details: dict[str, str]
    previous: str
    hash: str = ""


class AuditHead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The last record known at some moment; kept in the signed manifest, so that a cut tail shows."""

    sequence: int
    hash: str


class AuditVerdict(msgspec.Struct, frozen=True):
    """What reading a log showed: how many records and signed checkpoints hold, and the first problem if any."""

    records: int
    checkpoints: int
    unsigned_tail: int
    problem: str | None = None


def record_hash(record: AuditRecord) -> str:
    """Return the hash a record must carry."""
    bare = msgspec.structs.replace(record, hash="")
    return hashlib.sha256(msgspec.json.encode(bare, order="sorted")).hexdigest()


def checkpoint_text(sequence: int, previous: str) -> bytes:
    """Return what the signature of a checkpoint covers."""
    return f"hsm-provision audit checkpoint v1\n{sequence}\n{previous}\n".encode()


class AuditLog:
    """Appends to one log file; several processes may append in turn.

    Args:
        path: the file, created when missing.
        now: the current time, UTC ISO 8601.
        actor: who acts, as recorded.
    """

    def __init__(self, path: Path, *, now: Callable[[], str], actor: str) -> None:
        self._path = path
        self._now = now
        self._actor = actor

    def append(self, event: str, details: Mapping[str, str] | None = None) -> AuditRecord:
        """Append one record and write it to disk.

        Raises:
            ConfigurationError: the file cannot be written, or its last record is damaged.
        """
        return self._append(event, lambda _sequence, _previous: dict(details or {}))

    def checkpoint(self, key: str, sign: Callable[[bytes], bytes]) -> AuditRecord:
        """Append a checkpoint signed by ``sign``; ``key`` names the signing key.

        Raises:
            ConfigurationError: the file cannot be written.
            BackendError: the token does not sign.
        """
        return self._append(
            CHECKPOINT,
            lambda sequence, previous: {
                "key": key,
                "signature": base64.b64encode(sign(checkpoint_text(sequence, previous))).decode(),
            },
        )

    def _append(self, event: str, details: Callable[[int, str], dict[str, str]]) -> AuditRecord:
        make_private_directory(self._path.parent)
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(f"{self._path}: cannot be written: {error.strerror}") from error
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            last = _last_record(self._path)
            sequence = last.sequence + 1 if last else 1
            previous = last.hash if last else START
            record = AuditRecord(sequence, self._now(), event, self._actor, details(sequence, previous), previous)
            record = msgspec.structs.replace(record, hash=record_hash(record))
            self._write(file.fileno(), msgspec.json.encode(record, order="sorted") + b"\n")
        return record

    def _write(self, descriptor: int, line: bytes) -> None:
        size = os.fstat(descriptor).st_size
        try:
            whole = os.write(descriptor, line) == len(line)
            os.fsync(descriptor)
        except OSError as error:
            os.ftruncate(descriptor, size)
            raise ConfigurationError(f"{self._path}: cannot be written: {error.strerror}") from error
        if not whole:
            os.ftruncate(descriptor, size)
            raise ConfigurationError(f"{self._path}: cannot be written: the medium is full")


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


def verify_log(path: Path, spki: bytes, *, known: AuditHead | None = None) -> AuditVerdict:
    """Check a log with the public key alone.

    Args:
        path: the log.
        spki: public half of the signing key, SubjectPublicKeyInfo DER.
        known: a record known from elsewhere (a signed manifest, an earlier reading) that must still be in the log.

    Returns:
        The verdict; ``problem`` names the first bad record.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    previous, count, checkpoints, since = START, 0, 0, 0
    for number, line in enumerate(_lines(path), start=1):
        problem, record = _judge(line, number, previous)
        if problem is None and record is not None and record.event == CHECKPOINT:
            problem = _judge_checkpoint(record, spki)
            checkpoints += problem is None
            since = -1 if problem is None else since
        if problem is not None or record is None:
            return AuditVerdict(count, checkpoints, since, f"record {number}: {problem}")
        if known is not None and number == known.sequence and record.hash != known.hash:
            return AuditVerdict(count, checkpoints, since, f"record {number}: not the one the manifest knows")
        previous, count, since = record.hash, count + 1, since + 1
    if known is not None and count < known.sequence:
        return AuditVerdict(count, checkpoints, since, f"record {count + 1}: missing; {known.sequence} are known")
    if count and not checkpoints:
        return AuditVerdict(count, 0, since, "no signed checkpoint: the whole log could have been written anew")
    return AuditVerdict(count, checkpoints, since)


def _judge(line: bytes, number: int, previous: str) -> tuple[str | None, AuditRecord | None]:
    try:
        record = msgspec.json.decode(line, type=AuditRecord)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "not readable", None
    if record_hash(record) != record.hash:
        return "its content was changed (hash does not fit)", record
    if record.previous != previous:
        return "does not follow the record before it (removed, inserted or reordered)", record
    if record.sequence != number:
        return f"carries sequence number {record.sequence}", record
    return None, record


def _judge_checkpoint(record: AuditRecord, spki: bytes) -> str | None:
    try:
        signature = base64.b64decode(record.details["signature"], validate=True)
    except (KeyError, ValueError):
        return "checkpoint without a readable signature"
    if not signature_fits(spki, checkpoint_text(record.sequence, record.previous), signature):
        return "checkpoint signature does not fit this public key"
    return None


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from file
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error


def _last_record(path: Path) -> AuditRecord | None:
    size = path.stat().st_size
    if size == 0:
        return None
    with path.open("rb") as file:
        file.seek(max(0, size - LONGEST_RECORD_BYTES))
        last = file.read().splitlines()[-1]
    try:
        return msgspec.json.decode(last, type=AuditRecord)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: its last record is damaged; verify and repair it first") from error
