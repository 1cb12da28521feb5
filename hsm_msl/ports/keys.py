"""Keys as handles, and where to find them.

A key has verbs and no value. Whether a handle stands for a token object or a process-local key cannot be told
from here. Every operation may raise a ``BackendError`` (the operation did not happen) or, where its input can be
bad, ``DataRejectedError`` (it happened and the input is refused). Data arguments and results are ``bytes``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, runtime_checkable


class MacAlgorithm(Enum):
    """Message authentication algorithms; the value is the name of the field's tools."""

    HMAC_SHA1 = "HMAC-SHA1"
    HMAC_SHA256 = "HMAC-SHA256"
    HMAC_SHA384 = "HMAC-SHA384"
    HMAC_SHA512 = "HMAC-SHA512"
    HMAC_SHA3_256 = "HMAC-SHA3-256"
    HMAC_SHA3_384 = "HMAC-SHA3-384"
    HMAC_SHA3_512 = "HMAC-SHA3-512"
    AES_CMAC = "AES-CMAC"


class SignatureScheme(Enum):
    """Signature schemes; ECDSA signatures are ASN.1 DER at this port, whatever the token returns."""

    RSA_PKCS1_SHA256 = "RSASSA-PKCS1-v1_5 SHA-256"
    RSA_PSS_SHA256 = "RSASSA-PSS SHA-256"  # MGF1 SHA-256, salt 32 bytes
    ECDSA_SHA256 = "ECDSA SHA-256"
    ECDSA_SHA384 = "ECDSA SHA-384"


class RsaPadding(Enum):
    """RSA encryption paddings (RFC 8017)."""

    OAEP_SHA1 = "OAEP SHA-1"  # MGF1 SHA-1, empty label: what MSL peers speak
    OAEP_SHA256 = "OAEP SHA-256"  # MGF1 SHA-256, empty label
    PKCS1 = "RSAES-PKCS1-v1_5"


@runtime_checkable
class AesKey(Protocol):
    """An AES key for data. No mode pads: ECB and CBC take whole 16-byte blocks, the caller pads."""

    def encrypt_ecb(self, data: bytes) -> bytes:
        """Encrypt whole blocks, each on its own."""

    def decrypt_ecb(self, data: bytes) -> bytes:
        """Invert ``encrypt_ecb``."""

    def encrypt_cbc(self, iv: bytes, data: bytes) -> bytes:
        """Encrypt whole blocks, chained from a 16-byte ``iv``."""

    def decrypt_cbc(self, iv: bytes, data: bytes) -> bytes:
        """Invert ``encrypt_cbc``."""

    def crypt_ctr(self, counter: bytes, data: bytes) -> bytes:
        """Encrypt or decrypt with the 16-byte initial counter block, incremented as a 128-bit number."""

    def encrypt_gcm(self, nonce: bytes, data: bytes, associated: bytes) -> bytes:
        """Return ciphertext and 16-byte tag under a 12-byte nonce."""

    def decrypt_gcm(self, nonce: bytes, data: bytes, associated: bytes) -> bytes:
        """Invert ``encrypt_gcm``. Raises DataRejectedError when the tag does not fit."""


@runtime_checkable
class MacKey(Protocol):
    """A key that makes and checks authentication tags of one algorithm."""

    @property
    def algorithm(self) -> MacAlgorithm:
        """The one algorithm this key is for."""

    def sign(self, data: bytes) -> bytes:
        """Return the full-length tag over ``data``."""

    def verify(self, data: bytes, tag: bytes) -> bool:
        """Tell, in constant time for equal lengths, whether ``tag`` is the tag over ``data``."""


@runtime_checkable
class SigningKey(Protocol):
    """An RSA or EC private key that signs."""

    @property
    def public_key(self) -> bytes:
        """The public half, SubjectPublicKeyInfo DER."""

    def sign(self, data: bytes, scheme: SignatureScheme) -> bytes:
        """Return the signature over ``data`` (hashed here or in the token, never by the caller)."""


@runtime_checkable
class VerifyingKey(Protocol):
    """An RSA or EC public key."""

    @property
    def public_key(self) -> bytes:
        """The key, SubjectPublicKeyInfo DER."""

    def verify(self, data: bytes, signature: bytes, scheme: SignatureScheme) -> bool:
        """Tell whether ``signature`` fits; malformed signatures are simply False."""


@runtime_checkable
class DecryptionKey(Protocol):
    """An RSA private key that opens what was encrypted to its public half."""

    @property
    def public_key(self) -> bytes:
        """The public half, SubjectPublicKeyInfo DER."""

    def decrypt(self, data: bytes, padding: RsaPadding) -> bytes:
        """Return the plaintext. Raises DataRejectedError, the same for every kind of bad input."""


@runtime_checkable
class AgreementKey(Protocol):
    """A DH or ECDH private key."""

    @property
    def public_value(self) -> bytes:
        """DH: big-endian value as long as the modulus. ECDH: SubjectPublicKeyInfo DER."""

    def agree(self, peer: bytes) -> bytes:
        """Return the shared secret, as long as the modulus or field, from the peer's value in the same form.

        Raises DataRejectedError for a value out of range or off the curve.
        """


@runtime_checkable
class WrappingKey(Protocol):
    """A key-encrypting key: RFC 3394 for whole 8-byte units, RFC 5649 where ``pad`` is set."""

    def wrap(self, data: bytes, *, pad: bool = False) -> bytes:
        """Wrap bytes the caller holds (a JWK, a key made for a peer)."""

    def unwrap(self, wrapped: bytes, *, pad: bool = False) -> bytes:
        """Invert ``wrap``. Raises DataRejectedError when the integrity check fails or the length is wrong."""

    def wrap_key(self, key: AesKey | MacKey) -> bytes:
        """Wrap a key that lives where this key lives. Raises KeyPolicyError when it does not or may not leave."""

    def unwrap_aes(self, wrapped: bytes) -> AesKey:
        """Unwrap into a fresh, non-extractable AES handle beside this key."""

    def unwrap_mac(self, wrapped: bytes, algorithm: MacAlgorithm) -> MacKey:
        """Unwrap into a fresh, non-extractable MAC handle beside this key."""

    def unwrap_wrapping(self, wrapped: bytes) -> WrappingKey:
        """Unwrap into a fresh, non-extractable key-encrypting handle beside this key."""


@dataclass(frozen=True, slots=True)
class SymmetricKeys:
    """The handles that serve one purpose or entity together; a missing one cannot be asked for its operation.

    ``version`` names the key version for people and logs; it never travels.
    """

    encryption: AesKey | None = None
    mac: MacKey | None = None
    wrapping: WrappingKey | None = None
    version: str = ""


class TokenKeyRing(Protocol):
    """The versions of one symmetric purpose: one primary that makes, several that still open."""

    def primary(self) -> SymmetricKeys:
        """Return the version that signs and encrypts what is made now."""

    def candidates(self) -> Sequence[SymmetricKeys]:
        """Return every version that may still open something, primary first."""


class PresharedKeys(Protocol):
    """Looks up the keys shared with one entity."""

    def find(self, identity: str) -> SymmetricKeys | None:
        """Return the entity's handles, or None when the entity is not known."""


class PublicKeys(Protocol):
    """Looks up trusted public keys by the ID under which peers name them."""

    def find(self, key_id: str) -> VerifyingKey | None:
        """Return the key, or None when no such key is trusted."""


class EphemeralKeys(Protocol):
    """Makes the one-time key pairs of key exchanges."""

    def agreement(self, prime: int, generator: int) -> AgreementKey:
        """Return a fresh Diffie-Hellman key of this group. Raises DataRejectedError for an unusable group."""

    def decryption(self) -> DecryptionKey:
        """Return a fresh RSA key of 2048 bits."""
