"""A weak key under our label, made before us by other means: no server starts with it (field notes section 5)."""

from __future__ import annotations

import pytest

from ceremony_fixture import CeremonyBench
from service_world import ServiceWorld

KEYS = (
    'profile = "msl-token-encryption"',
    'profile = "msl-token-mac"',
    'profile = "msl-token-wrap"',
    'profile = "rsa-identity"\nbits = 2048',
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
MANIFEST = '[key_manifest]\nfile = "records/manifest.json"\nsigned_by = "audit.pem"\n\n[users]'

# What generators of PKCS#11 tools make when nothing is said: every use, modifiable, and these can leave the token.
WEAK = {
    "msl.token.mac.v1": (
        "session.generate_key(T.GENERIC_SECRET, 256, store=True, label='msl.token.mac.v1', id=i,"
        " mechanism=M.GENERIC_SECRET_KEY_GEN, template={**f, A.SIGN: True, A.VERIFY: True, A.DERIVE: True,"
        " A.SENSITIVE: False, A.EXTRACTABLE: True})",
        (
            "CKA_DERIVE must be false",
            "CKA_SENSITIVE must be true",
            "CKA_EXTRACTABLE must be false",
            "hands out its value",
        ),
    ),
    "msl.token.wrap.v1": (
        "session.generate_key(T.AES, 128, store=True, label='msl.token.wrap.v1', id=i, mechanism=M.AES_KEY_GEN,"
        " template={**f, A.WRAP: True, A.UNWRAP: True, A.ENCRYPT: True, A.DECRYPT: True, A.SENSITIVE: True,"
        " A.EXTRACTABLE: True})",
        ("CKA_DECRYPT must be false", "CKA_ENCRYPT must be false", "CKA_EXTRACTABLE must be false"),
    ),
    "identity.rsa.v1": (
        "session.generate_keypair(T.RSA, 2048, store=True, label='identity.rsa.v1', id=i,"
        " mechanism=M.RSA_PKCS_KEY_PAIR_GEN, private_template={A.SIGN: True, A.DECRYPT: True, A.UNWRAP: True,"
        " A.SENSITIVE: True, A.EXTRACTABLE: True})",
        ("CKA_DECRYPT must be false", "CKA_UNWRAP must be false", "CKA_EXTRACTABLE must be false"),
    ),
}
REPLACE = (
    "old = list(session.get_objects({{A.LABEL: {label!r}}}))\n"
    "i = old[0][A.ID]\n"
    "for one in old: one.destroy()\n"
    "f = {{a: False for a in (A.ENCRYPT, A.DECRYPT, A.SIGN, A.VERIFY, A.WRAP, A.UNWRAP, A.DERIVE)}}\n"
    "{make}"
)


@pytest.mark.parametrize("manifest", [False, True], ids=["without a manifest", "with the manifest"])
@pytest.mark.parametrize("label", WEAK)
def test_a_server_refuses_to_start_and_names_each_bad_attribute(
    bench: CeremonyBench, label: str, manifest: bool
) -> None:
    make, complaints = WEAK[label]
    ceremony = bench.ceremony(*KEYS, extra=PRESHARED)
    bench.apply(ceremony)
    assert bench.run("public-key", ceremony, "audit.signing.v1", "--out", "audit.pem").code == 0
    world = ServiceWorld(bench.work, bench.environment)
    changes = [("hsm-msl-development", bench.label)]
    if manifest:
        changes.append(("[users]", MANIFEST))
    config = world.server_config("server.toml", *changes)
    bench.python(REPLACE.format(label=label, make=make))
    done = world.run("serve", "--check", config)
    assert done.returncode == 78, done.stderr
    (line,) = done.stderr.decode().splitlines()
    assert label in line
    for complaint in complaints:
        assert complaint in line, line
