"""Where a scheme's long-term keys are: the same vectors run with keys in this process and in a SoftHSMv2 token."""

from __future__ import annotations

from typing import Protocol

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key
from pkcs11 import Attribute

from hsm_msl.backend.pkcs11.public import curve_parameters
from hsm_msl.backend.pkcs11.token import Token
from hsm_msl.backend.software import (
    SoftwareAesKey,
    SoftwareDecryptionKey,
    SoftwareSigningKey,
    SoftwareWrappingKey,
    software_mac_key,
)
from hsm_msl.ports import (
    AesKey,
    DecryptionKey,
    MacAlgorithm,
    MacKey,
    SigningKey,
    SymmetricKeys,
    WrappingKey,
)
from token_fixture import MAC, WRAP, KeyMaker


class Place(Protocol):
    """Makes handles of keys of known value."""

    name: str

    def aes(self, value: bytes) -> AesKey: ...

    def mac(self, value: bytes, algorithm: MacAlgorithm = MacAlgorithm.HMAC_SHA256) -> MacKey: ...

    def wrapping(self, value: bytes) -> WrappingKey: ...

    def signing(self, pkcs8: bytes) -> SigningKey: ...

    def decryption(self, pkcs8: bytes) -> DecryptionKey: ...


class SoftwarePlace:
    name = "software"

    def aes(self, value: bytes) -> AesKey:
        return SoftwareAesKey(value)

    def mac(self, value: bytes, algorithm: MacAlgorithm = MacAlgorithm.HMAC_SHA256) -> MacKey:
        return software_mac_key(value, algorithm)

    def wrapping(self, value: bytes) -> WrappingKey:
        return SoftwareWrappingKey(value)

    def signing(self, pkcs8: bytes) -> SigningKey:
        return SoftwareSigningKey(pkcs8)

    def decryption(self, pkcs8: bytes) -> DecryptionKey:
        return SoftwareDecryptionKey(pkcs8)


class TokenPlace:
    name = "token"

    def __init__(self, token: Token, keys: KeyMaker) -> None:
        self.token = token
        self.keys = keys

    def aes(self, value: bytes) -> AesKey:
        return self.token.aes_key(self.keys.aes(value))

    def mac(self, value: bytes, algorithm: MacAlgorithm = MacAlgorithm.HMAC_SHA256) -> MacKey:
        if algorithm is MacAlgorithm.AES_CMAC:
            return self.token.mac_key(self.keys.aes(value, MAC), algorithm)
        return self.token.mac_key(self.keys.hmac(value), algorithm)

    def wrapping(self, value: bytes) -> WrappingKey:
        return self.token.wrapping_key(self.keys.aes(value, WRAP))

    def signing(self, pkcs8: bytes) -> SigningKey:
        key = load_der_private_key(pkcs8, None)
        if isinstance(key, ec.EllipticCurvePrivateKey):
            point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
            wrapped = b"\x04" + len(point).to_bytes() + point
            return self.token.signing_key(self.keys.ec(key, curve_parameters(key.curve), wrapped, (Attribute.SIGN,)))
        assert isinstance(key, rsa.RSAPrivateKey)
        return self.token.signing_key(self.keys.rsa(key, (Attribute.SIGN,)))

    def decryption(self, pkcs8: bytes) -> DecryptionKey:
        return self.token.decryption_key(self.keys.rsa(load_der_private_key(pkcs8, None), (Attribute.DECRYPT,)))


def entity_keys(place: Place, kpe: bytes, kph: bytes, kpw: bytes | None) -> SymmetricKeys:
    return SymmetricKeys(place.aes(kpe), place.mac(kph), None if kpw is None else place.wrapping(kpw))


@pytest.fixture(params=["software", "token"])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "software":
        return SoftwarePlace()
    return TokenPlace(request.getfixturevalue("hsm_token"), request.getfixturevalue("keys"))
