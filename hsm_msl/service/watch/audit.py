"""The audit log of a running server: what changed about its keys and tokens, once per change, never per message.

Records are on disk before ``record`` returns. A token signs checkpoints in a thread of its own, since a record is
often made just when the token gives no answer. The last checkpoint is also kept in a file beside the log, and its
number and hash go to the ordinary log: whoever keeps either of them elsewhere finds a log whose end was cut.
"""

from __future__ import annotations

import base64
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hsm_msl.audit.chain import HAND_OVER, AuditRecord, AuditSigner, encoded
from hsm_msl.audit.log import AuditLog
from hsm_msl.audit.verification import checkpoint_fits, read_checkpoint
from hsm_msl.errors import ConfigurationError, HsmMslError
from hsm_msl.private_files import replace_private_file

_LOG = logging.getLogger("hsm_msl.audit")

LONGEST_BACKLOG = 1000
"""Records kept in memory while the log cannot be written; the oldest go first, and are counted."""

TICK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class CheckpointRule:
    """When a checkpoint is due.

    Attributes:
        records: after this many records.
        seconds: or this long after the first record since the last one.
    """

    records: int = 100
    seconds: float = 300.0


class ServerAudit:
    """Writes one server's audit log; safe under threads.

    Args:
        log: the log.
        kept: the file in which the last checkpoint is kept.
        now: the current time, UTC ISO 8601.
        rule: when checkpoints are due.
        monotonic: seconds that never run backwards.

    Attributes:
        problem: why the log cannot be written now, or None.
    """

    def __init__(
        self,
        log: AuditLog,
        kept: Path,
        *,
        now: Callable[[], str],
        rule: CheckpointRule,
        monotonic: Callable[[], float],
    ) -> None:
        self._log = log
        self._kept = kept
        self._now = now
        self._rule = rule
        self._monotonic = monotonic
        self._signer: AuditSigner | None = None
        self._lock = threading.Lock()
        self._backlog: deque[tuple[str, str, Mapping[str, str]]] = deque()
        self._lost = 0
        self._unsigned = 0
        self._unsigned_since = 0.0
        self._unsignable: str | None = None
        self._looks: list[Callable[[], None]] = []
        self._ended: str | None = None
        self._closed = False
        self._due = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self.problem: str | None = None

    def check(self) -> None:
        """Compare the log with the checkpoint that was kept.

        Raises:
            ConfigurationError: the log cannot be read, or lacks records that the checkpoint knows.
        """
        # In this order: another process of this server may append between the two readings.
        known = self._known()
        last = self._log.last()
        if known is not None and (last is None or last.sequence < known.sequence):
            count = 0 if last is None else last.sequence
            raise ConfigurationError(
                f"the audit log was cut or exchanged: it has {count} record(s), and {known.sequence} are known by "
                f"the checkpoint {self._kept}; move both away for inquiry, then start again"
            )

    def sign_with(self, signer: AuditSigner, former: Callable[[str], AuditSigner]) -> None:
        """Sign checkpoints from now on, after a hand-over where another key signed before.

        Args:
            signer: the key.
            former: returns the key of a label that signed before; raises HsmMslError when it is gone.

        Raises:
            ConfigurationError: the log cannot be written.
            BackendError: the token does not sign.
        """
        known = self._known()
        if known is not None and not _signs_after(known, signer):
            self._hand_over(known.details.get("next key", known.details["key"]), signer, former)
        self._signer = signer

    def record(self, event: str, details: Mapping[str, str] | None = None) -> None:
        """Write one record now; what cannot be written is said loudly and written when it can be.

        Args:
            event: what happened.
            details: more about it; no secrets, and nothing a stranger can make long.
        """
        with self._lock:
            if not self._closed:
                self._write(event, details or {})

    def watch(self, look: Callable[[], None]) -> None:
        """Have something looked at every second once the thread runs; it calls ``record`` about what changed."""
        self._looks.append(look)

    def start(self, ended: str) -> None:
        """Begin to sign checkpoints and to look.

        Args:
            ended: the event that ``close`` writes.
        """
        self._ended = ended
        self._thread.start()

    def close(self) -> None:
        """Stop looking, write the end and sign it; what is recorded afterwards is dropped."""
        self._stop.set()
        self._due.set()
        if self._thread.is_alive():
            self._thread.join()
        with self._lock:
            if self._ended is not None and not self._closed:
                self._write(self._ended, {})
            # An examination still at work would next report tokens as lost that are being closed.
            self._closed = True
        self.checkpoint()

    def checkpoint(self) -> None:
        """Sign what is not signed yet; a token that does not sign is asked again later."""
        with self._lock:
            self._flush()
            if self._signer is None or self._unsigned == 0 or self._backlog:
                return
            try:
                record = self._log.checkpoint(self._signer)
                self._keep(record)
            except HsmMslError as error:
                if self._unsignable is None:
                    _LOG.error("no audit checkpoint: %s", error)
                self._unsignable = str(error)
                self._unsigned_since = self._monotonic()
                return
            self._unsigned, self._unsignable = 0, None
        # Where the ordinary log is kept elsewhere, this line is what a cut end is found by.
        _LOG.info("audit checkpoint %d:%s", record.sequence, record.hash)

    def _known(self) -> AuditRecord | None:
        return read_checkpoint(self._kept) if self._kept.exists() else None

    def _hand_over(self, label: str, signer: AuditSigner, former: Callable[[str], AuditSigner]) -> None:
        try:
            before = former(label)
        except HsmMslError as error:
            _LOG.error("audit log: %s signs from now on, and %s cannot say so: %s", signer.label, label, error)
            self.record("signing key changed without hand-over", {"from": label, "to": signer.label})
            return
        self._keep(self._log.hand_over(before, signer))

    def _keep(self, record: AuditRecord) -> None:
        replace_private_file(self._kept, encoded(record))

    def _write(self, event: str, details: Mapping[str, str]) -> None:
        """Write one record after those that wait; the lock is held."""
        self._backlog.append((self._now(), event, dict(details)))
        self._flush()

    def _flush(self) -> None:
        """Write what waits, oldest first; the lock is held."""
        try:
            if self._lost:
                self._log.append("records lost", {"count": str(self._lost)})
                self._lost = 0
            while self._backlog:
                time, event, details = self._backlog[0]
                self._log.append(event, details, time=time)
                self._backlog.popleft()
                if self._unsigned == 0:
                    self._unsigned_since = self._monotonic()
                self._unsigned += 1
        except ConfigurationError as error:
            while len(self._backlog) > LONGEST_BACKLOG:
                self._backlog.popleft()
                self._lost += 1
            if self.problem is None:
                _LOG.critical("AUDIT LOG NOT WRITTEN, records wait in memory: %s", error)
            self.problem = str(error)
            return
        if self.problem is not None:
            _LOG.warning("the audit log is written again")
            self.problem = None
        if self._unsigned >= self._rule.records:
            self._due.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._due.wait(TICK_SECONDS)
            if self._stop.is_set():
                return
            for look in self._looks:
                try:
                    look()
                except Exception:
                    _LOG.exception("a look at what the audit log is about failed")
            if self._stop.is_set():
                return
            waited = self._monotonic() - self._unsigned_since
            if self._due.is_set() or (self._unsigned and waited >= self._rule.seconds) or self._backlog:
                self._due.clear()
                self.checkpoint()


def _signs_after(known: AuditRecord, signer: AuditSigner) -> bool:
    """Tell whether a key is the one that signs after a checkpoint or hand-over."""
    if known.event == HAND_OVER:
        return base64.b64decode(known.details["next spki"]) == signer.spki
    return checkpoint_fits(known, [signer.spki])
