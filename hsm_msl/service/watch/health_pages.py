"""The health of a service as pages: alive, ready, and examined in depth."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping

from starlette.responses import JSONResponse, Response

from hsm_msl.service.sections import ManagementSection
from hsm_msl.service.watch.health import Check, Examiner, Report, Status
from hsm_msl.service.watch.management import Page
from hsm_msl.service.watch.metrics import Sample

_BEAT_SECONDS = 2.0

Checks = Callable[[], Iterable[Check]]


class Pulse:
    """Tells whether the event loop that answers messages still turns."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to watch a loop."""
        self._loop = loop

    def beats(self, seconds: float = _BEAT_SECONDS) -> bool:
        """Tell whether the loop does what it is given within some seconds. Not to be called on it."""
        if self._loop is None or self._loop.is_closed():
            return False
        turned = threading.Event()
        self._loop.call_soon_threadsafe(turned.set)
        return turned.wait(seconds)


class Health:
    """The examinations of one service.

    Args:
        usable: what must work for messages to be answered.
        deep: what uses every key and store.
        drift: what compares keys with the key manifest.
        section: how often each may run, and how long to wait.

    Attributes:
        pulse: of the service.
    """

    def __init__(self, usable: Checks, deep: Checks, drift: Checks, section: ManagementSection) -> None:
        self._usable = Examiner(usable, section.ready_every, section.patience)
        self._deep = Examiner(deep, section.deep_every, section.patience)
        self._drift = Examiner(drift, section.drift_every, section.patience)
        self.pulse = Pulse()

    def ready(self) -> Report:
        """Return whether messages can be answered, and with the right keys."""
        report = self._usable.ask()
        drift = self._drift.refresh()
        # Whether the keys could be compared is no question of readiness; whether they are other ones is.
        wrong = () if drift is None else tuple(found for found in drift.findings if found.status is Status.FAILED)
        return Report((*report.findings, *wrong), report.made_at)

    def pages(self) -> Mapping[str, Page]:
        """Return the pages by path."""
        return {
            "/health/live": self._live,
            "/health/ready": lambda: _page(self.ready()),
            "/health/deep": lambda: _page(self._deep.ask()),
        }

    def samples(self) -> Iterator[Sample]:
        """Yield what the metrics say; asks for readiness, so that it is about now."""
        yield Sample("service_ready", (), float(self.ready().status is Status.OK))
        deep = self._deep.last
        for finding in () if deep is None else deep.findings:
            yield Sample("health_check_seconds", (finding.name, finding.status.value), finding.milliseconds / 1000)

    def _live(self) -> Response:
        if self.pulse.beats():
            return JSONResponse({"status": "live"})
        return JSONResponse({"status": "stuck"}, 503)


def _page(report: Report) -> Response:
    status = report.status
    content = {"status": status.value, "checks": [finding.shown() for finding in report.findings]}
    return JSONResponse(content, 200 if status is Status.OK else 503, {"cache-control": "no-store"})
