"""Every implementation of the key ports behind one face, so that one suite can run over all of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import Protocol

import pytest
from asn1crypto.core import OctetString
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from pkcs11 import Attribute

from hsm_msl.backend import software
from hsm_msl.backend.pkcs11.public import curve_parameters
from hsm_msl.backend.pkcs11.token import Token
from hsm_msl.backend.workers import WorkerToken
from hsm_msl.ports import (
    AesKey,
    AgreementKey,
    DecryptionKey,
    MacAlgorithm,
    MacKey,
    SigningKey,
    WrappingKey,
)
from token_fixture import MAC, WRAP, KeyMaker


class KeyBackend(Protocol):
    """Makes handles of keys with known values."""

    name: str

    def aes(self, value: bytes) -> AesKey: ...
    def mac(self, value: bytes, algorithm: MacAlgorithm) -> MacKey: ...
    def wrapping(self, value: bytes) -> WrappingKey: ...
    def signing(self, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> SigningKey: ...
    def decryption(self, key: rsa.RSAPrivateKey) -> DecryptionKey: ...
    def dh(self, prime: int, generator: int) -> AgreementKey: ...
    def ecdh(self, key: ec.EllipticCurvePrivateKey) -> AgreementKey: ...


class SoftwareKeys:
    """Keys in this process."""

    name = "software"

    def aes(self, value: bytes) -> AesKey:
        return software.SoftwareAesKey(value)

    def mac(self, value: bytes, algorithm: MacAlgorithm) -> MacKey:
        return software.software_mac_key(value, algorithm)

    def wrapping(self, value: bytes) -> WrappingKey:
        return software.SoftwareWrappingKey(value)

    def signing(self, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> SigningKey:
        return software.SoftwareSigningKey(pkcs8(key))

    def decryption(self, key: rsa.RSAPrivateKey) -> DecryptionKey:
        return software.SoftwareDecryptionKey(pkcs8(key))

    def dh(self, prime: int, generator: int) -> AgreementKey:
        return software.SoftwareDhKey(prime, generator, os.urandom)

    def ecdh(self, key: ec.EllipticCurvePrivateKey) -> AgreementKey:
        return software.SoftwareEcdhKey(key)


class TokenKeys:
    """Keys on a token, held by this process or by workers."""

    name = "softhsm"

    def __init__(self, token: Token | WorkerToken, keys: KeyMaker) -> None:
        self.token = token
        self.keys = keys

    def aes(self, value: bytes) -> AesKey:
        return self.token.aes_key(self.keys.aes(value))

    def mac(self, value: bytes, algorithm: MacAlgorithm) -> MacKey:
        if algorithm is MacAlgorithm.AES_CMAC:
            return self.token.mac_key(self.keys.aes(value, MAC), algorithm)
        return self.token.mac_key(self.keys.hmac(value), algorithm)

    def wrapping(self, value: bytes) -> WrappingKey:
        return self.token.wrapping_key(self.keys.aes(value, WRAP))

    def signing(self, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> SigningKey:
        if isinstance(key, rsa.RSAPrivateKey):
            return self.token.signing_key(self.keys.rsa(key, (Attribute.SIGN,)))
        return self.token.signing_key(self._ec(key, Attribute.SIGN))

    def decryption(self, key: rsa.RSAPrivateKey) -> DecryptionKey:
        return self.token.decryption_key(self.keys.rsa(key, (Attribute.DECRYPT,)))

    def dh(self, prime: int, generator: int) -> AgreementKey:
        return self.token.ephemeral_dh(prime, generator)

    def ecdh(self, key: ec.EllipticCurvePrivateKey) -> AgreementKey:
        return self.token.agreement_key(self._ec(key, Attribute.DERIVE))

    def _ec(self, key: ec.EllipticCurvePrivateKey, use: Attribute) -> str:
        point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        return self.keys.ec(key, curve_parameters(key.curve), OctetString(point).dump(), (use,))


# In a process that belongs to another vendor's token (``vendor_tokens``), that token stands for all.
BACKENDS = ["vendor"] if "HSM_MSL_TOKEN_PROFILE" in os.environ else ["software", "softhsm", "workers"]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> KeyBackend:
    """Each implementation of the key ports in turn."""
    if request.param == "vendor":
        found: KeyBackend = request.getfixturevalue("vendor_backend")
        return found
    if request.param == "software":
        return SoftwareKeys()
    if request.param == "workers":
        return TokenKeys(request.getfixturevalue("worker_token"), request.getfixturevalue("keys"))
    return TokenKeys(request.getfixturevalue("hsm_token"), request.getfixturevalue("keys"))


def pkcs8(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def spki(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@cache
def rsa_pair() -> rsa.RSAPrivateKey:
    """One RSA key for the whole process: making them is slow."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@cache
def ec_pair(curve: Callable[[], ec.EllipticCurve]) -> ec.EllipticCurvePrivateKey:
    """One EC key per curve."""
    return ec.generate_private_key(curve())
