"""Examinations: how often they run, what they call an outage, and what they say of a check that never ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from hsm_msl.backend.key_manifest import KeyCheck
from hsm_msl.backend.software import SoftwareAesKey, SoftwareWrappingKey, software_mac_key
from hsm_msl.errors import (
    BackendConfigurationError,
    BackendUnavailableError,
    KeyNotFoundError,
    KeyPolicyError,
    StoreError,
)
from hsm_msl.ports import MacAlgorithm
from hsm_msl.service.key_usage import KeyUsage, uncounted
from hsm_msl.service.sections import ManagementSection
from hsm_msl.service.watch.health import Check, Examiner, Status
from hsm_msl.service.watch.health_checks import drift_checks, key_checks
from hsm_msl.service.watch.health_pages import Health, Pulse


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def failing(error: Exception) -> Callable[[], None]:
    def run() -> None:
        raise error

    return run


def examine(*checks: Check) -> Examiner:
    return Examiner(lambda: checks, every=10.0, patience=5.0, monotonic=Time())


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BackendUnavailableError("x"), Status.UNAVAILABLE),
        (StoreError("x"), Status.UNAVAILABLE),
        (BackendConfigurationError("PIN refused"), Status.FAILED),
        (KeyNotFoundError("x"), Status.FAILED),
        (KeyPolicyError("x"), Status.FAILED),
        (ZeroDivisionError(), Status.FAILED),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value.value,
)
def test_an_outage_is_not_a_verdict(error: Exception, status: Status) -> None:
    report = examine(Check("good", lambda: None), Check("bad", failing(error))).ask()
    assert [finding.status for finding in report.findings] == [Status.OK, status]
    assert report.status is status
    assert report.error is error


def test_a_verdict_weighs_more_than_an_outage() -> None:
    verdict = KeyNotFoundError("x")
    report = examine(Check("a", failing(StoreError("y"))), Check("b", failing(verdict))).ask()
    assert (report.status, report.error) == (Status.FAILED, verdict)


def test_a_report_is_good_for_a_while() -> None:
    count, clock = [0], Time()

    def run() -> None:
        count[0] += 1

    examiner = Examiner(lambda: (Check("a", run),), 10.0, 5.0, clock)
    first = examiner.ask()
    clock.now += 9.9
    assert examiner.ask() is first
    clock.now += 0.1
    assert examiner.ask() is not first
    assert count == [2]


def test_one_examination_at_a_time_and_nobody_waits_for_ever() -> None:
    """A call into a token cannot be broken off; so it is reported, and no second one is begun."""
    begun, go_on, count = threading.Event(), threading.Event(), [0]

    def hang() -> None:
        count[0] += 1
        begun.set()
        go_on.wait(30)

    examiner = Examiner(lambda: (Check("quick", lambda: None), Check("stuck", hang)), 0.0, 0.2)
    for _ in range(3):
        report = examiner.ask()
        assert report.status is Status.UNAVAILABLE
        assert [finding.name for finding in report.findings] == ["quick", "stuck"]
        assert "no answer in" in str(report.error)
    assert begun.is_set()
    assert count == [1]
    go_on.set()
    while examiner.last is None:
        threading.Event().wait(0.01)
    assert examiner.last.status is Status.OK


def test_wrong_answers_are_found() -> None:
    class Forgetful(SoftwareAesKey):
        def decrypt_cbc(self, iv: bytes, data: bytes) -> bytes:
            return bytes(len(data))

    class Credulous:
        algorithm = MacAlgorithm.HMAC_SHA256

        def sign(self, data: bytes) -> bytes:
            return bytes(32)

        def verify(self, data: bytes, tag: bytes) -> bool:
            return True

    keys = {
        "good": SoftwareAesKey(bytes(16)),
        "mac": software_mac_key(bytes(32), MacAlgorithm.HMAC_SHA256),
        "wrap": SoftwareWrappingKey(bytes(16)),
        "forgetful": Forgetful(bytes(16)),
        "credulous": Credulous(),
    }
    report = Examiner(lambda: key_checks(lambda: keys.items()), 0.0, 5.0).ask()  # type: ignore[arg-type]
    assert {finding.name.partition(":")[0]: finding.status.value for finding in report.findings} == {
        "good": "ok",
        "mac": "ok",
        "wrap": "ok",
        "forgetful": "failed",
        "credulous": "failed",
    }


def test_another_key_under_the_name_makes_a_service_unready() -> None:
    key = SoftwareAesKey(bytes(16))
    right = KeyCheck("ecb-zero", key.encrypt_ecb(bytes(16))[:8].hex())
    found = {"k": right}
    section = ManagementSection(ready_every=0.001, drift_every=0.001, patience=5.0)
    health = Health(
        lambda: (Check("usable", lambda: None),),
        lambda: (),
        lambda: drift_checks(lambda: [("k", key), ("unknown", key)], found.get),
        section,
    )

    def after_a_comparison() -> Status:
        for _ in range(3):
            health.ready()
            threading.Event().wait(0.1)
        return health.ready().status

    assert after_a_comparison() is Status.OK
    found["k"] = KeyCheck("ecb-zero", "00" * 8)
    assert after_a_comparison() is Status.FAILED
    assert "another key" in str(health.ready().error)
    found["k"] = right
    assert after_a_comparison() is Status.OK


def test_examinations_are_no_evidence_of_use() -> None:
    """``hsm-provision retire`` must not refuse because a monitor looked at the key."""
    from hsm_msl.ports import SymmetricKeys

    usage = KeyUsage("here", lambda: 0.0)
    mac = software_mac_key(bytes(32), MacAlgorithm.HMAC_SHA256)
    keys = usage.counted(SymmetricKeys(SoftwareAesKey(bytes(16)), mac, None, "v1"), ("mac.v1",))
    assert keys.mac is not None
    Examiner(lambda: key_checks(lambda: [("mac.v1", uncounted(keys.mac))]), 0.0, 5.0).ask()  # type: ignore[arg-type,list-item]
    assert usage.report().keys["mac.v1"].operations == 0
    keys.mac.sign(b"")
    assert usage.report().keys["mac.v1"].operations == 1


def test_a_loop_that_does_not_turn_has_no_pulse() -> None:
    pulse = Pulse()
    assert not pulse.beats(0.1)
    loop = asyncio.new_event_loop()
    pulse.watch(loop)
    assert not pulse.beats(0.1)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    assert pulse.beats(5.0)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    assert not pulse.beats(0.1)
