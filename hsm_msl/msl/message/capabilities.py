"""What a side can read: compression algorithms, languages, encoder formats (msl-wire section 5.4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.wire import compression

ENCODER_FORMATS = ("JSON",)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Abilities in order of preference; all empty means that nothing is supported."""

    compression: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    encoder_formats: tuple[str, ...] = ENCODER_FORMATS
    _wire: dict[str, object] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Write the object once: it goes into every header."""
        wire = {
            "languages": list(self.languages),
            "compressionalgos": list(self.compression),
            "encoderformats": list(self.encoder_formats),
        }
        object.__setattr__(self, "_wire", wire)

    def to_wire(self) -> dict[str, object]:
        """Return the object of a header; not to be changed."""
        return self._wire

    def preferred_compression(self) -> str | None:
        """Return the best algorithm both ends know, GZIP before LZW, or None."""
        for algorithm in compression.ALGORITHMS:
            if algorithm in self.compression:
                return algorithm
        return None


def intersection(first: Capabilities | None, second: Capabilities | None) -> Capabilities | None:
    """Return what both sides support, in the order of ``first``; None when either is unknown."""
    if first is None or second is None:
        return None
    if first is second or first == second:
        return first
    return Capabilities(
        tuple(name for name in first.compression if name in second.compression),
        tuple(name for name in first.languages if name in second.languages),
        tuple(name for name in first.encoder_formats if name in second.encoder_formats),
    )


def parse_capabilities(obj: Mapping[str, Any], own: Capabilities | None = None) -> Capabilities:
    """Read capabilities: unknown names are dropped, a member that is no array counts as absent.

    Args:
        obj: the object of a header.
        own: this side's; as a rule the other side's are the same, and then need no reading.

    Raises:
        MslError: MSL_PARSE_ERROR for an element that is no string.
    """
    if own is not None and obj == own.to_wire():
        return own
    return Capabilities(
        tuple(name for name in _strings(obj, "compressionalgos") if name in compression.ALGORITHMS),
        _strings(obj, "languages"),
        tuple(name for name in _strings(obj, "encoderformats") if name in ENCODER_FORMATS),
    )


def _strings(obj: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = obj.get(name)
    if not isinstance(value, list):
        return ()
    for item in value:
        if not isinstance(item, str):
            raise MslError(ErrorCode.MSL_PARSE_ERROR, f"{name} holds something that is no string")
    return tuple(value)
