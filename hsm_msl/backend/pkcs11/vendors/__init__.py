"""Token vendors: one frozen profile of mechanisms, limits and quirks per file."""

from __future__ import annotations

from collections.abc import Mapping

from hsm_msl.backend.pkcs11.vendors.base import VendorProfile
from hsm_msl.backend.pkcs11.vendors.cloudhsm import CLOUDHSM
from hsm_msl.backend.pkcs11.vendors.generic import GENERIC
from hsm_msl.backend.pkcs11.vendors.luna import LUNA
from hsm_msl.backend.pkcs11.vendors.nshield import NSHIELD
from hsm_msl.backend.pkcs11.vendors.nss import NSS
from hsm_msl.backend.pkcs11.vendors.opencryptoki import OPENCRYPTOKI
from hsm_msl.backend.pkcs11.vendors.optee import OPTEE
from hsm_msl.backend.pkcs11.vendors.p11kit import P11KIT
from hsm_msl.backend.pkcs11.vendors.softhsm import SOFTHSM
from hsm_msl.backend.pkcs11.vendors.tpm2 import TPM2
from hsm_msl.backend.pkcs11.vendors.utimaco import UTIMACO
from hsm_msl.backend.pkcs11.vendors.yubihsm import YUBIHSM

__all__ = ["GENERIC", "PROFILES", "SOFTHSM", "VendorProfile", "recognise"]

PROFILES: Mapping[str, VendorProfile] = {
    profile.name: profile
    for profile in (
        GENERIC,
        SOFTHSM,
        NSS,
        OPENCRYPTOKI,
        TPM2,
        P11KIT,
        LUNA,
        CLOUDHSM,
        NSHIELD,
        YUBIHSM,
        UTIMACO,
        OPTEE,
    )
}
"""Every profile by the name a configuration uses."""


def recognise(manufacturer: str, model: str) -> VendorProfile:
    """Return the profile that fits what a token says of itself; ``GENERIC`` when none does.

    A token behind p11-kit shows itself and not p11-kit, so that profile has to be named.

    Args:
        manufacturer: the token's manufacturer ID.
        model: its model.
    """
    for profile in PROFILES.values():
        if any(manufacturer.startswith(name) for name in profile.manufacturers) and (
            not profile.models or any(model.startswith(name) for name in profile.models)
        ):
            return profile
    return GENERIC
