"""Whether a key version is still in use, from the counters running servers leave behind.

Each server process writes one small JSON file into a directory shared with the operators, replaced whenever its
counters change and at least every few minutes:

    {"server": "host-1 pid 4711", "since": "2026-01-31T10:00:00Z", "written": "2026-02-01T12:00:00Z",
     "keys": {"msl.token.encryption.v1": {"operations": 52, "last": "2026-02-01T11:58:03Z"}}}

A server that stopped in good order adds ``"ended"``, and one that starts goes on with the counts of those that ended
on its host. A version may be retired when a report written after its demotion exists, every server that reported
before has done so again or ended, and no report shows a use within the idle time asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from hsm_msl.errors import ConfigurationError

STAMP = "%Y-%m-%dT%H:%M:%SZ"


class KeyUsage(msgspec.Struct, frozen=True):
    """Operations with one key version that are known, and when the last one was."""

    operations: int
    last: str | None = None


class UsageReport(msgspec.Struct, frozen=True):
    """What one server process reports."""

    server: str
    since: str
    written: str
    keys: dict[str, KeyUsage]
    ended: str | None = None


def read_usage(directory: Path) -> tuple[UsageReport, ...]:
    """Read every ``*.json`` report of a directory; a missing directory holds none.

    Raises:
        ConfigurationError: a report cannot be read.
    """
    reports = []
    for path in sorted(directory.glob("*.json")):
        try:
            reports.append(msgspec.json.decode(path.read_bytes(), type=UsageReport))
        except (OSError, msgspec.DecodeError) as error:
            raise ConfigurationError(f"{path}: not a usage report: {error}") from error
    return tuple(reports)


def reasons_in_use(
    reports: Sequence[UsageReport], label: str, *, demoted: str, now: float, idle_days: int
) -> tuple[str, ...]:
    """Return why a version cannot be retired yet; empty when it can.

    Args:
        reports: what servers report.
        label: the key version.
        demoted: when it stopped being primary, UTC ISO 8601.
        now: seconds since the epoch.
        idle_days: for how long nobody may have used it.
    """
    current = [report for report in reports if _time(report.written) >= _time(demoted)]
    if not current:
        return (f"no server has reported its key usage since {demoted}; there is no evidence that it is idle",)
    silent = [report for report in reports if report not in current and report.ended is None]
    edge = datetime.fromtimestamp(now, UTC) - timedelta(days=idle_days)
    reasons = [
        f"{report.server} last reported at {report.written}, before the rotation, and did not say that it ended; if "
        "it is gone for good, remove its report"
        for report in silent
    ]
    for report in (*current, *silent):
        usage = report.keys.get(label)
        if usage is not None and usage.last is not None and _time(usage.last) >= edge:
            reasons.append(f"{report.server} used it {usage.operations} time(s), last at {usage.last}")
    return tuple(reasons)


def _time(text: str) -> datetime:
    try:
        return datetime.strptime(text, STAMP).replace(tzinfo=UTC)
    except ValueError as error:
        raise ConfigurationError(f"time {text!r} is not of the form 2026-01-31T10:00:00Z") from error
