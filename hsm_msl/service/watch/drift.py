"""Compares the keys in use with the key manifest from time to time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from hsm_msl.errors import BackendError, KeyNotFoundError, KeyPolicyError, MechanismUnsupportedError
from hsm_msl.service.key_drift import AnyKey, DriftRecord, Expected, drift
from hsm_msl.service.repeated import Repeated

_LOG = logging.getLogger("hsm_msl.keys")


class DriftWatch(Repeated):
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
        super().__init__("key drift", every)
        self._keys = keys
        self._expected = expected
        self._record = record

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
