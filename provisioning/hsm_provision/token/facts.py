"""What was read from a token about its objects: plain values, no handles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hsm_provision.templates import PLAIN, Half, Traits


@dataclass(frozen=True, slots=True)
class TokenIdentity:
    """What a token says of itself."""

    label: str
    serial: str
    manufacturer: str
    model: str


@dataclass(frozen=True, slots=True)
class ObjectFacts:
    """One key object: identity, type, size and every boolean attribute the token would show.

    ``size`` is bits for secrets (0 when the token does not say) and RSA, or a curve name for EC. ``spki`` is the
    public half for public objects. ``handle`` finds the object again in the session that read it.
    """

    label: str
    key_id: bytes
    half: Half
    kind: str
    size: int | str
    attributes: Mapping[str, bool]
    handle: int
    spki: bytes | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """All key objects of a token, how many objects could not be read, and what is particular about the token."""

    objects: tuple[ObjectFacts, ...]
    unreadable: int = 0
    traits: Traits = PLAIN

    def of_label(self, label: str) -> tuple[ObjectFacts, ...]:
        """Return every object with this label, secrets and private keys first."""
        order = {"secret": 0, "private": 1, "public": 2}
        return tuple(
            sorted((found for found in self.objects if found.label == label), key=lambda item: order[item.half])
        )

    def of_id(self, key_id: bytes) -> tuple[ObjectFacts, ...]:
        """Return every object with this CKA_ID."""
        return tuple(found for found in self.objects if found.key_id == key_id)
