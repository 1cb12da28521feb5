"""The metrics of a service: their names in one table, and what turns counters into Prometheus' text when asked.

Nothing is counted here. What counts does so where things happen; a scrape reads it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from hsm_msl.backend.operations import BOUNDS, Latency, cumulated, no_latency, seconds


class Described(NamedTuple):
    """A metric.

    Attributes:
        kind: ``counter``, ``gauge`` or ``histogram``.
        labels: names of its labels.
        text: what it says.
    """

    kind: str
    labels: tuple[str, ...]
    text: str


METRICS: Final[dict[str, Described]] = {
    "hsm_up": Described("gauge", ("token",), "1 while calls reach the token, 0 while its circuit breaker answers"),
    "service_ready": Described(
        "gauge", (), "1 while messages can be answered with the right keys, as /health/ready says"
    ),
    "health_check_seconds": Described(
        "gauge", ("check", "status"), "What the checks of the last deep examination took, and how they ended"
    ),
    "hsm_ops_total": Described(
        "counter", ("token", "op", "purpose", "version", "result"), "Calls on keys, by the key's purpose and version"
    ),
    "hsm_op_seconds": Described(
        "histogram", ("token", "op", "result"), "What calls took, waiting for a session and recovery included"
    ),
    "key_version_ops_total": Described(
        "counter", ("purpose", "version"), "Calls that used a version of a key purpose, on all tokens"
    ),
    "key_not_after_seconds": Described(
        "gauge", ("key",), "When the use of a key ends by the key manifest, seconds since the epoch"
    ),
    "hsm_sessions": Described(
        "gauge",
        ("token", "state"),
        "Sessions for calls (worker processes, where tokens have them), and callers waiting",
    ),
    "hsm_reconnects_total": Described(
        "counter", ("token", "stage"), "Recoveries, by the stage that brought the token back"
    ),
    "hsm_breaker_transitions_total": Described(
        "counter", ("token", "to"), "How often the circuit breaker opened and closed"
    ),
    "pin_flags": Described("gauge", ("token", "flag"), "1 for flags about PINs that are set on the token"),
    "token_cache_hits_total": Described("counter", ("cache",), "Tokens that were verified before, by what they are"),
    "token_cache_misses_total": Described("counter", ("cache",), "Tokens that had to be verified with token keys"),
    "msl_messages_total": Described(
        "counter", ("outcome", "code", "response"), "Messages by what became of them, and the MSL error answered"
    ),
    "msl_message_seconds": Described(
        "histogram", (), "From a whole request to its whole response; not of messages in pieces"
    ),
    "msl_messages_in_work": Described("gauge", (), "Messages in work now"),
    "msl_master_tokens_total": Described("counter", ("kind",), "Master tokens issued: first ones and renewals"),
    "msl_renewals_put_off_total": Described(
        "counter", (), "Renewals asked for in time and not given, for load (token_policy.defer_above) or by a rule"
    ),
    "dialog_events_total": Described("counter", ("event",), "What the engine of the secure dialog did"),
    "dialog_outbox_packets": Described("gauge", (), "Packets that wait to be acknowledged"),
    "dialog_inbox_messages": Described("gauge", (), "Messages that arrived and that nobody has taken yet"),
}


class Sample(NamedTuple):
    """One value of a metric, its labels in the table's order."""

    metric: str
    labels: tuple[str, ...]
    value: float | Latency


Source = Callable[[], Iterable[Sample]]
"""Reads some counters. Asked in a thread of its own, at every scrape."""


class Metrics(Collector):
    """What one process exports.

    Args:
        sources: where the values are.
        registry: where to register; the process has no other.
    """

    def __init__(self, sources: Sequence[Source], registry: CollectorRegistry | None = None) -> None:
        self._sources = list(sources)
        self._registry = CollectorRegistry(auto_describe=False) if registry is None else registry
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    content_type = CONTENT_TYPE_LATEST

    def also(self, source: Source) -> None:
        """Take in another source."""
        self._sources.append(source)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)

    def describe(self) -> Iterator[Metric]:
        """Yield no values; asked when registering."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield the families; values with the same labels are added up."""
        found: dict[str, dict[tuple[str, ...], list[float | Latency]]] = defaultdict(lambda: defaultdict(list))
        for source in self._sources:
            for sample in source():
                found[sample.metric][sample.labels].append(sample.value)
        for name, described in METRICS.items():
            if name in found:
                yield _family(name, described, found[name])


def _family(name: str, described: Described, values: dict[tuple[str, ...], list[float | Latency]]) -> Metric:
    if described.kind == "histogram":
        histogram = HistogramMetricFamily(name, described.text, labels=described.labels)
        for labels, parts in values.items():
            latency = no_latency()
            for part in parts:
                if isinstance(part, list):
                    latency = [one + other for one, other in zip(latency, part, strict=True)]
            counts = cumulated(latency)
            bounds = [*map(repr, BOUNDS), "+Inf"]
            histogram.add_metric(labels, list(zip(bounds, counts, strict=True)), seconds(latency))
        return histogram
    kind = CounterMetricFamily if described.kind == "counter" else GaugeMetricFamily
    family = kind(name, described.text, labels=described.labels)
    for labels, parts in values.items():
        family.add_metric(labels, sum(part for part in parts if not isinstance(part, list)))
    return family
