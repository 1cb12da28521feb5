"""Stop asking a service that does not answer, and find out cheaply when it answers again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class CircuitBreaker:
    """Lets calls through until several in a row failed, then one probe per pause until a probe succeeds.

    Safe under threads.

    Args:
        failures: how many failures in a row open the circuit.
        pause: seconds an open circuit refuses calls before the next probe.
        monotonic: seconds that never run backwards.
    """

    def __init__(
        self, failures: int = 5, pause: float = 10.0, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = failures
        self._pause = pause
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._failed = 0
        self._retry_at = 0.0

    @property
    def open(self) -> bool:
        """Whether calls are being refused, probes aside."""
        return self._failed >= self._limit

    def admit(self) -> bool:
        """Tell whether a call may be made now; each one admitted must end in ``succeeded`` or ``failed``."""
        with self._lock:
            if self._failed < self._limit:
                return True
            now = self._monotonic()
            if now < self._retry_at:
                return False
            # The probe pushes the next one back, so that no crowd follows it while it waits for its answer.
            self._retry_at = now + self._pause
            return True

    def succeeded(self) -> None:
        """Note an answer, of whatever content."""
        with self._lock:
            self._failed = 0

    def failed(self) -> None:
        """Note that there was no answer."""
        with self._lock:
            self._failed += 1
            self._retry_at = self._monotonic() + self._pause
