"""Pre-shared keys of many entities: wrapped by the token one by one, stored wrapped, read from a stream."""

from __future__ import annotations

import binascii
import contextlib
import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TextIO

from hsm_msl.errors import ConfigurationError
from hsm_msl.scheme_ports import WrappedKeys
from hsm_msl.stores.fleet_keys import FleetEntry, FleetKeyStore
from hsm_msl.stores.schema import prepare
from hsm_msl.stores.sql import Database
from hsm_provision.errors import VerificationError
from hsm_provision.jwk_import import secret_from_jwk
from hsm_provision.key_material import derive_wrapping_key
from hsm_provision.token.fleet import FleetWrapper

COLUMNS = ("identity", "encryption", "mac", "wrapping")
_SIZES: Mapping[str, int] = {"encryption": 16, "mac": 32, "wrapping": 16}
BATCH = 1000


@dataclass(frozen=True, slots=True)
class FleetRow:
    """One entity of a fleet as read; ``line`` is where it ends in its source."""

    identity: str
    line: int
    encryption: bytes = field(repr=False)
    mac: bytes = field(repr=False)
    wrapping: bytes = field(repr=False)


def read_fleet(stream: TextIO, form: str, origin: str) -> Iterator[FleetRow]:
    """Yield the entities of a stream without ever holding more than one.

    Args:
        stream: CSV with a header line (``identity,encryption,mac[,wrapping]``, hexadecimal), or JSON lines whose
            members of those names are ``oct`` JWKs.
        form: ``csv`` or ``jwk``.
        origin: names the stream in errors.

    Raises:
        ConfigurationError: a line is not of that form; the text names the line and never its content.
    """
    rows = _csv_rows(stream, origin) if form == "csv" else _json_rows(stream, origin)
    for line, values in rows:
        identity = values.get("identity")
        if not isinstance(identity, str) or not identity or not identity.isprintable():
            raise ConfigurationError(f"{origin}: line {line}: identity: printable text is required")
        keys = {name: _key(values.get(name), name, f"{origin}: line {line}") for name in ("encryption", "mac")}
        given = values.get("wrapping")
        wrapping = (
            _key(given, "wrapping", f"{origin}: line {line}")
            if given
            else derive_wrapping_key(keys["encryption"], keys["mac"])
        )
        yield FleetRow(identity, line, keys["encryption"], keys["mac"], wrapping)


@contextlib.contextmanager
def open_fleet(url: str) -> Iterator[FleetKeyStore]:
    """Open the database of a fleet for the length of a ``with`` block, preparing its tables when they are missing.

    Raises:
        ConfigurationError: another kind of database, or a file that cannot be made.
        StoreError: the database gives no answer.
    """
    database = Database(url)
    try:
        prepare(database)
        yield FleetKeyStore(database)
    finally:
        database.close()


def import_fleet(
    rows: Iterable[FleetRow],
    wrapper: FleetWrapper,
    store: FleetKeyStore,
    *,
    job: str,
    stored: Callable[[int], None],
) -> int:
    """Wrap and store a fleet; an import that was interrupted goes on after the last stored line.

    The first entity of every batch is opened again in the token and compared, before its batch is stored.

    Args:
        rows: the entities, from the beginning.
        wrapper: wraps with the token.
        store: where they go.
        job: name of this import; the same name continues it.
        stored: told after each batch how many entities are stored.

    Returns:
        How many entities were stored now.

    Raises:
        ConfigurationError: a line is bad; what came before is stored.
        VerificationError: the token wrapped something that does not open to the same key.
        StoreError: the database gives no answer.
        BackendError: the token fails.
    """
    done = store.position(job)
    entries = (_wrap(row, wrapper, index) for index, row in enumerate(row for row in rows if row.line > done))
    count = store.put_many(entries, job=job, batch=BATCH, stored=stored)
    store.finish(job)
    return count


def rewrap_fleet(wrapper: FleetWrapper, old: str, store: FleetKeyStore, *, stored: Callable[[int], None]) -> int:
    """Wrap every entity anew that is still under an older storage key; no key is seen by the host.

    Args:
        wrapper: wraps with the newest storage key.
        old: label of the older one.
        store: the fleet.
        stored: told after each page how many entities are done.

    Returns:
        How many entities were wrapped anew.

    Raises:
        StoreError: the database gives no answer.
        BackendError: the token fails or does not open an entry.
    """
    total = 0
    while page := store.wrapped_under(old, limit=BATCH):
        entries = [
            FleetEntry(
                entry.identity,
                WrappedKeys(
                    wrapper.rewrap(entry.keys.encryption, old),
                    wrapper.rewrap(entry.keys.mac, old),
                    wrapper.rewrap(entry.keys.wrapping, old) if entry.keys.wrapping is not None else None,
                    wrapper.label,
                ),
            )
            for entry in page
        ]
        total += store.put_many(entries)
        stored(total)
    return total


def _wrap(row: FleetRow, wrapper: FleetWrapper, index: int) -> FleetEntry:
    wrapped = WrappedKeys(
        wrapper.wrap(row.encryption), wrapper.wrap(row.mac), wrapper.wrap(row.wrapping), wrapper.label
    )
    if index % BATCH == 0 and not wrapper.opens_to(wrapped.encryption, row.encryption):
        raise VerificationError(f"line {row.line}: the wrapped key does not open to the key that was wrapped")
    return FleetEntry(row.identity, wrapped, row.line)


def _csv_rows(stream: TextIO, origin: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    reader = csv.DictReader(stream, strict=True)
    try:
        header = [name.strip() for name in reader.fieldnames or ()]
        if header not in ([*COLUMNS[:3]], [*COLUMNS]):
            raise ConfigurationError(
                f"{origin}: the first line must be {','.join(COLUMNS)}; the last may be left out"
            )
        reader.fieldnames = header
        for row in reader:
            if None in row or None in row.values():
                raise ConfigurationError(f"{origin}: line {reader.line_num}: {len(header)} columns are expected")
            yield reader.line_num, row
    except csv.Error as error:
        raise ConfigurationError(f"{origin}: line {reader.line_num}: not CSV: {error}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{origin}: not UTF-8 text") from None


def _json_rows(stream: TextIO, origin: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    for line, text in enumerate(stream, start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except ValueError:
            raise ConfigurationError(f"{origin}: line {line}: not JSON") from None
        if not isinstance(row, dict):
            raise ConfigurationError(f"{origin}: line {line}: a JSON object is expected")
        yield line, row


def _key(value: object, name: str, where: str) -> bytes:
    try:
        if isinstance(value, dict):
            key = secret_from_jwk(value)
        elif isinstance(value, str):
            key = bytes.fromhex(value.strip())
        else:
            raise ValueError(name)
    except (ValueError, binascii.Error):
        raise ConfigurationError(f"{where}: {name}: not a key in hexadecimal or an oct JWK") from None
    if len(key) != _SIZES[name]:
        raise ConfigurationError(f"{where}: {name}: {len(key)} bytes; {_SIZES[name]} are needed")
    return key
