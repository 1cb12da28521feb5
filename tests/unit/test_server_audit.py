"""The audit log of a running server: checkpoints, hand-over, a token that is away, a medium that is full."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from audit_signers import full_at, signer
from hsm_msl.audit.chain import AuditSigner
from hsm_msl.audit.log import AuditLog
from hsm_msl.audit.verification import checkpoint_fits, read_checkpoint, read_records, verify_log
from hsm_msl.errors import BackendUnavailableError, ConfigurationError, KeyNotFoundError
from hsm_msl.service.watch.audit import LONGEST_BACKLOG, CheckpointRule, ServerAudit

NOW = "2026-01-01T00:00:00Z"
FIRST, SECOND = signer("server.audit.signing.v1"), signer("server.audit.signing.v2")
WAIT = 20.0


def absent(label: str) -> AuditSigner:
    raise KeyNotFoundError(f"no key {label}")


class World:
    def __init__(self, directory: Path) -> None:
        self.path = directory / "audit.jsonl"
        self.kept = directory / "audit.jsonl.checkpoint"
        self.seconds = 0.0

    def audit(self, rule: CheckpointRule | None = None) -> ServerAudit:
        log = AuditLog(self.path, now=lambda: NOW, actor="server")
        rule = rule or CheckpointRule(records=1000, seconds=1000.0)
        return ServerAudit(log, self.kept, now=lambda: NOW, rule=rule, monotonic=lambda: self.seconds)

    def signed(self, rule: CheckpointRule | None = None, key: AuditSigner = FIRST) -> ServerAudit:
        audit = self.audit(rule)
        audit.check()
        audit.sign_with(key, {FIRST.label: FIRST, SECOND.label: SECOND}.__getitem__)
        return audit

    def events(self) -> list[str]:
        return [record.event for record in read_records(self.path)] if self.path.exists() else []


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def eventually(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_stop_leaves_a_signed_end_and_keeps_the_checkpoint(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    audit = world.signed()
    audit.start("server stopped")
    audit.record("server started", {"identity": "server"})
    audit.close()
    audit.record("self test failed")
    audit.close()
    assert world.events() == ["server started", "server stopped", "checkpoint"]
    verdict = verify_log([world.path], FIRST.spki)
    assert verdict.problem is None
    assert (verdict.records, verdict.checkpoints, verdict.unsigned_tail) == (3, 1, 0)
    kept = read_checkpoint(world.kept)
    assert kept.head == verdict.head
    assert checkpoint_fits(kept, [FIRST.spki])
    assert f"audit checkpoint 3:{kept.hash}" in caplog.text
    assert world.path.stat().st_mode & 0o077 == 0
    assert world.kept.stat().st_mode & 0o077 == 0


def test_a_look_at_work_while_the_log_is_closed_is_written_before_the_end(world: World) -> None:
    began, stopped = threading.Event(), threading.Event()
    audit = world.signed()

    def look() -> None:
        began.set()
        stopped.wait(WAIT)
        audit.record("key manifest accepted")

    audit.watch(look)
    audit.start("server stopped")
    assert began.wait(WAIT)
    threading.Timer(0.05, stopped.set).start()
    audit.close()
    assert world.events() == ["key manifest accepted", "server stopped", "checkpoint"]


def test_nothing_new_is_not_signed_again(world: World) -> None:
    for _ in range(3):
        audit = world.signed()
        audit.close()
    assert world.events() == []


def test_a_checkpoint_is_due_after_so_many_records(world: World) -> None:
    audit = world.signed(CheckpointRule(records=3, seconds=1000.0))
    audit.start("end")
    for number in range(3):
        audit.record("event", {"number": str(number)})
    eventually(lambda: world.events() == ["event"] * 3 + ["checkpoint"])
    audit.close()


def test_a_checkpoint_is_due_after_so_long(world: World) -> None:
    audit = world.signed(CheckpointRule(records=1000, seconds=60.0))
    audit.start("end")
    audit.record("event")
    world.seconds = 61.0
    eventually(lambda: world.events() == ["event", "checkpoint"])
    audit.close()


def test_records_do_not_wait_for_a_token_that_is_away(world: World, caplog: pytest.LogCaptureFixture) -> None:
    away = True

    def sign(data: bytes) -> bytes:
        if away:
            raise BackendUnavailableError("the token is away")
        return FIRST.sign(data)

    audit = world.signed(key=replace(FIRST, sign=sign))
    audit.record("token out of service")
    audit.checkpoint()
    audit.checkpoint()
    assert world.events() == ["token out of service"]
    assert caplog.text.count("no audit checkpoint: the token is away") == 1
    away = False
    audit.record("token in service")
    audit.close()
    assert world.events() == ["token out of service", "token in service", "checkpoint"]
    assert verify_log([world.path], FIRST.spki).problem is None


def test_a_full_medium_loses_nothing_and_is_said_once_per_transition(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    audit = world.signed()
    audit.record("before")
    with full_at(world.path.stat().st_size + 10):
        audit.record("first")
        audit.record("second")
        assert audit.problem is not None
        assert "cannot be written" in audit.problem
    assert world.events() == ["before"]
    assert caplog.text.count("AUDIT LOG NOT WRITTEN") == 1
    audit.record("third")
    assert audit.problem is None
    assert caplog.text.count("the audit log is written again") == 1
    audit.close()
    assert world.events() == ["before", "first", "second", "third", "checkpoint"]
    assert verify_log([world.path], FIRST.spki).problem is None


def test_what_is_lost_for_good_is_counted(world: World) -> None:
    audit = world.signed()
    audit.record("before")
    with full_at(world.path.stat().st_size):
        for number in range(LONGEST_BACKLOG + 7):
            audit.record("event", {"number": str(number)})
    audit.record("after")
    audit.close()
    records = list(read_records(world.path))
    assert (records[1].event, records[1].details) == ("records lost", {"count": "7"})
    assert records[2].details == {"number": "7"}
    assert records[-2].event == "after"
    assert verify_log([world.path], FIRST.spki).problem is None


def test_a_thread_writes_what_waits_without_a_further_record(world: World) -> None:
    audit = world.signed()
    audit.start("end")
    audit.record("before")
    with full_at(world.path.stat().st_size):
        audit.record("event")
    eventually(lambda: world.events()[:2] == ["before", "event"] and audit.problem is None)
    audit.close()


@pytest.mark.parametrize("cut", [1, 3])
def test_a_log_that_was_cut_is_not_gone_on_with(world: World, cut: int) -> None:
    audit = world.signed()
    audit.record("first")
    audit.record("second")
    audit.close()
    lines = world.path.read_bytes().splitlines(keepends=True)
    world.path.write_bytes(b"".join(lines[:-cut]))
    with pytest.raises(ConfigurationError, match=rf"has {3 - cut} record\(s\), and 3 are known by the checkpoint"):
        world.audit().check()
    world.path.unlink()
    with pytest.raises(ConfigurationError, match="has 0 record"):
        world.audit().check()


def test_records_after_the_last_checkpoint_are_no_fault(world: World) -> None:
    """A server that was killed: the tail is not signed, the chain goes on."""
    audit = world.signed()
    audit.record("first")
    audit.checkpoint()
    audit.record("second")
    world.audit().check()
    again = world.signed()
    again.record("server started")
    again.close()
    assert world.events() == ["first", "checkpoint", "second", "server started", "checkpoint"]
    assert verify_log([world.path], FIRST.spki).problem is None


def test_another_signing_key_is_introduced_by_the_one_before_it(world: World) -> None:
    for key in (FIRST, SECOND, SECOND):
        audit = world.signed(key=key)
        audit.record("server started")
        audit.close()
    assert world.events() == ["server started", "checkpoint", "key hand-over"] + ["server started", "checkpoint"] * 2
    verdict = verify_log([world.path], FIRST.spki)
    assert verdict.problem is None
    assert verdict.keys == (FIRST.spki, SECOND.spki)


def test_a_hand_over_that_was_not_followed_by_a_checkpoint_is_not_repeated(world: World) -> None:
    audit = world.signed()
    audit.record("server started")
    audit.close()
    world.signed(key=SECOND)
    audit = world.signed(key=SECOND)
    audit.record("server started")
    audit.close()
    assert world.events().count("key hand-over") == 1
    assert verify_log([world.path], FIRST.spki).problem is None


def test_a_key_that_is_gone_cannot_hand_over_and_that_is_said(world: World, caplog: pytest.LogCaptureFixture) -> None:
    audit = world.signed()
    audit.record("server started")
    audit.close()
    audit = world.audit()
    audit.sign_with(SECOND, absent)
    audit.close()
    assert "cannot say so: no key server.audit.signing.v1" in caplog.text
    assert world.events()[-2:] == ["signing key changed without hand-over", "checkpoint"]
    assert str(verify_log([world.path], FIRST.spki).problem).startswith("record 4: checkpoint signature")


def test_a_look_that_fails_does_not_end_the_others(world: World, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[int] = []

    def broken() -> None:
        raise RuntimeError("a defect")

    audit = world.signed()
    audit.watch(broken)
    audit.watch(lambda: seen.append(1))
    audit.start("end")
    eventually(lambda: len(seen) > 1)
    audit.close()
    assert "a defect" in caplog.text
