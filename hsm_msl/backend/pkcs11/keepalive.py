"""Calls an idle token now and then: some drop sessions that say nothing for a quarter of a minute.

It also finds out about a lost login before a message does, so that the message need not wait for the recovery.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from hsm_msl.errors import BackendError


class KeepAlive:
    """Calls ``touch`` again and again until it is stopped.

    Args:
        touch: one harmless call that recovers what it finds lost; its BackendErrors are reported by the recovery.
        seconds: the pause between two calls.
        stopped: waits for the pause, and ends the thread when it is set.
    """

    def __init__(self, touch: Callable[[], None], seconds: float, stopped: threading.Event | None = None) -> None:
        self._touch = touch
        self._seconds = seconds
        self._stopped = threading.Event() if stopped is None else stopped
        self._thread = threading.Thread(target=self._run, name="token-keep-alive", daemon=True)
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """End after the call in progress, and wait for that.

        Args:
            seconds: how long to wait; a token that hangs must not hold up the end.
        """
        self._stopped.set()
        if self._thread is not threading.current_thread():
            self._thread.join(seconds)

    def _run(self) -> None:
        while not self._stopped.wait(self._seconds):
            with contextlib.suppress(BackendError):
                self._touch()
