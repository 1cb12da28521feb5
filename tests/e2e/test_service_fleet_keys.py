"""Fleets through a configuration file: keys wrapped in a database, keys derived in the token, and drift of both."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from ceremony_fixture import CeremonyBench
from hsm_msl.backend.derived import (
    ENCRYPTION_BYTES,
    ENCRYPTION_LABEL,
    MAC_BYTES,
    MAC_LABEL,
    WRAPPING_BYTES,
    WRAPPING_LABEL,
    SoftwareDerivationKey,
)
from hsm_msl.msl.conversation import ErrorResponseError
from hsm_msl.service.http_client import HttpClient
from service_world import RunningServer, ServiceWorld

MASTER = bytes(range(32))
WRAPPED = {"encryption": b"\x11" * 16, "mac": b"\x22" * 32, "wrap": b"\x33" * 16}
KEYS = (
    'profile = "msl-token-encryption"',
    'profile = "msl-token-mac"',
    'profile = "msl-token-wrap"',
    'profile = "rsa-identity"',
    'profile = "service-token-encryption"\npurpose = "service.development"',
    'profile = "service-token-mac"\npurpose = "service.development"',
    'profile = "fleet-storage"',
    'profile = "fleet-derivation"\nimport = { file = "keys/master.hex" }',
)
EXTRA = """
[fleet]
database = "fleet.sqlite"

[[preshared]]
identity = "development-client"
encryption = "keys/development-client.encryption.hex"
mac = "keys/development-client.mac.hex"
create_missing_files = true
"""
SECTIONS = """[fleet]
database = "sqlite:///fleet.sqlite"

[derived_keys]
label = "fleet.derivation.v1"
entities = ["device-*"]

[key_manifest]
file = "records/manifest.json"
signed_by = "audit.pem"

[users]"""
RULE = """[[schemes.rule]]
entities = ["device-*", "wrapped-*"]
entity = ["PSK"]
key_exchange = ["DIFFIE_HELLMAN"]

[dh_groups]"""
USER = '[user]\nemail = "user@example.com"\npassword = "file:users/user.password"\n'
REPLACE = """
k = key({label!r})
i = k[A.ID]
k.destroy()
flags = {{a: False for a in (A.ENCRYPT, A.DECRYPT, A.SIGN, A.VERIFY, A.WRAP, A.UNWRAP, A.DERIVE)}}
flags |= {{a: True for a in ({uses})}}
session.generate_key(T.AES, 256, store=True, label={label!r}, id=i, mechanism=M.AES_KEY_GEN,
    template={{**flags, A.PRIVATE: True, A.SENSITIVE: True, A.EXTRACTABLE: False, A.COPYABLE: False,
              A.MODIFIABLE: False}})
"""


@pytest.fixture
def world(bench: CeremonyBench) -> ServiceWorld:
    bench.write("keys/master.hex", MASTER.hex() + "\n")
    ceremony = bench.ceremony(*KEYS, extra=EXTRA)
    bench.apply(ceremony)
    bench.write(
        "fleet.csv",
        "identity,encryption,mac,wrapping\n"
        f"wrapped-1,{WRAPPED['encryption'].hex()},{WRAPPED['mac'].hex()},{WRAPPED['wrap'].hex()}\n",
    )
    done = bench.run("import-fleet", ceremony, "fleet.csv")
    assert done.code == 0, done.err
    assert bench.run("public-key", ceremony, "audit.signing.v1", "--out", "audit.pem").code == 0
    made = ServiceWorld(ceremony.parent, bench.environment)
    made.server_config(
        "server.toml", ("hsm-msl-development", bench.label), ("[users]", SECTIONS), ("[dh_groups]", RULE)
    )
    key = made.run("public-key", made.directory / "server.toml", "--output", made.directory / "server.pem")
    assert key.returncode == 0, key.stderr
    return made


def client_of(world: ServiceWorld, identity: str, keys: dict[str, bytes]) -> Path:
    for role, value in keys.items():
        path = world.directory / f"keys/{identity}.{role}.hex"
        path.write_text(value.hex() + "\n")
        path.chmod(0o600)
    return world.client_config(f"{identity}.toml", (USER, ""), ("development-client", identity))


def derived(identity: str) -> dict[str, bytes]:
    master, context = SoftwareDerivationKey(MASTER), identity.encode()
    return {
        "encryption": master.derive(ENCRYPTION_LABEL, context, ENCRYPTION_BYTES),
        "mac": master.derive(MAC_LABEL, context, MAC_BYTES),
        "wrap": master.derive(WRAPPING_LABEL, context, WRAPPING_BYTES),
    }


def message(world: ServiceWorld, server: RunningServer, config: Path) -> bytes:
    with closing(world.client(config)) as client, HttpClient(client.msl, server.url) as http:
        return http.request(client.message(b"x")).payload


def test_entities_of_both_fleets_are_served_and_no_others(world: ServiceWorld) -> None:
    with world.serve(world.directory / "server.toml") as server:
        assert any("key fleet.derivation.v1: in token" in line for line in server.lines)
        assert any("keys fleet.storage.v1: in token" in line for line in server.lines)
        assert message(world, server, client_of(world, "device-0001", derived("device-0001"))) == b"x"
        assert message(world, server, client_of(world, "device-0002", derived("device-0002"))) == b"x"
        assert message(world, server, client_of(world, "wrapped-1", WRAPPED)) == b"x"
        # Keys of another device, an entity nobody wrapped keys for, and one outside the pattern.
        for identity in ("device-0003", "wrapped-2", "other-1"):
            with pytest.raises(ErrorResponseError):
                message(world, server, client_of(world, identity, derived("device-0001")))


@pytest.mark.parametrize(
    ("label", "uses", "method", "where"),
    [
        ("fleet.storage.v1", "A.WRAP, A.UNWRAP", "wrap-zero", "fleet.wrapping_keys"),
        ("fleet.derivation.v1", "A.ENCRYPT, A.DERIVE", "derive-zero", "derived_keys.label"),
    ],
)
def test_a_fleet_key_that_was_replaced_is_not_served_with(
    bench: CeremonyBench, world: ServiceWorld, label: str, uses: str, method: str, where: str
) -> None:
    config = world.directory / "server.toml"
    good = world.run("serve", "--check", config)
    assert good.returncode == 0, good.stderr
    bench.python(REPLACE.format(label=label, uses=uses))
    done = world.run("serve", "--check", config)
    assert done.returncode == 78, done.stderr
    line = done.stderr.decode().splitlines()[-1]
    assert f"{where}: {label}: check value ({method}) is " in line
    assert line.endswith("another key; see hsm-provision verify")
    verified = bench.run("verify", bench.work / "test.toml")
    assert verified.code == 5
    assert label in verified.out
