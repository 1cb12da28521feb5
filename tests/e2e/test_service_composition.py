"""What a configuration can ask for beyond the sample: residencies, fleets, ladders, certificates, durable clients."""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from hsm_msl.errors import ErrorCode, ResponseCode
from hsm_msl.msl.conversation import ErrorResponseError, Response
from hsm_msl.msl.tokens.builder import ServiceTokenBuilder
from hsm_msl.service.http_client import HttpClient
from hsm_provision.key_material import derive_wrapping_key
from service_world import ROOT, RunningServer, ServiceWorld

EXCHANGES = ("JWK_LADDER", "JWE_LADDER", "SYMMETRIC_WRAPPED", "DIFFIE_HELLMAN", "ASYMMETRIC_WRAPPED")
PREFERENCE = 'key_exchange = ["DIFFIE_HELLMAN", "ASYMMETRIC_WRAPPED"]'
PERMITTED = 'key_exchange = ["DIFFIE_HELLMAN"]'
FLEET = '[fleet]\ndatabase = "fleet.sqlite"\n\n'
FILES = 'mac = "keys/development-client.mac.hex" }'


def listed(names: tuple[str, ...]) -> str:
    return ", ".join(f'"{name}"' for name in names)


SERVICE_KEYS = """
[[service_token_keys]]
name = "note"
files = { encryption = "keys/note.encryption.hex", mac = "keys/note.mac.hex" }
"""


def send(world: ServiceWorld, config: Path, url: str, *payloads: bytes) -> list[Response]:
    with closing(world.client(config)) as client, HttpClient(client.msl, url) as http:
        return [http.request(client.message(payload)) for payload in payloads]


@pytest.fixture(scope="module")
def wrap_file(service_world: ServiceWorld) -> str:
    """The client's pre-shared wrapping key, which the token derived for itself from the other two."""
    keys = service_world.directory / "keys"
    values = [bytes.fromhex((keys / f"development-client.{role}.hex").read_text()) for role in ("encryption", "mac")]
    path = keys / "development-client.wrap.hex"
    path.touch(mode=0o600)
    path.write_text(derive_wrapping_key(*values).hex())
    return "keys/development-client.wrap.hex"


@pytest.fixture(scope="module")
def every_exchange(service_world: ServiceWorld) -> Iterator[RunningServer]:
    config = service_world.server_config(
        "every.toml",
        (PREFERENCE, f"key_exchange = [{listed(EXCHANGES)}]"),
        (PERMITTED, f"key_exchange = [{listed(EXCHANGES)}]"),
    )
    with service_world.serve(config) as server:
        yield server


@pytest.mark.parametrize("scheme", EXCHANGES)
def test_every_key_exchange(
    service_world: ServiceWorld, every_exchange: RunningServer, wrap_file: str, scheme: str
) -> None:
    config = service_world.client_config(
        f"{scheme}.toml",
        ('schemes = ["DIFFIE_HELLMAN"]', f'schemes = ["{scheme}"]'),
        (FILES, FILES.replace(" }", f', wrap = "{wrap_file}" }}')),
    )
    first, second = send(service_world, config, every_exchange.url, b"one", b"two")
    assert first.header.key_response is not None
    assert first.header.key_response.scheme == scheme
    assert (first.payload, first.pairs, second.payload, second.pairs) == (b"one", 1, b"two", 1)


def test_server_chooses_among_what_is_offered(
    service_world: ServiceWorld, every_exchange: RunningServer, wrap_file: str
) -> None:
    """The server's order of preference counts, not the client's."""
    config = service_world.client_config(
        "offers.toml",
        ('schemes = ["DIFFIE_HELLMAN"]', 'schemes = ["DIFFIE_HELLMAN", "JWE_LADDER"]'),
        (FILES, FILES.replace(" }", f', wrap = "{wrap_file}" }}')),
    )
    (response,) = send(service_world, config, every_exchange.url, b"x")
    assert [request.scheme for request in response.requests[0].key_requests] == ["DIFFIE_HELLMAN", "JWE_LADDER"]
    assert response.header.key_response is not None
    assert response.header.key_response.scheme == "JWE_LADDER"


def test_session_keys_that_stay_in_the_token(service_world: ServiceWorld, wrap_file: str) -> None:
    """``token`` residency: two exchanges are served, and a restarted server still opens the sessions."""
    server_config = service_world.server_config(
        "resident.toml",
        (PREFERENCE, 'key_exchange = ["SYMMETRIC_WRAPPED", "ASYMMETRIC_WRAPPED"]'),
        (PERMITTED, 'key_exchange = ["SYMMETRIC_WRAPPED"]'),
        ("[users]", '[session_keys]\nresidency = "token"\n\n[users]'),
    )
    wrapped = service_world.client_config(
        "resident-client.toml",
        ('schemes = ["DIFFIE_HELLMAN"]', 'schemes = ["SYMMETRIC_WRAPPED"]'),
        (FILES, FILES.replace(" }", f', wrap = "{wrap_file}" }}')),
    )
    with closing(service_world.client(wrapped)) as client:
        with service_world.serve(server_config) as server:
            assert any("session keys: in token" in line for line in server.lines)
            with HttpClient(client.msl, server.url) as http:
                assert http.request(client.message(b"one")).payload == b"one"
        with service_world.serve(server_config) as server, HttpClient(client.msl, server.url) as http:
            response = http.request(client.message(b"two"))
    assert (response.payload, response.pairs) == (b"two", 1)
    assert response.requests[0].master_token is not None


def test_residency_that_cannot_be(service_world: ServiceWorld) -> None:
    config = service_world.server_config("wish.toml", ("[users]", '[session_keys]\nresidency = "token"\n\n[users]'))
    done = service_world.run("serve", config)
    assert done.returncode == 78
    (line,) = done.stderr.decode().splitlines()
    assert "schemes.key_exchange: DIFFIE_HELLMAN needs the bytes of session keys" in line


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('"identity.rsa.v1"', '"identity.ec.v1"', "entity.label: names a key that is not an RSA key"),
        ('scheme = "RSA"', 'scheme = "ECC"', "entity.label: names a key that is not an EC key"),
        (
            "[[entities]]",
            '[[entities]]\nscheme = "ECC"\nkey_id = "peer"\npublic_key = "server.pem"\n\n[[entities]]',
            "entities[0].public_key: not an EC public key",
        ),
    ],
)
def test_keys_of_another_kind_than_their_scheme(
    service_world: ServiceWorld, old: str, new: str, problem: str
) -> None:
    """Such a server could not sign even an error, and would call itself ready."""
    done = service_world.run("serve", service_world.server_config("kinds.toml", (old, new)))
    assert done.returncode == 78
    (line,) = done.stderr.decode().splitlines()
    assert problem in line


@pytest.mark.parametrize(
    ("scheme", "keydata", "code"),
    [
        ("SYMMETRIC_WRAPPED", {"keyid": "PSK"}, ErrorCode.UNSUPPORTED_KEYX_KEY_ID),
        ("JWK_LADDER", {"mechanism": "PSK"}, ErrorCode.UNSUPPORTED_KEYX_MECHANISM),
    ],
)
def test_exchanges_of_pre_shared_keys_where_nobody_shares_any(
    service_world: ServiceWorld, scheme: str, keydata: dict[str, str], code: ErrorCode
) -> None:
    """Where no rule speaks of PSK there is no such scheme, and the exchange says so (msl-schemes sections 6, 8)."""
    config = service_world.server_config(
        "unshared.toml",
        ('entity = ["PSK"]', 'entity = ["NONE"]'),
        (PREFERENCE, f"key_exchange = [{listed(EXCHANGES)}]"),
        ('key_exchange = ["ASYMMETRIC_WRAPPED"]', f"key_exchange = [{listed(EXCHANGES)}]"),
    )
    header = {"messageid": 1, "renewable": True, "keyrequestdata": [{"scheme": scheme, "keydata": keydata}]}
    entity = {"scheme": "NONE", "authdata": {"identity": "guest-1"}}
    outer = {"entityauthdata": entity, "headerdata": _base64(header), "signature": ""}
    chunk = {"payload": _base64({"sequencenumber": 1, "messageid": 1, "endofmsg": True, "data": ""}), "signature": ""}
    body = json.dumps(outer) + json.dumps(chunk)
    with service_world.serve(config) as server:
        answer = json.loads(httpx.post(server.url, content=body).content)
    assert json.loads(base64.b64decode(answer["errordata"]))["internalcode"] == code


def test_guessing_passwords_is_slowed_down(service_world: ServiceWorld) -> None:
    """The password is right at last, and nobody looks at it before some time has passed."""
    (database,) = re.findall(r"\[users\]\ndatabase = .*", service_world.server_config("plain.toml").read_text())
    config = service_world.server_config("guessed.toml", (database, f"{database}\nfailures = 2"))
    wrong = service_world.client_config("wrong.toml", ("file:users/user.password", "file:users/wrong.password"))
    (service_world.directory / "users/wrong.password").write_text("wrong")
    (service_world.directory / "users/wrong.password").chmod(0o600)
    with service_world.serve(config) as server:
        codes = []
        for _ in range(2):
            with closing(service_world.client(wrong)) as client, HttpClient(client.msl, server.url) as http:
                with pytest.raises(ErrorResponseError) as caught:
                    http.request(client.message(b"guess"))
                codes.append(caught.value.error.name)
        with (
            closing(service_world.client()) as client,
            HttpClient(client.msl, server.url) as http,
            pytest.raises(ErrorResponseError) as late,
        ):
            http.request(client.message(b"right"))
    assert codes == ["EMAILPASSWORD_INCORRECT"] * 2
    assert late.value.error.response is ResponseCode.TRANSIENT_FAILURE


def _base64(value: object) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


def test_session_keys_from_the_generator_of_a_token(service_world: ServiceWorld) -> None:
    config = service_world.server_config(
        "generator.toml",
        (PREFERENCE, 'key_exchange = ["ASYMMETRIC_WRAPPED"]'),
        (PERMITTED, 'key_exchange = ["ASYMMETRIC_WRAPPED"]'),
        ("[users]", '[session_keys]\nsource = "development"\n\n[users]'),
    )
    client = service_world.client_config("generated.toml", ("DIFFIE_HELLMAN", "ASYMMETRIC_WRAPPED"))
    with service_world.serve(config) as server:
        (response,) = send(service_world, client, server.url, b"x")
    assert response.payload == b"x"


def test_token_by_uri(service_world: ServiceWorld) -> None:
    config = service_world.server_config(
        "uri.toml",
        (
            'module = "softhsm"\nlabel = "hsm-msl-development"',
            'uri = "pkcs11:token=hsm-msl-development?module-name=softhsm"',
        ),
    )
    done = service_world.run("serve", "--check", config)
    assert done.returncode == 0, done.stderr


def test_client_that_goes_on_after_a_restart(service_world: ServiceWorld, service: RunningServer) -> None:
    """Tokens and counters rest in a database, session keys in it only as sealed."""
    seal = service_world.directory / "keys"
    for role, size in (("encryption", 16), ("mac", 32)):
        path = seal / f"seal.{role}.hex"
        path.touch(mode=0o600)
        path.write_text("5a" * size)
    config = service_world.client_config(
        "durable.toml",
        (
            "[user]",
            '[state]\ndatabase = "sqlite:///durable.sqlite"\n'
            'files = { encryption = "keys/seal.encryption.hex", mac = "keys/seal.mac.hex" }\n\n[user]',
        ),
    )
    first = service_world.run("send", "--explain", config, service.url, "one")
    second = service_world.run("send", "--explain", config, service.url, "two")
    assert (first.stdout, second.stdout) == (b"one", b"two"), first.stderr + second.stderr
    assert b"under entity authentication PSK" in first.stderr
    assert b"under master token" in second.stderr
    assert b"user ID token; application data" in second.stderr


def test_certificate_of_a_server(service_world: ServiceWorld) -> None:
    """X509: the certificate of the server's token key, and the client that trusts who signed it."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding, load_pem_public_key
    from cryptography.x509.oid import NameOID

    directory = service_world.directory
    authority = rsa.generate_private_key(65537, 2048)
    server_key = load_pem_public_key((directory / "server.pem").read_bytes())
    assert isinstance(server_key, rsa.RSAPublicKey)
    now = datetime.now(UTC)

    def issue(name: str, key: rsa.RSAPublicKey, *, ca: bool) -> bytes:
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")]))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
            .sign(authority, SHA256())
        )
        return certificate.public_bytes(Encoding.PEM)

    (directory / "authority.pem").write_bytes(issue("authority", authority.public_key(), ca=True))
    (directory / "certificate.pem").write_bytes(issue("server", server_key, ca=False))
    (directory / "stranger.pem").write_bytes(issue("server", authority.public_key(), ca=False))
    identity = (
        'scheme = "RSA"\nidentity = "development-server"\nkey_id = "development-server-1"\n',
        'scheme = "X509"\ncertificate = "certificate.pem"\n',
    )
    config = service_world.server_config("certified.toml", identity)
    client = service_world.client_config(
        "trusting.toml",
        ('identity = "development-server"\n\n[[entities]]', 'identity = "CN=server"\n\n[[entities]]'),
        ("[key_exchange]", '[x509]\nauthorities = ["authority.pem"]\n\n[key_exchange]'),
    )
    with service_world.serve(config) as server:
        (response,) = send(service_world, client, server.url, b"x")
    assert response.header.identity == "CN=server" or response.header.entity_auth is not None
    assert response.payload == b"x"
    wrong = service_world.server_config(
        "uncertified.toml", (identity[0], identity[1].replace("certificate.pem", "stranger.pem"))
    )
    done = service_world.run("serve", "--check", wrong)
    assert b"entity.certificate" in done.stderr
    assert b"is not of the private key" in done.stderr


def test_member_of_a_fleet(service_world: ServiceWorld) -> None:
    """Its keys are wrapped in a database by the import, and unwrapped into the token when it comes."""
    directory = service_world.directory
    text = (ROOT / "provisioning/ceremonies/development.toml").read_text()
    ceremony = directory / "fleet-ceremony.toml"
    ceremony.write_text(
        text.replace('"../profiles"', f'"{ROOT}/provisioning/profiles"').replace("[records]", FLEET + "[records]")
        + '\n[[key]]\nprofile = "fleet-storage"\n'
    )
    service_world.provision("apply", ceremony)
    members = {role: secrets.token_hex(size) for role, size in (("encryption", 16), ("mac", 32))}
    rows = f"identity,encryption,mac\nfleet-member,{members['encryption']},{members['mac']}\n"
    service_world.provision("import-fleet", ceremony, "-", stdin=rows)
    for role, value in members.items():
        path = directory / f"keys/fleet-member.{role}.hex"
        path.touch(mode=0o600)
        path.write_text(value)
    config = service_world.server_config(
        "fleet.toml",
        ("[users]", "[fleet]\n\n[users]"),
        ('entities = ["development-client"]', 'entities = ["development-client", "fleet-*"]'),
        ("state.sqlite", "fleet.sqlite"),
    )
    client = service_world.client_config(
        "member.toml", ('"development-client"', '"fleet-member"'), ("keys/development-client", "keys/fleet-member")
    )
    with service_world.serve(config) as server:
        first, second = send(service_world, client, server.url, b"one", b"two")
    assert (first.payload, first.pairs, second.payload) == (b"one", 1, b"two")


def test_a_client_makes_service_tokens_with_keys_of_its_own(
    service_world: ServiceWorld, service: RunningServer
) -> None:
    """The server keeps what it cannot read, and the client finds it again in the next run."""
    for role, size in (("encryption", 16), ("mac", 32)):
        path = service_world.directory / f"keys/note.{role}.hex"
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(size))
    sample = (ROOT / "softhsm/demo/client.toml").read_text()
    state = '\n[state]\ndatabase = "sqlite:///notes.sqlite"\n'
    keyed = service_world.client_config("keyed.toml", (sample, sample + SERVICE_KEYS + state))
    keyless = service_world.client_config("keyless.toml", (sample, sample + state))
    told: list[bool] = []

    def note(builder: ServiceTokenBuilder) -> None:
        told.extend(builder.add(name, b"remember") for name in ("note", "other"))

    with closing(service_world.client(keyed)) as client, HttpClient(client.msl, service.url) as http:
        reply = http.request(replace(client.message(b"one"), service_tokens=note))
    assert told == [True, False]
    assert [(token.name, token.data) for token in reply.header.service_tokens] == [("note", b"remember")]
    read = []
    for config in (keyed, keyless):
        with closing(service_world.client(config)) as client:
            read += [token.data for token in client.state.service_tokens(None, None)]
    assert read == [b"remember", None]
