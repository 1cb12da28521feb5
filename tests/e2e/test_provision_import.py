"""Keys brought in: sealed for the token, from JWKs, and whole fleets wrapped on the way (issue: import)."""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from ceremony_fixture import PROVISIONING, CeremonyBench

TRANSPORT = 'profile = "transport-unwrap"\nbits = 2048'
STORAGE = 'profile = "fleet-storage"'
FLEET = '\n[fleet]\ndatabase = "fleet.sqlite"\n'


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


def rows(bench: CeremonyBench) -> dict[str, tuple[bytes, bytes, bytes, str]]:
    with sqlite3.connect(bench.work / "fleet.sqlite") as database:
        found = database.execute("select identity, encryption, mac, wrapping, kek from fleet_key").fetchall()
    return {row[0]: tuple(row[1:]) for row in found}


def csv_of(count: int) -> str:
    lines = [f"esn-{number:05d},{number:032x},{number:064x}" for number in range(count)]
    return "identity,encryption,mac\n" + "\n".join(lines) + "\n"


def opens(bench: CeremonyBench, wrapped: bytes, label: str) -> str:
    return bench.python(
        f"k = key({label!r}).unwrap_key(C.SECRET_KEY, T.GENERIC_SECRET, bytes.fromhex({wrapped.hex()!r}),"
        " mechanism=M.AES_KEY_WRAP, template={A.SENSITIVE: False, A.EXTRACTABLE: True})\nresult = k[A.VALUE].hex()"
    )


def test_a_fleet_is_stored_wrapped_from_a_stream(bench: CeremonyBench) -> None:
    ceremony = bench.ceremony(STORAGE, extra=FLEET)
    bench.apply(ceremony)
    outcome = bench.run("import-fleet", ceremony, "-", stdin=csv_of(2500))
    assert outcome.code == 0, outcome.err
    assert "2500 entities stored, wrapped under fleet.storage.v1" in outcome.out
    found = rows(bench)
    assert len(found) == 2500
    encryption, mac, wrapping, kek = found["esn-00255"]
    assert (len(encryption), len(mac), len(wrapping), kek) == (24, 40, 24, "fleet.storage.v1")
    assert opens(bench, encryption, kek) == f"{255:032x}"
    assert opens(bench, mac, kek) == f"{255:064x}"


def test_a_bad_line_is_named_and_the_import_goes_on_after_its_correction(bench: CeremonyBench) -> None:
    ceremony = bench.ceremony(STORAGE, extra=FLEET)
    bench.apply(ceremony)
    good = csv_of(1500)
    bad = good.replace("esn-01200," + f"{1200:032x}", "esn-01200,nothexnothex")
    outcome = bench.run("import-fleet", ceremony, "-", "--job", "may", stdin=bad)
    assert outcome.code == 2
    assert "line 1202: encryption: not a key" in outcome.err
    assert "nothexnothex" not in outcome.err
    assert len(rows(bench)) == 1000
    again = bench.run("import-fleet", ceremony, "-", "--job", "may", stdin=good)
    assert again.code == 0, again.err
    assert "500 entities stored" in again.out
    assert len(rows(bench)) == 1500


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a,b\n", "the first line must be identity,encryption,mac,wrapping"),
        ("identity,encryption,mac\nx,00\n", "line 2: 3 columns"),
        ("identity,encryption,mac\n,00,00\n", "line 2: identity"),
        ("identity,encryption,mac\nx,00,00\n", "line 2: encryption: 1 bytes; 16 are needed"),
        ("", "the first line must be"),
    ],
)
def test_an_unusable_fleet_file_is_named(bench: CeremonyBench, text: str, complaint: str) -> None:
    ceremony = bench.ceremony(STORAGE, extra=FLEET)
    bench.apply(ceremony)
    outcome = bench.run("import-fleet", ceremony, "-", stdin=text)
    assert outcome.code == 2
    assert complaint in outcome.err


def test_a_fleet_of_jwks(bench: CeremonyBench) -> None:
    def jwk(value: bytes) -> dict[str, str]:
        return {"kty": "oct", "k": base64.urlsafe_b64encode(value).decode().rstrip("=")}

    ceremony = bench.ceremony(STORAGE, extra=FLEET)
    bench.apply(ceremony)
    line = {"identity": "e", "encryption": jwk(b"e" * 16), "mac": jwk(b"m" * 32), "wrapping": jwk(b"w" * 16)}
    outcome = bench.run("import-fleet", ceremony, "-", "--form", "jwk", stdin=json.dumps(line) + "\n")
    assert outcome.code == 0, outcome.err
    assert opens(bench, rows(bench)["e"][2], "fleet.storage.v1") == (b"w" * 16).hex()


def test_a_fleet_moves_under_the_next_storage_key(bench: CeremonyBench) -> None:
    ceremony = bench.ceremony(STORAGE, extra=FLEET)
    bench.apply(ceremony)
    assert bench.run("import-fleet", ceremony, "-", stdin=csv_of(20)).code == 0
    assert bench.run("rotate", ceremony, "fleet", "--yes").code == 0
    outcome = bench.run("rewrap-fleet", ceremony)
    assert outcome.code == 0, outcome.err
    assert "20 entities wrapped anew under fleet.storage.v2" in outcome.out
    assert {row[3] for row in rows(bench).values()} == {"fleet.storage.v2"}
    assert opens(bench, rows(bench)["esn-00007"][0], "fleet.storage.v2") == f"{7:032x}"
    assert "0 entities" in bench.run("rewrap-fleet", ceremony).out
