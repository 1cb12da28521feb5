"""The key that signs manifests and the audit log is rotated: what was trusted before stays enough."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from ceremony_fixture import CeremonyBench, Outcome
from hsm_msl.backend.key_manifest import KeyManifest
from hsm_msl.errors import ConfigurationError

KEYS = ('profile = "msl-token-encryption"', 'profile = "msl-token-mac"', 'profile = "msl-token-wrap"')

# A run that dies after the log was handed over and before the manifest says so.
CUT = """
import os, sys
import hsm_provision.records as records
from hsm_provision.cli import main
def dies(*_arguments):
    os._exit(9)
records.write_manifest = dies
sys.argv[1:] = ["rotate", sys.argv[1], "audit", "--yes"]
main()
"""


@pytest.fixture
def ceremony(bench: CeremonyBench) -> Path:
    ceremony = bench.ceremony(*KEYS)
    bench.apply(ceremony)
    assert bench.run("public-key", ceremony, "audit.signing.v1", "--out", "audit.pem").code == 0
    return ceremony


def verified(bench: CeremonyBench) -> Outcome:
    return bench.run(
        "audit",
        "verify",
        "records/audit.jsonl",
        "--public-key",
        "audit.pem",
        "--manifest",
        "records/manifest.json",
    )


def rotate(bench: CeremonyBench, ceremony: Path, purpose: str = "audit") -> None:
    done = bench.run("rotate", ceremony, purpose, "--yes")
    assert done.code == 0, done.err


def signer(bench: CeremonyBench) -> str:
    return str(json.loads((bench.work / "records/manifest.json").read_text())["signature"]["key"])


def events(bench: CeremonyBench) -> list[tuple[str, str]]:
    lines = (bench.work / "records/audit.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [
        (record["event"], record["details"].get("key", "")) for record in records if "signature" in record["details"]
    ]


def server_view(bench: CeremonyBench, label: str = "audit.signing.v1") -> KeyManifest:
    return KeyManifest(bench.work / "records/manifest.json", base64.b64decode(bench.entry(label)["spki"]))


def test_the_first_public_key_alone_verifies_log_and_manifest_after_two_rotations(
    bench: CeremonyBench, ceremony: Path
) -> None:
    rotate(bench, ceremony)
    assert signer(bench) == "audit.signing.v2"
    rotate(bench, ceremony, "msl.token")
    rotate(bench, ceremony)
    assert signer(bench) == "audit.signing.v3"
    outcome = verified(bench)
    assert outcome.code == 0, outcome.out
    assert outcome.out.count("handed over to the key") == 2
    assert bench.entry("audit.signing.v3")["check"]["value"] in outcome.out
    assert [key for event, key in events(bench) if event == "key hand-over"] == [
        "audit.signing.v1",
        "audit.signing.v2",
    ]
    # Servers, `verify` and `apply` go on with what they trust.
    for label in ("audit.signing.v1", "audit.signing.v2", "audit.signing.v3"):
        versions = server_view(bench, label).poll()
        assert versions is not None
        assert versions["msl.token"].primary == 2
    assert bench.run("verify", ceremony, "--public-key", "audit.pem").code == 0
    assert bench.run("verify", ceremony).code == 0
    again = bench.run("apply", ceremony)
    assert again.code == 0, again.err
    report = bench.run("report", ceremony, "--out", "report.html")
    assert report.code == 0, report.err


def test_the_former_key_can_be_retired_and_signs_no_more(bench: CeremonyBench, ceremony: Path) -> None:
    primary = bench.run("retire", ceremony, "audit.signing.v1", "--yes")
    assert primary.code == 6
    rotate(bench, ceremony)
    retired = bench.run("retire", ceremony, "audit.signing.v1", "--without-evidence", "--yes")
    assert retired.code == 0, retired.err
    assert verified(bench).code == 0
    assert {key for _event, key in events(bench)[-2:]} == {"audit.signing.v2"}


def test_a_key_that_was_not_introduced_is_not_followed(bench: CeremonyBench, ceremony: Path) -> None:
    rotate(bench, ceremony)
    path = bench.work / "records/manifest.json"
    stored = json.loads(path.read_text())
    for change in (
        {"hand_overs": []},
        {"hand_overs": [{**stored["hand_overs"][0], "label": "audit.signing.v9"}]},
        {"hand_overs": [{**stored["hand_overs"][0], "signature": stored["signature"]["signature"]}]},
        {"hand_overs": [{**stored["hand_overs"][0], "former": "?"}]},
    ):
        path.write_text(json.dumps({**stored, **change}))
        with pytest.raises(ConfigurationError, match="not signed by the trusted key"):
            server_view(bench).poll()
        outcome = bench.run("verify", ceremony, "--public-key", "audit.pem")
        assert outcome.code == 5
        assert "signed by another key" in outcome.out


def test_a_manifest_of_the_former_key_is_refused_once_the_next_was_seen(bench: CeremonyBench, ceremony: Path) -> None:
    """Also with a higher number: as when the former key was stolen after its rotation."""
    from hsm_msl.backend.manifest_memory import ManifestMemory

    path = bench.work / "records/manifest.json"
    memory = ManifestMemory(bench.work / "manifest.seen")
    spki = base64.b64decode(bench.entry("audit.signing.v1")["spki"])
    rotate(bench, ceremony)
    assert KeyManifest(path, spki, memory).poll() is not None
    forged = bench.script(
        "import json, sys, base64, msgspec\n"
        "from pathlib import Path\n"
        "from hsm_provision.manifest import read_manifest, write_manifest\n"
        "from hsm_provision.record_signing import token_signer\n"
        "from hsm_provision.cli.console import workspace\n"
        "opened = workspace(Path(sys.argv[1]), None)\n"
        "path = opened.records.manifest_path\n"
        "body = read_manifest(path).body\n"
        "with opened.session() as session:\n"
        "    signer = token_signer(session, 'audit.signing.v1')\n"
        "    write_manifest(path, msgspec.structs.replace(body, sequence=body.sequence + 5), signer)\n",
        ceremony,
    )
    assert forged.code == 0, forged.err
    assert KeyManifest(path, spki).poll() is not None
    with pytest.raises(ConfigurationError, match="signed by another key than number"):
        KeyManifest(path, spki, memory).poll()


def test_a_rotation_that_was_interrupted_leaves_a_log_that_verifies(bench: CeremonyBench, ceremony: Path) -> None:
    assert bench.script(CUT, ceremony).code != 0
    # The first thing that died was the staging; let it pass and die at the promotion.
    staged = bench.run("rotate", ceremony, "audit", "--stage", "--yes")
    assert staged.code == 0, staged.err
    assert bench.script(CUT, ceremony).code == 9
    assert events(bench)[-2:] == [("key hand-over", "audit.signing.v1"), ("checkpoint", "audit.signing.v2")]
    assert signer(bench) == "audit.signing.v1"
    # Something else first: the log is handed back, since the manifest never moved.
    rotate(bench, ceremony, "msl.token")
    assert verified(bench).code == 0
    rotate(bench, ceremony)
    assert signer(bench) == "audit.signing.v2"
    outcome = verified(bench)
    assert outcome.code == 0, outcome.out
    assert outcome.out.count("handed over to the key") == 3


def test_the_last_record_of_every_step_is_signed(bench: CeremonyBench) -> None:
    """Whoever takes lines away from the end of the log is found by the head the signed manifest knows."""
    bench.write("fleet.csv", "identity,encryption,mac\ne," + "01" * 16 + "," + "02" * 32 + "\n")
    extra = '\n[backup]\n[fleet]\ndatabase = "fleet.db"\n'
    ceremony = bench.ceremony(*KEYS, 'profile = "fleet-storage"', extra=extra)
    log = bench.work / "records/audit.jsonl"
    named = ("audit.signing.v1", "--subject", "CN=x", "--out")
    steps = {
        "backup key split": ("backup-key", ceremony, "--needed", "2", "--shares", "2", "--shares-to", "s", "--yes"),
        "apply completed": ("apply", ceremony),
        "backup exported": ("backup", ceremony, "backup.json"),
        "certificate requested": ("csr", ceremony, *named, "csr.pem"),
        "certificate made": ("certificate", ceremony, *named, "certificate.pem"),
        "fleet imported": ("import-fleet", ceremony, "fleet.csv"),
        "fleet wrapped anew": ("rewrap-fleet", ceremony),
    }
    for event, step in steps.items():
        outcome = bench.run(*step)
        assert outcome.code == 0, outcome.err
        told = [json.loads(line) for line in log.read_text().splitlines()]
        assert [record["event"] for record in told[-2:]] == [event, "checkpoint"]
        assert bench.manifest()["audit"] == {name: told[-1][name] for name in ("sequence", "hash")}
    assert bench.run("public-key", ceremony, "audit.signing.v1", "--out", "audit.pem").code == 0
    assert verified(bench).code == 0
    before = bench.manifest()
    assert bench.run("apply", ceremony).code == 0
    assert bench.manifest() == before  # nothing happened, so nothing is signed anew
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-2]))
    assert verified(bench).code == 5


def test_what_was_recorded_without_the_token_is_signed_by_the_next_step(bench: CeremonyBench, ceremony: Path) -> None:
    rotate(bench, ceremony, "msl.token")
    assert bench.run("retire", ceremony, "msl.token.mac.v1", "--without-evidence", "--yes").code == 0
    assert bench.run("destroy", ceremony, "msl.token.mac.v1").code == 6
    told = (bench.work / "records/audit.jsonl").read_text().splitlines()
    assert json.loads(told[-1])["event"] == "destruction requested"
    assert bench.run("apply", ceremony).code == 0
    assert bench.manifest()["audit"]["sequence"] == len(told) + 1
