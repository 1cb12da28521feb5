"""Leaves the usage report of a server process where the operators look, from time to time and when it stops."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from hsm_msl.errors import ConfigurationError
from hsm_msl.service.key_usage import KeyUsage
from hsm_msl.service.repeated import Repeated
from hsm_msl.service.usage_adoption import adopted

_LOG = logging.getLogger("hsm_msl.keys")

RECOUNT_SECONDS = 3600.0
"""How long a remembered token may go on without being counted again."""


class UsageReports(Repeated):
    """Writes one report file now and then.

    It goes on with the counts of processes of this host that ended, those that were killed included.

    Args:
        path: the file; replaced as a whole, so that nobody reads half a report.
        usage: the counters.
        recount: makes remembered tokens be verified, and thereby counted, anew.
        every: seconds between two reports.
        recount_every: seconds between two calls of ``recount``.

    Raises:
        ConfigurationError: the first report cannot be written.
    """

    def __init__(
        self,
        path: Path,
        usage: KeyUsage,
        recount: Callable[[], None],
        every: float,
        recount_every: float = RECOUNT_SECONDS,
    ) -> None:
        super().__init__("key usage", every)
        self._path = path
        self._usage = usage
        self._recount = recount
        self._recount_every = recount_every
        self._since = 0.0
        try:
            with adopted(path, usage):
                self.write()
        except OSError as error:
            raise ConfigurationError(f"{path}: cannot be written: {error.strerror}") from None

    def look(self) -> None:
        """Report once, and have remembered tokens counted anew when that is due."""
        self._since += self._every
        if self._since >= self._recount_every:
            self._since = 0.0
            self._recount()
        self._try()

    def close(self) -> None:
        """Stop, and leave a last report."""
        super().close()
        self._try(ended=True)

    def write(self, *, ended: bool = False) -> None:
        """Write a report now. Raises ConfigurationError.

        Args:
            ended: whether it is the last one.
        """
        content = msgspec.json.encode(self._usage.report(ended=ended))
        # No *.json, so that nobody takes it for a report before it is whole.
        fresh = self._path.with_name(f".{self._path.name}.new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with fresh.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self._path)
        except OSError as error:
            raise ConfigurationError(f"{self._path}: cannot be written: {error.strerror}") from None

    def _try(self, *, ended: bool = False) -> None:
        try:
            self.write(ended=ended)
        except ConfigurationError as error:
            _LOG.error("usage of keys not reported: %s", error)
