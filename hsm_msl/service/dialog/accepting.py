"""Messages of concurrent senders in one transaction: what one commit costs is shared by all who wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from hsm_msl.dialog.engine import DialogEngine
from hsm_msl.errors import StoreError
from hsm_msl.stores.dialog_sql import SqlDialogStore

MOST = 64
"""Messages per transaction."""


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    dialog: bytes
    side: int
    message: tuple[str, bytes]
    number: asyncio.Future[int]


_Results = Sequence[int | Exception]


class Accepting:
    """Accepts messages in the order in which they came; the first goes alone, the next share a transaction.

    Args:
        engine: seals them.
        store: its store.
        run: runs a function in a thread.
        accepted: called when there is something new to transmit.
    """

    def __init__(
        self,
        engine: DialogEngine,
        store: SqlDialogStore,
        run: Callable[[Callable[[Sequence[_Waiting]], _Results], Sequence[_Waiting]], Awaitable[_Results]],
        accepted: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._store = store
        self._run = run
        self._accepted = accepted
        self._waiting: list[_Waiting] = []
        self._task: asyncio.Task[None] | None = None

    async def send(self, dialog: bytes, side: int, message_type: str, body: bytes) -> int:
        """Return the number of a message when it is durable. Raises as ``DialogEngine.send``."""
        waiting = _Waiting(dialog, side, (message_type, body), asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        return await waiting.number

    async def finish(self) -> None:
        """Wait until everything that was given is accepted or refused."""
        if self._task is not None:
            await self._task

    async def _work(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
            try:
                results = await self._run(self._together, batch)
            except BaseException as error:
                for waiting in batch:
                    if not waiting.number.done():
                        waiting.number.set_exception(error)
                raise
            for waiting, result in zip(batch, results, strict=True):
                if waiting.number.done():  # whoever waited has given up; the message is accepted all the same
                    continue
                if isinstance(result, Exception):
                    waiting.number.set_exception(result)
                else:
                    waiting.number.set_result(result)
            self._accepted()

    def _together(self, batch: Sequence[_Waiting]) -> _Results:
        if len(batch) > 1:
            try:
                with self._store.transaction() as tx:
                    numbers = {}
                    for one in sorted(batch, key=_key):  # the order in which packets lock their dialogs
                        numbers[one] = self._engine.send(tx, one.dialog, one.side, [one.message])
                return [numbers[one] for one in batch]
            except StoreError as error:
                return [error] * len(batch)  # perhaps accepted after all: not to be sent a second time
            except Exception:  # noqa: S110
                pass  # nothing was accepted; alone, only the one at fault is refused
        return [self._alone(one) for one in batch]

    def _alone(self, one: _Waiting) -> int | Exception:
        try:
            with self._store.transaction() as tx:
                return self._engine.send(tx, one.dialog, one.side, [one.message])
        except Exception as error:  # the caller's own mistake is told to that caller alone
            return error


def _key(one: _Waiting) -> tuple[bytes, int]:
    return one.dialog, one.side
