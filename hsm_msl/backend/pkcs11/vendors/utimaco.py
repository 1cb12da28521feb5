"""Utimaco CryptoServer with the PKCS#11 R3 provider: from public documentation, never tested here."""

from __future__ import annotations

from pkcs11.exceptions import DeviceError, FunctionFailed, GeneralError

from hsm_msl.backend.pkcs11.vendors.base import VendorProfile

UTIMACO = VendorProfile(
    name="utimaco",
    title="Utimaco CryptoServer",
    source="the integration guide at docs.keyfactor.com/ejbca",
    manufacturers=("Utimaco",),
    vague=(GeneralError, FunctionFailed, DeviceError),
    sessions=8,
    # AppTimeout forgets every session of a process that was idle for 30 minutes, unless it is set otherwise.
    keep_alive_seconds=600.0,
    quirks=(
        "it reads /etc/utimaco/cs_pkcs11_R3.cfg, or the file that CS_PKCS11_R3_CFG names",
        "AppTimeout in that file ends idle sessions; the keep-alive stays below its default",
        "SlotCount in that file decides how many tokens there are",
    ),
)
