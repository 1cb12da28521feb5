"""Pre-shared keys of many entities: wrapped by the token one by one, stored wrapped, read from a stream."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from hsm_msl.errors import ConfigurationError
from hsm_msl.ports.schemes import WrappedKeys
from hsm_msl.stores.fleet_keys import FleetEntry, FleetKeyStore, ImportProgress
from hsm_msl.stores.schema import prepare
from hsm_msl.stores.sql import Database
from hsm_provision.errors import VerificationError
from hsm_provision.fleet_reading import FleetReader, FleetRow, RejectedLine
from hsm_provision.fleet_rejects import RejectsFile
from hsm_provision.token.fleet import FleetWrapper, RenewedWrapper

BATCH = 1000
OTHER_KEYS = "identity: it is there already with other keys"


@dataclass(frozen=True, slots=True)
class FleetCount:
    """What an import did since it was started.

    Attributes:
        stored: entities stored.
        repeated: lines whose entity is there already with the same keys.
        rejected: lines refused, those of the interrupted runs of the same import included.
        resumed_after: the line after which an interrupted import went on; 0 from the beginning.
    """

    stored: int
    repeated: int
    rejected: int
    resumed_after: int


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
    reader: FleetReader,
    wrapper: RenewedWrapper,
    store: FleetKeyStore,
    rejects: RejectsFile,
    *,
    job: str,
    replace: bool = False,
    strict: bool = False,
    settled: Callable[[FleetCount], None],
) -> FleetCount:
    """Wrap and store a fleet; an import that was interrupted goes on after the last settled line.

    Refused lines are on disk before the position moves past them, and entities are stored in the transaction that
    moves it: killed at any moment, an import loses no line and reports none twice. The first entity of every batch is
    opened again in the token and compared, before its batch is stored.

    Args:
        reader: the lines, from the beginning.
        wrapper: wraps with the token.
        store: where the entities go.
        rejects: where the refused lines go.
        job: name of this import; the same name continues it.
        replace: let a line replace other keys of its entity instead of being refused.
        strict: stop at the first line that would be refused.
        settled: told after each batch what was done.

    Returns:
        What was done.

    Raises:
        ConfigurationError: another source than the interrupted import had, or (``strict``) a bad line; what came
            before is stored.
        VerificationError: the token wrapped something that does not open to the same key.
        StoreError: the database gives no answer.
        BackendError: the token fails.
    """
    before = store.progress(job)
    resumed = 0 if before is None else before.position
    if before is not None:
        reader.skip_to(before.position, before.fingerprint)
    rejects.begin(resumed)
    stored = repeated = 0
    items = iter(reader)
    while lines := list(islice(items, BATCH)):
        batch = _judge(lines, wrapper.current(), store, replace)
        if strict and batch.rejected:
            first = batch.rejected[0]
            store.put_batch([entry for entry in batch.entries if entry.position < first.line])
            raise ConfigurationError(f"line {first.line}: {first.reason}; what came before is stored")
        rejects.append(batch.rejected)
        store.put_batch(batch.entries, ImportProgress(job, reader.line, reader.fingerprint))
        stored += len(batch.entries)
        repeated += batch.repeated
        settled(FleetCount(stored, repeated, rejects.count, resumed))
    store.finish(job)
    return FleetCount(stored, repeated, rejects.count, resumed)


def rewrap_fleet(wrapper: RenewedWrapper, old: str, store: FleetKeyStore, *, stored: Callable[[int], None]) -> int:
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
        current = wrapper.current()
        total += store.put_many([FleetEntry(entry.identity, _anew(entry.keys, current)) for entry in page])
        stored(total)
    return total


@dataclass(frozen=True, slots=True)
class _Batch:
    entries: Sequence[FleetEntry]
    rejected: Sequence[RejectedLine]
    repeated: int


def _judge(
    lines: Sequence[FleetRow | RejectedLine], wrapper: FleetWrapper, store: FleetKeyStore, replace: bool
) -> _Batch:
    known: Mapping[str, WrappedKeys] = store.get_many([one.identity for one in lines if isinstance(one, FleetRow)])
    entries: dict[str, FleetEntry] = {}
    rejected: list[RejectedLine] = []
    repeated = 0
    proven = False
    for one in lines:
        if isinstance(one, RejectedLine):
            rejected.append(one)
            continue
        keys = WrappedKeys(
            wrapper.wrap(one.encryption), wrapper.wrap(one.mac), wrapper.wrap(one.wrapping), wrapper.label
        )
        if not proven and not wrapper.opens_to(keys.encryption, one.encryption):
            raise VerificationError(f"line {one.line}: the wrapped key does not open to the key that was wrapped")
        proven = True
        earlier = entries[one.identity].keys if one.identity in entries else known.get(one.identity)
        if earlier is not None and _same(earlier, keys, wrapper):
            repeated += 1
        elif earlier is not None and not replace:
            rejected.append(RejectedLine(one.line, one.identity, OTHER_KEYS))
        else:
            entries[one.identity] = FleetEntry(one.identity, keys, one.line)
    return _Batch(list(entries.values()), rejected, repeated)


def _same(stored: WrappedKeys, keys: WrappedKeys, wrapper: FleetWrapper) -> bool:
    """Tell whether two wrapped sets hold the same keys: RFC 3394 wraps equal keys equally under one key."""
    if stored.wrapping_key != keys.wrapping_key:
        stored = _anew(stored, wrapper)
    return (stored.encryption, stored.mac) == (keys.encryption, keys.mac) and stored.wrapping in (None, keys.wrapping)


def _anew(keys: WrappedKeys, wrapper: FleetWrapper) -> WrappedKeys:
    old = keys.wrapping_key
    return WrappedKeys(
        wrapper.rewrap(keys.encryption, old),
        wrapper.rewrap(keys.mac, old),
        None if keys.wrapping is None else wrapper.rewrap(keys.wrapping, old),
        wrapper.label,
    )
