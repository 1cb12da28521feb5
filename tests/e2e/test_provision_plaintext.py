"""Keys that are imported, and PINs: on no disk, in no temporary directory, in no argument, in no traceback."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ceremony_fixture import PROVISIONING, CeremonyBench
from file_watch import FileWatch, watching
from hsm_msl.service.http_client import HttpClient
from service_world import ServiceWorld

TRANSPORT = 'profile = "transport-unwrap"\nbits = 2048'
FLEET = '\n[fleet]\ndatabase = "fleet.sqlite"\n'


def forms_of(value: bytes) -> tuple[bytes, ...]:
    """Return how a secret could stand in a file: raw, hexadecimal of both cases, Base64 without its ends."""
    encoded = base64.b64encode(value).rstrip(b"=")[:-1]
    return value, value.hex().encode(), value.hex().upper().encode(), encoded, encoded.translate(_URL)


_URL = bytes.maketrans(b"+/", b"-_")


def number(value: int) -> bytes:
    return value.to_bytes((value.bit_length() + 7) // 8)


def text(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode().rstrip("=")


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def assert_nowhere(watch: FileWatch, bench: CeremonyBench, secrets: list[bytes]) -> None:
    """Check that no file that came into being, and none that is there, holds a secret in any form."""
    contents = dict(watch.written)
    contents.update((path, path.read_bytes()) for path in bench.directory.rglob("*") if path.is_file())
    assert len(contents) > 5
    for path, content in contents.items():
        for secret in secrets:
            for form in forms_of(secret):
                assert form not in content, path


@contextmanager
def everywhere(bench: CeremonyBench) -> Iterator[FileWatch]:
    """Watch the workspace, the token store, and a temporary directory that is the command's own."""
    temporary = bench.directory / "tmp"
    temporary.mkdir(exist_ok=True)
    bench.environment["TMPDIR"] = str(temporary)
    assert tempfile.gettempdir() != str(temporary)
    with watching([bench.directory, Path("/dev/shm"), Path("/var/tmp")]) as watch:
        yield watch
    # Names are never missed, so whatever was made is either ours, and was searched, or is named here.
    ours = {path for path in watch.created if path.is_relative_to(bench.directory)}
    assert not [path for path in ours if path.is_relative_to(temporary)]
    allowed = re.compile(r"work/(records/|[\w.-]+\.sealed$|[\w.-]+\.pem$|[\w.-]+\.sqlite)|tokens/")
    assert not [path for path in ours if not allowed.match(str(path.relative_to(bench.directory)))]


def test_sealed_keys_of_every_form_leave_no_plaintext(bench: CeremonyBench) -> None:
    """PKCS#8, JWK, raw, hexadecimal and Base64, from standard input to the token."""
    bench.apply(bench.ceremony(TRANSPORT))
    assert (
        bench.run("public-key", bench.ceremony(TRANSPORT), "transport.unwrap.v1", "--out", "transport.pem").code == 0
    )
    identity, agreement = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())
    point = agreement.private_numbers()
    public = point.public_numbers
    jwk = {"kty": "EC", "crv": "P-256", "d": text(point.private_value.to_bytes(32))}
    jwk |= {"x": text(public.x.to_bytes(32)), "y": text(public.y.to_bytes(32))}
    encryption, mac, wrap, service = (os.urandom(size) for size in (16, 32, 16, 32))
    inputs: list[tuple[str, str, bytes]] = [
        ("msl-token-encryption", "raw", encryption),
        ("msl-token-mac", "jwk", json.dumps({"kty": "oct", "k": text(mac)}).encode()),
        ("msl-token-wrap", "base64", base64.b64encode(wrap)),
        ("service-token-mac", "hex", service.hex().encode()),
        ("rsa-identity", "pkcs8", pem(identity).encode()),
        ("ec-identity", "jwk", json.dumps(jwk).encode()),
    ]
    sections = []
    with everywhere(bench) as watch:
        for profile, form, content in inputs:
            arguments = ["seal", profile, "/dev/stdin", "--for", "transport.pem", "--out", f"{profile}.sealed"]
            arguments += ["--profiles", str(PROVISIONING / "profiles")]
            done = subprocess.run(
                [sys.executable, "-m", "hsm_provision", *arguments, "--form", form],
                env=bench.environment,
                cwd=bench.work,
                input=content,
                capture_output=True,
                timeout=120,
            )
            assert done.returncode == 0, done.stderr
            purpose = 'purpose = "service.x"\n' if profile.startswith("service") else ""
            sections.append(
                f'profile = "{profile}"\n{purpose}import = {{ file = "{profile}.sealed", form = "sealed" }}'
            )
        ceremony = bench.work / "test.toml"
        ceremony.write_text(ceremony.read_text() + "".join(f"\n[[key]]\n{section}\n" for section in sections))
        outcome = bench.run("apply", ceremony)
        assert outcome.code == 0, outcome.err
    primes = [number(value) for value in (identity.private_numbers().p, identity.private_numbers().d)]
    assert_nowhere(watch, bench, [encryption, mac, wrap, service, *primes, number(point.private_value)])
    assert bench.run("verify", ceremony).code == 0


def test_a_fleet_from_a_stream_leaves_no_plaintext(bench: CeremonyBench) -> None:
    """CSV of many entities: only what the token wrapped is written, database journals and rejects included."""
    ceremony = bench.ceremony('profile = "fleet-storage"', extra=FLEET)
    bench.apply(ceremony)
    secrets = [os.urandom(size) for _ in range(40) for size in (16, 32)]
    lines = ["identity,encryption,mac"]
    for entity in range(40):
        lines.append(f"client-{entity},{secrets[2 * entity].hex()},{secrets[2 * entity + 1].hex()}")
    lines.append(f"{secrets[0].hex()},in the wrong,column")
    with everywhere(bench) as watch:
        done = bench.run("import-fleet", ceremony, "-", stdin="\n".join(lines))
        assert done.code == 11, done.err
    assert_nowhere(watch, bench, secrets)


KEYS = (
    'profile = "msl-token-encryption"\nbackup = true',
    'profile = "msl-token-mac"\nbackup = true',
    'profile = "msl-token-wrap"\nbackup = true',
    'profile = "rsa-identity"\nbits = 2048',
    'profile = "service-token-encryption"\npurpose = "service.development"',
    'profile = "service-token-mac"\npurpose = "service.development"',
)
PRESHARED = """
[backup]
[[preshared]]
identity = "development-client"
encryption = "keys/development-client.encryption.hex"
mac = "keys/development-client.mac.hex"
create_missing_files = true
"""


@contextmanager
def process_list(secrets: list[bytes]) -> Iterator[list[str]]:
    """Read the arguments and the environment of every process that can be read, over and over."""
    seen: list[str] = []
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.005):
            for path in Path("/proc").glob("[0-9]*"):
                for name in ("cmdline", "environ"):
                    try:
                        content = (path / name).read_bytes()
                    except OSError:
                        continue
                    seen.extend(f"{path}/{name}" for secret in secrets if secret in content)

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        yield seen
    finally:
        done.set()
        looking.join()


BROKEN = """
import sys
from hsm_msl.backend.pkcs11.cryptoki import Cryptoki
def broken(self, session, user, pin):
    raise ZeroDivisionError("a bug in the middle of a login")
Cryptoki.login = broken
from hsm_provision.cli.main import run
sys.exit(run(["verify", sys.argv[1]]))
"""


def test_pins_are_nowhere_on_the_whole_path(bench: CeremonyBench) -> None:
    """Acceptance: grep all logs, tracebacks and process arguments for the PIN, of the tool and of a server."""
    user, officer = "user-pin-9c1f6b7e", "officer-pin-52d80a44"
    wrong = "wrong-pin-0f3ab1c2"
    bench.write("pins/user.pin", user + "\n")
    bench.write("pins/so.pin", officer + "\n")
    ceremony = bench.ceremony(*KEYS, extra=PRESHARED)
    said: list[str] = []

    def do(code: int, *arguments: str | Path) -> None:
        outcome = bench.run(*arguments)
        said.extend((outcome.out, outcome.err))
        assert outcome.code == code, outcome.err

    world = ServiceWorld(bench.work, bench.environment)
    with process_list([user.encode(), officer.encode(), wrong.encode()]) as seen:
        do(0, "backup-key", ceremony, "--shares-to", "shares", "--yes")
        do(0, "plan", ceremony, "--json")
        do(0, "apply", ceremony)
        do(0, "verify", ceremony, "--json")
        do(0, "public-key", ceremony, "audit.signing.v1", "--out", "audit.pem")
        do(0, "rotate", ceremony, "msl.token", "--yes")
        do(0, "backup", ceremony, "backup.json")
        do(0, "certificate", ceremony, "identity.rsa.v1", "--subject", "CN=a", "--out", "a.pem")
        do(0, "report", ceremony, "--out", "report.html")
        do(0, "inventory", ceremony, "--json")
        bench.write("pins/user.pin", wrong + "\n")
        do(8, "verify", ceremony)
        bench.write("pins/user.pin", user + "\n")
        crashed = bench.script(BROKEN, ceremony)
        assert "ZeroDivisionError" in crashed.err
        said.extend((crashed.out, crashed.err))
        config = world.server_config("server.toml", ("hsm-msl-development", bench.label), ("[users]", MANIFEST))
        done = world.run("public-key", config, "--output", "server.pem")
        said.append((done.stdout + done.stderr).decode())
        client_config = world.client_config("client.toml", (USER, ""))
        with world.serve(config) as server:
            with closing(world.client(client_config)) as client, HttpClient(client.msl, server.url) as http:
                assert http.request(client.message(b"x")).payload == b"x"
            server.stop()
            said.extend((server.log.read_text(), *server.lines))
        bench.write("pins/user.pin", wrong + "\n")
        refused = world.run("serve", "--check", config)
        assert refused.returncode != 0
        said.append((refused.stdout + refused.stderr).decode())
        bench.write("pins/user.pin", user + "\n")
    assert seen == []
    files = [path for path in bench.directory.rglob("*") if path.is_file() and path.parent.name != "pins"]
    said.extend(path.read_bytes().decode("latin-1") for path in files)
    assert len(said) > 60
    for pin in (user, officer, wrong):
        assert not [one[:200] for one in said if pin in one]


MANIFEST = """[key_manifest]
file = "records/manifest.json"
signed_by = "audit.pem"
usage = "records/usage"

[users]"""
USER = '[user]\nemail = "user@example.com"\npassword = "file:users/user.password"\n'


def test_the_watch_sees_a_file_that_lives_for_a_moment(tmp_path: Path) -> None:
    """Without this the tests above would prove nothing."""
    (tmp_path / "deep").mkdir()

    def write(path: Path, content: bytes) -> None:
        path.write_bytes(content)
        path.unlink()

    attempts: list[Callable[[], None]] = [
        lambda: write(tmp_path / "short", b"x"),
        lambda: write(tmp_path / "deep/short", b"x"),
    ]
    with watching([tmp_path]) as watch:
        for attempt in attempts:
            attempt()
    assert {path.name for path in watch.created} == {"short"}
    assert len(watch.created) == 2
