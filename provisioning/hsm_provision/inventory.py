"""The inventory: what exists, in what state, and what will expire, for people and for monitoring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from hsm_provision.manifest import ManifestBody, ManifestKey
from hsm_provision.spoken import spoken
from hsm_provision.usage import UsageReport

_IN_USE = frozenset({"pre-active", "primary", "active"})
_DAY = 86400
_SHOWN_OF_DIGEST = 12


class InventoryRow(msgspec.Struct, frozen=True):
    """One key version; ``days_left`` is None without an end of use, negative after it.

    ``operations`` and ``last_used`` are what servers reported of it together, None without a report.
    """

    label: str
    state: str
    kind: str
    provenance: str
    check: str
    words: str
    created: str
    not_after: str | None
    days_left: int | None
    backup: str | None
    operations: int | None
    last_used: str | None
    warning: str


def inventory(
    manifest: ManifestBody, now: float, within_days: int, usage: Sequence[UsageReport] = ()
) -> tuple[InventoryRow, ...]:
    """Return one row per recorded key version.

    Args:
        manifest: what is recorded.
        now: seconds since the epoch.
        within_days: how early an approaching end of use is a warning.
        usage: what servers report.
    """
    return tuple(_row(entry, now, within_days, usage) for entry in manifest.keys)


def inventory_table(rows: tuple[InventoryRow, ...]) -> list[Mapping[str, str]]:
    """Return the rows as text for a table."""
    return [
        {
            "key": row.label,
            "state": row.state,
            "kind": row.kind,
            "provenance": row.provenance,
            "check": row.check,
            "words": row.words,
            "days left": "" if row.days_left is None else str(row.days_left),
            "backup": (row.backup or "")[:_SHOWN_OF_DIGEST],
            "last used": row.last_used or "",
            "warning": row.warning,
        }
        for row in rows
    ]


def _row(entry: ManifestKey, now: float, within_days: int, usage: Sequence[UsageReport]) -> InventoryRow:
    used = [report.keys[entry.label] for report in usage if entry.label in report.keys]
    # Of one form, so that the greatest text is the latest time.
    times = [one.last for one in used if one.last is not None]
    left = None
    warning = ""
    if entry.not_after is not None:
        end = datetime.strptime(entry.not_after, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
        left = int((end - now) // _DAY)
        if entry.state in _IN_USE and left < 0:
            warning = "EXPIRED"
        elif entry.state in _IN_USE and left < within_days:
            warning = "EXPIRES SOON"
    return InventoryRow(
        label=entry.label,
        state=entry.state,
        kind=f"{entry.type} {entry.size}",
        provenance=entry.provenance,
        check=f"{entry.check.method}:{entry.check.short}",
        words=spoken(entry.check),
        created=entry.created,
        not_after=entry.not_after,
        days_left=left,
        backup=entry.backup,
        operations=sum(one.operations for one in used) if used else None,
        last_used=max(times, default=None),
        warning=warning,
    )
