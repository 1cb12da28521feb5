"""A key-encrypting key that is fetched when it is first used: most messages of an entity never need it."""

from __future__ import annotations

from collections.abc import Callable

from hsm_msl.ports import AesKey, MacAlgorithm, MacKey, WrappingKey


class DeferredWrappingKey:
    """A ``WrappingKey`` that does not exist yet.

    Args:
        fetch: makes the key; what it raises, the first use raises. Two threads may both call it at first, and one of
            the two equal keys is dropped.
    """

    __slots__ = ("_fetch", "_key")

    def __init__(self, fetch: Callable[[], WrappingKey]) -> None:
        self._fetch = fetch
        self._key: WrappingKey | None = None

    def _fetched(self) -> WrappingKey:
        key = self._key
        if key is None:
            key = self._key = self._fetch()
        return key

    def wrap(self, data: bytes, *, pad: bool = False) -> bytes:
        """Wrap bytes the caller holds. Raises as the key itself."""
        return self._fetched().wrap(data, pad=pad)

    def unwrap(self, wrapped: bytes, *, pad: bool = False) -> bytes:
        """Invert ``wrap``. Raises as the key itself."""
        return self._fetched().unwrap(wrapped, pad=pad)

    def wrap_key(self, key: AesKey | MacKey) -> bytes:
        """Wrap a key that lives where this key lives. Raises as the key itself."""
        return self._fetched().wrap_key(key)

    def unwrap_aes(self, wrapped: bytes) -> AesKey:
        """Unwrap into an AES handle beside this key. Raises as the key itself."""
        return self._fetched().unwrap_aes(wrapped)

    def unwrap_mac(self, wrapped: bytes, algorithm: MacAlgorithm) -> MacKey:
        """Unwrap into a MAC handle beside this key. Raises as the key itself."""
        return self._fetched().unwrap_mac(wrapped, algorithm)

    def unwrap_wrapping(self, wrapped: bytes) -> WrappingKey:
        """Unwrap into a key-encrypting handle beside this key. Raises as the key itself."""
        return self._fetched().unwrap_wrapping(wrapped)
