"""What single schemes ask of the outside world, besides the keys and stores every part knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from hsm_msl.ports import WrappingKey


class UserService(Protocol):
    """Asks a service outside this network who a user is."""

    def identify(self, scheme: str, entity: str, credentials: Mapping[str, str]) -> str | None:
        """Return the user's identity text, or None when the service refuses the credentials.

        Raises StoreError when the service gives no answer, which is no verdict about the user.
        """


class IdentityService(Protocol):
    """Names entities that have no identity yet."""

    def assign(self) -> str:
        """Return an identity never given before. Raises StoreError when none can be had."""


@dataclass(frozen=True, slots=True)
class WrappedKeys:
    """The pre-shared keys of one entity of a fleet, each RFC 3394-wrapped under a token key.

    ``wrapping_key`` names the key-encrypting key, so that fleets survive its rotation; ``wrapping`` is None for an
    entity that uses no exchange anchored in its pre-shared keys.
    """

    encryption: bytes
    mac: bytes
    wrapping: bytes | None
    wrapping_key: str


class FleetStore(Protocol):
    """Keeps wrapped keys by identity. Raises StoreError when it cannot be asked."""

    def get(self, identity: str) -> WrappedKeys | None:
        """Return the entity's wrapped keys, or None when the entity is not known."""


class WrapRepository(Protocol):
    """Remembers the wrapping keys the requester of a key ladder was given, by the blob that stands for each."""

    def latest(self) -> bytes | None:
        """Return the blob of the newest key, with which to ask for the next, or None."""

    def find(self, wrapdata: bytes) -> WrappingKey | None:
        """Return the key this blob stands for, or None."""

    def replace(self, spent: bytes | None, wrapdata: bytes, key: WrappingKey) -> None:
        """Remember a key under its blob and forget the one of ``spent``."""
