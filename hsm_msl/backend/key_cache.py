"""Entities' key handles that were fetched lately: a bounded number, least recently used first out."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

V = TypeVar("V")


class KeyCache(Generic[V]):
    """A bounded memory of handles, safe under threads.

    Evicting drops the reference. A session object of a token is destroyed once nobody else holds it either, so that a
    message in the middle of being answered keeps its keys.

    Args:
        capacity: how many entities to remember; none with 0.
    """

    __slots__ = ("_capacity", "_entries", "_lock")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[str, V] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, identity: str) -> V | None:
        """Return what is remembered of an entity, or None."""
        with self._lock:
            found = self._entries.get(identity)
            if found is not None:
                self._entries.move_to_end(identity)
            return found

    def put(self, identity: str, value: V) -> None:
        """Remember an entity's handles, forgetting those longest unused when there are too many."""
        with self._lock:
            self._entries[identity] = value
            self._entries.move_to_end(identity)
            while len(self._entries) > self._capacity:
                self._entries.popitem(last=False)

    def drop(self, identity: str) -> None:
        """Forget an entity."""
        with self._lock:
            self._entries.pop(identity, None)

    def clear(self) -> None:
        """Forget every entity."""
        with self._lock:
            self._entries.clear()
