"""A running service with dialogs: threads for the engine, a sender that drains the outbox, a clock that ticks."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol, TypeVar

from sqlalchemy import Connection

from hsm_msl.dialog.binding import read_binding
from hsm_msl.dialog.engine import DialogEngine
from hsm_msl.dialog.names import Kind
from hsm_msl.dialog.session import Event, Message, Outcome, Outgoing
from hsm_msl.errors import HsmMslError
from hsm_msl.ports.dialog import IncarnationMirror
from hsm_msl.ports.dialog_records import DialogTransaction, EndpointRecord
from hsm_msl.service.dialog.accepting import Accepting
from hsm_msl.stores.dialog_sql import SqlDialogStore

_LOG = logging.getLogger("hsm_msl.dialog")
_T = TypeVar("_T")

BATCH = 32
"""Packets per transmission and per receiving transaction."""

TICK = 1.0
"""Seconds between two looks at timers, and at what other processes put into the outbox."""

LANES = 4
"""Requests at a time to one service."""

QUEUE = 16
"""Requests to one service that are under way or wait for their turn; a service that hangs holds no more memory."""

RENEWAL = 60.0
"""Seconds between two renewals of the incarnation."""


class Transport(Protocol):
    """Carries packets to another service."""

    async def deliver(self, url: str, packets: Sequence[bytes]) -> list[bytes]:
        """Deliver packets and return what came back; a service that cannot be reached answers nothing."""

    async def close(self) -> None:
        """Let go of connections."""


class DialogNode:
    """One process of a service.

    Args:
        engine: the engine.
        store: its store.
        transport: carries packets to other services.
        node: name of this process among those that share the store.
        mirror: the incarnation outside the store's backup; None where restores are noticed in another way.
        observer: hears of every event, as the log does.
        threads: threads for engine, token and store.
    """

    def __init__(
        self,
        engine: DialogEngine,
        store: SqlDialogStore,
        transport: Transport,
        *,
        node: str = "node",
        mirror: IncarnationMirror | None = None,
        observer: Callable[[Event], None] | None = None,
        threads: int = 4,
    ) -> None:
        self.engine = engine
        self.store = store
        self._transport = transport
        self._node = node
        self._mirror = mirror
        self._observer = observer
        self._pool = ThreadPoolExecutor(threads, "dialog")
        self._outgoing = asyncio.Event()
        self.accepting = Accepting(engine, store, self._run, self._outgoing.set)
        self._timers = asyncio.Event()
        self._incoming = asyncio.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._flights: set[asyncio.Task[None]] = set()
        self._lanes: dict[str, asyncio.Semaphore] = {}
        self._aloft: dict[str, int] = {}
        self._shown = (b"", 0)

    async def __aenter__(self) -> DialogNode:
        """Start; see ``start``."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop; see ``stop``."""
        await self.stop()

    async def start(self) -> None:
        """Check for a restore, then begin to send and to watch the time. Raises StoreError, ConfigurationError."""
        self._loop = asyncio.get_running_loop()
        await self._renew(starting=True)
        self._tasks = [asyncio.create_task(self._send_forever()), asyncio.create_task(self._tick_forever())]

    async def stop(self) -> None:
        """Stop sending; what is in the outbox travels after the next start."""
        await self.accepting.finish()
        tasks = [*self._tasks, *self._flights]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        try:
            await self._renew(resting=True)
        except HsmMslError as error:
            _LOG.warning(
                "every dialog will shift its key before it next sends, since this end is not noted: %s", error
            )
        self._loop = None
        await self._transport.close()
        await asyncio.get_running_loop().run_in_executor(None, self._pool.shutdown)

    async def begin(self, remote: str, *, lifetime: int = 86400, contract: str = "") -> Dialog:
        """Begin a dialog with another service. Raises UsageError, StoreError."""
        state = await self.transact(lambda tx: self.engine.begin(tx, remote, lifetime, contract))
        return Dialog(self, state.dialog, state.side)

    def dialog(self, identifier: bytes, side: int) -> Dialog:
        """Return one side of a dialog that is held here."""
        return Dialog(self, identifier, side)

    async def waiting(self) -> list[Dialog]:
        """Return some dialogs with messages nobody has taken, the next time others, each in its turn.

        Raises StoreError.
        """
        name, shown = self.engine.context.local.name, self._shown

        def turn(tx: DialogTransaction) -> list[tuple[bytes, int]]:
            found = list(tx.waiting(name, BATCH, shown))
            return found + [key for key in tx.waiting(name, BATCH - len(found)) if key <= shown]

        found = await self.transact(turn)
        self._shown = found[-1] if found else shown
        return [Dialog(self, dialog, side) for dialog, side in found]

    async def probe(self) -> None:
        """Use the store once, in the way that taking messages does. Raises StoreError."""
        name = self.engine.context.local.name
        await self.transact(lambda tx: tx.waiting(name, 1))

    async def arrivals(self) -> AsyncIterator[Dialog]:
        """Yield dialogs with messages nobody has taken, for ever; a dialog comes again until they are taken."""
        while True:
            found = await self.waiting()
            for dialog in found:
                yield dialog
            if not found:
                await self.arrival(TICK)

    async def arrival(self, seconds: float) -> None:
        """Wait until something was delivered, or for some seconds: another process may have received it."""
        async with self._incoming:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._incoming.wait()

    async def receive(self, packets: Sequence[bytes]) -> list[bytes]:
        """Take packets from the network and return what belongs back on the same way. Raises StoreError."""
        outcome = await self._run(self.engine.receive, packets)
        await self._after(outcome)
        return outcome.replies

    async def transact(self, work: Callable[[DialogTransaction], _T]) -> _T:
        """Run ``work`` in a transaction of its own, in a thread, and wake the sender. Raises what it raises."""

        def run() -> _T:
            with self.store.transaction() as tx:
                return work(tx)

        result = await self._run(run)
        self._outgoing.set()
        return result

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Open the application's own transaction on the dialogs' database, for ``Dialog.send_within`` and its like.

        It blocks its thread and may be used in any but that of the event loop. When the block has ended everything in
        it is durable together, and the sender is woken; an exception undoes all of it. Raises StoreError.
        """
        with self.store.connection() as connection:
            yield connection
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.wake)

    def wake(self) -> None:
        """Look at outbox and timers now: the application committed its own transaction. Call in the node's loop."""
        self._outgoing.set()
        self._timers.set()

    async def finish(self, outcome: Outcome) -> None:
        """Send and report what a call that took an ``Outcome`` left in it, after its transaction."""
        await self._after(outcome)

    async def _run(self, function: Callable[..., _T], *arguments: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    async def _after(self, outcome: Outcome) -> None:
        for event in outcome.events:
            _log(event)
            if self._observer is not None:
                self._observer(event)
        if outcome.delivered:
            async with self._incoming:
                self._incoming.notify_all()
        self._deliver(outcome.outgoing)
        self._outgoing.set()

    async def _send_forever(self) -> None:
        # Not asyncio.wait_for: before Python 3.12 it loses a cancellation that comes together with the event.
        while True:
            self._outgoing.clear()
            try:
                outgoing = await self._run(self.engine.transmit, BATCH)
                self._deliver(outgoing)
                if outgoing:
                    continue
            except HsmMslError as error:
                _LOG.warning("nothing can be sent: %s", error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK):
                    await self._outgoing.wait()

    async def _tick_forever(self) -> None:
        elapsed = 0.0
        while True:
            try:
                deadline = time.monotonic() + TICK
                more = True
                while more and time.monotonic() < deadline:
                    outcome = await self._run(self.engine.tick)
                    await self._after(outcome)
                    more = outcome.more
                if elapsed >= RENEWAL:
                    await self._renew()
                    elapsed = 0.0
            except HsmMslError as error:
                _LOG.warning("timers wait: %s", error)
            started = time.monotonic()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK):
                    await self._timers.wait()
            self._timers.clear()
            elapsed += time.monotonic() - started

    async def _renew(self, *, starting: bool = False, resting: bool = False) -> None:
        if self._mirror is None:
            return
        check = functools.partial(self.engine.check_incarnation, starting=starting, resting=resting)
        if await self._run(check, self._node, self._mirror):
            _LOG.warning(
                "the database was restored from a backup, or another process runs as node %r (each needs a"
                " service.node of its own): every open dialog shifts its key and resynchronises",
                self._node,
            )

    def _deliver(self, outgoing: Sequence[Outgoing]) -> None:
        """Send packets without waiting: a service that does not answer holds up no other."""
        by_remote: dict[str, list[bytes]] = {}
        for out in outgoing:
            by_remote.setdefault(out.remote, []).append(out.packet)
        for remote, packets in by_remote.items():
            if self._aloft.get(remote, 0) >= QUEUE:
                continue  # as lost as on the network: what has to arrive is in the outbox and comes again
            self._aloft[remote] = self._aloft.get(remote, 0) + 1
            flight = asyncio.create_task(self._fly(remote, packets))
            self._flights.add(flight)
            flight.add_done_callback(self._flights.discard)

    async def _fly(self, remote: str, packets: list[bytes]) -> None:
        try:
            async with self._lanes.setdefault(remote, asyncio.Semaphore(LANES)):
                url = await self._run(self._url, remote)
                replies = await self._transport.deliver(url, packets) if url else []
                if replies:
                    outcome = await self._run(self.engine.receive, replies)
                    outcome.outgoing += [Outgoing(remote, reply) for reply in outcome.replies]
                    await self._after(outcome)
        except HsmMslError as error:
            _LOG.warning("answers of %s are lost: %s", remote, error)
        finally:
            self._aloft[remote] -= 1

    def _url(self, remote: str) -> str:
        with self.store.reading() as tx:
            row = tx.find_binding(self.engine.context.local.name, remote)
        return "" if row is None else read_binding(row.document).url


class Dialog:
    """One side of a dialog, as the application holds it.

    Args:
        node: the process.
        identifier: 16 bytes.
        side: which side.
    """

    def __init__(self, node: DialogNode, identifier: bytes, side: int) -> None:
        self._node = node
        self.identifier = identifier
        self.side = side

    async def send(self, message_type: str, body: bytes) -> int:
        """Send a message; it is durable when this returns. Messages sent at the same time share a commit.

        Returns its sequence number, 0 while it waits for a binding.
        Raises DialogClosedError, DialogFailedError, SendLimitError, UsageError, BackendError, StoreError; nothing was
        accepted then.
        """
        return await self._node.accepting.send(self.identifier, self.side, message_type, body)

    def send_within(self, connection: Connection, message_type: str, body: bytes) -> int:
        """Send as part of the application's own transaction: with it, or not at all.

        Args:
            connection: from ``DialogNode.transaction``, or any in a transaction on the same database (on SQLite begun
                with BEGIN IMMEDIATE); then call ``DialogNode.wake`` after its commit.
            message_type: what the message is.
            body: the message.

        Raises as ``send``.
        """
        with self._node.store.joined(connection) as tx:
            return self._node.engine.send(tx, self.identifier, self.side, [(message_type, body)])

    def take_within(self, connection: Connection, limit: int = BATCH) -> list[Message]:
        """Take messages as part of the application's own transaction: exactly once, with what it does with them.

        Args:
            connection: as for ``send_within``.
            limit: most messages.

        Raises as ``DialogEngine.take``.
        """
        with self._node.store.joined(connection) as tx:
            return self._node.engine.take(tx, self.identifier, self.side, limit)

    def end_within(self, connection: Connection, error: tuple[int, str] | None = None) -> None:
        """End this side's part as part of the application's own transaction. Arguments and errors as ``end``."""
        with self._node.store.joined(connection) as tx:
            self._node.engine.end(tx, self.identifier, self.side, error)

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Yield messages as they arrive; a message counts as taken when the next one is asked for.

        Ends after the peer's end or the failure of the dialog, at once when that was taken before. A consumer that
        dies gets its last message again, with the same (dialog, seq). Two consumers may both get a message, and none
        is lost: to take each once, take within a transaction. Raises as ``DialogEngine.take``.
        """
        engine = self._node.engine
        while True:
            found = await self._node.transact(lambda tx: engine.look(tx, self.identifier, self.side, BATCH))
            for message in found:
                yield message
                known, due = await self._node.transact(functools.partial(self._taken, message))
                if due:
                    self._node.wake()
                if message.kind is not Kind.APP:
                    return
                if not known:
                    break  # somebody else takes messages of this dialog too
            if not found:
                if await self._node.transact(self._over):
                    return
                await self._node.arrival(TICK)

    def _taken(self, message: Message, tx: DialogTransaction) -> tuple[bool, bool]:
        """Take a message; tell whether it was still the next one, and whether the peer waits to hear of it."""
        state = tx.endpoint(self.identifier, self.side)
        known = state is not None and message.seq in (0, state.taken + 1)
        if known:
            self._node.engine.take(tx, self.identifier, self.side, 1)
        state = tx.endpoint(self.identifier, self.side, lock=False)
        return known, state is not None and bool(state.ack_due)

    def _over(self, tx: DialogTransaction) -> bool:
        """Tell whether the last word of this dialog has been taken."""
        state = tx.endpoint(self.identifier, self.side, lock=False)
        return state is None or bool(state.told) or (state.end_in > 0 and state.taken >= state.end_in)

    async def shift(self) -> None:
        """Shift the own session key now. Raises ShiftTooSoonError, UsageError, as ``send``."""
        outcome = Outcome()
        engine = self._node.engine
        await self._node.transact(lambda tx: engine.shift(tx, self.identifier, self.side, outcome))
        await self._node.finish(outcome)

    async def end(self, error: tuple[int, str] | None = None) -> None:
        """End this side's part, with an error code and text if there is one to tell. Raises as ``send``."""
        engine = self._node.engine
        await self._node.transact(lambda tx: engine.end(tx, self.identifier, self.side, error))

    async def fail(self) -> None:
        """Fail the dialog on both sides. Raises as ``send``."""
        outcome = Outcome()
        engine = self._node.engine
        await self._node.transact(lambda tx: engine.fail(tx, self.identifier, self.side, outcome))
        await self._node.finish(outcome)

    async def state(self) -> EndpointRecord | None:
        """Return the stored state. Raises StoreError."""
        return await self._node.transact(lambda tx: tx.endpoint(self.identifier, self.side, lock=False))


def _log(event: Event) -> None:
    _LOG.info("%s dialog=%s %s", event.name, event.dialog.hex(), event.detail)
