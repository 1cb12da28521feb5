"""What a server's audit log looks at: one record per transition, however often it looks (field note F6)."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from audit_signers import full_at
from hsm_msl.audit.verification import read_records, verify_log
from hsm_msl.backend.any_token import AnyToken
from hsm_msl.backend.operations import Operations
from hsm_msl.backend.software import SoftwareSigningKey
from hsm_msl.backend.token_status import TokenStatus
from hsm_msl.errors import BackendUnavailableError, ConfigurationError, PinRefusedError
from hsm_msl.service.audit_section import AuditSection
from hsm_msl.service.circuit_breaker import CircuitBreaker
from hsm_msl.service.compose.audit import Journal, open_journal
from hsm_msl.service.watch.health import Check, WrongAnswerError
from hsm_msl.service.watch.transitions import BreakerTransitions, RevocationChanges, SelfChecks, TokenTransitions

UP = TokenStatus(True, 0, 0, {}, {}, Operations())
AWAY = BackendUnavailableError("the token is away")


class Written:
    def __init__(self) -> None:
        self.all: list[tuple[str, dict[str, str]]] = []

    def __call__(self, event: str, details: object) -> None:
        self.all.append((event, dict(cast(dict[str, str], details))))

    def taken(self) -> list[tuple[str, dict[str, str]]]:
        taken, self.all = self.all, []
        return taken


@pytest.fixture
def written() -> Written:
    return Written()


class FakeToken:
    now = UP

    def status(self) -> TokenStatus:
        return self.now


def test_an_outage_is_one_record_and_its_end_another(written: Written) -> None:
    token = FakeToken()
    watch = TokenTransitions(lambda: {"main": token}, written)
    watch.look()
    assert written.taken() == []
    token.now = replace(UP, up=False, outages=1, reason=AWAY)
    for _ in range(3):
        watch.look()
    assert written.taken() == [("token out of service", {"token": "main", "reason": "the token is away"})]
    token.now = replace(UP, outages=1, returns=1)
    watch.look()
    watch.look()
    assert written.taken() == [("token in service", {"token": "main"})]


def test_outages_between_two_looks_are_counted(written: Written) -> None:
    token = FakeToken()
    watch = TokenTransitions(lambda: {"main": token}, written)
    watch.look()
    token.now = replace(UP, outages=2, returns=2)
    watch.look()
    assert written.taken() == [
        ("token out of service", {"token": "main", "times": "2"}),
        ("token in service", {"token": "main"}),
    ]


def test_a_pin_that_is_refused_while_running_has_a_record_of_its_own(written: Written) -> None:
    token = FakeToken()
    token.now = replace(UP, up=False, outages=1, reason=PinRefusedError("token 'x' refuses the PIN from file:pin"))
    TokenTransitions(lambda: {"main": token}, written).look()
    assert [event for event, _details in written.taken()] == ["PIN refused", "token out of service"]


def test_a_user_service_that_opens_its_breaker(written: Written) -> None:
    breaker = CircuitBreaker(failures=2)
    watch = BreakerTransitions("user service of PIN", breaker, written)
    breaker.failed()
    watch.look()
    breaker.failed()
    watch.look()
    watch.look()
    breaker.succeeded()
    watch.look()
    assert [event for event, _details in written.taken()] == [
        "user service of PIN out of service",
        "user service of PIN in service",
    ]


def test_revocations_are_seen_once_per_revision(written: Written) -> None:
    seen: list[tuple[int, int] | None] = [None]
    watch = RevocationChanges(lambda: seen[0], written)
    for now in (None, (0, 0), (7, 2), (7, 2), (8, 1)):
        seen[0] = now
        watch.look()
    assert written.taken() == [
        ("revocations seen", {"revision": "7", "in force": "2"}),
        ("revocations seen", {"revision": "8", "in force": "1"}),
    ]


def test_a_self_check_that_fails_is_recorded_once_and_an_outage_is_not(written: Written) -> None:
    outcome: list[Exception | None] = [None]

    def run() -> None:
        if outcome[0] is not None:
            raise outcome[0]

    checks = SelfChecks(written)
    wrong = WrongAnswerError("the signature does not fit")
    for error in (None, AWAY, wrong, wrong, AWAY, wrong, None, None):
        outcome[0] = error
        (check,) = checks.recorded([Check("k: sign and verify", run)])
        if error is None:
            check.run()
        else:
            with pytest.raises(type(error)):
                check.run()
    assert written.taken() == [
        ("self-check failed", {"check": "k: sign and verify", "reason": "the signature does not fit"}),
        ("self-check passed", {"check": "k: sign and verify"}),
    ]


class OneKey:
    """A token with one signing key, of RSA."""

    def __init__(self) -> None:
        key = rsa.generate_private_key(65537, 2048)
        self.key = SoftwareSigningKey(
            key.private_bytes(
                serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )

    def signing_key(self, label: str) -> SoftwareSigningKey:
        assert label == "server.audit.signing.v1"
        return self.key


class Config:
    def __init__(self, directory: Path) -> None:
        self.path = directory / "server.toml"
        self.path.write_text("")

    def resolve(self, text: str) -> Path:
        return self.path.parent / text

    def error(self, key: str, problem: str) -> ConfigurationError:
        return ConfigurationError(f"{key}: {problem}")


def journal(directory: Path, **changes: str) -> Journal:
    section = AuditSection(file="audit.jsonl", signing_key="server.audit.signing.v1", **changes)  # type: ignore[arg-type]
    return open_journal(Config(directory), section, lambda: 1769850000.0)


@pytest.mark.parametrize("on_failure", ["refuse", "continue"])
def test_a_server_whose_log_cannot_be_written_is_not_ready_unless_told(tmp_path: Path, on_failure: str) -> None:
    made, token = journal(tmp_path, on_failure=on_failure), OneKey()
    with ExitStack() as closing:
        made.begin(closing, lambda _key, _name: cast(AnyToken, token), dict, ())
        made.check()
        with full_at((tmp_path / "audit.jsonl").stat().st_size):
            made.record("drift found", {"key": "k"})
            if on_failure == "refuse":
                with pytest.raises(ConfigurationError, match=r"audit\.file: .*cannot be written"):
                    made.check()
            else:
                made.check()
        made.record("drift gone", {"key": "k"})
        made.check()
    events = [record.event for record in read_records(tmp_path / "audit.jsonl")]
    assert events == ["server started", "drift found", "drift gone", "server stopped", "checkpoint"]
    assert verify_log([tmp_path / "audit.jsonl"], token.key.public_key).problem is None


def test_who_only_looks_leaves_no_record(tmp_path: Path) -> None:
    section = AuditSection(file="audit.jsonl", signing_key="server.audit.signing.v1")
    made = open_journal(Config(tmp_path), section, lambda: 0.0, "look")
    with ExitStack() as closing:
        made.begin(closing, lambda _key, _name: cast(AnyToken, OneKey()), dict, ())
        made.refused(ConfigurationError("x"))
        made.check()
    assert not (tmp_path / "audit.jsonl").exists()
