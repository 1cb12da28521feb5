"""Records, requests, PIN sources and options changed by somebody else end in one line and a documented exit code."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ceremony_fixture import CeremonyBench, Outcome


def refused(outcome: Outcome, code: int = 2) -> None:
    assert outcome.code == code, outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("text", ["A", "abc", "é", "@@@@"])
def test_a_signature_that_is_no_base64(bench: CeremonyBench, text: str) -> None:
    ceremony = bench.ceremony()
    bench.apply(ceremony)
    path = bench.work / "records/manifest.json"
    manifest: dict[str, Any] = json.loads(path.read_text())
    for member in ("spki", "signature"):
        path.write_text(json.dumps({**manifest, "signature": {**manifest["signature"], member: text}}))
        refused(bench.run("inventory", ceremony))
        refused(bench.run("verify", ceremony))


def test_a_damaged_request_an_unended_quotation_and_senseless_days(bench: CeremonyBench) -> None:
    ceremony = bench.ceremony()
    bench.apply(ceremony)
    bench.write("key.pem", "")
    bench.write(f"records/requests/{'a' * 64}.json", '{"x"')
    refused(bench.run("approve", ceremony, "a" * 64, "--key", "key.pem", "--passphrase", "file:/none"))
    refused(bench.run("retire", ceremony, "audit.signing.v1", "--idle", "-1", "--yes"))
    refused(bench.run("retire", ceremony, "audit.signing.v1", "--idle", "99999999999", "--yes"))
    text = ceremony.read_text().replace('user_pin = "file:pins/user.pin"', "user_pin = 'exec:/bin/echo \"x'")
    refused(bench.run("plan", bench.write("quoted.toml", text)), 8)


@pytest.mark.parametrize(
    "name", ["x" * 129, "a\nb", "a\x1b[2J", b"a\xff".decode(errors="surrogateescape"), " a", " "]
)
def test_names_of_people_that_no_log_can_hold(bench: CeremonyBench, name: str) -> None:
    ceremony = bench.ceremony()
    for option in ("--actor", "--witness"):
        outcome = bench.run("apply", ceremony, option, name)
        refused(outcome)
        assert outcome.err.startswith(f"hsm-provision: {option}")
        assert len(outcome.err.splitlines()) == 1
    assert not list((bench.directory / "tokens").iterdir())


def test_one_witness_never_becomes_two(bench: CeremonyBench) -> None:
    ceremony = bench.ceremony()
    for verb in (("apply", ceremony), ("report", ceremony, "--out", "report.html")):
        refused(bench.run(*verb, "--witness", "B; C"))
    assert bench.run("apply", ceremony, "--actor", "Ö. Operator", "--witness", "x" * 128).code == 0


def test_a_reason_with_bytes_that_are_no_text(bench: CeremonyBench) -> None:
    ceremony = bench.ceremony()
    bench.apply(ceremony)
    strange = b"x\xff".decode(errors="surrogateescape")
    outcome = bench.run("destroy", ceremony, "audit.signing.v1", "--reason", strange)
    refused(outcome)
    assert outcome.err.startswith("hsm-provision: --reason")


def test_an_empty_log_is_not_whole(bench: CeremonyBench) -> None:
    ceremony = bench.ceremony()
    bench.apply(ceremony)
    assert bench.run("public-key", ceremony, "audit.signing.v1", "--out", "audit.pem").code == 0
    empty = bench.write("empty.jsonl", "")
    outcome = bench.run("audit", "verify", empty, "--public-key", "audit.pem")
    refused(outcome, 5)
    assert "the log is empty" in outcome.out


def test_a_pin_that_is_no_text_touches_no_token(bench: CeremonyBench) -> None:
    ceremony = bench.ceremony()
    for name, content in (("so", b"so-pin-123\n"), ("user", b"p\xe4ss-1234\n")):
        path = bench.write(f"pins/{name}.pin", "")
        path.write_bytes(content)
    refused(bench.run("apply", ceremony), 8)
    assert not list((bench.directory / "tokens").iterdir())
