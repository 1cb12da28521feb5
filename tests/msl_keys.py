"""Keys of the MSL test world: process-local handles of every port the engines use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from hsm_msl.crypto.sealing import LocalAesKey, LocalHmacKey
from hsm_msl.errors import DataRejectedError
from hsm_msl.msl.keyx.dh_group import DhGroup
from hsm_msl.ports import AgreementKey, DecryptionKey, RandomBytes, RsaPadding, SignatureScheme, SymmetricKeys

SMALL_GROUP = "small"
MODP_1536 = "modp-1536"

GROUPS: Mapping[str, DhGroup] = {
    # A safe prime far too short for anything but tests, where it saves most of their time.
    SMALL_GROUP: DhGroup(0xE27F4C79FC5AAC128490E9D83BB72F987D141CA9EAB8E647DB3D169553CF3407, 2),
    MODP_1536: DhGroup(  # RFC 3526 section 2
        int(
            "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD"
            "EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED"
            "EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F"
            "83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC9804F1746C08CA237327FFFFFFFFFFFFFFFF",
            16,
        ),
        2,
    ),
}


@cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:
    """Return the key pair of this name, made once per test process because it is slow to make."""
    return rsa.generate_private_key(65537, 2048)


def spki(key: rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def symmetric_keys(random: RandomBytes) -> SymmetricKeys:
    return SymmetricKeys(LocalAesKey(random(16)), LocalHmacKey(random(32)))


class RsaSigner:
    """A ``SigningKey``."""

    def __init__(self, key: rsa.RSAPrivateKey) -> None:
        self._key = key
        self.public_key = spki(key)

    def sign(self, data: bytes, scheme: SignatureScheme) -> bytes:
        return self._key.sign(data, padding.PKCS1v15(), SHA256())


class RsaVerifier:
    """A ``VerifyingKey``."""

    def __init__(self, public_key: bytes) -> None:
        key = load_der_public_key(public_key)
        if not isinstance(key, rsa.RSAPublicKey):
            raise TypeError("not an RSA key")
        self._key = key
        self.public_key = public_key

    def verify(self, data: bytes, signature: bytes, scheme: SignatureScheme) -> bool:
        try:
            self._key.verify(signature, data, padding.PKCS1v15(), SHA256())
        except InvalidSignature:
            return False
        return True


class RsaDecrypter:
    """A ``DecryptionKey``."""

    def __init__(self, key: rsa.RSAPrivateKey) -> None:
        self._key = key
        self.public_key = spki(key)

    def decrypt(self, data: bytes, padding_: RsaPadding) -> bytes:
        try:
            return self._key.decrypt(data, padding.OAEP(padding.MGF1(SHA1()), SHA1(), None))
        except ValueError:
            raise DataRejectedError("RSA decryption failed") from None


class DhAgreement:
    """An ``AgreementKey``."""

    def __init__(self, prime: int, generator: int, exponent: int) -> None:
        self._prime = prime
        self._exponent = exponent
        self._size = (prime.bit_length() + 7) // 8
        self.public_value = pow(generator, exponent, prime).to_bytes(self._size)

    def agree(self, peer: bytes) -> bytes:
        return pow(int.from_bytes(peer), self._exponent, self._prime).to_bytes(self._size)


class Ephemeral:
    """``EphemeralKeys``; RSA pairs are reused, since making one takes longer than a test may."""

    def __init__(self, random: RandomBytes) -> None:
        self._random = random

    def agreement(self, prime: int, generator: int) -> AgreementKey:
        return DhAgreement(prime, generator, int.from_bytes(self._random(32)) | 1)

    def decryption(self) -> DecryptionKey:
        return RsaDecrypter(rsa_key("ephemeral"))


class Ring:
    """A ``TokenKeyRing`` whose versions a test may rotate: newest first."""

    def __init__(self, *versions: SymmetricKeys) -> None:
        self.versions = list(versions)

    def primary(self) -> SymmetricKeys:
        return self.versions[0]

    def candidates(self) -> Sequence[SymmetricKeys]:
        return self.versions


Handle = TypeVar("Handle")


class Lookup(dict[str, Handle]):
    """``PresharedKeys`` or ``PublicKeys`` over a dictionary."""

    def find(self, name: str) -> Handle | None:
        return self.get(name)
