"""Usage of key versions: counted where it happens, reported in the form the provisioning reads."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from hsm_msl.backend.software import SoftwareAesKey, SoftwareWrappingKey, software_mac_key
from hsm_msl.errors import ConfigurationError
from hsm_msl.ports import MacAlgorithm, SymmetricKeys
from hsm_msl.service.key_usage import KeyUsage
from hsm_msl.service.usage_reports import UsageReports
from hsm_provision.usage import KeyUsage as ReadUsage
from hsm_provision.usage import read_usage, reasons_in_use

MORNING = 1769850000.0  # 2026-01-31T09:00:00Z
LABELS = ("msl.token.mac.v1", "msl.token.encryption.v1")


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = MORNING

    def __call__(self) -> float:
        return self.now


def keys() -> SymmetricKeys:
    mac = software_mac_key(bytes(32), MacAlgorithm.HMAC_SHA256)
    return SymmetricKeys(SoftwareAesKey(bytes(16)), mac, SoftwareWrappingKey(bytes(16)), "v1")


def counted(usage: KeyUsage) -> SymmetricKeys:
    return usage.counted(keys(), LABELS)


def test_making_and_recognising_count_and_a_strange_tag_does_not() -> None:
    clock = Clock()
    usage = KeyUsage("server", clock)
    mac = counted(usage).mac
    assert mac is not None
    assert usage.report().keys["msl.token.mac.v1"].last is None
    tag = mac.sign(b"token")
    clock.now += 60
    assert mac.verify(b"token", tag)
    clock.now += 60
    assert not mac.verify(b"token", bytes(32))
    assert mac.algorithm is MacAlgorithm.HMAC_SHA256
    for label in LABELS:
        use = usage.report().keys[label]
        assert (use.operations, use.last) == (2, "2026-01-31T09:01:00Z")


def test_handles_made_anew_by_a_rotation_count_on() -> None:
    usage = KeyUsage("server", Clock())
    for again in (counted(usage), counted(usage)):
        assert again.mac is not None
        again.mac.sign(b"")
    assert usage.report().keys["msl.token.mac.v1"].operations == 2


def test_other_handles_stay_what_they_are() -> None:
    plain = keys()
    found = KeyUsage("server", Clock()).counted(plain, LABELS)
    assert (found.encryption, found.wrapping, found.version) == (plain.encryption, plain.wrapping, "v1")


def test_the_provisioning_reads_the_report(tmp_path: Path) -> None:
    """Round trip with ``hsm_provision.usage``: refused while in use, free after the idle time."""
    clock = Clock()
    usage = KeyUsage("host pid 1", clock)
    mac = counted(usage).mac
    assert mac is not None
    reports = UsageReports(tmp_path / "usage/host-1.json", usage, lambda: None, 60.0)
    mac.sign(b"")
    clock.now += 3600
    reports.close()
    (report,) = read_usage(tmp_path / "usage")
    assert (report.server, report.since, report.written) == (
        "host pid 1",
        "2026-01-31T09:00:00Z",
        "2026-01-31T10:00:00Z",
    )
    assert report.keys["msl.token.mac.v1"] == ReadUsage(1, "2026-01-31T09:00:00Z")
    assert [path.name for path in (tmp_path / "usage").iterdir()] == ["host-1.json"]

    def reasons(label: str, days: float) -> tuple[str, ...]:
        return reasons_in_use(
            [report], label, demoted="2026-01-31T08:00:00Z", now=MORNING + days * 86400, idle_days=30
        )

    assert reasons("msl.token.mac.v1", 29) == ("host pid 1 used it 1 time(s), last at 2026-01-31T09:00:00Z",)
    assert reasons("msl.token.mac.v1", 31) == ()
    assert reasons("msl.token.mac.v9", 1) == ()


def test_a_report_that_cannot_be_written_is_named_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "usage").write_text("a file, not a directory")
    with pytest.raises(ConfigurationError, match=r"usage/host-1\.json: cannot be written"):
        UsageReports(tmp_path / "usage/host-1.json", KeyUsage("server", Clock()), lambda: None, 60.0)


def test_remembered_tokens_are_counted_anew_from_time_to_time(tmp_path: Path) -> None:
    """Otherwise a version would look idle while a client goes on under a token of it."""
    asked = threading.Event()
    reports = UsageReports(tmp_path / "host-1.json", KeyUsage("server", Clock()), asked.set, 0.01, 0.03)
    reports.start()
    try:
        assert asked.wait(30)
    finally:
        reports.close()


def used(directory: Path, pid: int, times: int, clock: Clock, *, killed: bool = False) -> UsageReports:
    """Let a process of a host use a version, and end."""
    usage = KeyUsage(f"host pid {pid}", clock)
    mac = counted(usage).mac
    assert mac is not None
    reports = UsageReports(directory / f"host-{pid}.json", usage, lambda: None, 60.0)
    for _ in range(times):
        mac.sign(b"")
    reports.write() if killed else reports.close()
    return reports


GONE = 2**22 + 1  # larger than any process ID of Linux


def only(directory: Path) -> tuple[str, int, str | None]:
    (report,) = read_usage(directory)
    use = report.keys["msl.token.mac.v1"]
    return report.since, use.operations, use.last


@pytest.mark.parametrize("killed", [False, True])
def test_counts_survive_a_restart(tmp_path: Path, killed: bool) -> None:
    clock = Clock()
    used(tmp_path, GONE, 3, clock, killed=killed)
    clock.now += 3600
    used(tmp_path, os.getpid(), 0, clock)
    assert only(tmp_path) == ("2026-01-31T09:00:00Z", 3, "2026-01-31T09:00:00Z")
    clock.now += 3600
    # In a container the next process has the same host and process ID.
    used(tmp_path, os.getpid(), 2, clock)
    assert only(tmp_path) == ("2026-01-31T09:00:00Z", 5, "2026-01-31T11:00:00Z")


def test_other_hosts_and_processes_that_run_keep_their_own_reports(tmp_path: Path) -> None:
    clock = Clock()
    used(tmp_path, os.getppid(), 1, clock, killed=True)
    used(tmp_path, GONE, 1, clock).close()
    (tmp_path / f"host-{GONE}.json").rename(tmp_path / f"other-host-{GONE}.json")
    used(tmp_path, os.getpid(), 1, clock)
    assert len(read_usage(tmp_path)) == 3


def test_a_report_that_cannot_be_read_is_left_for_people(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / f"host-{GONE}.json").write_text("{")
    used(tmp_path, os.getpid(), 1, Clock())
    assert "not a usage report" in caplog.text
    assert (tmp_path / f"host-{GONE}.json").exists()


def test_versions_a_process_does_not_have_any_more_are_reported_on(tmp_path: Path) -> None:
    clock = Clock()
    used(tmp_path, GONE, 1, clock)
    usage = KeyUsage("host pid 2", clock)
    usage.counted(keys(), ("msl.token.mac.v2",))
    UsageReports(tmp_path / f"host-{os.getpid()}.json", usage, lambda: None, 60.0)
    (report,) = read_usage(tmp_path)
    assert {label: use.operations for label, use in report.keys.items()} == {
        "msl.token.encryption.v1": 1,
        "msl.token.mac.v1": 1,
        "msl.token.mac.v2": 0,
    }


def test_a_server_that_fell_silent_before_the_rotation_stands_in_the_way(tmp_path: Path) -> None:
    clock = Clock()
    used(tmp_path, GONE, 0, clock, killed=True)
    (tmp_path / f"host-{GONE}.json").rename(tmp_path / "far-1.json")
    clock.now += 3600
    used(tmp_path, os.getpid(), 0, clock)

    def reasons() -> tuple[str, ...]:
        demoted, now = "2026-01-31T09:30:00Z", clock.now + 90 * 86400
        return reasons_in_use(read_usage(tmp_path), "msl.token.mac.v1", demoted=demoted, now=now, idle_days=30)

    (reason,) = reasons()
    assert "last reported at 2026-01-31T09:00:00Z, before the rotation" in reason
    clock.now -= 3600
    used(tmp_path, GONE, 0, clock).close()
    (tmp_path / f"host-{GONE}.json").rename(tmp_path / "far-1.json")
    assert reasons() == ()
