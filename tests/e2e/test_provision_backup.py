"""Backup and restore with threshold shares on two real tokens (provisioning field notes, features 13 to 15)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ceremony_fixture import CeremonyBench

BACKED_UP = (
    'profile = "msl-token-encryption"\nbackup = true',
    'profile = "msl-token-mac"\nbackup = true',
    'profile = "msl-token-wrap"\nbackup = true',
    'profile = "rsa-identity"\nbackup = true',
    'profile = "ec-identity"\nbackup = true',
    'profile = "rsa-key-exchange"\nbackup = true',
    'profile = "dialog-kek"\npurpose = "dialog.a"\nbits = 2048\nbackup = true',
    'profile = "dialog-kek-ec"\npurpose = "dialog.b"\nbackup = true',
)
PSK = '\n[[preshared]]\nidentity = "e"\nencryption = "kpe.hex"\nmac = "kph.hex"\nbackup = true\n[backup]\n'


def with_backup_key(bench: CeremonyBench, *keys: str, people: str = "") -> Path:
    bench.write("kpe.hex", "01" * 16)
    bench.write("kph.hex", "02" * 32)
    ceremony = bench.ceremony(*keys, extra=PSK + people)
    outcome = bench.run("backup-key", ceremony, "--needed", "2", "--shares", "3", "--shares-to", "shares", "--yes")
    assert outcome.code == 0, outcome.err
    return ceremony


def share(bench: CeremonyBench, number: int) -> Path:
    return bench.work / f"shares/backup.wrap.v1.share-{number}-of-3.txt"


def test_a_key_is_not_made_before_it_can_be_backed_up(bench: CeremonyBench) -> None:
    bench.apply(bench.ceremony())
    outcome = bench.run("apply", bench.ceremony(BACKED_UP[0], extra="\n[backup]\n"))
    assert outcome.code == 3
    assert "run `backup-key` first" in outcome.err


def test_backed_up_keys_are_never_extractable_in_the_token(bench: CeremonyBench) -> None:
    ceremony = with_backup_key(bench, *BACKED_UP)
    bench.apply(ceremony)
    weak = bench.python(
        "found = list(session.get_objects({A.TOKEN: True}))\n"
        "result = [o[A.LABEL] for o in found if o[A.CLASS] != C.PUBLIC_KEY and (o[A.EXTRACTABLE] or"
        " not o[A.SENSITIVE] or o[A.MODIFIABLE] or o[A.COPYABLE])]"
    )
    assert weak == []
    assert bench.entry("msl.token.mac.v1")["provenance"] == "escrowed"
    assert bench.entry("psk.e.wrap.v1")["provenance"] == "imported"
    assert bench.entry("psk.e.wrap.v1")["backup"]
    assert bench.run("verify", ceremony).code == 0
    assert "nothing to do" in bench.apply(ceremony).out


def test_a_lost_token_comes_back_on_another_one(
    bench: CeremonyBench, new_bench: Callable[[str], CeremonyBench]
) -> None:
    """Acceptance: restore on a second token: check values equal, provenance "restored", old data opens."""
    ceremony = with_backup_key(bench, *BACKED_UP)
    bench.apply(ceremony)
    assert bench.run("rotate", ceremony, "msl.token", "--yes").code == 0
    sealed = bench.python(
        "result = key('msl.token.encryption.v1').encrypt(b'sixteen bytes ok', mechanism=M.AES_ECB).hex()"
    )
    evidence = str(bench.write("evidence", "about the device that will be lost"))
    assert bench.run("attest", ceremony, "msl.token.mac.v2", evidence).code == 0
    exported = bench.run("backup", ceremony, "backup.json")
    assert exported.code == 0, exported.err
    assert "not in the backup: audit.signing.v1, backup.wrap.v1" in exported.out
    before = {key["label"]: key for key in bench.manifest()["keys"]}

    second = new_bench("second")
    second.label = "second token"
    files = [second.write(path.name, path.read_text()) for path in (share(bench, 1), share(bench, 3))]
    backup = second.write("backup.json", (bench.work / "backup.json").read_text())
    second.write("kpe.hex", "01" * 16)
    second.write("kph.hex", "02" * 32)
    again = second.ceremony(*BACKED_UP, extra=PSK)
    arguments = ["restore", again, backup, "--share", files[0], "--share", files[1], "--yes"]
    restored = second.run(*arguments)
    assert restored.code == 0, restored.err
    after = {key["label"]: key for key in second.manifest()["keys"]}
    for label, entry in before.items():
        if entry["backup"] is not None:
            assert after[label]["check"] == entry["check"], label
            assert after[label]["state"] == entry["state"], label
            assert after[label]["provenance"] == "restored", label
    assert after["msl.token.mac.v2"]["state"] == "primary"
    assert "attestation" in before["msl.token.mac.v2"]
    assert "attestation" not in after["msl.token.mac.v2"]
    opened = second.python(
        f"result = key('msl.token.encryption.v1').decrypt(bytes.fromhex({sealed!r}), mechanism=M.AES_ECB).decode()"
    )
    assert opened == "sixteen bytes ok"
    assert second.run("verify", again).code == 0
    assert "nothing to do" in second.run(*arguments).out
    assert "nothing to do" in second.apply(again).out


@pytest.mark.parametrize(
    ("numbers", "spoil", "complaint", "code"),
    [
        ([1], None, "shares do not fit", 2),
        ([1, 1], None, "shares do not fit", 2),
        ([1, 2], "academic", "share-2-of-3.txt: the words are no share: one is mistyped", 2),
        ([1, 2], "zzzz", "share-2-of-3.txt: 'zzzz' is no word of a share", 2),
    ],
)
def test_too_few_or_wrong_shares_give_nothing_back(
    bench: CeremonyBench, numbers: list[int], spoil: str | None, complaint: str, code: int
) -> None:
    ceremony = with_backup_key(bench, BACKED_UP[0])
    bench.apply(ceremony)
    bench.run("backup", ceremony, "backup.json")
    if spoil is not None:
        text = share(bench, 2).read_text().rstrip("\n")
        share(bench, 2).write_text(text.rsplit(" ", 1)[0] + f" {spoil}\n")
    options = [text for number in numbers for text in ("--share", str(share(bench, number)))]
    outcome = bench.run("restore", ceremony, "backup.json", *options, "--yes")
    assert outcome.code == code
    assert complaint in outcome.err


def test_bad_numbers_and_bad_shares_touch_no_token(
    bench: CeremonyBench, new_bench: Callable[[str], CeremonyBench]
) -> None:
    """A replacement token is not initialised for a restore that cannot succeed, nor one for shares that cannot be."""
    bare = bench.ceremony(*BACKED_UP, extra="\n[backup]\n")
    numbers = bench.run("backup-key", bare, "--needed", "3", "--shares", "2", "--shares-to", "shares", "--yes")
    assert numbers.code == 2
    assert "3 of 2 shares" in numbers.err
    assert not list((bench.directory / "tokens").iterdir())
    bench.write("shares/backup.wrap.v1.share-2-of-3.txt", "of another run")
    taken = bench.run("backup-key", bare, "--needed", "2", "--shares", "3", "--shares-to", "shares", "--yes")
    assert taken.code == 2
    assert "exists already" in taken.err
    assert [path.name for path in (bench.work / "shares").iterdir()] == ["backup.wrap.v1.share-2-of-3.txt"]
    (bench.work / "shares/backup.wrap.v1.share-2-of-3.txt").unlink()
    ceremony = with_backup_key(bench, BACKED_UP[0])
    bench.apply(ceremony)
    bench.run("backup", ceremony, "backup.json")
    second = new_bench("second")
    second.label = "second"
    target = second.ceremony(BACKED_UP[0], extra="\n[backup]\n")
    for given, code in (([share(bench, 1)], 2), ([share(bench, 1), bench.work / "none"], 2)):
        options = [text for path in given for text in ("--share", str(path))]
        outcome = second.run("restore", target, bench.work / "backup.json", *options, "--yes")
        assert outcome.code == code, outcome.err
        assert len(outcome.err.splitlines()) == 1
    assert not list((second.directory / "tokens").iterdir())


def test_shares_of_another_backup_key_are_refused(
    bench: CeremonyBench, new_bench: Callable[[str], CeremonyBench]
) -> None:
    ceremony = with_backup_key(bench, BACKED_UP[0])
    bench.apply(ceremony)
    bench.run("backup", ceremony, "backup.json")
    other = new_bench("other")
    with_backup_key(other)
    options = [text for number in (1, 2) for text in ("--share", str(share(other, number)))]
    outcome = bench.run("restore", ceremony, "backup.json", *options, "--yes")
    assert outcome.code == 5
    assert "check value" in outcome.err


def test_a_changed_backup_is_refused(bench: CeremonyBench) -> None:
    ceremony = with_backup_key(bench, BACKED_UP[0])
    bench.apply(ceremony)
    bench.run("backup", ceremony, "backup.json")
    path = bench.work / "backup.json"
    backup = json.loads(path.read_text())
    backup["bundles"][0]["profile"] = "psk-encryption"
    path.write_text(json.dumps(backup))
    options = ["--share", str(share(bench, 1)), "--share", str(share(bench, 2)), "--yes"]
    outcome = bench.run("restore", ceremony, "backup.json", *options)
    assert outcome.code == 5
    assert "signature does not fit" in outcome.err


def test_a_backup_nobody_vouches_for_is_said_to_be_one_and_refused_in_production(bench: CeremonyBench) -> None:
    ceremony = with_backup_key(bench, BACKED_UP[0])
    bench.apply(ceremony)
    bench.run("backup", ceremony, "backup.json")
    options = ["--share", str(share(bench, 1)), "--share", str(share(bench, 2)), "--yes"]
    restored = bench.run("restore", ceremony, "backup.json", *options)
    assert (restored.code, "without --public-key that proves nothing" in restored.err) == (0, True)
    path = bench.work / "backup.json"
    backup = json.loads(path.read_text())
    backup["signature"] = backup["spki"] = None
    path.write_text(json.dumps(backup))
    unsigned = bench.run("restore", ceremony, "backup.json", *options)
    assert (unsigned.code, "it is not signed" in unsigned.err) == (0, True)
    for name, value in (("label", "msl.token.other.v1"), ("created", "2020-01-01T00:00:00Z")):
        edited = json.loads(path.read_text())
        edited["bundles"][0][name] = value
        bench.write("edited.json", json.dumps(edited))
        refused = bench.run("restore", ceremony, "edited.json", *options)
        assert (refused.code, "its manifest does not name" in refused.err) == (5, True)
    text = (
        ceremony.read_text().replace('"development"', '"production"').replace("create_missing_pin_files = true", "")
    )
    production = bench.run("restore", bench.write("production.toml", text), "backup.json", *options)
    assert (production.code, "--public-key" in production.err) == (2, True)


def test_an_unsigned_backup_is_told_when_it_is_made(bench: CeremonyBench) -> None:
    ceremony = bench.ceremony(BACKED_UP[0], extra="\n[backup]\n", signing=False)
    made = bench.run("backup-key", ceremony, "--needed", "2", "--shares", "2", "--shares-to", "shares", "--yes")
    assert made.code == 0, made.err
    bench.apply(ceremony)
    assert "warning: the backup is not signed" in bench.run("backup", ceremony, "backup.json").err


def test_a_bundle_that_does_not_open_stops_the_export(bench: CeremonyBench) -> None:
    ceremony = with_backup_key(bench, BACKED_UP[0], BACKED_UP[1])
    bench.apply(ceremony)
    bench.python(
        "old = key('backup.wrap.v1')\ni = old[A.ID]\nold.destroy()\n"
        "session.create_object({A.CLASS: C.SECRET_KEY, A.KEY_TYPE: T.AES, A.VALUE: bytes(32), A.TOKEN: True,"
        " A.PRIVATE: True, A.LABEL: 'backup.wrap.v1', A.ID: i, A.WRAP: True, A.UNWRAP: True})"
    )
    outcome = bench.run("backup", ceremony, "backup.json")
    assert outcome.code == 5
    assert "does not open under backup.wrap.v1" in outcome.err
    assert not (bench.work / "backup.json").exists()


def test_nothing_below_the_threshold_is_written_anywhere(bench: CeremonyBench) -> None:
    """The shares are the only place from which the backup key can be computed."""
    ceremony = with_backup_key(bench, BACKED_UP[0])
    bench.apply(ceremony)
    words = [share(bench, number).read_text().splitlines()[-1] for number in (1, 2, 3)]
    for path in (bench.work / "records").rglob("*"):
        assert path.is_dir() or not any(line.encode() in path.read_bytes() for line in words)
    from hsm_provision.shares import combine

    secret = combine(words[:2])
    assert secret == combine(words[1:])
    for path in bench.directory.rglob("*"):
        assert path.is_dir() or (secret not in path.read_bytes() and secret.hex().encode() not in path.read_bytes())


def test_keys_that_the_records_know_nothing_of_are_never_destroyed(bench: CeremonyBench) -> None:
    """A wrong -C gives a command the records of nobody; what is on the token then stays what it is."""
    ceremony = with_backup_key(bench, *BACKED_UP[:2])
    bench.apply(ceremony)
    assert bench.run("backup", ceremony, "backup.json").code == 0
    label = "msl.token.mac.v1"  # another key under this label, as another deployment's token has it
    bench.python(
        f"old = key({label!r})\n"
        "given = {a: old[a] for a in (A.ID, A.SENSITIVE, A.EXTRACTABLE, A.SIGN, A.VERIFY)}\n"
        "old.destroy()\n"
        "session.create_object({A.CLASS: C.SECRET_KEY, A.KEY_TYPE: T.GENERIC_SECRET, A.TOKEN: True,"
        f" A.VALUE: b'x' * 32, A.LABEL: {label!r}, **given}})"
    )
    count = "result = sorted((o[A.LABEL], o.handle) for o in session.get_objects({A.TOKEN: True}))"
    value = "result = key('msl.token.mac.v1').sign(b'', mechanism=M.SHA256_HMAC).hex()"
    before = bench.python(value), len(bench.python(count))
    (bench.work / "records").rename(bench.work / "elsewhere")
    outcome = bench.run(
        "restore", ceremony, "backup.json", "--share", share(bench, 1), "--share", share(bench, 3), "--yes"
    )
    assert outcome.code == 3
    assert "msl.token.mac.v1" in outcome.err
    again = bench.run("backup-key", ceremony, "--needed", "2", "--shares", "3", "--shares-to", "shares2", "--yes")
    assert again.code == 3
    assert not (bench.work / "shares2").exists()
    assert (bench.python(value), len(bench.python(count))) == before


def test_what_is_destroyed_leaves_no_wrapped_form_in_the_records(bench: CeremonyBench) -> None:
    people = ""
    for name in ("alice", "bob"):
        bench.write(f"{name}.pass", f"passphrase of {name}\n")
        people += bench.run("approver-key", f"{name}.pem", "--passphrase", f"file:{bench.work}/{name}.pass").out
    ceremony = with_backup_key(bench, BACKED_UP[1], people=people)
    bench.apply(ceremony)
    assert bench.run("rotate", ceremony, "msl.token", "--yes").code == 0
    label = "msl.token.mac.v1"
    assert bench.run("retire", ceremony, label, "--without-evidence", "--yes").code == 0
    digest = bench.entry(label)["backup"]
    kept = {path.stem for path in (bench.work / "records/backups").iterdir()}
    request = bench.run("destroy", ceremony, label).out.split()[-1]
    for name in ("alice", "bob"):
        unlock = ("--key", f"{name}.pem", "--passphrase", f"file:{bench.work}/{name}.pass")
        assert bench.run("approve", ceremony, request, *unlock).code == 0
    gone = bench.run("destroy", ceremony, label, "--request", request, "--yes")
    assert gone.code == 0, gone.err
    assert "exported while the key existed still holds it" in gone.out
    assert kept - {path.stem for path in (bench.work / "records/backups").iterdir()} == {digest}
    assert f'"backup removed":"{digest}"' in (bench.work / "records/audit.jsonl").read_text()
    assert bench.run("backup", ceremony, "backup.json").code == 0
    assert label not in [one["label"] for one in json.loads((bench.work / "backup.json").read_text())["bundles"]]
    assert bench.run("verify", ceremony).code == 0


def test_the_next_backup_key_has_shares_and_both_are_restored(
    bench: CeremonyBench, new_bench: Callable[[str], CeremonyBench]
) -> None:
    ceremony = with_backup_key(bench, *BACKED_UP[:3])
    bench.apply(ceremony)
    refused = bench.run("rotate", ceremony, "backup", "--yes")
    assert refused.code == 3
    assert "run `backup-key`" in refused.err
    next_extra = PSK.replace("[backup]\n", "[backup]\nversion = 2\n")
    ceremony = bench.ceremony(*BACKED_UP[:3], extra=next_extra)
    made = bench.run("backup-key", ceremony, "--needed", "2", "--shares", "3", "--shares-to", "shares", "--yes")
    assert made.code == 0, made.err
    assert (bench.entry("backup.wrap.v1")["state"], bench.entry("backup.wrap.v2")["state"]) == ("active", "primary")
    assert bench.run("rotate", ceremony, "msl.token", "--yes").code == 0
    assert bench.run("backup", ceremony, "backup.json").code == 0
    bundles = json.loads((bench.work / "backup.json").read_text())["bundles"]
    assert {one["under"] for one in bundles if one["label"].endswith(".v2")} == {"backup.wrap.v2"}
    assert {one["under"] for one in bundles} == {"backup.wrap.v1", "backup.wrap.v2"}
    second = new_bench("second")
    second.label = "second"
    second.write("kpe.hex", "01" * 16)
    second.write("kph.hex", "02" * 32)
    target = second.ceremony(*BACKED_UP[:3], extra=next_extra)
    backup = second.write("backup.json", (bench.work / "backup.json").read_text())
    shares = [["--share", share(bench, n), "--share", str(share(bench, n)).replace("v1", "v2")] for n in (1, 3)]
    one_set = second.run("restore", target, backup, *shares[0][:2], *shares[1][:2], "--yes")
    assert (one_set.code, "backup.wrap.v2" in one_set.err) == (5, True)
    assert not list((second.directory / "tokens").iterdir())
    done = second.run("restore", target, backup, *shares[0], *shares[1], "--yes")
    assert done.code == 0, done.err
    assert second.entry("backup.wrap.v2")["state"] == "primary"
    assert second.run("verify", target).code == 0
