"""What calls and messages are counted under, and when keys end by the manifest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hsm_msl.backend.key_manifest import FORMAT, KeyManifest
from hsm_msl.backend.operations import OTHER, Operations, Use
from hsm_msl.backend.token_status import TokenStatus
from hsm_msl.errors import BackendUnavailableError, ErrorCode, MslError, StoreError
from hsm_msl.service.key_sections import KeysSection
from hsm_msl.service.key_uses import uses_of
from hsm_msl.service.load import Load
from hsm_msl.service.watch.message_counts import MessageCounts
from hsm_msl.service.watch.metric_sources import message_source, token_source, validity_source
from hsm_msl.service.watch.metrics import Metrics, Sample

OWN_LABELS = KeysSection(label="{purpose}-{role}-{version}-{role}")
NO_VERSION = KeysSection(label="plain/{role}")


@pytest.mark.parametrize(
    ("label", "use"),
    [
        ("msl.token.mac.v1", ("msl.token", "v1")),
        ("msl.token.wrap.v12", ("msl.token", "v12")),
        ("own-mac-3-mac", ("own", "v3")),
        ("plain/mac", ("none", "")),
        ("identity.rsa.v1", OTHER),
        ("psk.msl.token.mac.v1", OTHER),
        ("msl.token.mac.v1x", OTHER),
        ("mslxtoken.mac.v1", OTHER),
    ],
)
def test_a_key_serves_the_purpose_its_label_says(label: str, use: Use) -> None:
    assert uses_of({"msl.token": KeysSection(), "own": OWN_LABELS, "none": NO_VERSION})(label) == use


def test_uses_are_told_from_looks() -> None:
    """Finding a key at the start is no use of it; calls on one purpose are added up over tokens."""

    def nothing() -> None: ...

    def _sign() -> None: ...

    def _sign_long() -> None: ...

    class Watched:
        def __init__(self) -> None:
            self.operations = Operations(lambda label: ("p", "v1"))
            meter = self.operations.of_key("k")
            meter.add(nothing, 1000)
            meter.add(_sign, 1000)
            meter.add(_sign_long, 1000)
            meter.failed(_sign, 1000, BackendUnavailableError("away"))

        def status(self) -> TokenStatus:
            return TokenStatus(
                up=False,
                outages=2,
                returns=1,
                reconnects={"reload": 1},
                sessions={"idle": 3},
                operations=self.operations,
            )

    tokens = {"a": Watched(), "b": Watched()}
    text = Metrics((token_source(lambda: tokens),)).text().decode()
    for line in (
        'hsm_up{token="a"} 0.0',
        'hsm_ops_total{op="sign",purpose="p",result="ok",token="a",version="v1"} 2.0',
        'hsm_ops_total{op="find",purpose="p",result="ok",token="a",version="v1"} 1.0',
        'hsm_ops_total{op="sign",purpose="p",result="unavailable",token="b",version="v1"} 1.0',
        'hsm_op_seconds_count{op="sign",result="ok",token="a"} 2.0',
        'key_version_ops_total{purpose="p",version="v1"} 6.0',
        'hsm_reconnects_total{stage="reload",token="a"} 1.0',
        'hsm_breaker_transitions_total{to="open",token="a"} 2.0',
        'hsm_breaker_transitions_total{to="closed",token="a"} 1.0',
        'hsm_sessions{state="idle",token="b"} 3.0',
    ):
        assert line in text, line


class Renewable:
    def is_renewable(self, remote: float | None, now: float) -> bool:
        return now >= 100


class Header:
    def __init__(self, master: object = None, *, keys: object = None, asks: bool = False) -> None:
        self.master_token, self.key_response, self.renewable, self.key_requests = master, keys, asks, asks


def test_messages_are_counted_by_outcome() -> None:
    now = [0.0]
    counts, load = MessageCounts(lambda: now[0]), Load(1)
    counts.answered(Header(), Header(keys="x"))  # type: ignore[arg-type]
    counts.answered(Header(Renewable(), asks=True), Header(keys="x"))  # type: ignore[arg-type]
    counts.answered(Header(Renewable(), asks=True), Header())  # type: ignore[arg-type]
    now[0] = 100.0
    counts.answered(Header(Renewable(), asks=True), Header())  # type: ignore[arg-type]
    counts.refused(MslError(ErrorCode.MESSAGE_REPLAYED), None)
    for error in (BackendUnavailableError("x"), StoreError("x"), ZeroDivisionError()):
        counts.failed(error, None)
    counts.unavailable()
    counts.ignored()
    counts.took(1000)
    with load:
        samples = {sample[:2]: sample.value for sample in message_source(counts, load, {})()}
    assert samples["msl_messages_in_work", ()] == 1
    assert samples["msl_renewals_put_off_total", ()] == 1
    assert samples["msl_master_tokens_total", ("first",)] == 1
    assert samples["msl_master_tokens_total", ("renewal",)] == 1
    assert {labels: value for (name, labels), value in samples.items() if name == "msl_messages_total"} == {
        ("answered", "", ""): 4,
        ("refused", "MESSAGE_REPLAYED", "REPLAYED"): 1,
        ("outage", "BackendUnavailableError", "TRANSIENT_FAILURE"): 1,
        ("outage", "StoreError", "TRANSIENT_FAILURE"): 1,
        ("defect", "ZeroDivisionError", "TRANSIENT_FAILURE"): 1,
        ("unavailable", "", ""): 1,
        ("ignored", "", ""): 1,
    }


def test_the_manifest_says_when_keys_end(tmp_path: Path) -> None:
    keys = [
        {"label": "p.mac.v1", "state": "primary", "not_after": "1970-01-02T00:00:00Z"},
        {"label": "p.mac.v0", "state": "retired", "not_after": "1970-01-02T00:00:00Z"},
        {"label": "p.wrap.v1", "state": "primary", "not_after": None},
    ]
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"body": {"format": FORMAT, "sequence": 1, "keys": keys}}))
    manifest = KeyManifest(path, None)
    assert manifest.ends() == {}
    manifest.poll()
    assert list(validity_source(manifest.ends)()) == [Sample("key_not_after_seconds", ("p.mac.v1",), 86400.0)]
