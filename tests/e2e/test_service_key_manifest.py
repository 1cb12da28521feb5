"""A server and the key manifest: keys compared before serving, forgeries refused, use reported to ``retire``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from ceremony_fixture import CeremonyBench
from hsm_msl.service.http_client import HttpClient
from service_world import RunningServer, ServiceWorld

KEYS = (
    'profile = "msl-token-encryption"',
    'profile = "msl-token-mac"',
    'profile = "msl-token-wrap"',
    'profile = "rsa-identity"',
    'profile = "service-token-encryption"\npurpose = "service.development"',
    'profile = "service-token-mac"\npurpose = "service.development"',
)
PRESHARED = """
[[preshared]]
identity = "development-client"
encryption = "keys/development-client.encryption.hex"
mac = "keys/development-client.mac.hex"
create_missing_files = true
"""
MANIFEST = """[key_manifest]
file = "records/manifest.json"
signed_by = "audit.pem"
every = 1
usage = "records/usage"
report_every = 1

[users]"""
USER = '[user]\nemail = "user@example.com"\npassword = "file:users/user.password"\n'
WAIT = 40.0
REPLACE = (
    "k = key({label!r})\ni = k[A.ID]\nt = k[A.KEY_TYPE]\nk.destroy()\n"
    "f = {{a: False for a in (A.ENCRYPT, A.DECRYPT, A.SIGN, A.VERIFY, A.WRAP, A.UNWRAP, A.DERIVE)}}\n"
    "f |= {{a: True for a in ({uses})}}\n"
    "session.generate_key(t, {bits}, store=True, label={label!r}, id=i, mechanism=M.{mechanism},"
    " template={{**f, A.PRIVATE: True, A.SENSITIVE: True, A.EXTRACTABLE: False, A.COPYABLE: False,"
    " A.MODIFIABLE: False}})"
)
MAC = {"uses": "A.SIGN, A.VERIFY", "bits": 256, "mechanism": "GENERIC_SECRET_KEY_GEN"}
AES = {"uses": "A.ENCRYPT, A.DECRYPT", "bits": 128, "mechanism": "AES_KEY_GEN"}
WRAP = {"uses": "A.WRAP, A.UNWRAP", "bits": 128, "mechanism": "AES_KEY_GEN"}


@pytest.fixture
def ceremony(bench: CeremonyBench) -> Path:
    ceremony = bench.ceremony(*KEYS, extra=PRESHARED)
    bench.apply(ceremony)
    assert bench.run("public-key", ceremony, "audit.signing.v1", "--out", "audit.pem").code == 0
    return ceremony


@pytest.fixture
def world(bench: CeremonyBench, ceremony: Path) -> ServiceWorld:
    made = ServiceWorld(ceremony.parent, bench.environment)
    made.server_config("server.toml", ("hsm-msl-development", bench.label), ("[users]", MANIFEST))
    made.client_config("client.toml", (USER, ""))
    done = made.run("public-key", ceremony.parent / "server.toml", "--output", ceremony.parent / "server.pem")
    assert done.returncode == 0, done.stderr
    return made


def eventually(what: Callable[[], bool], server: RunningServer) -> None:
    deadline = time.monotonic() + WAIT
    while not what():
        assert time.monotonic() < deadline, server.log.read_text()
        time.sleep(0.05)


def message(world: ServiceWorld, server: RunningServer) -> None:
    with closing(world.client()) as client, HttpClient(client.msl, server.url) as http:
        assert http.request(client.message(b"x")).payload == b"x"


@pytest.mark.parametrize(
    ("label", "new", "method"),
    [
        ("msl.token.encryption.v1", AES, "ecb-zero"),
        ("msl.token.mac.v1", MAC, "hmac-label"),
        ("msl.token.wrap.v1", WRAP, "wrap-zero"),
        ("service.development.mac.v1", MAC, "hmac-label"),
        ("psk.development-client.mac.v1", MAC, "hmac-label"),
    ],
)
def test_a_key_that_was_replaced_is_not_served_with(
    bench: CeremonyBench, world: ServiceWorld, label: str, new: dict[str, object], method: str
) -> None:
    """Drift: the stranger has the right label, ID and attributes, and only its check value tells it."""
    config = world.directory / "server.toml"
    good = world.run("serve", "--check", config)
    assert good.returncode == 0, good.stderr
    bench.python(REPLACE.format(label=label, **new))
    done = world.run("serve", "--check", config)
    assert done.returncode == 78, done.stderr
    (line,) = done.stderr.decode().splitlines()
    assert f"{label}: check value ({method}) is " in line
    assert line.endswith("another key; see hsm-provision verify")


def test_a_manifest_that_is_forged_or_older_changes_nothing(
    bench: CeremonyBench, ceremony: Path, world: ServiceWorld
) -> None:
    manifest = bench.work / "records/manifest.json"
    first = manifest.read_bytes()
    with world.serve(world.directory / "server.toml") as server:
        assert bench.run("rotate", ceremony, "msl.token", "--yes").code == 0
        eventually(lambda: "msl.token: version 2 makes, (1,) also open" in server.log.read_text(), server)
        second = manifest.read_bytes()
        manifest.write_bytes(second.replace(b'"active"', b'"retired"'))
        eventually(lambda: "not signed by the trusted key" in server.log.read_text(), server)
        message(world, server)
        manifest.write_bytes(first)
        eventually(lambda: "is older than" in server.log.read_text(), server)
        message(world, server)
        manifest.write_bytes(second)
        assert bench.run("rotate", ceremony, "msl.token", "--yes").code == 0
        eventually(lambda: "msl.token: version 3 makes, (2, 1) also open" in server.log.read_text(), server)
        message(world, server)
        log = server.log.read_text()
    assert "no others also open" not in log
    assert "Traceback" not in log


def test_retire_believes_what_the_server_reports(bench: CeremonyBench, ceremony: Path, world: ServiceWorld) -> None:
    """A version that opened a token after its rotation is in use; one that was never asked may go."""
    usage = bench.work / "records/usage"

    def opened(label: str) -> int:
        (report,) = [json.loads(path.read_bytes()) for path in usage.glob(f"*-{server.process.pid}.json")]
        return int(report["keys"].get(label, {"operations": -1})["operations"])

    config = world.directory / "server.toml"
    with closing(world.client()) as client:
        with world.serve(config) as server, HttpClient(client.msl, server.url) as http:
            assert http.request(client.message(b"x")).payload == b"x"
            eventually(lambda: opened("msl.token.mac.v1") > 0, server)
            before = opened("msl.token.encryption.v1")
            # A message under a remembered token asks no token key, so it is not counted again.
            assert http.request(client.message(b"x")).payload == b"x"
            for purpose in ("msl.token", "service.development"):
                assert bench.run("rotate", ceremony, purpose, "--yes").code == 0
            eventually(lambda: opened("service.development.mac.v2") == 0, server)
            message(world, server)
            eventually(lambda: opened("msl.token.wrap.v2") > 0, server)
            assert opened("msl.token.encryption.v1") == before
        # Another process remembers nothing, so the token is verified, and counted, there.
        with world.serve(config) as server, HttpClient(client.msl, server.url) as http:
            before = opened("msl.token.mac.v1")
            assert before > 0  # it goes on with the counts of the one that ended, whose report is gone
            assert len(list(usage.glob("*.json"))) == 1
            assert http.request(client.message(b"x")).pairs == 1
        assert opened("msl.token.mac.v1") > before

    refused = bench.run("retire", ceremony, "msl.token.mac.v1", "--idle", "1", "--yes")
    assert refused.code == 6
    assert f"pid {server.process.pid} used it" in refused.err
    idle = bench.run("retire", ceremony, "service.development.mac.v1", "--idle", "1", "--yes")
    assert idle.code == 0, idle.err
