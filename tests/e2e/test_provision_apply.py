"""`hsm-provision apply` on a real SoftHSMv2 token (issue: first provisioning; provisioning field notes section 5)."""

from __future__ import annotations

import hashlib
import hmac
import json
import sqlite3
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ceremony_fixture import PROVISIONING, CeremonyBench

KPE = "000102030405060708090a0b0c0d0e0f"
KPH = "101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f"
KPW = "d479effa9a554115be5e81cf118624f7"

STRICT = {
    "SENSITIVE": True,
    "EXTRACTABLE": False,
    "MODIFIABLE": False,
    "COPYABLE": False,
    "PRIVATE": True,
    "TOKEN": True,
}


def attributes(bench: CeremonyBench, label: str, names: list[str]) -> dict[str, bool]:
    return bench.python(f"k = key({label!r})\nresult = {{n: bool(k[A[n]]) for n in {names!r}}}")


def test_development_ceremony_goes_from_nothing_to_a_proved_token(bench: CeremonyBench) -> None:
    ceremony = PROVISIONING / "ceremonies/development.toml"
    bench.label = "hsm-msl-development"
    first = bench.run("apply", ceremony, "-C", bench.work)
    assert first.code == 0, first.err
    assert "every key is proved" in first.out
    labels = bench.python("result = sorted({o[A.LABEL] for o in list(session.get_objects({A.TOKEN: True}))})")
    assert labels == [
        "audit.signing.v1",
        "identity.ec.v1",
        "identity.rsa.v1",
        "msl.token.encryption.v1",
        "msl.token.mac.v1",
        "msl.token.wrap.v1",
        "psk.development-client.encryption.v1",
        "psk.development-client.mac.v1",
        "psk.development-client.wrap.v1",
        "service.development.encryption.v1",
        "service.development.mac.v1",
    ]
    for secret in ("pins/user.pin", "pins/so.pin", "keys/development-client.mac.hex", "users/user.password"):
        assert (bench.work / secret).stat().st_mode & 0o077 == 0, secret


def test_second_apply_changes_nothing(bench: CeremonyBench) -> None:
    ceremony = bench.ceremony('profile = "msl-token-encryption"', 'profile = "rsa-identity"')
    bench.apply(ceremony)
    manifest = (bench.work / "records/manifest.json").read_bytes()
    audit = (bench.work / "records/audit.jsonl").read_bytes()
    again = bench.apply(ceremony)
    assert "nothing to do" in again.out
    assert (bench.work / "records/manifest.json").read_bytes() == manifest
    assert (bench.work / "records/audit.jsonl").read_bytes() == audit


@pytest.mark.parametrize(
    ("profile", "label", "granted"),
    [
        ("msl-token-encryption", "msl.token.encryption.v1", {"ENCRYPT", "DECRYPT"}),
        ("msl-token-mac", "msl.token.mac.v1", {"SIGN", "VERIFY"}),
        ("msl-token-wrap", "msl.token.wrap.v1", {"WRAP", "UNWRAP"}),
    ],
)
def test_token_keys_have_exactly_their_rights(
    bench: CeremonyBench, profile: str, label: str, granted: set[str]
) -> None:
    bench.apply(bench.ceremony(f'profile = "{profile}"', signing=False))
    rights = ["ENCRYPT", "DECRYPT", "WRAP", "UNWRAP", "SIGN", "VERIFY", "DERIVE"]
    found = attributes(bench, label, [*STRICT, *rights, "ALWAYS_SENSITIVE", "NEVER_EXTRACTABLE", "LOCAL"])
    assert {name for name in rights if found[name]} == granted
    assert {name: found[name] for name in STRICT} == STRICT
    assert found["ALWAYS_SENSITIVE"]
    assert found["NEVER_EXTRACTABLE"]
    assert found["LOCAL"]


def test_a_created_key_refuses_reading_wrapping_escalation_and_copying(bench: CeremonyBench) -> None:
    """Acceptance test 1 of section 5, by a witness that is not the tool."""
    bench.apply(bench.ceremony('profile = "msl-token-encryption"', 'profile = "rsa-identity"', signing=False))
    refused = bench.python(
        "k = key('msl.token.encryption.v1')\n"
        "p = key('identity.rsa.v1', C.PRIVATE_KEY)\n"
        "w = session.generate_key(T.AES, 256, store=False, mechanism=M.AES_KEY_GEN, template={A.WRAP: True})\n"
        "def no(f):\n"
        "    try: f()\n"
        "    except pkcs11.exceptions.PKCS11Error: return True\n"
        "    return False\n"
        "result = [no(lambda: k[A.VALUE]), no(lambda: w.wrap_key(k, mechanism=M.AES_KEY_WRAP)),"
        " no(lambda: k.__setitem__(A.WRAP, True)), no(lambda: k.copy({A.EXTRACTABLE: True})),"
        " no(lambda: p[A.PRIVATE_EXPONENT]), no(lambda: w.wrap_key(p, mechanism=M.AES_KEY_WRAP_PAD)),"
        " no(lambda: p.__setitem__(A.DECRYPT, True))]"
    )
    assert refused == [True] * 7


def test_label_and_id_follow_the_convention(bench: CeremonyBench) -> None:
    bench.apply(bench.ceremony('profile = "rsa-identity"\nversion = 3', signing=False))
    found = bench.python("result = [[o[A.LABEL], o[A.ID].hex()] for o in list(session.get_objects({A.TOKEN: True}))]")
    expected = hashlib.sha256(b"hsm-provision key id v1\x00identity.rsa.v3").hexdigest()[:32]
    assert found == [["identity.rsa.v3", expected]] * 2


def test_preshared_keys_are_imported_and_the_wrapping_key_derived(bench: CeremonyBench) -> None:
    """msl-schemes section 10.1, first row: the check value of Kpw is that of the recorded key."""
    bench.write("kpe.hex", KPE + "\n")
    bench.write("kph.hex", KPH)
    ceremony = bench.ceremony(
        extra='\n[[preshared]]\nidentity = "esn.with.dots 1"\nencryption = "kpe.hex"\nmac = "kph.hex"\n',
        signing=False,
    )
    bench.apply(ceremony)
    witness = bench.python(
        "z = session.create_object({A.CLASS: C.SECRET_KEY, A.KEY_TYPE: T.GENERIC_SECRET, A.VALUE: bytes(16),"
        " A.TOKEN: False, A.SENSITIVE: False, A.EXTRACTABLE: True})\n"
        "result = [key('psk.esn.with.dots 1.encryption.v1').encrypt(bytes(16), mechanism=M.AES_ECB).hex(),"
        " key('psk.esn.with.dots 1.mac.v1').sign(b'x', mechanism=M.SHA256_HMAC).hex(),"
        " key('psk.esn.with.dots 1.wrap.v1').wrap_key(z, mechanism=M.AES_KEY_WRAP).hex()]"
    )
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    from cryptography.hazmat.primitives.keywrap import aes_key_wrap

    assert witness[0] == Cipher(algorithms.AES(bytes.fromhex(KPE)), modes.ECB()).encryptor().update(bytes(16)).hex()
    assert witness[1] == hmac.digest(bytes.fromhex(KPH), b"x", "sha256").hex()
    assert witness[2] == aes_key_wrap(bytes.fromhex(KPW), bytes(16)).hex()
    entry = bench.entry("psk.esn.with.dots 1.wrap.v1")
    assert entry["provenance"] == "imported"
    assert entry["check"] == {"method": "wrap-zero", "value": witness[2][:16]}


def test_an_explicit_wrapping_key_overrides_the_derived_one(bench: CeremonyBench) -> None:
    """msl-schemes section 9.3: a store may hold an explicitly configured Kpw."""
    bench.write("kpe.hex", KPE)
    bench.write("kph.hex", KPH)
    bench.write("kpw.hex", "ff" * 16)
    bench.apply(
        bench.ceremony(
            extra='\n[[preshared]]\nidentity = "e"\nencryption = "kpe.hex"\nmac = "kph.hex"\nwrap = "kpw.hex"\n',
            signing=False,
        )
    )
    from cryptography.hazmat.primitives.keywrap import aes_key_wrap

    assert bench.entry("psk.e.wrap.v1")["check"]["value"] == aes_key_wrap(b"\xff" * 16, bytes(16))[:8].hex()


@pytest.mark.parametrize("encoding", [serialization.Encoding.PEM, serialization.Encoding.DER])
def test_an_rsa_private_key_is_taken_over(bench: CeremonyBench, encoding: serialization.Encoding) -> None:
    pair = rsa.generate_private_key(65537, 2048)
    path = bench.write("server.key", "")
    path.write_bytes(pair.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    bench.apply(
        bench.ceremony('profile = "rsa-identity"\nimport = { file = "server.key", form = "pkcs8" }', signing=False)
    )
    spki = pair.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert bench.entry("identity.rsa.v1")["check"]["value"] == hashlib.sha256(spki).hexdigest()
    signature = bench.python(
        "result = key('identity.rsa.v1', C.PRIVATE_KEY).sign(b'data', mechanism=M.SHA256_RSA_PKCS).hex()"
    )
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    pair.public_key().verify(bytes.fromhex(signature), b"data", padding.PKCS1v15(), hashes.SHA256())


def test_an_ec_key_is_taken_over_from_a_jwk(bench: CeremonyBench) -> None:
    import base64

    pair = ec.generate_private_key(ec.SECP256R1())
    numbers = pair.private_numbers()

    def text(value: int) -> str:
        return base64.urlsafe_b64encode(value.to_bytes(32, "big")).decode().rstrip("=")

    public = numbers.public_numbers
    jwk = {"kty": "EC", "crv": "P-256", "x": text(public.x), "y": text(public.y), "d": text(numbers.private_value)}
    bench.write("ec.jwk", json.dumps(jwk))
    bench.apply(bench.ceremony('profile = "ec-identity"\nimport = { file = "ec.jwk", form = "jwk" }', signing=False))
    spki = pair.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert bench.entry("identity.ec.v1")["check"]["value"] == hashlib.sha256(spki).hexdigest()


def test_users_are_stored_as_argon2id_and_updated(bench: CeremonyBench) -> None:
    bench.write("password", "correct horse\n")
    extra = '\n[users]\ndatabase = "users.sqlite"\n[[users.user]]\nemail = "a@example.com"\npassword = "password"\n'
    ceremony = bench.ceremony(extra=extra, signing=False)
    bench.apply(ceremony)

    def row() -> tuple[str, str, str]:
        with sqlite3.connect(bench.work / "users.sqlite") as database:
            found = database.execute("select email, identity, password from users").fetchone()
            return (found[0], found[1], found[2])

    email, identity, stored = row()
    assert (email, identity) == ("a@example.com", "a@example.com")
    assert stored.startswith("$argon2id$")
    assert "nothing to do" in bench.apply(ceremony).out
    bench.write("password", "battery staple\n")
    assert "update" in bench.apply(ceremony).out
    assert row()[2] != stored


def test_pins_appear_in_no_output_and_no_record(bench: CeremonyBench) -> None:
    """Field note F8: grep everything written for the PIN."""
    ceremony = bench.ceremony('profile = "msl-token-mac"')
    done = bench.apply(ceremony)
    for pin in ((bench.work / "pins" / name).read_text().strip() for name in ("user.pin", "so.pin")):
        assert pin not in done.out + done.err
        for path in (bench.work / "records").rglob("*"):
            assert path.is_dir() or pin.encode() not in path.read_bytes()


def test_key_bytes_appear_in_no_output_and_no_record(bench: CeremonyBench) -> None:
    bench.write("kpe.hex", KPE)
    bench.write("kph.hex", KPH)
    done = bench.apply(
        bench.ceremony(extra='\n[[preshared]]\nidentity = "e"\nencryption = "kpe.hex"\nmac = "kph.hex"\n')
    )
    texts = [done.out.encode(), done.err.encode()]
    texts += [path.read_bytes() for path in (bench.work / "records").rglob("*") if path.is_file()]
    for secret in (KPE, KPH, KPW):
        assert not [text for text in texts if secret.encode() in text or bytes.fromhex(secret) in text]


def test_profiles_and_ceremonies_of_the_project_are_valid() -> None:
    from hsm_provision.ceremony import read_ceremony
    from hsm_provision.desired_keys import desired_keys
    from hsm_provision.profiles import read_profiles

    for path in sorted((PROVISIONING / "ceremonies").glob("*.toml")):
        file = read_ceremony(path, Path("unused"))
        assert desired_keys(file, read_profiles(file.profiles_directory)), path
