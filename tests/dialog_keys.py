"""Process-local keys and certificates for dialog tests: the ports over pyca, with a count of private operations."""

from __future__ import annotations

import datetime
import functools
import hashlib
from collections import Counter
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID

from hsm_msl.backend.software import SoftwareAesKey, SoftwareWrappingKey, software_mac_key
from hsm_msl.errors import BackendUnavailableError, DataRejectedError
from hsm_msl.ports import AesKey, MacAlgorithm, MacKey, RandomBytes, RsaPadding, SignatureScheme, WrappingKey

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def spki(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


@dataclass
class TokenSwitch:
    """Stands for the token: counts what its keys did, and can be out of service."""

    up: bool = True
    done: Counter[str] = field(default_factory=Counter)

    def use(self, operation: str) -> None:
        if not self.up:
            raise BackendUnavailableError("the token is out of service")
        self.done[operation] += 1


class SoftSigningKey:
    def __init__(self, key: PrivateKey, token: TokenSwitch) -> None:
        self._key = key
        self._token = token
        self.public_key = spki(key)

    def sign(self, data: bytes, scheme: SignatureScheme) -> bytes:
        self._token.use("sign")
        if isinstance(self._key, ec.EllipticCurvePrivateKey):
            return self._key.sign(data, ec.ECDSA(hashes.SHA256()))
        if scheme is SignatureScheme.RSA_PSS_SHA256:
            return self._key.sign(data, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
        return self._key.sign(data, padding.PKCS1v15(), hashes.SHA256())


def oaep(which: RsaPadding) -> padding.OAEP:
    digest = hashes.SHA1() if which is RsaPadding.OAEP_SHA1 else hashes.SHA256()
    return padding.OAEP(padding.MGF1(digest), digest, None)


class SoftWrappingKey:
    def __init__(self, value: bytes, token: TokenSwitch, name: str = "kek") -> None:
        self._value = value
        self._token = token
        self._name = name

    def wrap(self, data: bytes, *, pad: bool = False) -> bytes:
        self._token.use(f"{self._name} wrap")
        return (
            keywrap.aes_key_wrap_with_padding(self._value, data) if pad else keywrap.aes_key_wrap(self._value, data)
        )

    def unwrap(self, wrapped: bytes, *, pad: bool = False) -> bytes:
        self._token.use(f"{self._name} unwrap")
        try:
            if pad:
                return keywrap.aes_key_unwrap_with_padding(self._value, wrapped)
            return keywrap.aes_key_unwrap(self._value, wrapped)
        except (keywrap.InvalidUnwrap, ValueError) as error:
            raise DataRejectedError("unwrap refused") from error

    def wrap_key(self, key: AesKey | MacKey) -> bytes:
        self._token.use(f"{self._name} wrap")
        return SoftwareWrappingKey(self._value).wrap_key(key)

    def unwrap_aes(self, wrapped: bytes) -> AesKey:
        self._token.use(f"{self._name} unwrap")
        return SoftwareWrappingKey(self._value).unwrap_aes(wrapped)

    def unwrap_mac(self, wrapped: bytes, algorithm: MacAlgorithm) -> MacKey:
        self._token.use(f"{self._name} unwrap")
        return SoftwareWrappingKey(self._value).unwrap_mac(wrapped, algorithm)

    def unwrap_wrapping(self, wrapped: bytes) -> WrappingKey:
        return SoftWrappingKey(self.unwrap(wrapped), self._token)


@dataclass
class SoftResidentKeys:
    """Makes session keys as a token does that keeps them (``ResidentKeys``)."""

    random: RandomBytes
    token: TokenSwitch

    def generate_aes(self, size: int) -> AesKey:
        self.token.use("session key generate")
        return SoftwareAesKey(self.random(size))

    def generate_mac(self, size: int) -> MacKey:
        self.token.use("session key generate")
        return software_mac_key(self.random(size), MacAlgorithm.HMAC_SHA256)


class SoftExchangeKey(SoftWrappingKey):
    def wrap_for_rsa(self, public_key: bytes, padding: RsaPadding) -> bytes:
        key = serialization.load_der_public_key(public_key)
        if not isinstance(key, rsa.RSAPublicKey):
            raise DataRejectedError("not an RSA key")
        self._token.use("kek wrap for rsa")
        return key.encrypt(self._value, oaep(padding))

    def wrap_under(self, key: WrappingKey) -> bytes:
        return key.wrap(self._value)


class SoftExchangeKeys:
    def __init__(self, random: RandomBytes, token: TokenSwitch) -> None:
        self._random = random
        self._token = token

    def generate(self, size: int) -> SoftExchangeKey:
        self._token.use("kek generate")
        return SoftExchangeKey(self._random(size), self._token)

    def wrapping_key(self, value: bytes) -> WrappingKey:
        return SoftWrappingKey(value, self._token, "agreed")


class SoftUnwrappingKey:
    def __init__(self, key: rsa.RSAPrivateKey, token: TokenSwitch) -> None:
        self._key = key
        self._token = token
        self.public_key = spki(key)

    def unwrap_exchange(self, wrapped: bytes, padding: RsaPadding, size: int) -> WrappingKey:
        self._token.use("private")
        try:
            value = self._key.decrypt(wrapped, oaep(padding))
        except ValueError as error:
            raise DataRejectedError("decryption refused") from error
        if len(value) != size:
            raise DataRejectedError("decryption refused")
        return SoftWrappingKey(value, self._token)


class SoftAgreementKey:
    def __init__(self, key: ec.EllipticCurvePrivateKey, token: TokenSwitch) -> None:
        self._key = key
        self._token = token
        self.public_value = spki(key)

    def agree(self, peer: bytes) -> bytes:
        self._token.use("private")
        other = serialization.load_der_public_key(peer)
        if not isinstance(other, ec.EllipticCurvePublicKey):
            raise DataRejectedError("not an EC key")
        return self._key.exchange(ec.ECDH(), other)


@functools.cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@functools.cache
def ec_key(name: str) -> ec.EllipticCurvePrivateKey:
    """The same key for the same name in every process."""
    return ec.derive_private_key(int.from_bytes(hashlib.sha256(name.encode()).digest()) >> 1, ec.SECP256R1())


@functools.cache
def certificate(key: PrivateKey, name: str, not_before: int, not_after: int) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer = ec_key("issuer")
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1 + not_after)
        .not_valid_before(datetime.datetime.fromtimestamp(not_before, datetime.UTC))
        .not_valid_after(datetime.datetime.fromtimestamp(not_after, datetime.UTC))
        .sign(signer, hashes.SHA256(), ecdsa_deterministic=True)
        .public_bytes(serialization.Encoding.DER)
    )


def digest(der: bytes) -> bytes:
    return hashlib.sha256(der).digest()
