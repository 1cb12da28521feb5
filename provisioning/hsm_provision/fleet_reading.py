"""The lines of a fleet file: read one by one, each either an entity or refused with a reason that shows no key."""

from __future__ import annotations

import binascii
import csv
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, Literal

from hsm_msl.errors import ConfigurationError
from hsm_msl.stores.limits import MAX_KEY_BYTES
from hsm_provision.jwk_import import secret_from_jwk
from hsm_provision.key_material import derive_wrapping_key

FleetForm = Literal["csv", "jsonl"]

COLUMNS = ("identity", "encryption", "mac", "wrapping")
MAX_LINE_BYTES = 16 * 1024
"""No line of an entity comes near; keeps a file without line ends from being swallowed whole."""

_SIZES: Mapping[str, int] = {"encryption": 16, "mac": 32, "wrapping": 16}

# A column in the wrong place must not carry a key into the report: hexadecimal, or Base64 of 16 or 32 bytes.
_LIKE_A_KEY = re.compile(
    r"[0-9A-Fa-f]{32,}|[A-Za-z0-9+/_-]{21}[AQgw](==)?|[A-Za-z0-9+/_-]{42}[AEIMQUYcgkosw048]=?", re.ASCII
)


@dataclass(frozen=True, slots=True)
class FleetRow:
    """One entity of a fleet as read; ``line`` is its line in the source, from 1."""

    identity: str
    line: int
    encryption: bytes = field(repr=False)
    mac: bytes = field(repr=False)
    wrapping: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class RejectedLine:
    """A line that is not imported.

    Attributes:
        line: its number, from 1.
        identity: the entity, or None where it cannot be read or might be a key in the wrong column.
        reason: what is wrong; never a part of a key.
    """

    line: int
    identity: str | None
    reason: str


class _BadLineError(Exception):
    """Why a line is refused; the text is a reason fit for the report."""


class FleetReader:
    """The entities of a stream, never more than one line of it held.

    One line is one entity: CSV after a header line (``identity,encryption,mac[,wrapping]``), or JSON objects with
    members of those names. Keys are hexadecimal or, in JSON, ``oct`` JWKs as well; a missing wrapping key is derived.

    Args:
        stream: the bytes; UTF-8, a byte order mark is passed over.
        form: ``csv`` or ``jsonl``.
        origin: names the stream in errors.

    Raises:
        ConfigurationError: the CSV header is not as stated.
    """

    def __init__(self, stream: BinaryIO, form: FleetForm, origin: str) -> None:
        self._stream = stream
        self._form = form
        self._origin = origin
        self._digest = hashlib.sha256()
        self._columns: tuple[str, ...] = COLUMNS
        self.line = 0
        self.read_bytes = 0
        if form == "csv":
            self._read_header()

    @property
    def fingerprint(self) -> int:
        """63 bits of the SHA-256 of all lines read so far, to know them again when an import goes on."""
        return int.from_bytes(self._digest.digest()[:8]) >> 1

    def skip_to(self, line: int, fingerprint: int) -> None:
        """Pass over what an interrupted import has dealt with.

        Args:
            line: the last line dealt with.
            fingerprint: of the lines up to it.

        Raises:
            ConfigurationError: these are not the lines the interrupted import has read.
        """
        while self.line < line and self._next() is not None:
            pass
        if self.line != line or self.fingerprint != fingerprint:
            raise ConfigurationError(
                f"{self._origin}: the first {line} lines are not those the interrupted import has read; "
                "give the same file, or another --job to begin anew (what is stored already stays)"
            )

    def __iter__(self) -> Iterator[FleetRow | RejectedLine]:
        """Yield what the remaining lines hold, blank ones left out."""
        while (data := self._next()) is not None:
            if data and not data.strip():
                continue
            yield self._judged(data)

    def _next(self) -> bytes | None:
        """Return the next line, b"" for one that is too long, None at the end."""
        data = self._stream.readline(MAX_LINE_BYTES + 1)
        if not data:
            return None
        self.line += 1
        self._count(data)
        if len(data) <= MAX_LINE_BYTES:
            return data.removeprefix(b"\xef\xbb\xbf") if self.line == 1 else data
        while not data.endswith(b"\n") and (data := self._stream.readline(MAX_LINE_BYTES)):
            self._count(data)
        return b""

    def _count(self, data: bytes) -> None:
        self._digest.update(data)
        self.read_bytes += len(data)

    def _read_header(self) -> None:
        try:
            header = tuple(name.strip() for name in _cells((self._next() or b"").decode()))
        except (UnicodeDecodeError, _BadLineError):
            header = ()
        if header not in (COLUMNS[:3], COLUMNS):
            raise ConfigurationError(
                f"{self._origin}: the first line must be {','.join(COLUMNS)}; the last may be left out"
            )
        self._columns = header

    def _judged(self, data: bytes) -> FleetRow | RejectedLine:
        identity: str | None = None
        try:
            if not data:
                raise _BadLineError(f"longer than {MAX_LINE_BYTES} bytes")
            values = self._values(data)
            identity = _identity(values.get("identity"))
            encryption = _key(values.get("encryption"), "encryption")
            mac = _key(values.get("mac"), "mac")
            given = values.get("wrapping")
            wrapping = derive_wrapping_key(encryption, mac) if given in (None, "") else _key(given, "wrapping")
        except _BadLineError as bad:
            shown = None if identity is None or _LIKE_A_KEY.fullmatch(identity) else identity
            return RejectedLine(self.line, shown, str(bad))
        return FleetRow(identity, self.line, encryption, mac, wrapping)

    def _values(self, data: bytes) -> Mapping[str, object]:
        try:
            text = data.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise _BadLineError("not UTF-8 text") from None
        if self._form == "jsonl":
            return _members(text)
        cells = _cells(text)
        if len(cells) != len(self._columns):
            raise _BadLineError(f"{len(self._columns)} columns are expected")
        return dict(zip(self._columns, cells, strict=True))


def _cells(text: str) -> list[str]:
    try:
        return next(csv.reader([text], strict=True), [])
    except csv.Error:
        raise _BadLineError("not CSV") from None


def _members(text: str) -> Mapping[str, object]:
    try:
        found = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise _BadLineError("not JSON") from None
    if not isinstance(found, dict):
        raise _BadLineError("a JSON object is expected")
    return found


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _BadLineError("a member is there twice")
    return members


def _identity(value: object) -> str:
    if not isinstance(value, str) or not value or not value.isprintable() or value != value.strip():
        raise _BadLineError("identity: printable text without blanks around it is required")
    if len(value.encode()) > MAX_KEY_BYTES:
        raise _BadLineError(f"identity: longer than {MAX_KEY_BYTES} bytes")
    return value


def _key(value: object, name: str) -> bytes:
    try:
        if isinstance(value, dict):
            key = secret_from_jwk(value)
        elif isinstance(value, str):
            key = bytes.fromhex(value.strip())
        else:
            raise ValueError(name)
    except (ValueError, binascii.Error):
        raise _BadLineError(f"{name}: not a key in hexadecimal or an oct JWK") from None
    if len(key) != _SIZES[name]:
        raise _BadLineError(f"{name}: {len(key)} bytes; {_SIZES[name]} are needed")
    return key
