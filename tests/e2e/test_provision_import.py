"""Keys brought in: sealed where they are for the token they go to (issue: import)."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from ceremony_fixture import PROVISIONING, CeremonyBench

TRANSPORT = 'profile = "transport-unwrap"\nbits = 2048'


def transport_key(bench: CeremonyBench) -> None:
    ceremony = bench.ceremony(TRANSPORT)
    bench.apply(ceremony)
    outcome = bench.run("public-key", ceremony, "transport.unwrap.v1", "--out", "transport.pem")
    assert outcome.code == 0, outcome.err


def seal(bench: CeremonyBench, profile: str, secret: str, form: str = "hex") -> str:
    outcome = bench.run(
        *("seal", profile, "/dev/stdin", "--for", "transport.pem", "--out", f"{profile}.sealed"),
        *("--profiles", PROVISIONING / "profiles", "--form", form),
        stdin=secret,
    )
    assert outcome.code == 0, outcome.err
    return f'profile = "{profile}"\nimport = {{ file = "{profile}.sealed", form = "sealed" }}'


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


@pytest.mark.parametrize("backup", [False, True])
def test_sealed_keys_open_only_in_the_token(bench: CeremonyBench, backup: bool) -> None:
    """Migration of a software deployment: what it sealed is in the token, and its plaintext never on this disk."""
    transport_key(bench)
    secrets = {"msl-token-encryption": "0f" * 16, "msl-token-mac": "1e" * 32, "msl-token-wrap": "2d" * 16}
    keys = [seal(bench, profile, secret) for profile, secret in secrets.items()]
    keys.append(seal(bench, "rsa-identity", pem(rsa.generate_private_key(65537, 2048)), "pkcs8"))
    keys.append(seal(bench, "ec-identity", pem(ec.generate_private_key(ec.SECP256R1())), "pkcs8"))
    extra = ""
    if backup:
        keys = [key + "\nbackup = true" for key in keys]
        extra = "\n[backup]\n"
    ceremony = bench.ceremony(TRANSPORT, *keys, extra=extra)
    if backup:
        made = bench.run("backup-key", ceremony, "--shares-to", "shares", "--yes")
        assert made.code == 0, made.err
    bench.apply(ceremony)
    assert bench.run("verify", ceremony).code == 0
    encrypted = bench.python("result = key('msl.token.encryption.v1').encrypt(bytes(16), mechanism=M.AES_ECB).hex()")
    assert encrypted == Cipher(algorithms.AES(b"\x0f" * 16), modes.ECB()).encryptor().update(bytes(16)).hex()
    assert bench.entry("identity.rsa.v1")["provenance"] == "imported"
    for path in bench.directory.rglob("*"):
        for secret in secrets.values():
            assert path.is_dir() or secret.encode() not in path.read_bytes()
            assert path.is_dir() or bytes.fromhex(secret) not in path.read_bytes()


@pytest.mark.parametrize("member", ["sealed_key", "wrapped"])
def test_a_changed_sealed_key_is_refused(bench: CeremonyBench, member: str) -> None:
    transport_key(bench)
    key = seal(bench, "msl-token-mac", "1e" * 32)
    path = bench.work / "msl-token-mac.sealed"
    sealed = json.loads(path.read_text())
    raw = bytearray(base64.b64decode(sealed[member]))
    raw[5] ^= 1
    sealed[member] = base64.b64encode(bytes(raw)).decode()
    path.write_text(json.dumps(sealed))
    outcome = bench.run("apply", bench.ceremony(TRANSPORT, key))
    assert outcome.code == 5, outcome.err
    assert "does not open" in outcome.err or "input was refused" in outcome.err
    assert bench.python("result = len(list(session.get_objects({A.LABEL: 'msl.token.mac.v1'})))") == 0


def test_a_sealed_key_with_a_false_check_value_is_destroyed_again(bench: CeremonyBench) -> None:
    transport_key(bench)
    key = seal(bench, "msl-token-mac", "1e" * 32)
    path = bench.work / "msl-token-mac.sealed"
    sealed = json.loads(path.read_text())
    sealed["check"]["value"] = "00" * 8
    path.write_text(json.dumps(sealed))
    outcome = bench.run("apply", bench.ceremony(TRANSPORT, key))
    assert outcome.code == 5
    assert "another key" in outcome.err
    assert bench.python("result = len(list(session.get_objects({A.LABEL: 'msl.token.mac.v1'})))") == 0


def test_a_key_sealed_for_another_token_is_refused(
    bench: CeremonyBench, new_bench: Callable[[str], CeremonyBench]
) -> None:
    other = new_bench("other")
    transport_key(other)
    key = seal(other, "msl-token-mac", "1e" * 32)
    transport_key(bench)
    bench.write("msl-token-mac.sealed", (other.work / "msl-token-mac.sealed").read_text())
    outcome = bench.run("apply", bench.ceremony(TRANSPORT, key))
    assert outcome.code == 5, outcome.err
