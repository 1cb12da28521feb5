"""The context that protects master and user ID tokens, over every version of the token keys (msl-wire 4.5)."""

from __future__ import annotations

from hsm_msl.crypto.symmetric import SymmetricContext
from hsm_msl.ports import RandomBytes, SymmetricKeys, TokenKeyRing


class TokenKeys:
    """Sign with the primary version, open with any version that still may.

    Tokens carry no key version, so verification tries the versions in order, primary first.

    Args:
        ring: the versions, or None for an entity that issues nothing: every token stays opaque.
        key_id: text put into envelopes, by custom the issuer's identity.
        random: source of initialisation vectors.
    """

    __slots__ = ("_contexts", "_key_id", "_random", "_ring")

    def __init__(self, ring: TokenKeyRing | None, key_id: str, random: RandomBytes) -> None:
        self._ring = ring
        self._key_id = key_id
        self._random = random
        self._contexts: dict[int, tuple[SymmetricKeys, SymmetricContext]] = {}

    @property
    def issues(self) -> bool:
        """Whether this entity has token keys of its own."""
        return self._ring is not None

    def _context(self, keys: SymmetricKeys) -> SymmetricContext:
        # Keyed by object identity; the entry keeps the object, so the number cannot be taken over by another.
        known = self._contexts.get(id(keys))
        if known is None:
            known = self._contexts[id(keys)] = (keys, SymmetricContext(keys, self._key_id, self._random))
        return known[1]

    def primary(self) -> SymmetricContext:
        """Return the context that makes tokens. Raises BackendError when no key is primary, UsageError on clients."""
        if self._ring is None:
            return SymmetricContext(SymmetricKeys(), self._key_id, self._random)
        return self._context(self._ring.primary())

    def verify(self, data: bytes, signature: bytes) -> SymmetricContext | None:
        """Return the context of the version whose MAC fits, or None: the token is then opaque here.

        Raises:
            BackendError: a key operation did not happen; that is no verdict about the token.
        """
        if self._ring is None:
            return None
        for keys in self._ring.candidates():
            context = self._context(keys)
            if context.verify(data, signature):
                return context
        return None

    def wrapping(self) -> SymmetricKeys | None:
        """Return the primary version's handles (for key ladders), or None on clients."""
        return None if self._ring is None else self._ring.primary()
