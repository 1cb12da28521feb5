"""How a service is: examinations made of checks, each allowed as often as is good for the token and not more.

An outage is not a verdict: a check that got no answer is ``unavailable``, one that got a wrong answer is ``failed``,
and the two are never mixed up, since one heals by itself and the other needs a person.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from hsm_msl.errors import BackendUnavailableError, HsmMslError, StoreError

_LOG = logging.getLogger("hsm_msl.health")


class Status(Enum):
    """What came out, from good to bad."""

    OK = "ok"
    UNAVAILABLE = "unavailable"
    """No answer; says nothing about keys or data."""
    FAILED = "failed"
    """A wrong answer, or something a person must mend."""


class WrongAnswerError(HsmMslError):
    """A key or store answered, and the answer is wrong."""


class Check(NamedTuple):
    """One thing to try.

    Attributes:
        name: what is tried.
        run: tries it; raises what went wrong.
    """

    name: str
    run: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Finding:
    """What came out of one check."""

    name: str
    status: Status
    milliseconds: float
    error: Exception | None = None

    def shown(self) -> Mapping[str, object]:
        """Return it for JSON; error texts name keys and tokens, and no secrets."""
        said = {"name": self.name, "status": self.status.value, "milliseconds": round(self.milliseconds, 3)}
        return said if self.error is None else {**said, "error": type(self.error).__name__, "reason": str(self.error)}


@dataclass(frozen=True, slots=True)
class Report:
    """What came out of an examination.

    Attributes:
        findings: in the order of the checks.
        made_at: monotonic time of its end.
    """

    findings: tuple[Finding, ...]
    made_at: float

    @property
    def status(self) -> Status:
        """The worst of the findings."""
        found = {finding.status for finding in self.findings}
        return next((status for status in (Status.FAILED, Status.UNAVAILABLE) if status in found), Status.OK)

    @property
    def error(self) -> Exception | None:
        """The first error of that status."""
        return next((finding.error for finding in self.findings if finding.status is self.status), None)


@dataclass(slots=True)
class _Run:
    """An examination at work."""

    findings: list[Finding] = field(default_factory=list)
    current: str = ""
    since: float = 0.0
    report: Report | None = None


class Examiner:
    """Examines at most once per period, one examination at a time, whoever asks however often.

    Args:
        checks: returns what to try; asked anew for each examination, since keys are rotated.
        every: seconds for which a report is good.
        patience: seconds a check may take before it is reported as unavailable. It goes on meanwhile: a call into a
            token cannot be broken off, and no second one is begun.
        monotonic: seconds that never run backwards.
    """

    def __init__(
        self,
        checks: Callable[[], Iterable[Check]],
        every: float,
        patience: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._checks = checks
        self._every = every
        self._patience = patience
        self._clock = monotonic
        self._changed = threading.Condition()
        self._run: _Run | None = None
        self._last: Report | None = None

    @property
    def last(self) -> Report | None:
        """The last report, however old; None before the first."""
        return self._last

    def ask(self) -> Report:
        """Return a report that is fresh enough, waiting for it if need be."""
        with self._changed:
            run = self._begun()
            if run is None and self._last is not None:
                return self._last
            while run is not None and run.report is None:
                left = run.since + self._patience - self._clock()
                if left <= 0:
                    return self._impatient(run)
                self._changed.wait(left)
            if run is None or run.report is None:
                raise RuntimeError("an examination without an end")
            return run.report

    def refresh(self) -> Report | None:
        """Begin an examination if it is time for one, and return the last report without waiting."""
        with self._changed:
            self._begun()
            return self._last

    def _begun(self) -> _Run | None:
        """Return the examination at work, begun now where none is and the last report is too old."""
        if self._run is None and (self._last is None or self._clock() - self._last.made_at >= self._every):
            self._run = _Run(since=self._clock())
            threading.Thread(target=self._examine, args=(self._run,), name="health", daemon=True).start()
        return self._run

    def _impatient(self, run: _Run) -> Report:
        waited = self._clock() - run.since
        error = BackendUnavailableError(f"no answer in {waited:.1f} s")
        unanswered = Finding(run.current or "beginning", Status.UNAVAILABLE, waited * 1000, error)
        return Report((*run.findings, unanswered), self._clock())

    def _examine(self, run: _Run) -> None:
        try:
            for check in self._checks():
                with self._changed:
                    run.current, run.since = check.name, self._clock()
                    self._changed.notify_all()
                finding = self._find(check, run.since)
                with self._changed:
                    run.findings.append(finding)
        except Exception as error:  # whatever it is, those who wait must hear of it
            run.findings.append(Finding("examination", Status.FAILED, 0.0, error))
            _LOG.exception("an examination broke off")
        with self._changed:
            run.report = self._last = Report(tuple(run.findings), self._clock())
            self._run = None
            self._changed.notify_all()

    def _find(self, check: Check, started: float) -> Finding:
        status = Status.OK
        error: Exception | None = None
        try:
            check.run()
        except (BackendUnavailableError, StoreError) as outage:
            status, error = Status.UNAVAILABLE, outage
        except HsmMslError as problem:
            status, error = Status.FAILED, problem
        except Exception as defect:
            status, error = Status.FAILED, defect
            _LOG.exception("health check %s is defective", check.name)
        return Finding(check.name, status, (self._clock() - started) * 1000, error)
