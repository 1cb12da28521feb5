"""Verify, inventory, rotate, retire and destroy on a real token (provisioning field notes, features 6, 7, 15, 23)."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import re
from pathlib import Path

import pytest

from ceremony_fixture import CeremonyBench

TOKEN_KEYS = (
    'profile = "msl-token-encryption"',
    'profile = "msl-token-mac"',
    'profile = "msl-token-wrap"',
)


def states(bench: CeremonyBench) -> dict[str, str]:
    return {key["label"]: key["state"] for key in bench.manifest()["keys"] if key["label"].startswith("msl")}


def test_verify_accepts_what_apply_made(bench: CeremonyBench) -> None:
    ceremony = bench.ceremony(*TOKEN_KEYS, 'profile = "rsa-identity"')
    bench.apply(ceremony)
    outcome = bench.run("verify", ceremony)
    assert outcome.code == 0, outcome.out
    assert "the token is as the manifest says" in outcome.out


def test_long_work_says_how_far_it_is(bench: CeremonyBench) -> None:
    ceremony = bench.ceremony(*(f'profile = "service-token-mac"\npurpose = "service.s{n}"' for n in range(24)))
    bench.apply(ceremony)
    outcome = bench.run("verify", ceremony, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.err == "  20 of 25 keys tried\n"


@pytest.mark.parametrize(
    ("tampering", "complaint"),
    [
        ("key('msl.token.mac.v1').destroy()", "secret object is missing"),
        (
            "session.generate_key(T.AES, 128, store=True, label='stranger', mechanism=M.AES_KEY_GEN,"
            " template={A.EXTRACTABLE: True})",
            "unknown secret object 'stranger' (aes 128) (EXTRACTABLE, MODIFIABLE, WRAPS AND DECRYPTS)",
        ),
        ("key('identity.rsa.v1', C.PUBLIC_KEY).destroy()", "public object is missing"),
        (
            "session.generate_key(T.AES, 128, store=True, label='msl.token.encryption.v1', mechanism=M.AES_KEY_GEN)",
            "2 secret objects carry this label",
        ),
    ],
)
def test_verify_names_drift(bench: CeremonyBench, tampering: str, complaint: str) -> None:
    ceremony = bench.ceremony(*TOKEN_KEYS, 'profile = "rsa-identity"')
    bench.apply(ceremony)
    bench.python(tampering)
    outcome = bench.run("verify", ceremony)
    assert outcome.code == 5
    assert complaint in outcome.out
    assert json.loads(bench.run("verify", ceremony, "--json").out)["sound"] is False


def test_verify_refuses_a_manifest_signed_by_another_key(bench: CeremonyBench) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    ceremony = bench.ceremony(*TOKEN_KEYS)
    bench.apply(ceremony)
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = other.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    bench.write("other.pem", pem.decode())
    outcome = bench.run("verify", ceremony, "--public-key", "other.pem")
    assert outcome.code == 5
    assert "signed by another key" in outcome.out


def test_inventory_needs_no_token_and_warns_by_exit_code(bench: CeremonyBench) -> None:
    ceremony = bench.ceremony(*TOKEN_KEYS)
    bench.apply(ceremony)
    for path in (bench.work / "pins").iterdir():
        path.unlink()
    fine = bench.run("inventory", ceremony, "--json")
    assert (fine.code, fine.err) == (0, "")
    rows = {row["label"]: row for row in fine.json["keys"]}
    assert rows["msl.token.mac.v1"]["days_left"] in (729, 730)
    assert len(rows["msl.token.mac.v1"]["words"].split()) == 4
    assert len(rows["audit.signing.v1"]["words"].split()) == 6
    soon = bench.run("inventory", ceremony, "--within", "800")
    assert soon.code == 10
    assert soon.out.count("EXPIRES SOON") == 3


def test_rotation_keeps_the_old_versions_and_moves_a_purpose_in_one_step(bench: CeremonyBench) -> None:
    ceremony = bench.ceremony(*TOKEN_KEYS)
    bench.apply(ceremony)
    before = bench.manifest()["sequence"]
    outcome = bench.run("rotate", ceremony, "msl.token", "--yes")
    assert outcome.code == 0, outcome.err
    roles = ("encryption", "mac", "wrap")
    assert states(bench) == {
        **{f"msl.token.{role}.v1": "active" for role in roles},
        **{f"msl.token.{role}.v2": "primary" for role in roles},
    }
    assert bench.manifest()["sequence"] == before + 4  # three keys made, then one promotion of all three
    assert bench.run("verify", ceremony).code == 0
    assert "nothing to do" in bench.apply(ceremony).out


def test_staged_versions_open_first_and_become_primary_later(bench: CeremonyBench) -> None:
    ceremony = bench.ceremony(*TOKEN_KEYS)
    bench.apply(ceremony)
    for _ in range(2):  # staging twice is staging once
        assert bench.run("rotate", ceremony, "msl.token", "--stage", "--yes").code == 0
    assert {label: state for label, state in states(bench).items() if label.endswith("v2")} == {
        f"msl.token.{role}.v2": "pre-active" for role in ("encryption", "mac", "wrap")
    }
    assert "msl.token.mac.v3" not in states(bench)
    assert bench.run("promote", ceremony, "msl.token", "--yes").code == 0
    assert states(bench)["msl.token.mac.v2"] == "primary"
    assert "nothing to do" in bench.run("promote", ceremony, "msl.token", "--yes").out


CUT = """
import sys
from hsm_provision.cli.main import run
from hsm_provision.records import Records
store = Records.store
def cut(self, session, body, changed, signing_key):
    if any(entry.label == "msl.token.wrap.v2" for entry in changed):
        raise KeyboardInterrupt
    return store(self, session, body, changed, signing_key)
Records.store = cut
sys.exit(run(["rotate", sys.argv[1], "msl.token", "--yes"]))
"""


def test_rotation_continues_after_an_interruption(bench: CeremonyBench) -> None:
    """Cut between the creation of a key and its record: the orphan is proved and taken over."""
    ceremony = bench.ceremony(*TOKEN_KEYS)
    bench.apply(ceremony)
    cut = bench.script(CUT, ceremony)
    assert cut.code == 130
    assert "run the same command again" in cut.err
    assert states(bench)["msl.token.mac.v1"] == "primary"
    outcome = bench.run("rotate", ceremony, "msl.token", "--yes")
    assert outcome.code == 0, outcome.err
    assert "adopt msl.token.wrap.v2" in outcome.err
    assert states(bench)["msl.token.wrap.v2"] == "primary"


def test_a_manifest_without_its_signature_is_refused(bench: CeremonyBench) -> None:
    ceremony = bench.ceremony(*TOKEN_KEYS)
    bench.apply(ceremony)
    path = bench.work / "records/manifest.json"
    stripped = json.loads(path.read_text())
    stripped["signature"] = None
    path.write_text(json.dumps(stripped))
    outcome = bench.run("rotate", ceremony, "msl.token", "--yes")
    assert outcome.code == 2
    assert "not signed by audit.signing.v1" in outcome.err


@pytest.mark.parametrize("signature", [None, "of a key the ceremony does not name"])
def test_verify_report_and_certificates_believe_no_manifest_the_signing_key_did_not_sign(
    bench: CeremonyBench, signature: str | None
) -> None:
    """Whoever may write the records could describe keys of their own, and take the signature away."""
    ceremony = bench.ceremony(*TOKEN_KEYS, 'profile = "audit-signing"\npurpose = "other"')
    bench.apply(ceremony)
    path = bench.work / "records/manifest.json"
    forged = json.loads(path.read_text())
    forged["signature"] = None if signature is None else {**forged["signature"], "key": "other.signing.v1"}
    path.write_text(json.dumps(forged))
    verdict = bench.run("verify", ceremony)
    assert (verdict.code, "THE TOKEN DIFFERS" in verdict.out) == (5, True)
    assert bench.run("report", ceremony, "--out", "report.html").code == 5
    assert "NOT VERIFIED" in (bench.work / "report.html").read_text()
    asked = ("--subject", "CN=other", "--out", "other.pem")
    given = bench.run("public-key", ceremony, "other.signing.v1", "--out", "key.pem")
    assert (given.code, (bench.work / "key.pem").exists()) == (5, False)
    listed = bench.run("inventory", ceremony)
    assert (listed.code, "hsm-provision: warning: " in listed.err) == (0, True)
    assert bench.run("certificate", ceremony, "other.signing.v1", *asked).code == 2
    assert bench.run("csr", ceremony, "other.signing.v1", *asked).code == 2


def test_nobody_is_asked_without_a_terminal(bench: CeremonyBench) -> None:
    ceremony = bench.ceremony(*TOKEN_KEYS)
    bench.apply(ceremony)
    outcome = bench.run("rotate", ceremony, "msl.token")
    assert outcome.code == 6
    assert "--yes" in outcome.err
    assert set(states(bench).values()) == {"primary"}


def usage(bench: CeremonyBench, label: str, last: datetime.datetime, written: datetime.datetime) -> None:
    stamp = "%Y-%m-%dT%H:%M:%SZ"
    bench.write(
        "records/usage/server-1.json",
        json.dumps(
            {
                "server": "server-1",
                "since": "2020-01-01T00:00:00Z",
                "written": written.strftime(stamp),
                "keys": {label: {"operations": 7, "last": last.strftime(stamp)}},
            }
        ),
    )


def test_retire_is_refused_while_in_use_and_without_evidence(bench: CeremonyBench) -> None:
    """Acceptance: rotate under load ... retire refused while counters show use."""
    ceremony = bench.ceremony(*TOKEN_KEYS)
    bench.apply(ceremony)
    label = "msl.token.mac.v1"
    primary = bench.run("retire", ceremony, label, "--yes")
    assert primary.code == 6
    assert "is primary" in primary.err
    bench.run("rotate", ceremony, "msl.token", "--yes")
    silent = bench.run("retire", ceremony, label, "--yes")
    assert silent.code == 6
    assert "no server has reported" in silent.err
    now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=5)
    usage(bench, label, last=now, written=now)
    listed = bench.run("inventory", ceremony, "--json").json["keys"]
    (row,) = (row for row in listed if row["label"] == label)
    assert (row["operations"], row["last_used"]) == (7, now.strftime("%Y-%m-%dT%H:%M:%SZ"))
    busy = bench.run("retire", ceremony, label, "--yes")
    assert busy.code == 6
    assert "server-1 used it 7 time(s)" in busy.err
    usage(bench, label, last=now - datetime.timedelta(days=30), written=now)
    idle = bench.run("retire", ceremony, label, "--yes")
    assert idle.code == 0, idle.err
    assert states(bench)[label] == "retired"


def approver(bench: CeremonyBench, name: str) -> str:
    bench.write(f"{name}.pass", f"passphrase of {name}\n")
    outcome = bench.run("approver-key", f"{name}.pem", "--passphrase", f"file:{bench.work / name}.pass")
    assert outcome.code == 0, outcome.err
    assert (bench.work / f"{name}.pem").stat().st_mode & 0o077 == 0
    return outcome.out


def approve(bench: CeremonyBench, ceremony: Path, digest: str, name: str) -> int:
    return bench.run(
        "approve", ceremony, digest, "--key", f"{name}.pem", "--passphrase", f"file:{bench.work / name}.pass"
    ).code


def test_destruction_needs_retirement_and_two_different_people(bench: CeremonyBench) -> None:
    """Section 5 feature 15: dual control for destructive steps."""
    people = "".join(approver(bench, name) for name in ("alice", "bob"))
    stranger = approver(bench, "mallory")
    assert "public_key" in stranger
    ceremony = bench.ceremony(*TOKEN_KEYS, extra="\n" + people)
    bench.apply(ceremony)
    label = "msl.token.wrap.v1"
    assert bench.run("destroy", ceremony, label).code == 6  # primary
    bench.run("rotate", ceremony, "msl.token", "--yes")
    assert bench.run("destroy", ceremony, label).code == 6  # active
    assert bench.run("retire", ceremony, label, "--without-evidence", "--yes").code == 0
    asked = bench.run("destroy", ceremony, label, "--reason", "end of life")
    assert asked.code == 6
    digest = asked.out.split()[-1]

    def destroy() -> int:
        return bench.run("destroy", ceremony, label, "--request", digest, "--yes").code

    assert destroy() == 6
    assert approve(bench, ceremony, digest, "mallory") == 6
    assert approve(bench, ceremony, digest, "alice") == 0
    assert approve(bench, ceremony, digest, "alice") == 0  # twice is still one person
    assert destroy() == 6
    assert approve(bench, ceremony, digest, "bob") == 0
    other = bench.run("destroy", ceremony, "msl.token.mac.v1", "--request", digest, "--yes")
    assert other.code == 6
    assert destroy() == 0
    assert states(bench)[label] == "destroyed"
    assert len(list((bench.work / "records/token-copies").iterdir())) == 1  # the former ones hold the key
    assert bench.python(f"result = len(list(session.get_objects({{A.LABEL: {label!r}}})))") == 0
    assert bench.run("verify", ceremony).code == 0
    outcome = bench.run("apply", ceremony)
    assert outcome.code == 3
    assert "was destroyed" in outcome.err


def test_a_forged_approval_does_not_count(bench: CeremonyBench) -> None:
    people = "".join(approver(bench, name) for name in ("alice", "bob"))
    ceremony = bench.ceremony(*TOKEN_KEYS, extra="\n" + people)
    bench.apply(ceremony)
    bench.run("rotate", ceremony, "msl.token", "--yes")
    bench.run("retire", ceremony, "msl.token.mac.v1", "--without-evidence", "--yes")
    digest = bench.run("destroy", ceremony, "msl.token.mac.v1").out.split()[-1]
    assert approve(bench, ceremony, digest, "alice") == 0
    path = bench.work / "records/approvals" / f"{digest}.json"
    approvals = json.loads(path.read_text())
    approvals.append({**approvals[0], "approver": "bob"})
    path.write_text(json.dumps(approvals))
    outcome = bench.run("destroy", ceremony, "msl.token.mac.v1", "--request", digest, "--yes")
    assert outcome.code == 6
    assert "approved so far by alice" in outcome.err


def audit_details(bench: CeremonyBench, event: str) -> list[dict[str, str]]:
    lines = (bench.work / "records/audit.jsonl").read_text().splitlines()
    return [record["details"] for record in map(json.loads, lines) if record["event"] == event]


def test_a_copy_of_the_ceremony_with_keys_of_ones_own_approves_nothing(bench: CeremonyBench) -> None:
    """One person makes keys named as the approvers are; only those the last apply recorded count."""
    people = "".join(approver(bench, name) for name in ("alice", "bob"))
    ceremony = bench.ceremony(*TOKEN_KEYS, extra="\n" + people)
    bench.apply(ceremony)
    label = "msl.token.wrap.v1"
    bench.run("rotate", ceremony, "msl.token", "--yes")
    bench.run("retire", ceremony, label, "--without-evidence", "--yes")
    digest = bench.run("destroy", ceremony, label).out.split()[-1]
    forged = "".join(approver(bench, f"own/{name}").replace("own/", "") for name in ("alice", "bob"))
    copy = bench.ceremony(*TOKEN_KEYS, extra="\n" + forged, name="copy.toml")
    assert [approve(bench, copy, digest, f"own/{name}") for name in ("alice", "bob")] == [0, 0]
    outcome = bench.run("destroy", copy, label, "--request", digest, "--yes")
    assert (outcome.code, "names other approvers" in outcome.err) == (6, True)
    assert bench.run("destroy", ceremony, label, "--request", digest, "--yes").code == 6
    assert states(bench)[label] == "retired"
    assert [approve(bench, ceremony, digest, name) for name in ("alice", "bob")] == [0, 0]
    assert bench.run("destroy", ceremony, label, "--request", digest, "--yes").code == 0
    keys = re.findall('public_key = "(.+)"', people)
    prints = [hashlib.sha256(base64.b64decode(key)).hexdigest() for key in keys]
    (gone,) = audit_details(bench, "key destroyed")
    assert gone["approved by"] == f"alice (key {prints[0]}); bob (key {prints[1]})"
    assert gone["ceremony sha256"] == hashlib.sha256(ceremony.read_bytes()).hexdigest()
    assert {one["approver key"] for one in audit_details(bench, "step approved")} >= set(prints)


def test_other_approvers_come_in_with_the_approvals_of_the_former_ones(bench: CeremonyBench) -> None:
    policy = "\n[policy]\napply_approvals = {}\n"
    people = "".join(approver(bench, name) for name in ("alice", "bob"))
    ceremony = bench.ceremony(*TOKEN_KEYS, extra=policy.format(2) + people)
    digest = bench.run("plan", ceremony, "--json").json["hash"]
    assert [approve(bench, ceremony, digest, name) for name in ("alice", "bob")] == [0, 0]
    assert bench.run("apply", ceremony, "--plan-hash", digest).code == 0
    others = "".join(approver(bench, name) for name in ("carol", "dave"))
    changed = bench.ceremony(*TOKEN_KEYS, extra=policy.format(0) + others, name="changed.toml")
    planned = bench.run("plan", changed)
    assert "approvers from then on: carol (key " in planned.out
    digest = planned.out.split()[-1]
    assert bench.run("apply", changed).code == 2  # without the hash there is nothing to have approved
    assert [approve(bench, changed, digest, name) for name in ("carol", "dave")] == [0, 0]
    before = bench.manifest()
    refused = bench.run("apply", changed, "--plan-hash", digest)
    assert (refused.code, bench.manifest()) == (6, before)
    assert [approve(bench, changed, digest, name) for name in ("alice", "bob")] == [0, 0]
    outcome = bench.run("apply", changed, "--plan-hash", digest)
    assert outcome.code == 0, outcome.err
    assert [one["name"] for one in bench.manifest()["authority"]["approvers"]] == ["carol", "dave"]
    assert audit_details(bench, "approvers changed")[-1]["before"].startswith("alice (key ")
    assert "alice (key " in audit_details(bench, "apply started")[-1]["approved by"]
    assert "nothing to do" in bench.run("apply", changed).out


def test_production_apply_waits_for_its_approvals(bench: CeremonyBench) -> None:
    people = "".join(approver(bench, name) for name in ("alice", "bob"))
    bench.write("pins/so.pin", "87654321\n")
    bench.write("pins/user.pin", "12345678\n")
    ceremony = bench.ceremony(
        *TOKEN_KEYS, environment="production", extra=f"\n[policy]\napply_approvals = 2\n{people}"
    )
    digest = bench.run("plan", ceremony, "--json").json["hash"]
    assert bench.run("apply", ceremony, "--plan-hash", digest).code == 6
    for name in ("alice", "bob"):
        assert approve(bench, ceremony, digest, name) == 0
    outcome = bench.run("apply", ceremony, "--plan-hash", digest)
    assert outcome.code == 0, outcome.err


def test_half_a_pair_that_a_killed_rotation_left_is_made_anew(bench: CeremonyBench) -> None:
    """A token makes a pair as two objects; killed in between, the next run must not stand before it for ever."""
    ceremony = bench.ceremony('profile = "ec-identity"')
    bench.apply(ceremony)
    manifest = bench.work / "records/manifest.json"
    before = manifest.read_bytes()
    assert bench.run("rotate", ceremony, "identity", "--stage", "--yes").code == 0
    # As the kill leaves it: the key is begun in the log, the private object and the manifest's entry are not there.
    manifest.write_bytes(before)
    bench.python("key('identity.ec.v2', C.PRIVATE_KEY).destroy()")
    outcome = bench.run("rotate", ceremony, "identity", "--stage", "--yes")
    assert outcome.code == 0, outcome.err
    assert "generate identity.ec.v2" in outcome.err
    assert bench.run("verify", ceremony).code == 0
