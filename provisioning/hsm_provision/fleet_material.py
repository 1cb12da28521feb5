"""A fleet's pre-shared keys on their way into a store: read line by line, wrapped in the token, never kept.

Two forms. CSV with the header ``identity,encryption,mac``, and ``wrapping`` where wrapping keys are not derived; JSON
lines with members of the same names. Keys are hexadecimal.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import msgspec

from hsm_msl.errors import ConfigurationError
from hsm_msl.ports import WrappingKey
from hsm_msl.scheme_ports import WrappedKeys
from hsm_msl.stores.fleet_keys import FleetEntry
from hsm_provision.key_material import derive_wrapping_key

ENCRYPTION_BYTES = 16
MAC_BYTES = 32
WRAPPING_BYTES = 16
MAX_IDENTITY_CHARACTERS = 1024

_COLUMNS = ("identity", "encryption", "mac")


class FleetRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entity as a line says it; the keys are hexadecimal, and the wrapping key is derived when left out."""

    identity: str
    encryption: str
    mac: str
    wrapping: str = ""

    def __repr__(self) -> str:
        return f"FleetRecord({self.identity!r})"


@dataclass(frozen=True, slots=True)
class RejectedLine:
    """A line that was left out, and why; the reason never quotes a key."""

    position: int
    reason: str


Report = Callable[[RejectedLine], None]


@dataclass(frozen=True, slots=True)
class _Keys:
    encryption: bytes = field(repr=False)
    mac: bytes = field(repr=False)
    wrapping: bytes = field(repr=False)


def read_json_lines(lines: Iterable[str], rejected: Report) -> Iterator[tuple[int, FleetRecord]]:
    """Read records from JSON lines; empty lines are nothing.

    Args:
        lines: the text, line by line.
        rejected: hears of lines that are no record.

    Yields:
        The line's number, from 1, and its record.
    """
    decoder = msgspec.json.Decoder(FleetRecord)
    for position, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield position, decoder.decode(line)
        except (msgspec.DecodeError, UnicodeError):
            # The parser's own text may quote the line.
            rejected(RejectedLine(position, "not an object with the members identity, encryption, mac, wrapping"))


def read_csv(lines: Iterable[str], rejected: Report) -> Iterator[tuple[int, FleetRecord]]:
    """Read records from CSV (RFC 4180) with a header line.

    Args:
        lines: the text, line by line.
        rejected: hears of rows that are no record.

    Yields:
        The number of the row's last line, from 1, and its record.

    Raises:
        ConfigurationError: the header is missing or lacks a column.
    """
    reader = csv.reader(lines, strict=True)
    header = next(reader, [])
    if not set(_COLUMNS).issubset(header) or not set(header).issubset((*_COLUMNS, "wrapping")):
        raise ConfigurationError("the CSV header must be identity,encryption,mac and may add wrapping")
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error:
            rejected(RejectedLine(reader.line_num, "not a row of CSV"))
            continue
        if not row:
            continue
        if len(row) != len(header):
            rejected(RejectedLine(reader.line_num, f"{len(row)} columns instead of {len(header)}"))
            continue
        yield reader.line_num, FleetRecord(**dict(zip(header, row, strict=True)))


def wrap_records(
    records: Iterable[tuple[int, FleetRecord]],
    key: WrappingKey,
    key_name: str,
    rejected: Report,
    *,
    after: int = 0,
) -> Iterator[FleetEntry]:
    """Wrap each record's keys under a token key, one record at a time.

    Args:
        records: from ``read_csv`` or ``read_json_lines``.
        key: the key-encrypting key; ``unwrap_aes`` and its kin must be allowed to the service's login.
        key_name: its name, as the service's configuration says it.
        rejected: hears of records whose identity or keys cannot be.
        after: position of the last line that is stored already, to resume an import.

    Yields:
        Entries for ``FleetKeyStore.put_many``, with their positions.

    Raises:
        BackendError: the token did not wrap; everything yielded before is good.
    """
    for position, record in records:
        if position <= after:
            continue
        try:
            keys = _keys(record)
        except ValueError as error:
            rejected(RejectedLine(position, str(error)))
            continue
        wrapped = WrappedKeys(key.wrap(keys.encryption), key.wrap(keys.mac), key.wrap(keys.wrapping), key_name)
        yield FleetEntry(record.identity, wrapped, position)


def _keys(record: FleetRecord) -> _Keys:
    if not record.identity:
        raise ValueError("the identity is empty")
    if len(record.identity) > MAX_IDENTITY_CHARACTERS:
        raise ValueError(f"the identity is longer than {MAX_IDENTITY_CHARACTERS} characters")
    encryption = _key("encryption", record.encryption, ENCRYPTION_BYTES)
    mac = _key("mac", record.mac, MAC_BYTES)
    if not record.wrapping:
        return _Keys(encryption, mac, derive_wrapping_key(encryption, mac))
    return _Keys(encryption, mac, _key("wrapping", record.wrapping, WRAPPING_BYTES))


def _key(name: str, text: str, size: int) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        raise ValueError(f"the {name} key is not hexadecimal") from None
    if len(value) != size:
        raise ValueError(f"the {name} key has {len(value)} bytes instead of {size}")
    return value
