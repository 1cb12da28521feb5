"""A key compared with the manifest's entry: the check values are those the provisioning computes."""

from __future__ import annotations

import pytest

from ceremony_fixture import PROVISIONING
from hsm_msl.backend.key_manifest import KeyCheck
from hsm_msl.backend.software import SoftwareAesKey, SoftwareWrappingKey, software_mac_key
from hsm_msl.ports import MacAlgorithm
from hsm_msl.service.key_drift import AnyKey, drift
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
