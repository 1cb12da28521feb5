"""A server's management pages as a test reads them: metrics parsed, health as JSON."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from service_world import RunningServer, ServiceWorld

SECTION = ("[entity]", "[management]\nport = 0\nready_every = 0.1\ndeep_every = 0.1\ndrift_every = 0.1\n\n[entity]")
"""The change to a sample configuration that switches the pages on, quick to notice things."""


class Management:
    """The pages of a running server."""

    def __init__(self, server: RunningServer) -> None:
        self.url = _announced(server.log)

    @classmethod
    def at(cls, log: Path) -> Management:
        """Return the pages of the process that writes this log."""
        pages = cls.__new__(cls)
        pages.url = _announced(log)
        return pages

    def metrics(self) -> dict[str, list[tuple[Mapping[str, str], float]]]:
        """Scrape; return values by the name of the sample."""
        answer = httpx.get(f"{self.url}metrics", timeout=30)
        assert answer.status_code == 200
        values: dict[str, list[tuple[Mapping[str, str], float]]] = {}
        for family in text_string_to_metric_families(answer.text):
            for sample in family.samples:
                values.setdefault(sample.name, []).append((sample.labels, sample.value))
        return values

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of the values of a metric that carry these labels."""
        found = self.metrics().get(name, [])
        return sum(value for have, value in found if labels.items() <= have.items())

    def health(self, page: str) -> tuple[int, Any]:
        """Return status and content of a health page, once earlier reports are too old to be shown (``SECTION``)."""
        time.sleep(0.15)
        answer = httpx.get(f"{self.url}health/{page}", timeout=30)
        return answer.status_code, json.loads(answer.text)

    def await_value(self, expected: float, name: str, **labels: str) -> None:
        """Wait for a metric to have a value."""
        deadline = time.monotonic() + 30
        while (value := self.value(name, **labels)) != expected:
            assert time.monotonic() < deadline, f"{name} {labels} is {value}, not {expected}"
            time.sleep(0.1)


def _announced(log: Path) -> str:
    deadline = time.monotonic() + 30
    while not (found := re.findall(r"management is listening on (http://[^\s\"]+/)", log.read_text())):
        assert time.monotonic() < deadline, "no management pages"
        time.sleep(0.05)
    return str(found[-1])


@contextmanager
def unplugged(world: ServiceWorld) -> Iterator[None]:
    """Take the token's files away for a block, as a device that is pulled out."""
    store, away = world.directory / "tokens", world.directory / "tokens.away"
    store.rename(away)
    try:
        yield
    finally:
        away.rename(store)
