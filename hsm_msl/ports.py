"""What the engines ask of the outside world: keys as handles, stores, time, randomness.

A key has verbs and no value. Whether a handle stands for a token object or a process-local key cannot be told
from here. Every operation may raise a ``BackendError`` (the operation did not happen) or, where its input can be
bad, ``DataRejectedError`` (it happened and the input is refused). Data arguments and results are ``bytes``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, runtime_checkable

from hsm_msl.errors import ErrorCode

Clock = Callable[[], float]
"""Seconds since the Unix epoch."""

RandomBytes = Callable[[int], bytes]
"""That many bytes from a cryptographic source."""


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


class Users(Protocol):
    """Checks user credentials."""

    def authenticate(self, email: str, password: str) -> str | None:
        """Return the user's identity text, or None when email and password do not fit together."""


class Authorization(Protocol):
    """Answers the questions every scheme asks before it looks up keys (msl-schemes section 1.4)."""

    def entity_revoked(self, identity: str) -> bool:
        """Tell whether the entity is revoked."""

    def entity_scheme_permitted(self, identity: str, scheme: str) -> bool:
        """Tell whether the entity may authenticate with this scheme."""

    def user_scheme_permitted(self, identity: str, user: str | None, scheme: str) -> bool:
        """Tell whether the entity (for ``user``, once known) may authenticate users with this scheme."""

    def key_exchange_permitted(self, identity: str, scheme: str) -> bool:
        """Tell whether the entity may obtain session keys with this scheme."""


class ReplayStore(Protocol):
    """The largest non-replayable ID accepted per entity and master token serial number (msl-engine section 14).

    Shared by every server of one network and durable: an answer means the new state will survive a crash.
    Raises StoreError when the state cannot be reached; callers fail closed.
    """

    def advance(self, identity: str, serial: int, decide: Callable[[int], int | None]) -> None:
        """Atomically replace the largest ID (0 when none is stored) by ``decide(largest)``; None leaves it."""

    def forget(self, identity: str) -> None:
        """Drop the state of every master token of the entity (a fresh one was issued)."""


@dataclass(frozen=True, slots=True)
class RenewalState:
    """Sequence numbers of one master token: last issued, last used to renew, renewals in a row without use."""

    last_issued: int
    last_used: int
    unanswered: int


class RenewalStore(Protocol):
    """Renewal state per entity and master token serial number (msl-engine sections 17 and 22); as ReplayStore."""

    def create(self, identity: str, serial: int, sequence: int) -> None:
        """Start the state of a fresh master token and drop that of the entity's earlier ones."""

    def renew(self, identity: str, serial: int, decide: Callable[[RenewalState | None], RenewalState | None]) -> None:
        """Atomically replace the state (None when not stored) by ``decide(state)``; None leaves it."""


class Revocations(Protocol):
    """What an operator has taken back. Raises StoreError when unknown and not cached."""

    def entity_revoked(self, identity: str) -> bool:
        """Tell whether the entity may no longer speak."""

    def master_token_revoked(self, identity: str, serial: int) -> bool:
        """Tell whether this master token, or every one of its entity, is revoked."""

    def user_id_token_revoked(self, user: str, serial: int) -> bool:
        """Tell whether this user ID token, or its user, is revoked."""


class EphemeralKeys(Protocol):
    """Makes the one-time key pairs of key exchanges."""

    def agreement(self, prime: int, generator: int) -> AgreementKey:
        """Return a fresh Diffie-Hellman key of this group. Raises DataRejectedError for an unusable group."""

    def decryption(self) -> DecryptionKey:
        """Return a fresh RSA key of 2048 bits."""


class KeyForm(Enum):
    """How a session key is written before it is wrapped for a peer (msl-schemes section 5)."""

    RAW = "raw key bytes"
    JWK_USE = "JWK with use"
    JWK_KEY_OPS = "JWK with key_ops"


class KeyTransport(Protocol):
    """Carries a key between the two ends of a key exchange."""

    def wrap(self, plaintext: bytes) -> bytes:
        """Protect a written key for the other end. Raises MslError when it does not fit."""

    def unwrap(self, wrapped: bytes) -> bytes:
        """Open what the other end protected. Raises MslError with the code of the scheme."""


@runtime_checkable
class HandleTransport(KeyTransport, Protocol):
    """A transport that can also carry keys as handles, between places where their bytes are never seen."""

    def wrap_key(self, key: AesKey | MacKey) -> bytes:
        """Protect a key that lives in the token for the other end. Raises MslError, BackendError."""

    def unwrap_aes(self, wrapped: bytes) -> AesKey:
        """Open an AES key into the token. Raises MslError, BackendError."""

    def unwrap_mac(self, wrapped: bytes, algorithm: MacAlgorithm) -> MacKey:
        """Open a MAC key into the token. Raises MslError, BackendError."""


@dataclass(frozen=True, slots=True)
class SessionData:
    """What the secret part of a master token says."""

    identity: str
    keys: SymmetricKeys
    issuer_data: Mapping[str, object] | None = None


class Sealing(Protocol):
    """Encrypts and decrypts the secret part of tokens; a crypto context has this shape."""

    def encrypt(self, plaintext: bytes) -> bytes:
        """Return protected bytes."""

    def decrypt(self, ciphertext: bytes) -> bytes:
        """Invert ``encrypt``."""


class SessionVault(Protocol):
    """Makes session keys, moves them to and from peers, and packs them into master tokens.

    Engines hold the handles in between. Where the bytes are while this happens is the residency chosen for the
    deployment: in one module of this process, or in the token.
    """

    def generate(self) -> SymmetricKeys:
        """Return a fresh AES-128 key and a fresh 32-byte HMAC-SHA256 key."""

    def derive(self, digest: bytes) -> SymmetricKeys:
        """Return the keys that a 48-byte key agreement digest splits into: 16 bytes AES, 32 bytes HMAC.

        Raises KeyPolicyError where session keys may not pass through this process.
        """

    def export(self, keys: SymmetricKeys, transport: KeyTransport, form: KeyForm) -> tuple[bytes, bytes]:
        """Return the encryption key and the MAC key, each wrapped for the peer. Raises MslError, BackendError."""

    def receive(
        self,
        encryption: bytes,
        mac: bytes,
        transport: KeyTransport,
        form: KeyForm,
        *,
        malformed: ErrorCode = ErrorCode.SESSION_KEY_CREATION_FAILURE,
    ) -> SymmetricKeys:
        """Return the handles of two keys a peer wrapped for us.

        Raises MslError (``malformed`` for an opened text that is no object), BackendError.
        """

    def generate_wrapping(self) -> WrappingKey:
        """Return a fresh AES-128 key-encrypting key of a key ladder. Raises KeyPolicyError as ``derive``."""

    def export_wrapping(self, key: WrappingKey, transport: KeyTransport, form: KeyForm, key_id: str = "") -> bytes:
        """Return a ladder's key-encrypting key, written and wrapped. Raises MslError, BackendError."""

    def receive_wrapping(
        self,
        wrapped: bytes,
        transport: KeyTransport,
        form: KeyForm,
        *,
        malformed: ErrorCode = ErrorCode.SESSION_KEY_CREATION_FAILURE,
    ) -> WrappingKey:
        """Return the handle of a ladder's key-encrypting key. Raises as ``receive``."""

    def seal(self, data: SessionData, context: Sealing) -> bytes:
        """Return the protected session data of a master token. Raises BackendError."""

    def open(self, sealed: bytes, context: Sealing) -> SessionData:
        """Invert ``seal``. Raises MslError with the codes of msl-wire section 8.1, BackendError."""
