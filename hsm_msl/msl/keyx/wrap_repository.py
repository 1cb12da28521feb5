"""The requester's wrapping keys of one ladder, kept for the life of a process (msl-schemes section 8)."""

from __future__ import annotations

from hsm_msl.ports import WrappingKey


class LocalWrapRepository:
    """Keeps the newest few wrapping keys, so that an exchange whose answer was lost can be repeated.

    Args:
        capacity: how many keys to keep.
    """

    __slots__ = ("_capacity", "_keys")

    def __init__(self, capacity: int = 4) -> None:
        self._capacity = capacity
        self._keys: dict[bytes, WrappingKey] = {}

    def latest(self) -> bytes | None:
        """Return the blob of the key stored last, or None."""
        return next(reversed(self._keys), None)

    def find(self, wrapdata: bytes) -> WrappingKey | None:
        """Return the key this blob stands for, or None."""
        return self._keys.get(wrapdata)

    def replace(self, spent: bytes | None, wrapdata: bytes, key: WrappingKey) -> None:
        """Remember a key under its blob and forget the one of ``spent``, and the oldest when there are too many."""
        if spent is not None:
            self._keys.pop(spent, None)
        self._keys[wrapdata] = key
        while len(self._keys) > self._capacity:
            del self._keys[next(iter(self._keys))]
