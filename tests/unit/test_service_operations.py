"""The operators' manual says what is exported, no more and no less."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from hsm_msl.backend.operations import no_latency
from hsm_msl.service.watch import metrics
from hsm_msl.service.watch.metrics import METRICS, Metrics, Sample

MANUAL = (Path(metrics.__file__).parents[1] / "OPERATIONS.md").read_text()


def test_the_table_of_metrics_is_what_is_exported() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \| (.*) \|$", MANUAL, flags=re.M)
    told = {name: (kind, tuple(re.findall(r"`(\w+)`", labels)), text) for name, kind, labels, text in rows}
    assert told == {name: (found.kind, found.labels, found.text) for name, found in METRICS.items()}


def test_every_metric_of_an_alert_exists() -> None:
    alerts = MANUAL[MANUAL.index("## Alerts") :]
    used = set(re.findall(r"\b((?:hsm|msl|key|pin|token|dialog|service|health)_[a-z_]+)\b", alerts))
    used = {name.removesuffix("_bucket") for name in used}
    assert used
    assert used - {"pin_flags"} <= set(METRICS) | {"user_pin_"}


def test_every_metric_can_be_scraped() -> None:
    """Each kind comes out as Prometheus reads it, and equal labels are added up."""

    def source() -> list[Sample]:
        return [
            Sample(
                name, tuple(f"a {label}" for label in found.labels), no_latency() if found.kind == "histogram" else 2
            )
            for name, found in METRICS.items()
        ]

    text = Metrics((source, source)).text().decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    for name, found in METRICS.items():
        family = families[name.removesuffix("_total") if found.kind == "counter" else name]
        assert family.type == found.kind
        assert family.documentation == found.text
        values = {sample.value for sample in family.samples if not sample.name.endswith("_created")}
        assert values == ({0.0} if found.kind == "histogram" else {4.0})
        assert set(family.samples[0].labels) - {"le"} == set(found.labels)
