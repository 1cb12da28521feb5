"""Vendor profiles: data that has to be whole before a deployment relies on it."""

from __future__ import annotations

import dataclasses

import pytest

from hsm_msl.backend.pkcs11.vendors import GENERIC, PROFILES, VendorProfile, recognise
from vendor_runs import VENDORS


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_a_profile_says_where_its_facts_are_from(profile: VendorProfile) -> None:
    assert profile is GENERIC or (profile.title and profile.source and profile.quirks)
    with pytest.raises(dataclasses.FrozenInstanceError):
        profile.sessions = 1  # type: ignore[misc]  # it must not be possible


def test_what_is_called_tested_is_what_the_suites_run_on() -> None:
    assert {name for name, profile in PROFILES.items() if profile.tested} == set(VENDORS)


@pytest.mark.parametrize(
    ("manufacturer", "model", "name"),
    [
        ("SoftHSM project", "SoftHSM v2", "softhsm"),
        ("Mozilla Foundation", "NSS 3", "nss"),
        ("IBM Corp.", "IBM SoftTok", "opencryptoki"),
        ("IBM", "SW   TPM", "tpm2"),
        ("Yubico (www.yubico.com)", "YubiHSM", "yubihsm"),
        ("Linaro", "OP-TEE TA", "optee"),
        ("Some vendor", "some model", "generic"),
        ("IBM Corp.", "CCA", "generic"),
    ],
)
def test_a_token_is_recognised_by_what_it_says_of_itself(manufacturer: str, model: str, name: str) -> None:
    assert recognise(manufacturer, model).name == name
