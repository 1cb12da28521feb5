"""Roles, tried on the token with exactly what each role has: officer, key manager, service user, auditor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from ceremony_fixture import CeremonyBench, make_bench

KEYS = ('profile = "msl-token-mac"', 'profile = "msl-token-wrap"', 'profile = "rsa-identity"\nbits = 2048')

# The sessions of one process share its login, so the officer gets a process of their own.
ATTEMPTS = """
from pkcs11.exceptions import PKCS11Error
def verdict(attempt):
    try: attempt()
    except PKCS11Error as error: return type(error).__name__
    return "ALLOWED"
def tries(role, mac, private):
    plain = {A.CLASS: C.SECRET_KEY, A.KEY_TYPE: T.AES, A.VALUE: bytes(16), A.TOKEN: True}
    return {
        "use": lambda: mac.sign(b"data", mechanism=M.SHA256_HMAC),
        "create": lambda: role.generate_key(T.AES, 128, store=True, label="made", mechanism=M.AES_KEY_GEN).destroy(),
        "import": lambda: role.create_object({**plain, A.PRIVATE: True}).destroy(),
        "create a trusted wrapping key": lambda: role.create_object({**plain, A.WRAP: True, A.TRUSTED: True}),
        "trust": lambda: mac.__setitem__(A.TRUSTED, True),
        "read": lambda: mac[A.VALUE],
        "read the private key": lambda: private[A.PRIVATE_EXPONENT],
        "export": lambda: wrapping.wrap_key(mac, mechanism=M.AES_KEY_WRAP),
        "export the private key": lambda: wrapping.wrap_key(private, mechanism=M.AES_KEY_WRAP_PAD),
        "copy": lambda: mac.copy({A.TOKEN: False, A.EXTRACTABLE: True}),
        "gain a right": lambda: mac.__setitem__(A.ENCRYPT, True),
        "set a user PIN": lambda: role.init_pin("9999"),
        "destroy": lambda: mac.destroy(),
    }
result = {}
wrapping = session.generate_key(T.AES, 256, store=False, mechanism=M.AES_KEY_GEN, template={A.WRAP: True})
for name, role in (("service user", token.open()), ("key manager", session)):
    found = role.get_key(label="msl.token.mac.v1", object_class=C.SECRET_KEY)
    private = role.get_key(label="identity.rsa.v1", object_class=C.PRIVATE_KEY)
    result[name] = {attempt: verdict(call) for attempt, call in tries(role, found, private).items()}
"""
OFFICER = """
from pkcs11.exceptions import PKCS11Error
session.close()
officer = token.open(rw=True, so_pin=so_pin)
def verdict(attempt):
    try: attempt()
    except PKCS11Error as error: return type(error).__name__
    return "ALLOWED"
seen = sorted({(o.object_class.name, o[A.LABEL]) for o in list(officer.get_objects({A.TOKEN: True}))})
result = {
    "sees": [list(one) for one in seen],
    "create a private key": verdict(lambda: officer.create_object({
        A.CLASS: C.SECRET_KEY, A.KEY_TYPE: T.AES, A.VALUE: bytes(16), A.TOKEN: True, A.PRIVATE: True})),
    "set a user PIN": verdict(lambda: officer.init_pin(sys.argv[3])),
}
"""
NEVER = (
    *("create a trusted wrapping key", "trust", "read", "read the private key", "export", "export the private key"),
    *("copy", "gain a right", "set a user PIN"),
)
MAKING = ("create", "import", "destroy")


@pytest.fixture(scope="module")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> CeremonyBench:
    bench = make_bench(tmp_path_factory.mktemp("roles") / "bench")
    bench.apply(bench.ceremony(*KEYS))
    return bench


@pytest.fixture(scope="module")
def allowed(provisioned: CeremonyBench) -> Mapping[str, Any]:
    """Return what each role came to with each attempt; the officer tries first, as the key manager destroys."""
    officer = (provisioned.work / "pins/so.pin").read_text().strip()
    found: dict[str, Any] = {"officer": provisioned.python(f"so_pin = {officer!r}\n{OFFICER}")}
    found.update(provisioned.python(ATTEMPTS))
    return found


def test_a_service_user_uses_keys_and_nothing_else(allowed: Mapping[str, Any]) -> None:
    """What a service has: the user PIN and read-only sessions."""
    outcome = allowed["service user"]
    assert {attempt for attempt, verdict in outcome.items() if verdict == "ALLOWED"} == {"use"}
    assert all(outcome[attempt] == "SessionReadOnly" for attempt in MAKING)


def test_a_key_manager_makes_and_destroys_keys_and_never_gets_one_out(allowed: Mapping[str, Any]) -> None:
    """What somebody with the user PIN and a read/write session can do: the limit of the one user role."""
    outcome = allowed["key manager"]
    assert {attempt for attempt, verdict in outcome.items() if verdict == "ALLOWED"} == {"use", *MAKING}
    assert {outcome[attempt] for attempt in NEVER}.isdisjoint({"ALLOWED"})


def test_an_officer_sets_pins_and_sees_no_secret(allowed: Mapping[str, Any]) -> None:
    outcome = allowed["officer"]
    assert {kind for kind, _ in outcome["sees"]} <= {"PUBLIC_KEY"}
    assert outcome["create a private key"] != "ALLOWED"
    assert outcome["set a user PIN"] == "ALLOWED"


SESSIONS = """
import sys
from hsm_msl.backend.pin import pin_source
from hsm_msl.backend.pkcs11.cryptoki import SessionState
from hsm_msl.backend.pkcs11.errors import CryptokiError
from hsm_msl.backend.pkcs11.connection import TokenSelector
from hsm_msl.backend.pkcs11.module import load
from hsm_msl.backend.pkcs11.token import open_token
from hsm_msl.backend.pkcs11.vendors.softhsm import SOFTHSM
module = load(sys.argv[1])
token = open_token(module, TokenSelector(label=sys.argv[2]), pin_source("file:" + sys.argv[3]), SOFTHSM)
key = token.signing_key("identity.rsa.v1")
states = set()
for handle in range(1, 100):
    try: states.add(SessionState(module.cryptoki.session_info(handle).state).name)
    except CryptokiError: pass
print(sorted(states))
"""


def test_a_service_opens_read_only_sessions_alone(provisioned: CeremonyBench) -> None:
    """Every session of a process that opened a token as a server does, by what the module says of each."""
    done = provisioned.script(SESSIONS, provisioned.module, provisioned.label, provisioned.work / "pins/user.pin")
    assert done.code == 0, done.err
    assert done.out.strip() == "['READ_ONLY_USER']"


def test_an_auditor_needs_neither_pin_nor_token(provisioned: CeremonyBench) -> None:
    ceremony = provisioned.work / "test.toml"
    assert provisioned.run("public-key", ceremony, "audit.signing.v1", "--out", "audit.pem").code == 0
    pins, tokens = provisioned.work / "pins", provisioned.directory / "tokens"
    pins.rename(provisioned.work / "locked away")
    tokens.rename(provisioned.directory / "unplugged")
    try:
        log = ("records/audit.jsonl", "--public-key", "audit.pem", "--manifest", "records/manifest.json")
        assert provisioned.run("audit", "verify", *log).code == 0
        assert provisioned.run("audit", "show", "records/audit.jsonl").code == 0
        assert provisioned.run("inventory", ceremony).code == 0
    finally:
        (provisioned.work / "locked away").rename(pins)
        (provisioned.directory / "unplugged").rename(tokens)
