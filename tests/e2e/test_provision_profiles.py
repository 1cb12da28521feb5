"""Every key profile on a real token, tried by a witness that is not the tool (field notes section 5, first test)."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from typing import Any

import pytest

from ceremony_fixture import PROVISIONING, CeremonyBench, make_bench

PROFILES = {path.stem: tomllib.loads(path.read_text()) for path in sorted((PROVISIONING / "profiles").glob("*.toml"))}
REPLACEMENTS = frozenset({"msl-token-pack", "audit-signing-rsa"})
"""Profiles that stand in for another on tokens that lack something, and share its purpose."""

# Run on the token through the plain binding, in the session a key manager has: whatever it may do, a key must not
# show itself, leave, be copied or gain a right. Destroying is tried in a read-only session, the only kind a service
# opens; a key manager has to be able to destroy, and does it through the tool, with two approvals.
WITNESS = """
from pkcs11.exceptions import PKCS11Error
SECRET = {T.RSA: A.PRIVATE_EXPONENT}
RIGHTS = ("ENCRYPT", "DECRYPT", "WRAP", "UNWRAP", "SIGN", "VERIFY", "DERIVE", "SIGN_RECOVER")
def verdict(attempt):
    try: attempt()
    except PKCS11Error as error: return type(error).__name__ if type(error) is not PKCS11Error else str(error)
    return "ALLOWED"
wrapping = session.generate_key(T.AES, 256, store=False, mechanism=M.AES_KEY_GEN, template={A.WRAP: True})
service = token.open()
result = {}
for kind in (C.SECRET_KEY, C.PRIVATE_KEY):
    for found in list(session.get_objects({A.TOKEN: True, A.CLASS: kind})):
        label = found[A.LABEL]
        read_only = next(iter(list(service.get_objects({A.LABEL: label, A.CLASS: kind}))))
        tries = {
            "read": lambda: found[SECRET.get(found.key_type, A.VALUE)],
            "wrap out": lambda: wrapping.wrap_key(found, mechanism=M.AES_KEY_WRAP_PAD),
            "copy": lambda: found.copy({A.TOKEN: False, A.EXTRACTABLE: True}),
            "copy as it is": lambda: found.copy({A.TOKEN: False}),
            "extractable": lambda: found.__setitem__(A.EXTRACTABLE, True),
            "not sensitive": lambda: found.__setitem__(A.SENSITIVE, False),
            "modifiable": lambda: found.__setitem__(A.MODIFIABLE, True),
            "rename": lambda: found.__setitem__(A.LABEL, "other"),
            "destroy as a service": lambda: read_only.destroy(),
        }
        granted = []
        for name in RIGHTS:
            try: on = bool(found[A[name]])
            except PKCS11Error: on = False
            if on: granted.append(name)
            else: tries["gain " + name] = lambda name=name: found.__setitem__(A[name], True)
        result[label] = {"granted": granted, "tries": {name: verdict(attempt) for name, attempt in tries.items()}}
"""


def label_of(name: str, profile: Mapping[str, Any]) -> str:
    return f"{purpose_of(name, profile)}.{profile['role']}.v1"


def purpose_of(name: str, profile: Mapping[str, Any]) -> str:
    """Return the profile's own purpose, or one of the test's."""
    return f"of.{name}" if name in REPLACEMENTS else str(profile.get("purpose", f"of.{name}"))


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """Return, by label, the rights of one key of every profile and what each attempt on it came to."""
    bench: CeremonyBench = make_bench(tmp_path_factory.mktemp("profiles") / "bench")
    sections = []
    for name, profile in PROFILES.items():
        purpose = f'purpose = "{purpose_of(name, profile)}"'
        bits = f"bits = {min(profile['bits'])}\n" if profile["type"] == "rsa" else ""
        sections.append(f'profile = "{name}"\n{purpose}\n{bits}')
    bench.apply(bench.ceremony(*sections, signing=False))
    found: Mapping[str, Any] = bench.python(WITNESS)
    (bench.directory / "tried.json").write_text(json.dumps(found, indent=1))
    return found


def test_every_profile_was_made(tried: Mapping[str, Any]) -> None:
    assert set(tried) == {label_of(name, profile) for name, profile in PROFILES.items()}
    assert len(PROFILES) >= 20


@pytest.mark.parametrize("name", PROFILES)
def test_a_key_has_the_rights_of_its_profile_and_nothing_else_can_be_done_to_it(
    tried: Mapping[str, Any], name: str
) -> None:
    profile = PROFILES[name]
    key = tried[label_of(name, profile)]
    assert {right.lower() for right in key["granted"]} == set(profile["usage"])
    assert len(key["tries"]) >= 12
    assert {attempt for attempt, outcome in key["tries"].items() if outcome == "ALLOWED"} == set()


def test_the_refusals_are_decisions_about_the_key(tried: Mapping[str, Any]) -> None:
    """A token that was away would refuse everything; these name the attribute, the key or the session instead."""
    reasons = {outcome for key in tried.values() for outcome in key["tries"].values()}
    prohibited = "Unmapped error code 0x1b"  # CKR_ACTION_PROHIBITED, which the binding has no name for
    assert reasons == {"AttributeSensitive", "KeyUnextractable", "SessionReadOnly", prohibited}
