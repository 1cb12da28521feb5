"""A crypto context over every version of a purpose, for service tokens: the primary makes, each opens its own."""

from __future__ import annotations

import threading

from hsm_msl.crypto.token_keys import TokenKeys


class RingContext:
    """Protects with the primary version and opens with the one whose MAC fits.

    Contexts are asked to verify first and to decrypt then, in one thread and with nothing in between; which version
    verified is remembered per thread for that moment.

    Args:
        keys: the versions.
    """

    def __init__(self, keys: TokenKeys) -> None:
        self._keys = keys
        self._verified = threading.local()

    def encrypt(self, plaintext: bytes) -> bytes:
        """Encrypt with the primary version. Raises BackendError."""
        return self._keys.primary().encrypt(plaintext)

    def sign(self, data: bytes) -> bytes:
        """Sign with the primary version. Raises BackendError."""
        return self._keys.primary().sign(data)

    def verify(self, data: bytes, signature: bytes) -> bool:
        """Tell whether any version signed this. Raises BackendError."""
        context = self._keys.verify(data, signature)
        self._verified.context = context
        return context is not None

    def decrypt(self, ciphertext: bytes) -> bytes:
        """Decrypt with the version that verified last in this thread. Raises MslError, BackendError."""
        context = getattr(self._verified, "context", None) or self._keys.primary()
        self._verified.context = None
        return context.decrypt(ciphertext)
