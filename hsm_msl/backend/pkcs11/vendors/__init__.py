"""Token vendors: one frozen profile of mechanisms, limits and quirks per file."""

from __future__ import annotations

from collections.abc import Mapping

from hsm_msl.backend.pkcs11.vendors.base import VendorProfile
from hsm_msl.backend.pkcs11.vendors.generic import GENERIC
from hsm_msl.backend.pkcs11.vendors.softhsm import SOFTHSM

__all__ = ["GENERIC", "PROFILES", "SOFTHSM", "VendorProfile"]

PROFILES: Mapping[str, VendorProfile] = {profile.name: profile for profile in (GENERIC, SOFTHSM)}
"""Every profile by the name a configuration uses."""
