"""What every crypto context can do: turn plaintext into protected bytes and back (msl-wire section 4)."""

from __future__ import annotations

from typing import Protocol

from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.wire import binary


class CryptoContext(Protocol):
    """Encrypts, decrypts, signs and verifies for one purpose; a context without keys passes data through."""

    def encrypt(self, plaintext: bytes) -> bytes:
        """Return what the signature will cover: an envelope, or the plaintext where nothing encrypts."""

    def decrypt(self, ciphertext: bytes) -> bytes:
        """Invert ``encrypt``. Call only after ``verify``."""

    def sign(self, data: bytes) -> bytes:
        """Return the signature bytes before Base64; empty where nothing signs."""

    def verify(self, data: bytes, signature: bytes) -> bool:
        """Tell whether ``signature`` covers ``data``."""


def protect(context: CryptoContext, plaintext: bytes) -> tuple[str, str]:
    """Encrypt, then sign.

    Returns:
        The Base64 texts of the protected bytes and of their signature (msl-wire section 4.1).

    Raises:
        MslError: the context has no key for the operation.
        BackendError: a key operation did not happen.
    """
    protected = context.encrypt(plaintext)
    return binary.encode(protected), binary.encode(context.sign(protected))


def unprotect(context: CryptoContext, protected: bytes, signature: bytes, failure: ErrorCode) -> bytes:
    """Verify, and only then decrypt.

    Returns:
        The plaintext.

    Raises:
        MslError: ``failure`` when the signature does not fit, a crypto code when decryption fails.
        BackendError: a key operation did not happen.
    """
    if not context.verify(protected, signature):
        raise MslError(failure)
    return context.decrypt(protected)
