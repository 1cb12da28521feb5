"""Pre-shared keys of any number of entities, kept wrapped under a token key (issue 3).

The database holds blobs: RFC 3394 output of a key-encrypting key that never leaves the token. Unwrapping them into
the token is the backend's work.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from sqlalchemy import bindparam, delete, func, select

from hsm_msl.ports.schemes import WrappedKeys
from hsm_msl.stores.rows import insert_or_replace
from hsm_msl.stores.schema import FLEET_IMPORT, FLEET_KEY
from hsm_msl.stores.sql import Database
from hsm_msl.stores.text import long_name

_T = FLEET_KEY.c
_GET = select(_T.encryption, _T.mac, _T.wrapping, _T.kek).where(_T.identity == bindparam("i"))
_GET_MANY = select(FLEET_KEY).where(_T.identity.in_(bindparam("ids", expanding=True)))
_REMOVE = delete(FLEET_KEY).where(_T.identity == bindparam("i"))
_COUNT = select(_T.kek, func.count().label("entities")).group_by(_T.kek)
_PAGE = (
    select(FLEET_KEY)
    .where(_T.kek == bindparam("k"), _T.identity > bindparam("after"))
    .order_by(_T.identity)
    .limit(bindparam("n"))
)
_POSITION = select(FLEET_IMPORT.c.position).where(FLEET_IMPORT.c.job == bindparam("j"))
_FORGET_JOB = delete(FLEET_IMPORT).where(FLEET_IMPORT.c.job == bindparam("j"))


@dataclass(frozen=True, slots=True)
class FleetEntry:
    """One entity's wrapped keys on their way into the store.

    Attributes:
        identity: the entity.
        keys: its wrapped keys.
        position: where in its source the entry is (a line number), 0 without one.
    """

    identity: str
    keys: WrappedKeys
    position: int = 0


@dataclass(frozen=True, slots=True)
class ImportProgress:
    """How far an import is.

    Attributes:
        job: name of the import.
        position: the last line of its source that is settled.
        fingerprint: tells the source up to there from another one; below 2**63.
    """

    job: str
    position: int
    fingerprint: int


class FleetKeyStore:
    """A ``FleetStore`` in a database whose tables are prepared; the importer's side too."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._put = insert_or_replace(database, FLEET_KEY)
        self._put_position = insert_or_replace(database, FLEET_IMPORT)

    def get(self, identity: str) -> WrappedKeys | None:
        """Return the entity's wrapped keys, or None when the entity is not known. Raises StoreError."""
        with self._database.statements() as connection:
            row = connection.execute(_GET, {"i": identity}).one_or_none()
        return None if row is None else WrappedKeys(row.encryption, row.mac, row.wrapping, row.kek)

    def get_many(self, identities: Collection[str]) -> Mapping[str, WrappedKeys]:
        """Return the wrapped keys of those entities that are known.

        Args:
            identities: up to some thousands, none of them above ``MAX_KEY_BYTES``.

        Raises:
            StoreError: the database gave no answer.
        """
        with self._database.statements() as connection:
            rows = connection.execute(_GET_MANY, {"ids": list(identities)}).all()
        return {row.identity: WrappedKeys(row.encryption, row.mac, row.wrapping, row.kek) for row in rows}

    def put_many(
        self, entries: Iterable[FleetEntry], *, batch: int = 2000, stored: Callable[[int], None] | None = None
    ) -> int:
        """Store entries, replacing those of the same identity, one transaction per batch.

        Putting the same entries again changes nothing, so what was interrupted may simply be repeated.

        Args:
            entries: taken one batch at a time; memory does not grow with their number.
            batch: entries per transaction.
            stored: called after each batch with the number of entries stored so far.

        Returns:
            How many entries were stored.

        Raises:
            StoreError: the batches reported before are stored, this one is not.
        """
        source = iter(entries)
        total = 0
        while chunk := list(islice(source, batch)):
            self.put_batch(chunk)
            total += len(chunk)
            if stored is not None:
                stored(total)
        return total

    def put_batch(self, entries: Sequence[FleetEntry], progress: ImportProgress | None = None) -> None:
        """Store entries, replacing those of the same identity, and how far their import is, in one transaction.

        Args:
            entries: some thousands at most; may be none.
            progress: how far the import is with them; None says nothing of it.

        Raises:
            StoreError: nothing of this batch is stored.
        """
        # One statement cannot meet the same row twice; the later entry counts, as with single statements.
        rows = list({entry.identity: _row(entry.identity, entry.keys) for entry in entries}.values())
        with self._database.transaction() as connection:
            if rows:
                connection.execute(self._put, rows)
            if progress is not None:
                marks = {progress.job: progress.position, _source_of(progress.job): progress.fingerprint}
                connection.execute(
                    self._put_position, [{"job": name, "position": number} for name, number in marks.items()]
                )

    def progress(self, job: str) -> ImportProgress | None:
        """Return how far an interrupted import is, or None for one not begun. Raises StoreError."""
        with self._database.statements() as connection:
            position = connection.scalar(_POSITION, {"j": job})
            fingerprint = connection.scalar(_POSITION, {"j": _source_of(job)})
        return None if position is None else ImportProgress(job, position, fingerprint or 0)

    def finish(self, job: str) -> None:
        """Forget how far a job is that is done. Raises StoreError."""
        with self._database.transaction() as connection:
            connection.execute(_FORGET_JOB, [{"j": job}, {"j": _source_of(job)}])

    def remove(self, identity: str) -> bool:
        """Drop an entity's keys; False when it is not known. Raises StoreError."""
        with self._database.statements() as connection:
            return connection.execute(_REMOVE, {"i": identity}).rowcount == 1

    def count(self) -> Mapping[str, int]:
        """Return the number of entities per key-encrypting key; reads every row. Raises StoreError."""
        with self._database.statements() as connection:
            return {row.kek: row.entities for row in connection.execute(_COUNT)}

    def wrapped_under(self, wrapping_key: str, *, after: str = "", limit: int = 1000) -> Sequence[FleetEntry]:
        """Return up to ``limit`` entries under one key-encrypting key, to wrap them anew.

        Args:
            wrapping_key: the key's name as stored.
            after: the identity of the last entry of the page before.
            limit: length of a page.

        Raises:
            StoreError: the database gave no answer.
        """
        with self._database.statements() as connection:
            rows = connection.execute(_PAGE, {"k": wrapping_key, "after": after, "n": limit}).all()
        return [
            FleetEntry(row.long_name or row.identity, WrappedKeys(row.encryption, row.mac, row.wrapping, row.kek))
            for row in rows
        ]


def _source_of(job: str) -> str:
    # A row beside the job's own: databases in use have the two columns and no third.
    return f"{job}\0source"


def _row(identity: str, keys: WrappedKeys) -> dict[str, str | bytes | None]:
    return {
        "identity": identity,
        "encryption": keys.encryption,
        "mac": keys.mac,
        "wrapping": keys.wrapping,
        "kek": keys.wrapping_key,
        "long_name": long_name(identity),
    }
