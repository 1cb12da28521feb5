"""Keys in this process, through ``cryptography``: for clients without a token, for public keys, and for tests.

Nothing here protects a key from whoever can read this process's memory; that is what the PKCS#11 backend is for.
"""

from __future__ import annotations

from hsm_msl.backend.software.agreement import SoftwareDhKey, SoftwareEcdhKey, SoftwareEphemeralKeys
from hsm_msl.backend.software.asymmetric import SoftwareDecryptionKey, SoftwareSigningKey
from hsm_msl.backend.software.symmetric import SoftwareAesKey, SoftwareHmacKey, software_mac_key
from hsm_msl.backend.software.wrapping import SoftwareWrappingKey

__all__ = [
    "SoftwareAesKey",
    "SoftwareDecryptionKey",
    "SoftwareDhKey",
    "SoftwareEcdhKey",
    "SoftwareEphemeralKeys",
    "SoftwareHmacKey",
    "SoftwareSigningKey",
    "SoftwareWrappingKey",
    "software_mac_key",
]
