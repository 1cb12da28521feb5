"""Session keys on their way: from a key exchange to handles, into master tokens and out of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, runtime_checkable

from hsm_msl.errors import ErrorCode
from hsm_msl.ports.keys import AesKey, MacAlgorithm, MacKey, SymmetricKeys, WrappingKey


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
