"""Entrust nShield: from public documentation, never tested here."""

from __future__ import annotations

from pkcs11.exceptions import DeviceError, FunctionFailed, GeneralError

from hsm_msl.backend.pkcs11.vendors.base import VendorProfile

NSHIELD = VendorProfile(
    name="nshield",
    title="Entrust nShield",
    source="the vendor's Cryptographic API guide",
    manufacturers=("nCipher", "Entrust", "Thales e-Security", "THALES E-SECURITY"),
    vague=(GeneralError, FunctionFailed, DeviceError),
    sessions=16,
    quirks=(
        "token keys are files below kmdata/local: let a service's system user read them and never write there",
        "it is configured by CKNFAST_ environment variables, which have to be set before the process starts",
        "CKNFAST_OVERRIDE_SECURITY_ASSURANCES decides what is refused as unsafe; allow only what is needed",
        "CKNFAST_LOADSHARING makes several modules one token and does the failover itself",
        "with an operator card set the PIN is the card's passphrase",
    ),
)
