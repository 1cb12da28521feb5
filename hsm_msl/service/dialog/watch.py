"""What operators see of a service with dialogs: its counters, how much waits in its store, and whether it works."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable, Iterator

from hsm_msl.dialog.engine import DialogEngine
from hsm_msl.dialog.names import ID_SIZE
from hsm_msl.errors import StoreError
from hsm_msl.service.key_drift import AnyKey
from hsm_msl.service.sections import ManagementSection
from hsm_msl.service.watch.health import Check, WrongAnswerError
from hsm_msl.service.watch.health_checks import key_checks
from hsm_msl.service.watch.health_pages import Health
from hsm_msl.service.watch.metrics import Sample, Source
from hsm_msl.stores.dialog_sql import SqlDialogStore

_LOG = logging.getLogger("hsm_msl.dialog")
_PROBE = "health check"


def dialog_source(engine: DialogEngine, store: SqlDialogStore) -> Source:
    """Return the source of what the engine counted and what waits in its store.

    Args:
        engine: of this process.
        store: its store; while it gives no answer, what waits there is not exported.
    """

    def read() -> Iterator[Sample]:
        for name, count in list(engine.counted.items()):
            yield Sample("dialog_events_total", (name,), count)
        try:
            outbox, inbox = store.depths(engine.context.local.name)
        except StoreError as error:
            _LOG.warning("the depth of outbox and inbox is not known: %s", error)
            return
        yield Sample("dialog_outbox_packets", (), outbox)
        yield Sample("dialog_inbox_messages", (), inbox)

    return read


def dialog_health(
    engine: DialogEngine, store: SqlDialogStore, exchange: Callable[[], None], section: ManagementSection
) -> Health:
    """Return the examinations of a service with dialogs.

    Args:
        engine: of this process.
        store: its store.
        exchange: opens a key exchange key by every way that is in use; raises what does not work.
        section: how often each may run.
    """
    local = engine.context.local

    def keys() -> Iterable[tuple[str, AnyKey]]:
        return (("signing key", local.signing_key), ("storage key", local.storage))

    def usable() -> Iterator[Check]:
        yield next(iter(key_checks(keys)))
        yield Check("store: read", lambda: _read(store))

    def deep() -> Iterator[Check]:
        yield from key_checks(keys)
        yield Check("encryption key: every suite in use", exchange)
        yield Check("store: write and read", lambda: _write(store))

    return Health(usable, deep, lambda: (), section)


def _read(store: SqlDialogStore) -> None:
    with store.reading() as tx:
        tx.incarnation(_PROBE)


def _write(store: SqlDialogStore) -> None:
    value = secrets.token_bytes(ID_SIZE)
    with store.transaction() as tx:
        tx.set_incarnation(_PROBE, value)
        if tx.incarnation(_PROBE) != value:
            raise WrongAnswerError("what was written is not there")
