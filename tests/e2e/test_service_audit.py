"""A server's own audit log: what it says, that it is signed, and that no change of it goes unnoticed."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from ceremony_fixture import CeremonyBench, Outcome
from hsm_msl.errors import HsmMslError
from hsm_msl.service.http_client import HttpClient
from service_world import RunningServer, ServiceWorld

KEYS = (
    'profile = "msl-token-encryption"',
    'profile = "msl-token-mac"',
    'profile = "msl-token-wrap"',
    'profile = "rsa-identity"',
    'profile = "service-token-encryption"\npurpose = "service.development"',
    'profile = "service-token-mac"\npurpose = "service.development"',
    'profile = "audit-signing"\npurpose = "server.audit"',
)
PRESHARED = """
[[preshared]]
identity = "development-client"
encryption = "keys/development-client.encryption.hex"
mac = "keys/development-client.mac.hex"
create_missing_files = true
"""
AUDIT = """[audit]
file = "log/audit.jsonl"
signing_key = "server.audit.signing.v1"

[key_manifest]
file = "records/manifest.json"
signed_by = "audit.pem"
every = 1

[users]"""
REPLACE = """
label = "msl.token.mac.v1"
k = key(label)
i = k[A.ID]
k.destroy()
flags = {a: False for a in (A.ENCRYPT, A.DECRYPT, A.WRAP, A.UNWRAP, A.DERIVE)}
session.generate_key(T.GENERIC_SECRET, 256, store=True, label=label, id=i, mechanism=M.GENERIC_SECRET_KEY_GEN,
    template={**flags, A.SIGN: True, A.VERIFY: True, A.PRIVATE: True, A.SENSITIVE: True, A.EXTRACTABLE: False,
              A.COPYABLE: False, A.MODIFIABLE: False})
"""
USER = '[user]\nemail = "user@example.com"\npassword = "file:users/user.password"\n'
WAIT = 120.0


@pytest.fixture
def ceremony(bench: CeremonyBench) -> Path:
    ceremony = bench.ceremony(*KEYS, extra=PRESHARED)
    bench.apply(ceremony)
    for label, file in (("audit.signing.v1", "audit.pem"), ("server.audit.signing.v1", "server-audit.pem")):
        assert bench.run("public-key", ceremony, label, "--out", file).code == 0
    return ceremony


@pytest.fixture
def world(bench: CeremonyBench, ceremony: Path) -> ServiceWorld:
    made = ServiceWorld(ceremony.parent, bench.environment)
    made.server_config("server.toml", ("hsm-msl-development", bench.label), ("[users]", AUDIT))
    made.client_config("client.toml", (USER, ""))
    done = made.run("public-key", ceremony.parent / "server.toml", "--output", ceremony.parent / "server.pem")
    assert done.returncode == 0, done.stderr
    return made


def configure(world: ServiceWorld, *changes: tuple[str, str]) -> Path:
    path = world.directory / "server.toml"
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return path


def eventually(what: Callable[[], bool], server: RunningServer) -> None:
    deadline = time.monotonic() + WAIT
    while not what():
        assert time.monotonic() < deadline, server.log.read_text()
        time.sleep(0.05)


def message(world: ServiceWorld, server: RunningServer) -> None:
    with closing(world.client()) as client, HttpClient(client.msl, server.url) as http:
        assert http.request(client.message(b"x")).payload == b"x"


def ready(server: RunningServer) -> None:
    """Wait until a server serves: one that has not begun to is not asked to stop but killed."""
    with httpx.Client(trust_env=False) as client:
        eventually(lambda: _live(client, server), server)


def stop(server: RunningServer) -> None:
    ready(server)
    server.stop()


def _live(client: httpx.Client, server: RunningServer) -> bool:
    try:
        return client.get(f"{server.url}health/live").status_code == 200
    except httpx.HTTPError:
        return False


def log_of(world: ServiceWorld) -> Path:
    return world.directory / "log/audit.jsonl"


def records(world: ServiceWorld) -> list[tuple[str, dict[str, str]]]:
    """Return event and details of every whole line but checkpoints."""
    path = log_of(world)
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    read = [json.loads(line) for line in lines if line.endswith(b"\n")]
    return [(record["event"], record["details"]) for record in read if record["event"] != "checkpoint"]


def events(world: ServiceWorld) -> list[str]:
    return [event for event, _details in records(world)]


def verify(bench: CeremonyBench, *arguments: str) -> Outcome:
    """With the public key and nothing else: no token, no PIN."""
    return bench.run("audit", "verify", "log/audit.jsonl", "--public-key", "server-audit.pem", *arguments)


def test_the_life_of_a_server_is_written_signed_and_says_nothing_of_messages(
    bench: CeremonyBench, ceremony: Path, world: ServiceWorld
) -> None:
    config = world.directory / "server.toml"
    manifest = bench.work / "records/manifest.json"
    with world.serve(config) as server:
        for _ in range(3):
            message(world, server)
        assert bench.run("rotate", ceremony, "msl.token", "--yes").code == 0
        eventually(lambda: "key versions changed" in events(world), server)
        good = manifest.read_bytes()
        manifest.write_bytes(good.replace(b'"active"', b'"retired"'))
        eventually(lambda: "key manifest refused" in events(world), server)
        time.sleep(2.5)  # two more looks at the same forgery
        message(world, server)
        manifest.write_bytes(good)
        stop(server)
    written = events(world)
    assert (written[0], written[1], written[-1]) == ("server started", "key manifest accepted", "server stopped")
    assert set(written[1:-1]) == {"key manifest accepted", "key versions changed", "key manifest refused"}
    assert written.count("key manifest refused") == 1
    found = dict(records(world))
    started = found["server started"]
    assert started["identity"] == "development-server"
    assert any(name.startswith("token ") and bench.label in text for name, text in started.items())
    assert len(started["sha256"]) == len(started["manifest sha256"]) == 64
    changed = found["key versions changed"]
    assert changed["purpose"] == "msl.token"
    assert changed["primary"] in ("1 -> 2", "1")
    assert "not signed by the trusted key" in found["key manifest refused"]["reason"]
    outcome = verify(bench, "--checkpoint", "log/audit.jsonl.checkpoint")
    assert outcome.code == 0, outcome.out
    assert "0 record(s) after the last checkpoint" in outcome.out
    assert f"audit checkpoint {len(log_of(world).read_bytes().splitlines())}:" in server.log.read_text()


@pytest.fixture
def written(bench: CeremonyBench, world: ServiceWorld) -> list[bytes]:
    """Return the lines of the log of a server that served and stopped, twice."""
    for _ in range(2):
        with world.serve(world.directory / "server.toml") as server:
            stop(server)
    assert verify(bench, "--checkpoint", "log/audit.jsonl.checkpoint").code == 0
    lines = log_of(world).read_bytes().splitlines(keepends=True)
    assert len(lines) == 6
    return lines


CHANGES: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "record 2: its content": lambda lines: [lines[0], lines[1].replace(b"stopped", b"started"), *lines[2:]],
    "record 2: does not follow": lambda lines: [lines[0], *lines[2:]],
    "record 3: does not follow": lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]],
    "record 6: missing; 6 are known": lambda lines: lines[:-1],
    "record 4: missing; 6 are known": lambda lines: lines[:3],
    "record 6: torn": lambda lines: [*lines[:-1], lines[-1][:-9]],
}


def test_every_change_is_found_with_the_public_key_alone(
    bench: CeremonyBench, world: ServiceWorld, written: list[bytes]
) -> None:
    for bad, change in CHANGES.items():
        log_of(world).write_bytes(b"".join(change(written)))
        outcome = verify(bench, "--checkpoint", "log/audit.jsonl.checkpoint")
        assert outcome.code == 5
        assert f"PROBLEM: {bad}" in outcome.out


def test_a_server_does_not_go_on_with_a_log_that_was_cut(world: ServiceWorld, written: list[bytes]) -> None:
    log_of(world).write_bytes(b"".join(written[:3]))
    done = world.run("serve", "--check", world.directory / "server.toml")
    assert done.returncode == 78
    (line,) = done.stderr.decode().splitlines()
    assert "audit.file: the audit log was cut or exchanged: it has 3 record(s), and 6 are known" in line
    config = configure(world, ("[audit]\n", '[audit]\non_failure = "continue"\n'))
    done = world.run("serve", "--check", config)
    assert done.returncode == 0, done.stderr
    assert b"SERVING WITHOUT A SOUND AUDIT LOG" in done.stderr
    assert events(world)[-2:] == ["log found cut or unreadable", "configuration checked"]


def test_a_server_that_was_killed_leaves_a_chain_that_goes_on(bench: CeremonyBench, world: ServiceWorld) -> None:
    config = world.directory / "server.toml"
    with world.serve(config) as server:
        server.stop(signal.SIGKILL)
    assert events(world) == ["server started"]
    # The crash also left half a line.
    with log_of(world).open("ab") as file:
        file.write(b'{"actor":"half a rec')
    with world.serve(config) as server:
        stop(server)
    assert events(world) == ["server started", "torn record found", "server started", "server stopped"]
    assert dict(records(world))["torn record found"]["text"] == '{"actor":"half a rec'
    outcome = verify(bench, "--checkpoint", "log/audit.jsonl.checkpoint")
    assert outcome.code == 0, outcome.out


def test_an_outage_of_the_token_is_one_record_and_its_return_another(
    bench: CeremonyBench, world: ServiceWorld
) -> None:
    tokens, away = bench.directory / "tokens", bench.directory / "away"
    with world.serve(world.directory / "server.toml") as server:
        message(world, server)
        tokens.rename(away)
        deadline = time.monotonic() + WAIT
        while "token out of service" not in events(world):
            assert time.monotonic() < deadline, server.log.read_text()
            with pytest.raises(HsmMslError):
                message(world, server)
        for _ in range(3):
            with pytest.raises(HsmMslError):
                message(world, server)
        away.rename(tokens)

        def served() -> bool:
            try:
                message(world, server)
            except HsmMslError:
                return False
            return True

        eventually(served, server)
        eventually(lambda: "token in service" in events(world), server)
        stop(server)
    assert events(world) == ["server started", "token out of service", "token in service", "server stopped"]
    assert dict(records(world))["token out of service"]["reason"]
    outcome = verify(bench)
    assert outcome.code == 0, outcome.out


def test_a_refused_pin_is_written(bench: CeremonyBench, world: ServiceWorld) -> None:
    (bench.work / "pins/user.pin").write_text("8347-wrong-21\n")
    done = world.run("serve", world.directory / "server.toml")
    assert done.returncode == 78
    assert events(world) == ["PIN refused", "start refused"]
    looked = world.run("doctor", world.directory / "server.toml")
    assert looked.returncode != 0
    for said in (log_of(world).read_bytes(), done.stdout, done.stderr, looked.stdout, looked.stderr):
        assert b"8347-wrong-21" not in said


def test_drift_is_written_when_a_start_is_refused(bench: CeremonyBench, world: ServiceWorld) -> None:
    bench.python(REPLACE)
    done = world.run("serve", world.directory / "server.toml")
    assert done.returncode == 78
    assert events(world) == ["drift found", "start refused"]
    details = dict(records(world))["drift found"]
    assert details["key"] == "msl.token.mac.v1"
    assert "check value (hmac-label)" in details["problem"]


def test_a_log_that_cannot_be_written_keeps_a_server_from_starting_unless_told(world: ServiceWorld) -> None:
    log_of(world).mkdir(parents=True)
    config = world.directory / "server.toml"
    done = world.run("serve", config)
    assert done.returncode == 78
    assert "audit.file:" in done.stderr.decode().splitlines()[-1]
    configure(world, ("[audit]\n", '[audit]\non_failure = "continue"\n'))
    with world.serve(config) as server:
        message(world, server)
        assert "AUDIT LOG" in server.log.read_text()
        stop(server)


def test_a_signing_key_that_is_not_there_is_named(world: ServiceWorld) -> None:
    config = configure(world, ("server.audit.signing.v1", "server.audit.signing.v7"))
    done = world.run("serve", "--check", config)
    assert done.returncode == 78
    assert "audit.signing_key:" in done.stderr.decode().splitlines()[-1]
    assert "server.audit.signing.v7" in done.stderr.decode()
    assert events(world) == ["configuration refused"]


def test_the_next_signing_key_of_a_server_is_introduced_by_the_former(
    bench: CeremonyBench, ceremony: Path, world: ServiceWorld
) -> None:
    config = world.directory / "server.toml"
    with world.serve(config) as server:
        stop(server)
    assert bench.run("rotate", ceremony, "server.audit", "--yes").code == 0
    configure(world, ("server.audit.signing.v1", "server.audit.signing.v2"))
    with world.serve(config) as server:
        stop(server)
    assert events(world).count("key hand-over") == 1
    outcome = verify(bench, "--checkpoint", "log/audit.jsonl.checkpoint")
    assert outcome.code == 0, outcome.out
    assert bench.entry("server.audit.signing.v2")["check"]["value"] in outcome.out


def test_the_workers_of_a_server_share_a_log_which_is_put_aside_when_large(
    bench: CeremonyBench, world: ServiceWorld
) -> None:
    config = configure(world, ("[audit]\n", "[audit]\nrotate_bytes = 4096\n"), ("[server]", "[server]\nworkers = 2"))

    def files() -> list[Path]:
        return [*sorted(log_of(world).parent.glob("audit.jsonl.[0-9]*")), log_of(world)]

    def count(event: str) -> int:
        lines = [line for file in files() for line in file.read_bytes().splitlines()]
        return [json.loads(line)["event"] for line in lines].count(event)

    for begun in (2, 4):
        with world.serve(config) as server:
            eventually(lambda begun=begun: count("server started") == begun, server)  # type: ignore[misc]
            ready(server)
            message(world, server)
            stop(server)
        assert count("server stopped") == begun
    assert len(files()) > 1
    outcome = bench.run(
        "audit",
        "verify",
        *files(),
        "--public-key",
        "server-audit.pem",
        "--checkpoint",
        "log/audit.jsonl.checkpoint",
    )
    assert outcome.code == 0, outcome.out


def test_an_older_manifest_is_refused_after_a_restart_until_an_operator_says_otherwise(
    bench: CeremonyBench, ceremony: Path, world: ServiceWorld
) -> None:
    """Roll-back: its signer signed it once, and it names a version that was rotated away."""
    config, manifest = world.directory / "server.toml", bench.work / "records/manifest.json"
    old = manifest.read_bytes()
    assert bench.run("rotate", ceremony, "msl.token", "--yes").code == 0
    with world.serve(config) as server:
        stop(server)
    new = manifest.read_bytes()
    manifest.write_bytes(old)
    done = world.run("serve", config)
    assert done.returncode == 78
    line = done.stderr.decode().splitlines()[-1]
    assert "key_manifest.file:" in line
    assert "which was in use here before" in line
    assert f"remove {world.directory / 'manifest.seen'}" in line
    assert events(world)[-2:] == ["key manifest refused", "start refused"]
    # A backup of the records was restored, and the operator knows.
    (world.directory / "manifest.seen").unlink()
    with world.serve(config) as server:
        message(world, server)
        stop(server)
    manifest.write_bytes(new)
    assert world.run("serve", "--check", config).returncode == 0


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"x": 1}'])
def test_a_memory_that_was_damaged_is_not_taken_for_an_empty_one(world: ServiceWorld, content: bytes) -> None:
    config = world.directory / "server.toml"
    assert world.run("serve", "--check", config).returncode == 0
    (world.directory / "manifest.seen").write_bytes(content)
    done = world.run("serve", "--check", config)
    assert done.returncode == 78
    assert b"does not say which manifests were seen" in done.stderr


def test_a_server_without_an_audit_section_writes_none(world: ServiceWorld) -> None:
    config = configure(world, ('[audit]\nfile = "log/audit.jsonl"\nsigning_key = "server.audit.signing.v1"\n', ""))
    assert world.run("serve", "--check", config).returncode == 0
    assert not log_of(world).parent.exists()
    shutil.rmtree(world.directory / "records")


def test_what_an_operator_revokes_is_written_beside_the_running_server(
    bench: CeremonyBench, world: ServiceWorld
) -> None:
    config = world.directory / "server.toml"
    with world.serve(config) as server:
        ready(server)
        done = world.run("revoke", config, "--entity", "lost-device", "--serial", "7", "--reason", "lost")
        assert done.returncode == 0, done.stderr

        def seen() -> bool:
            message(world, server)  # a server that has nothing to do does not ask
            return "revocations seen" in events(world)

        eventually(seen, server)
        stop(server)
    found = dict(records(world))
    assert found["revoked"] == {"entity": "lost-device", "serial": "7", "reason": "lost"}
    assert found["revocations seen"]["in force"] == "1"
    outcome = verify(bench, "--checkpoint", "log/audit.jsonl.checkpoint")
    assert outcome.code == 0, outcome.out
    assert "0 record(s) after the last checkpoint" in outcome.out


def test_revoking_does_not_cover_up_that_the_log_was_cut(world: ServiceWorld) -> None:
    config = world.directory / "server.toml"
    with world.serve(config) as server:
        stop(server)
    cut = b"".join(log_of(world).read_bytes().splitlines(keepends=True)[:-1])
    log_of(world).write_bytes(cut)
    done = world.run("revoke", config, "--entity", "lost-device")
    assert done.returncode == 78
    assert b"audit.file: revoked, but not recorded: the audit log was cut" in done.stderr
    assert log_of(world).read_bytes() == cut
    assert b"lost-device" in world.run("revoke", config, "--list").stdout
