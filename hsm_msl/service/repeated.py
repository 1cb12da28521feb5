"""Work done again and again beside the messages, in a thread of its own."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod

_LOG = logging.getLogger("hsm_msl.service")


class Repeated(ABC):
    """Looks at something from time to time, from ``start`` to ``close``.

    Args:
        name: the thread's.
        every: seconds between two looks.
    """

    def __init__(self, name: str, every: float) -> None:
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @abstractmethod
    def look(self) -> None:
        """Do the work once; what can be expected to go wrong is logged, not raised."""

    def start(self) -> None:
        """Begin; the first look comes after a pause."""
        self._thread.start()

    def close(self) -> None:
        """Stop, after the look in progress."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _pause(self) -> float:
        """Return how many seconds to wait before the next look."""
        return self._every

    def _run(self) -> None:
        while not self._stop.wait(self._pause()):
            try:
                self.look()
            except Exception:
                # A defect must not end the work unseen: a server would go on with keys that were retired.
                _LOG.exception("%s failed", self._thread.name)
