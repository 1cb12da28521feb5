"""Compares the keys in use with the key manifest from time to time, in a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

from hsm_msl.errors import BackendError, KeyNotFoundError, KeyPolicyError, MechanismUnsupportedError
from hsm_msl.service.key_drift import AnyKey, DriftRecord, Expected, drift

_LOG = logging.getLogger("hsm_msl.keys")


class DriftWatch:
    """Says once that a key began to differ from the manifest, and once that it no longer does.

    Args:
        keys: returns the keys in use with their labels; uses through these handles are not counted.
        expected: what each key must be; a key it does not know may be any.
        record: for the audit log.
        every: seconds between two comparisons.
    """

    def __init__(
        self,
        keys: Callable[[], Iterable[tuple[str, AnyKey]]],
        expected: Expected,
        record: DriftRecord,
        every: float,
    ) -> None:
        self._keys = keys
        self._expected = expected
        self._record = record
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="key drift", daemon=True)

    def start(self) -> None:
        """Begin to compare."""
        self._thread.start()

    def close(self) -> None:
        """Stop comparing."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self) -> None:
        """Compare every key once. A token that gives no answer says nothing about its keys."""
        for label, key in self._keys():
            check = self._expected(label)
            if check is None:
                continue
            try:
                problem = drift(label, key, check)
            except MechanismUnsupportedError:
                continue
            except (KeyNotFoundError, KeyPolicyError) as error:
                problem = f"{label}: {error}"
            except BackendError:
                return
            if self._record.found(label, problem):
                _LOG.error("key drift: %s", problem or f"{label}: is as the manifest says again")

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            self.look()
