"""The report of the lines an import refused: JSON lines in a private file, right also after a crash."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from hsm_msl.errors import ConfigurationError
from hsm_msl.private_files import make_private_directory
from hsm_provision.fleet_reading import RejectedLine


class RejectsFile:
    """Lines that were refused, written before the import's position moves past them.

    Args:
        path: the file; it exists once something was refused.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reasons: Counter[str] = Counter()

    @property
    def reasons(self) -> Mapping[str, int]:
        """How many lines were refused for each reason, the most frequent first."""
        return dict(self._reasons.most_common())

    @property
    def count(self) -> int:
        """How many lines were refused."""
        return self._reasons.total()

    def begin(self, position: int) -> None:
        """Keep what an interrupted import has settled; its last batch, which will be read again, is cut off.

        Args:
            position: the last line settled; 0 removes the report of an import before.

        Raises:
            ConfigurationError: the file cannot be read or changed.
        """
        self._reasons.clear()
        try:
            if position == 0:
                self.path.unlink(missing_ok=True)
            elif self.path.exists():
                self._keep(position)
        except OSError as error:
            raise ConfigurationError(f"{self.path}: {error.strerror}") from error

    def append(self, lines: Sequence[RejectedLine]) -> None:
        """Write refused lines to disk. Raises ConfigurationError when they cannot be written."""
        if not lines:
            return
        make_private_directory(self.path.parent)
        text = "".join(
            json.dumps({"line": one.line, "identity": one.identity, "reason": one.reason}) + "\n" for one in lines
        )
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            with os.fdopen(os.open(self.path, flags, 0o600), "wb") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ConfigurationError(f"{self.path}: cannot be written: {error.strerror}") from error
        self._reasons.update(one.reason for one in lines)

    def _keep(self, position: int) -> None:
        with self.path.open("r+b") as file:
            end = 0
            for data in file:
                try:
                    entry = json.loads(data)
                    settled = data.endswith(b"\n") and entry["line"] <= position
                    reason = str(entry["reason"])
                except (ValueError, KeyError, TypeError):
                    settled = False  # a write that the crash cut short
                if not settled:
                    break
                self._reasons[reason] += 1
                end += len(data)
            file.truncate(end)
