"""Pre-shared keys of any number of entities: wrapped in a store, unwrapped into the token when an entity comes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from hsm_msl.backend.deferred import DeferredWrappingKey
from hsm_msl.backend.key_cache import KeyCache
from hsm_msl.errors import DataRejectedError, KeyNotFoundError, StoreError
from hsm_msl.ports import MacAlgorithm, SymmetricKeys, WrappingKey
from hsm_msl.ports.schemes import FleetStore, WrappedKeys

_Key = TypeVar("_Key")

DEFAULT_CAPACITY = 4096
DEFAULT_RECHECK_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _Entry:
    wrapped: WrappedKeys
    keys: SymmetricKeys
    checked: float


class FleetKeys:
    """The keys of a fleet (``PresharedKeys``).

    Nobody keeps raw keys and nobody keeps millions of token objects: an entity's keys exist in the token, not
    extractable, from its first message until others pushed them out of the cache. The wrapping key is unwrapped when
    an exchange needs it.

    Args:
        store: wrapped keys by identity.
        wrapping_keys: the token's key-encrypting keys by the names the store uses.
        algorithm: of every entity's MAC key.
        capacity: how many entities' keys to keep in the token; each takes up to three session objects.
        recheck_seconds: for how long keys are used without asking the store whether they were replaced or removed.
        monotonic: seconds that never run backwards.
    """

    __slots__ = ("_algorithm", "_cache", "_monotonic", "_recheck", "_store", "_wrapping_keys")

    def __init__(
        self,
        store: FleetStore,
        wrapping_keys: Mapping[str, WrappingKey],
        *,
        algorithm: MacAlgorithm = MacAlgorithm.HMAC_SHA256,
        capacity: int = DEFAULT_CAPACITY,
        recheck_seconds: float = DEFAULT_RECHECK_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._wrapping_keys = wrapping_keys
        self._algorithm = algorithm
        self._cache: KeyCache[_Entry] = KeyCache(capacity)
        self._recheck = recheck_seconds
        self._monotonic = monotonic

    def find(self, identity: str) -> SymmetricKeys | None:
        """Return the entity's handles, or None when the store does not know the entity.

        Raises:
            StoreError: the store gives no answer, or what it holds does not unwrap (the wrapping key says so when it
                is first used).
            KeyNotFoundError: the wrapping key is not there.
            BackendError: the token did not unwrap.
        """
        now = self._monotonic()
        entry = self._cache.get(identity)
        if entry is not None and now - entry.checked < self._recheck:
            return entry.keys
        wrapped = self._store.get(identity)
        if wrapped is None:
            self._cache.drop(identity)
            return None
        keys = entry.keys if entry is not None and entry.wrapped == wrapped else self._unwrap(wrapped)
        self._cache.put(identity, _Entry(wrapped, keys, now))
        return keys

    def forget(self) -> None:
        """Drop every cached key, as when the fleet was replaced."""
        self._cache.clear()

    @property
    def cached(self) -> int:
        """How many entities' keys are held in the token."""
        return len(self._cache)

    def _unwrap(self, wrapped: WrappedKeys) -> SymmetricKeys:
        name = wrapped.wrapping_key
        key = self._wrapping_keys.get(name)
        if key is None:
            raise KeyNotFoundError(f"fleet keys are wrapped under {name!r}, which is not configured")
        blob = wrapped.wrapping
        return SymmetricKeys(
            _opened(name, lambda: key.unwrap_aes(wrapped.encryption)),
            _opened(name, lambda: key.unwrap_mac(wrapped.mac, self._algorithm)),
            None if blob is None else DeferredWrappingKey(lambda: _opened(name, lambda: key.unwrap_wrapping(blob))),
            name,
        )


def _opened(wrapping_key: str, unwrap: Callable[[], _Key]) -> _Key:
    try:
        return unwrap()
    except DataRejectedError:
        # The store's fault or the operator's, and therefore no verdict about the entity.
        raise StoreError(f"stored keys do not unwrap under {wrapping_key!r}") from None
