"""Token vendors: one frozen profile of mechanisms, limits and quirks per file."""

from __future__ import annotations

from collections.abc import Mapping

from hsm_msl.backend.pkcs11.vendors.base import VendorProfile
from hsm_msl.backend.pkcs11.vendors.generic import GENERIC
from hsm_msl.backend.pkcs11.vendors.nss import NSS
from hsm_msl.backend.pkcs11.vendors.opencryptoki import OPENCRYPTOKI
from hsm_msl.backend.pkcs11.vendors.p11kit import P11KIT
from hsm_msl.backend.pkcs11.vendors.softhsm import SOFTHSM
from hsm_msl.backend.pkcs11.vendors.tpm2 import TPM2

__all__ = ["GENERIC", "PROFILES", "SOFTHSM", "VendorProfile"]

PROFILES: Mapping[str, VendorProfile] = {
    profile.name: profile for profile in (GENERIC, SOFTHSM, NSS, OPENCRYPTOKI, TPM2, P11KIT)
}
"""Every profile by the name a configuration uses."""
