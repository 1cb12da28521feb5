"""What the audit log hears of packets whose sender is not trusted."""

from __future__ import annotations

from collections.abc import Mapping

from hsm_msl.dialog.session import Event
from hsm_msl.service.dialog.rejections import PERIOD, Rejections

DIALOG = bytes(15) + b"d"


class Bench:
    """Rejections with a clock, and what they recorded."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.records: list[tuple[str, str]] = []
        self.rejections = Rejections(self.record, lambda: self.now)

    def record(self, event: str, details: Mapping[str, str]) -> None:
        assert event == "packets rejected"
        assert details["last dialog"] == DIALOG.hex()
        self.records.append((details["reason"], details["count"]))

    def reject(self, reason: str, count: int = 1) -> None:
        for _ in range(count):
            self.rejections.observe(Event("rejected", DIALOG, reason))


def test_a_reason_is_recorded_when_it_comes_up_and_then_once_a_minute() -> None:
    bench = Bench()
    bench.rejections.observe(Event("dropped", DIALOG, "not this"))
    bench.reject("no binding in force", 3)
    bench.rejections.look()
    bench.reject("no binding in force", 5)
    bench.reject("pair signature does not fit")
    bench.rejections.look()
    assert bench.records == [("no binding in force", "3"), ("pair signature does not fit", "1")]
    bench.now += PERIOD
    bench.rejections.look()
    bench.rejections.look()
    assert bench.records[2:] == [("no binding in force", "5")]


def test_the_end_waits_for_nothing() -> None:
    bench = Bench()
    for _ in range(2):
        bench.reject("revoked")
        bench.rejections.look(last=True)
    assert bench.records == [("revoked", "1"), ("revoked", "1")]


def test_what_strangers_write_fills_no_log() -> None:
    bench = Bench()
    for number in range(1000):
        bench.reject(f"{number}\n" + 1000 * "x")
    bench.rejections.look()
    assert len(bench.records) == 33
    assert bench.records[-1] == ("other reasons", str(1000 - 32))
    assert all(len(reason) <= 200 and reason.isprintable() for reason, _ in bench.records)
    bench.now += PERIOD
    bench.rejections.look()
    bench.reject("a new one")
    bench.rejections.look()
    assert bench.records[33:] == [("a new one", "1")]
