"""YubiHSM 2: from public documentation and issue threads, never tested here."""

from __future__ import annotations

from pkcs11.exceptions import DeviceError, FunctionFailed, GeneralError

from hsm_msl.backend.pkcs11.vendors.base import VendorProfile

YUBIHSM = VendorProfile(
    name="yubihsm",
    title="YubiHSM 2",
    source="docs.yubico.com/hardware/yubihsm-2, device specifications and PKCS#11 guide; threads of yubihsm-shell",
    manufacturers=("Yubico",),
    models=("YubiHSM",),
    vague=(GeneralError, FunctionFailed, DeviceError),
    # The device has 16 sessions for everybody. Its keys are objects of the device, so nothing lives in a session.
    sessions=2,
    homes=1,
    padded_wrap=None,
    # The device drops a session that says nothing for 30 seconds, and its module then needs a restart.
    keep_alive_seconds=10.0,
    largest_input=2 * 1024,
    quirks=(
        "give services an authentication key without generate-*, put-*, delete-* and export-wrapped",
        "it needs the address of its connector as a parameter string at initialisation, or in YUBIHSM_PKCS11_CONF",
        "the PIN is the four hexadecimal digits of the authentication key's ID, then its password",
        "it wraps with AES-CCM, which no peer speaks; keys for peers are wrapped by blocks where it has AES-ECB",
        "it holds 256 objects and makes no session keys: host residency, and no fleets",
        "a message to authenticate has to fit one command of about 2 KB",
    ),
)
