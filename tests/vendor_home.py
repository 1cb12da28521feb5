"""Where engine tests put their keys in a vendor's process; a plugin of those processes only (``vendor_runs``)."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.serialization import load_der_private_key

from hsm_msl.ports import MacAlgorithm, SigningKey, SymmetricKeys
from vendor_tokens import VendorKeys


class VendorHome:
    """Keys of known value on the vendor's token (``recorded_network.KeyHome``)."""

    def __init__(self, keys: VendorKeys) -> None:
        self.keys = keys

    def symmetric(self, name: str, encryption: bytes, mac: bytes, wrapping: bytes | None) -> SymmetricKeys:
        return SymmetricKeys(
            self.keys.aes(encryption),
            self.keys.mac(mac, MacAlgorithm.HMAC_SHA256),
            None if wrapping is None else self.keys.wrapping(wrapping),
            name,
        )

    def signing(self, name: str, pkcs8: bytes) -> SigningKey:
        return self.keys.signing(load_der_private_key(pkcs8, None))


@pytest.fixture(scope="session")
def token_home(vendor_backend: VendorKeys) -> VendorHome:
    """The recorded keys go onto the vendor's token."""
    return VendorHome(vendor_backend)
