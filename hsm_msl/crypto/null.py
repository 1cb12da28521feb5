"""Contexts that do nothing: for schemes without keys, and for tokens somebody else issued."""

from __future__ import annotations


class NullContext:
    """Pass data through, sign with nothing, accept any signature (NONE schemes, unprotected service tokens)."""

    __slots__ = ()

    def encrypt(self, plaintext: bytes) -> bytes:
        """Return the plaintext."""
        return plaintext

    def decrypt(self, ciphertext: bytes) -> bytes:
        """Return the bytes as they came."""
        return ciphertext

    def sign(self, data: bytes) -> bytes:  # noqa: ARG002 - the protocol's signature of nothing is empty
        """Return the empty signature."""
        return b""

    def verify(self, data: bytes, signature: bytes) -> bool:  # noqa: ARG002 - any signature verifies by definition
        """Return True."""
        return True
