"""What the audit log of a server looks at from time to time: tokens, user services, revocations; changes only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Protocol

from hsm_msl.backend.token_status import TokenStatus
from hsm_msl.errors import BackendUnavailableError, HsmMslError, PinRefusedError, StoreError
from hsm_msl.service.watch.health import Check

Record = Callable[[str, Mapping[str, str]], None]
"""Writes an event and its details to the audit log."""


def no_record(event: str, details: Mapping[str, str]) -> None:
    """Write nothing, where no audit log is configured."""


class HasStatus(Protocol):
    """A token as far as this file is concerned."""

    def status(self) -> TokenStatus:
        """Return how it is, without asking it."""


class TokenTransitions:
    """Records when a token went out of service and came back, once each.

    Args:
        opened: the tokens in use, by name.
        record: writes to the audit log.
    """

    def __init__(self, opened: Callable[[], Mapping[str, HasStatus]], record: Record) -> None:
        self._opened = opened
        self._record = record
        self._before: dict[str, TokenStatus] = {}

    def look(self) -> None:
        """Compare every token with how it was."""
        for name, token in self._opened().items():
            now = token.status()
            before = self._before.get(name)
            self._before[name] = now
            outages = now.outages - (0 if before is None else before.outages)
            was_up = before is None or before.up
            if outages:
                self._out(name, outages, now)
            if now.up and (outages or not was_up):
                self._record("token in service", {"token": name})

    def _out(self, name: str, outages: int, now: TokenStatus) -> None:
        details = {"token": name}
        if outages > 1:
            details["times"] = str(outages)
        if now.reason is not None:
            details["reason"] = str(now.reason)
        if isinstance(now.reason, PinRefusedError):
            self._record("PIN refused", {"token": name})
        self._record("token out of service", details)


class Breaker(Protocol):
    """A circuit breaker as far as this file is concerned."""

    @property
    def open(self) -> bool:
        """Whether calls are being refused."""


class BreakerTransitions:
    """Records when something stopped answering and when it answers again, once each.

    Args:
        what: its name in the events.
        breaker: its circuit breaker.
        record: writes to the audit log.
    """

    def __init__(self, what: str, breaker: Breaker, record: Record) -> None:
        self._what = what
        self._breaker = breaker
        self._record = record
        self._was_open = False

    def look(self) -> None:
        """Compare with how it was."""
        now = self._breaker.open
        if now != self._was_open:
            self._was_open = now
            self._record(f"{self._what} {'out of' if now else 'in'} service", {})


class RevocationChanges:
    """Records that this server has seen other revocations than before.

    Args:
        revision: returns the revision of what it knows, and how many revocations that are; None before the first.
        record: writes to the audit log.
    """

    def __init__(self, revision: Callable[[], tuple[int, int] | None], record: Record) -> None:
        self._revision = revision
        self._record = record
        self._before = (0, 0)

    def look(self) -> None:
        """Compare with what was known."""
        now = self._revision()
        if now is not None and now != self._before:
            self._before = now
            self._record("revocations seen", {"revision": str(now[0]), "in force": str(now[1])})


class SelfChecks:
    """Records when a check that uses a key got a wrong answer, and when it is right again, once each.

    Args:
        record: writes to the audit log.
    """

    def __init__(self, record: Record) -> None:
        self._record = record
        self._failed: dict[str, str] = {}

    def recorded(self, checks: Iterable[Check]) -> Iterator[Check]:
        """Yield the checks so that their outcomes are recorded; no answer at all is no outcome."""
        for check in checks:
            yield Check(check.name, partial(self._run, check))

    def _run(self, check: Check) -> None:
        try:
            check.run()
        except (BackendUnavailableError, StoreError):
            raise
        except HsmMslError as error:
            if self._failed.get(check.name) != str(error):
                self._failed[check.name] = str(error)
                self._record("self-check failed", {"check": check.name, "reason": str(error)})
            raise
        if self._failed.pop(check.name, None) is not None:
            self._record("self-check passed", {"check": check.name})
