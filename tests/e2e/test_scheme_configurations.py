"""Every scheme by configuration files alone: clients of each entity scheme, servers of each, every RSA mechanism."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from hsm_msl.msl.conversation import Response
from hsm_msl.service.http_client import HttpClient
from scheme_certificates import make
from service_world import RunningServer, ServiceWorld

EXCHANGES = '["JWK_LADDER", "JWE_LADDER", "DIFFIE_HELLMAN", "SYMMETRIC_WRAPPED", "ASYMMETRIC_WRAPPED"]'
KEY_FILES = (
    'files = { encryption = "keys/development-client.encryption.hex", mac = "keys/development-client.mac.hex" }'
)
OWN = f'[entity]\nscheme = "PSK"\nidentity = "development-client"\n{KEY_FILES}'
SERVER = (
    '[entity]\nscheme = "RSA"\nidentity = "development-server"\nkey_id = "development-server-1"\n'
    'label = "identity.rsa.v1"'
)

CLIENTS = {
    "PSK": (OWN, 1),
    "PSK_PROFILE": (
        f'[entity]\nscheme = "PSK_PROFILE"\nidentity = "development-client"\nprofile = "p"\n{KEY_FILES}',
        1,
    ),
    "RSA": ('[entity]\nscheme = "RSA"\nidentity = "rsa-device"\nkey_id = "rsa-1"\nfile = "rsa.pem"', 2),
    "ECC": ('[entity]\nscheme = "ECC"\nidentity = "ec-device"\nkey_id = "ec-1"\nfile = "ec.pem"', 2),
    "X509": ('[entity]\nscheme = "X509"\ncertificate = "device.der"\nfile = "rsa.pem"', 2),
    "NONE": ('[entity]\nscheme = "NONE"\nidentity = "guest-1"', 2),
    "NONE_SUFFIXED": ('[entity]\nscheme = "NONE_SUFFIXED"\nroot = "model"\nsuffix = "42"', 2),
    "PROVISIONED": ('[entity]\nscheme = "PROVISIONED"', 2),
}
"""The client's own section, and the pairs from nothing to an answered secret message of a user."""

RULES = """
[[entities]]
scheme = "RSA"
key_id = "rsa-1"
public_key = "rsa.pub.pem"
identity = "rsa-device"

[[entities]]
scheme = "ECC"
key_id = "ec-1"
public_key = "ec.pub.pem"
identity = "ec-device"

[x509]
authorities = ["device-authority.der"]

[schemes.default]
user = ["EMAIL_PASSWORD"]
key_exchange = {exchanges}

[[schemes.rule]]
entities = ["development-client"]
entity = ["PSK", "PSK_PROFILE"]

[[schemes.rule]]
entities = ["rsa-*"]
entity = ["RSA"]

[[schemes.rule]]
entities = ["ec-*"]
entity = ["ECC"]

[[schemes.rule]]
entities = ["CN=*"]
entity = ["X509"]

[[schemes.rule]]
entities = ["guest-*"]
entity = ["NONE"]

[[schemes.rule]]
entities = ["model"]
entity = ["NONE_SUFFIXED"]

[[schemes.rule]]
entities = ["provisioned-*"]
entity = ["PROVISIONED", "MT_PROTECTED"]
"""

SERVERS = {
    "RSA": (SERVER, '[[entities]]\nscheme = "RSA"\nkey_id = "development-server-1"\npublic_key = "server.pem"'),
    "ECC": (
        '[entity]\nscheme = "ECC"\nidentity = "development-server"\nkey_id = "server-ec"',
        '[[entities]]\nscheme = "ECC"\nkey_id = "server-ec"\npublic_key = "server-ec.pem"',
    ),
    "PSK": (
        '[entity]\nscheme = "PSK"\nidentity = "development-client"',
        f'[[entities]]\nscheme = "PSK"\nidentity = "development-client"\n{KEY_FILES}',
    ),
}
"""The server's own section, and how its clients know it."""


@pytest.fixture(scope="module", autouse=True)
def keys(service_world: ServiceWorld) -> None:
    """Make what devices and their issuer have."""
    directory = service_world.directory
    device = rsa.generate_private_key(65537, 2048)
    authority = make("device authority")
    files = {
        "rsa": device,
        "ec": ec.generate_private_key(ec.SECP256R1()),
    }
    for name, key in files.items():
        path = directory / f"{name}.pem"
        path.touch(mode=0o600)
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (directory / f"{name}.pub.pem").write_bytes(public)
    (directory / "device-authority.der").write_bytes(authority.certificate.der)
    certificate = make("device", authority, ca=False, key=device)
    (directory / "device.der").write_bytes(certificate.certificate.der)


def server_config(world: ServiceWorld, name: str, own: str = SERVER) -> Path:
    text = world.server_config(name).read_text()
    assert SERVER in text
    before, _, rest = text.partition("[schemes]")
    after = rest[rest.index("[dh_groups]") :]
    known = '[[entities]]\nscheme = "PSK"\nidentity = "development-client"\n'
    if "PSK" in own:
        before = before.replace(known, "")
    path = world.directory / name
    path.write_text(
        before.replace(SERVER, own)
        + f"[schemes]\nkey_exchange = {EXCHANGES}\n\n"
        + after
        + RULES.format(exchanges=EXCHANGES)
    )
    return path


def exchange(world: ServiceWorld, config: Path, url: str) -> tuple[Response, Response]:
    with closing(world.client(config)) as client, HttpClient(client.msl, url) as http:
        return http.request(client.message(b"one")), http.request(client.message(b"two"))


@pytest.fixture(scope="module")
def open_server(service_world: ServiceWorld) -> Iterator[RunningServer]:
    with service_world.serve(server_config(service_world, "open.toml")) as server:
        yield server


@pytest.mark.parametrize("scheme", CLIENTS)
def test_a_client_of_every_entity_scheme(
    service_world: ServiceWorld, open_server: RunningServer, scheme: str
) -> None:
    own, pairs = CLIENTS[scheme]
    config = service_world.client_config(f"client-{scheme}.toml", (OWN, own))
    first, second = exchange(service_world, config, open_server.url)
    assert (first.payload, first.pairs) == (b"one", pairs)
    assert (second.payload, second.pairs) == (b"two", 1)
    assert first.requests[0].entity_auth is not None
    assert first.requests[0].entity_auth.scheme == scheme
    assert second.requests[0].user_id_token is not None


@pytest.mark.parametrize("mechanism", ["RSA", "JWE_RSA", "JWEJS_RSA", "JWK_RSA", "JWK_RSAES"])
def test_every_mechanism_of_asymmetric_wrapped(
    service_world: ServiceWorld, open_server: RunningServer, mechanism: str
) -> None:
    offer = f'schemes = ["ASYMMETRIC_WRAPPED"]\nrsa_mechanism = "{mechanism}"'
    config = service_world.client_config(f"client-{mechanism}.toml", ('schemes = ["DIFFIE_HELLMAN"]', offer))
    first, second = exchange(service_world, config, open_server.url)
    assert (first.payload, first.pairs, second.payload, second.pairs) == (b"one", 1, b"two", 1)
    assert first.requests[0].key_requests[0].keydata["mechanism"] == mechanism


@pytest.mark.parametrize("scheme", SERVERS)
def test_a_server_of_every_entity_scheme(service_world: ServiceWorld, scheme: str) -> None:
    own, known = SERVERS[scheme]
    config = server_config(service_world, f"server-{scheme}.toml", own)
    key = service_world.run("public-key", config, "--output", service_world.directory / "server-ec.pem")
    assert (key.returncode == 0) is (scheme != "PSK"), key.stderr
    trusting = service_world.client_config(
        f"client-of-{scheme}.toml",
        (OWN, CLIENTS["NONE"][0]),
        ('identity = "development-server"\n\n[[entities]]', "\n[[entities]]"),
        (
            '[[entities]]\nscheme = "RSA"\nkey_id = "development-server-1"\nidentity = "development-server"\n'
            'public_key = "server.pem"',
            known,
        ),
    )
    with service_world.serve(config) as server:
        first, second = exchange(service_world, trusting, server.url)
    assert (first.payload, second.payload) == (b"one", b"two")
