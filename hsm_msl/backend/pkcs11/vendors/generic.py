"""A token that follows the standard and about which nothing else is known."""

from __future__ import annotations

from pkcs11.exceptions import FunctionFailed, GeneralError

from hsm_msl.backend.pkcs11.vendors.base import VendorProfile

GENERIC = VendorProfile(name="generic", vague=(GeneralError, FunctionFailed))
