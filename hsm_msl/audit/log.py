"""Appends to a tamper-evident log, so that each record is on disk before the next thing happens.

A file that grew large is put aside as ``FILE.NNNNNNNNNN``, named after its last record, and the chain goes on in a
fresh one. What a crash left half written has no line end: nobody was told that it is recorded, and it is kept as text
in the record that follows it.
"""

from __future__ import annotations

import fcntl
import glob
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from hsm_msl.audit.chain import (
    CHECKPOINT,
    HAND_OVER,
    START,
    AuditRecord,
    AuditSigner,
    checkpoint_details,
    encoded,
    hand_over_details,
    record_hash,
)
from hsm_msl.errors import ConfigurationError
from hsm_msl.private_files import make_private_directory, sync_directory

CONTINUED = "log continued"
TORN = "torn record found"

LONGEST_RECORD_BYTES = 64 * 1024
"""How far back the last record is looked for, so that appending costs the same in a log of any length."""

LONGEST_DETAIL = 2000
"""Characters of one detail; what is longer, as texts of strangers may be, is cut."""

_SEQUENCE_DIGITS = 10

Details = Callable[[int, str], dict[str, str]]
"""Makes the details of a record from its sequence number and the hash it follows."""


class AuditLog:
    """Appends to one log file; several processes may append in turn.

    Args:
        path: the file, created when missing.
        now: the current time, UTC ISO 8601.
        actor: who acts, as recorded.
        rotate_bytes: size from which the file is put aside; None lets it grow.
    """

    def __init__(self, path: Path, *, now: Callable[[], str], actor: str, rotate_bytes: int | None = None) -> None:
        self._path = path
        self._now = now
        self._actor = actor
        self._rotate_bytes = rotate_bytes

    def append(self, event: str, details: Mapping[str, str] | None = None, *, time: str | None = None) -> AuditRecord:
        """Append one record and write it to disk.

        Args:
            event: what happened.
            details: more about it.
            time: when, where it is not now; UTC ISO 8601.

        Raises:
            ConfigurationError: the file cannot be written, or its last record is damaged.
        """
        # Names of files and what others wrote may hold bytes that are no text.
        given = {name: _text(text)[:LONGEST_DETAIL] for name, text in (details or {}).items()}
        return self._append(event, lambda _sequence, _previous: given, time)

    def checkpoint(self, signer: AuditSigner) -> AuditRecord:
        """Append a signed checkpoint.

        Raises:
            ConfigurationError: the file cannot be written.
            BackendError: the token does not sign.
        """
        return self._append(CHECKPOINT, lambda sequence, previous: checkpoint_details(signer, sequence, previous))

    def hand_over(self, signer: AuditSigner, to: AuditSigner) -> AuditRecord:
        """Append the record by which the signing key names the one that signs from then on.

        Raises:
            ConfigurationError: the file cannot be written.
            BackendError: the token does not sign.
        """
        return self._append(HAND_OVER, lambda sequence, previous: hand_over_details(signer, to, sequence, previous))

    def last(self) -> AuditRecord | None:
        """Return the last whole record, or None of a log that has none yet.

        Raises:
            ConfigurationError: it cannot be read, or is damaged.
        """
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb", buffering=0) as file:
                last, _torn = self._end_of(file.fileno())
            return last or self._last_put_aside()
        except FileNotFoundError:
            return self._last_put_aside()
        except OSError as error:
            raise ConfigurationError(f"{self._path}: cannot be read: {error.strerror}") from error

    def _append(self, event: str, details: Details, time: str | None = None) -> AuditRecord:
        make_private_directory(self._path.parent)
        record = None
        try:
            while record is None:
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
                with os.fdopen(descriptor, "r+b", buffering=0):
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                    if self._current(descriptor):
                        record = self._append_to(descriptor, event, details, time)
        except OSError as error:
            raise ConfigurationError(f"{self._path}: cannot be written: {error.strerror}") from error
        return record

    def _append_to(self, file: int, event: str, details: Details, time: str | None) -> AuditRecord | None:
        """Append to a locked file; None when the file was put aside and the record belongs into a fresh one."""
        last, torn = self._end_of(file)
        size = os.fstat(file).st_size - len(torn)
        if size == 0:
            last = self._last_put_aside()
            sync_directory(self._path.parent)
        if torn:
            os.ftruncate(file, size)
            text = torn.decode("utf-8", errors="backslashreplace")[:LONGEST_DETAIL]
            last = self._write(file, last, TORN, {"bytes": str(len(torn)), "text": text}, None)
        elif size == 0 and last is not None:
            last = self._write(file, last, CONTINUED, {}, None)
        elif last is not None and self._rotate_bytes is not None and size >= self._rotate_bytes:
            self._put_aside(last)
            return None
        sequence, previous = (1, START) if last is None else (last.sequence + 1, last.hash)
        return self._write(file, last, event, details(sequence, previous), time)

    def _write(
        self, file: int, last: AuditRecord | None, event: str, details: dict[str, str], time: str | None
    ) -> AuditRecord:
        sequence, previous = (1, START) if last is None else (last.sequence + 1, last.hash)
        record = AuditRecord(sequence, time or self._now(), event, self._actor, details, previous)
        record = msgspec.structs.replace(record, hash=record_hash(record))
        line = encoded(record)
        size = os.fstat(file).st_size
        try:
            if os.write(file, line) != len(line):
                raise ConfigurationError(f"{self._path}: cannot be written: the medium is full")
            os.fsync(file)
        except (OSError, ConfigurationError):
            os.ftruncate(file, size)
            raise
        return record

    def _current(self, file: int) -> bool:
        """Tell whether the path still means this file: another process may have put it aside while we waited."""
        try:
            return os.path.samestat(os.fstat(file), self._path.stat())
        except FileNotFoundError:
            return False

    def _put_aside(self, last: AuditRecord) -> None:
        aside = self._path.with_name(f"{self._path.name}.{last.sequence:0{_SEQUENCE_DIGITS}}")
        os.link(self._path, aside)  # which fails where a rename would overwrite
        self._path.unlink()

    def _last_put_aside(self) -> AuditRecord | None:
        """Return the last record of the file that was put aside last, or None."""
        files = put_aside(self._path)
        if not files:
            return None
        with files[-1].open("rb", buffering=0) as file:
            last, _torn = self._end_of(file.fileno())
        return last

    def _end_of(self, file: int) -> tuple[AuditRecord | None, bytes]:
        """Return the last whole record of an open file, and the bytes after it, which a crash cut short."""
        size = os.fstat(file).st_size
        content = os.pread(file, 2 * LONGEST_RECORD_BYTES, max(0, size - 2 * LONGEST_RECORD_BYTES))
        end = content.rfind(b"\n") + 1
        whole, torn = content[:end], content[end:]
        if not whole:
            if len(content) == size:
                return None, torn
            raise ConfigurationError(f"{self._path}: its last record is damaged; verify and repair it first")
        try:
            return msgspec.json.decode(whole.splitlines()[-1], type=AuditRecord), torn
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"{self._path}: its last record is damaged; verify and repair it first"
            ) from error


def _text(given: str) -> str:
    return given.encode(errors="backslashreplace").decode()


def put_aside(path: Path) -> list[Path]:
    """Return the files of a log that were put aside, oldest first.

    Args:
        path: the file in use.
    """
    pattern = f"{glob.escape(path.name)}.{'[0-9]' * _SEQUENCE_DIGITS}"
    return sorted(path.parent.glob(pattern))
