"""A key compared with the manifest's entry: the check values are those the provisioning computes."""

from __future__ import annotations

import threading

import pytest

from ceremony_fixture import PROVISIONING
from hsm_msl.backend.derived import SoftwareDerivationKey
from hsm_msl.backend.key_manifest import KeyCheck
from hsm_msl.backend.software import SoftwareAesKey, SoftwareWrappingKey, software_mac_key
from hsm_msl.errors import BackendUnavailableError, KeyNotFoundError, MechanismUnsupportedError
from hsm_msl.ports import MacAlgorithm
from hsm_msl.service.key_drift import AnyKey, DriftRecord, drift
from hsm_msl.service.watch.drift import DriftWatch
from hsm_provision.check_values import check_value_of_secret
from hsm_provision.profiles import read_profiles

SECRET, OTHER = b"\x5a" * 16, b"\xa5" * 16


def handle(profile: str, secret: bytes) -> AnyKey:
    if profile.endswith("mac"):
        return software_mac_key(secret * 2, MacAlgorithm.HMAC_SHA256)
    return SoftwareWrappingKey(secret) if profile.endswith("wrap") else SoftwareAesKey(secret)


def entry(profile: str) -> KeyCheck:
    known = read_profiles(PROVISIONING / "profiles")[profile]
    value = check_value_of_secret(known, SECRET * 2 if profile.endswith("mac") else SECRET)
    return KeyCheck(value.method, value.value)


@pytest.mark.parametrize("profile", ["msl-token-encryption", "msl-token-mac", "msl-token-wrap"])
def test_check_values(profile: str) -> None:
    assert drift("k", handle(profile, SECRET), entry(profile)) is None
    problem = drift("k", handle(profile, OTHER), entry(profile))
    assert problem is not None
    assert f"k: check value ({entry(profile).method}) is " in problem
    assert f"by the manifest {entry(profile).value}: another key" in problem


def test_a_key_for_another_use() -> None:
    problem = drift("k", handle("msl-token-encryption", SECRET), entry("msl-token-mac"))
    assert problem == "k: usage differs: by the manifest it is a key with check value hmac-label"


class Failing:
    """A MAC key that fails as it is told."""

    algorithm = MacAlgorithm.HMAC_SHA256

    def __init__(self, secret: bytes) -> None:
        self.key = software_mac_key(secret * 2, MacAlgorithm.HMAC_SHA256)
        self.error: Exception | None = None

    def sign(self, data: bytes) -> bytes:
        if self.error is not None:
            raise self.error
        return self.key.sign(data)

    def verify(self, data: bytes, tag: bytes) -> bool:
        return self.key.verify(data, tag)


def test_drift_is_recorded_once_and_an_outage_is_none(caplog: pytest.LogCaptureFixture) -> None:
    """Field note F1 and F6: a token that is away is no other key, and a state is written when it changes."""
    written: list[tuple[str, str]] = []
    key, check = Failing(SECRET), entry("msl-token-mac")
    record = DriftRecord(lambda event, details: written.append((event, details.get("problem", ""))))
    watch = DriftWatch(lambda: [("other", Failing(OTHER)), ("k", key)], {"k": check}.get, record, 3600.0)
    watch.look()
    for error in (BackendUnavailableError("away"), MechanismUnsupportedError("cannot")):
        key.error = error
        watch.look()
    assert written == []
    key.error = None
    key.key = software_mac_key(OTHER * 2, MacAlgorithm.HMAC_SHA256)
    watch.look()
    watch.look()
    key.error = KeyNotFoundError("no such key")
    watch.look()
    key.error, key.key = None, software_mac_key(SECRET * 2, MacAlgorithm.HMAC_SHA256)
    watch.look()
    watch.look()
    assert [event for event, _problem in written] == ["drift found", "drift found", "drift gone"]
    assert "another key" in written[0][1]
    assert written[1][1] == "k: no such key"
    assert caplog.text.count("key drift:") == 3


def test_the_watch_compares_in_a_thread_of_its_own() -> None:
    seen = threading.Event()
    record = DriftRecord(lambda _event, _details: seen.set())
    watch = DriftWatch(lambda: [("k", Failing(OTHER))], {"k": entry("msl-token-mac")}.get, record, 0.01)
    watch.start()
    try:
        assert seen.wait(30)
    finally:
        watch.close()


def test_a_derivation_key_is_known_by_a_key_it_derives() -> None:
    known = read_profiles(PROVISIONING / "profiles")["fleet-derivation"]
    value = check_value_of_secret(known, SECRET)
    check = KeyCheck(value.method, value.value)
    assert value.method == "derive-zero"
    assert drift("k", SoftwareDerivationKey(SECRET), check) is None
    assert "another key" in str(drift("k", SoftwareDerivationKey(OTHER), check))
