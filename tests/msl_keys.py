"""Keys of the MSL test world: process-local handles of every port the engines use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from hsm_msl.backend.software.agreement import SoftwareEphemeralKeys
from hsm_msl.backend.software.asymmetric import SoftwareDecryptionKey, SoftwareSigningKey
from hsm_msl.crypto.public_key import PublicKey
from hsm_msl.crypto.sealing import LocalAesKey, LocalHmacKey
from hsm_msl.msl.keyx.dh_group import DhGroup
from hsm_msl.ports import RandomBytes, SymmetricKeys

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


class RsaSigner(SoftwareSigningKey):
    """A ``SigningKey``."""

    def __init__(self, key: rsa.RSAPrivateKey) -> None:
        super().__init__(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))


class RsaVerifier(PublicKey):
    """A ``VerifyingKey``."""


class RsaDecrypter(SoftwareDecryptionKey):
    """A ``DecryptionKey``."""


class DhAgreement:
    """An ``AgreementKey`` with an exponent of the test's choice."""

    def __init__(self, prime: int, generator: int, exponent: int) -> None:
        self._prime = prime
        self._exponent = exponent
        self._size = (prime.bit_length() + 7) // 8
        self.public_value = pow(generator, exponent, prime).to_bytes(self._size)

    def agree(self, peer: bytes) -> bytes:
        return pow(int.from_bytes(peer), self._exponent, self._prime).to_bytes(self._size)


class Ephemeral(SoftwareEphemeralKeys):
    """``EphemeralKeys``; RSA pairs are reused, since making one takes longer than a test may."""

    def decryption(self) -> SoftwareDecryptionKey:
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
