"""Tells the audit log of packets whose sender is not trusted, however many there are (dialog section 10)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from hsm_msl.dialog.session import Event
from hsm_msl.printable import printable
from hsm_msl.service.watch.transitions import Record

PERIOD = 60.0
"""Seconds between two records of one reason."""

_REASONS = 32
_LONGEST = 200
_OTHERS = "other reasons"


@dataclass(slots=True)
class _Reason:
    count: int = 0
    dialog: bytes = b""
    quiet_until: float = 0.0


class Rejections:
    """Counts rejected packets by reason and records each reason when it comes up, then at most once a minute.

    Args:
        record: writes to the audit log.
        monotonic: seconds that never run backwards.
    """

    def __init__(self, record: Record, monotonic: Callable[[], float]) -> None:
        self._record = record
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._reasons: dict[str, _Reason] = {}

    def observe(self, event: Event) -> None:
        """Hear of an event of the engine."""
        if event.name != "rejected":
            return
        text = printable(event.detail)[:_LONGEST]
        with self._lock:
            # Strangers choose what they are rejected for, and perhaps the words.
            if text not in self._reasons and len(self._reasons) >= _REASONS:
                text = _OTHERS
            reason = self._reasons.setdefault(text, _Reason())
            reason.count += 1
            reason.dialog = event.dialog

    def look(self, *, last: bool = False) -> None:
        """Record what is due.

        Args:
            last: whether nobody will look again.
        """
        now = self._monotonic()
        with self._lock:
            due = {
                text: (reason.count, reason.dialog)
                for text, reason in self._reasons.items()
                if reason.count and (last or now >= reason.quiet_until)
            }
            self._reasons = {
                text: _Reason(quiet_until=now + PERIOD) if text in due else reason
                for text, reason in self._reasons.items()
                if text in due or now < reason.quiet_until
            }
        for text, (count, dialog) in due.items():
            self._record("packets rejected", {"reason": text, "count": str(count), "last dialog": dialog.hex()})
