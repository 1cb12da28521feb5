"""What every section of a configuration file is made of, and the sections both sides have.

Paths are relative to the directory of the file they stand in. PINs and passwords are never written in one: a key that
needs one names its source (``file:``, ``fd:``, ``cred:``, ``exec:``, ``prompt`` or ``env:``).
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from hsm_msl.wire.limits import DEFAULT_CHUNK_BYTES, MAX_CHUNK_BYTES

Name = Annotated[str, msgspec.Meta(min_length=1)]
Seconds = Annotated[int, msgspec.Meta(ge=1)]
Version = Annotated[int, msgspec.Meta(ge=1)]
Count = Annotated[int, msgspec.Meta(ge=0)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of a configuration file; a key it does not declare is refused."""


class LimitsSection(Section, frozen=True, kw_only=True):
    """``[limits]``: sizes in bytes.

    Attributes:
        request: the largest request body that is taken whole.
        streamed: the largest one that is taken in pieces, by applications that can (the echo can); 0 for any length.
        chunk: application bytes per payload chunk written.
    """

    request: Annotated[int, msgspec.Meta(ge=1024, le=1024 * 1024 * 1024)] = 16 * 1024 * 1024
    streamed: Count = 1024 * 1024 * 1024
    chunk: Annotated[int, msgspec.Meta(ge=1, le=MAX_CHUNK_BYTES)] = DEFAULT_CHUNK_BYTES


class ManagementSection(Section, frozen=True, kw_only=True):
    """``[management]``: metrics and health for operators, on an address of their own; not served without this table.

    Attributes:
        host: address to listen on.
        port: TCP port; 0 takes a free one, which is logged. Several worker processes take it and those that follow.
        ready_every: seconds for which an answer about readiness is good, however often it is asked for.
        deep_every: seconds for which the result of a deep examination is good.
        drift_every: seconds between two comparisons of the keys with the key manifest.
        patience: seconds to wait for a token or store before it counts as out of service.
    """

    host: Name = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8081
    ready_every: Annotated[float, msgspec.Meta(gt=0)] = 2.0
    deep_every: Annotated[float, msgspec.Meta(gt=0)] = 30.0
    drift_every: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    patience: Annotated[float, msgspec.Meta(gt=0)] = 5.0


class LogSection(Section, frozen=True, kw_only=True):
    """``[log]``: log lines on standard error.

    Attributes:
        format: ``json`` for one object per line, ``text`` for people.
        messages: write a line about every message; without it only about what went wrong on this side.
        entities: name entities by a ``pseudonym``; ``plain``, which also shows the details of refusals; or not at
            all.
        pseudonym_key: file with the key of the pseudonyms, 16 bytes or more as one line of hexadecimal; the same on
            all servers whose lines are to be compared. Without it, every process makes its own when it starts.
    """

    format: Literal["text", "json"] = "text"
    messages: bool = True
    entities: Literal["pseudonym", "plain", "none"] = "pseudonym"
    pseudonym_key: Name | None = None


class CapabilitiesSection(Section, frozen=True, kw_only=True):
    """``[capabilities]``: what this side can read, best first."""

    compression: tuple[Literal["GZIP", "LZW"], ...] = ("GZIP", "LZW")
    languages: tuple[Name, ...] = ()
