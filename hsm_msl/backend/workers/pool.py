"""Starts workers, gives each call to a free one, gives up in time on one that is stuck, and replaces the lost.

A worker that hangs inside its module cannot be asked to stop, so it is killed. A call whose worker died may repeat,
so another worker does it; a call that is stuck is answered with an outage when its deadline is over.

A worker that says it is worn, because its module lost memory with every key, works on until the next one is up, one
worker at a time. Then it only answers for keys that nobody else has, and ends when those are gone.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from time import perf_counter_ns

from hsm_msl.backend.operations import OTHER, SESSION, Operations, Use
from hsm_msl.backend.pkcs11.recovery import NullObserver, RecoveryObserver
from hsm_msl.backend.token_status import TokenStatus
from hsm_msl.backend.workers.process import Worker
from hsm_msl.backend.workers.protocol import (
    MAKES,
    Call,
    Hello,
    Made,
    OnToken,
    Recipe,
    Remade,
    Value,
    WorkerSpec,
    frame,
    result_of,
)
from hsm_msl.errors import (
    BackendError,
    BackendUnavailableError,
    PinRefusedError,
    TokenAbsentError,
)

FIRST_PAUSE = 0.25
LONGEST_PAUSE = 30.0
DRAIN_SECONDS = 60.0
"""How long a worn worker stays for keys that only it has."""

MOST_ENDED = 2
"""How many workers may end over one call. One may have been killed just then; two are no chance."""

STAGGER = 0.4
"""By what share of its time the first of several workers is replaced before the last, when all are equally busy."""


_CHILD_NUMBERS = 1 << 20
"""By how much the numbers of a forked child's workers are past those its parent may still give."""


class _Forked:
    """Guards the change of a pool to a forked child: one that a thread of the parent held would never be free."""

    lock = threading.Lock()

    @classmethod
    def renew(cls) -> None:
        """Begin with a free lock."""
        cls.lock = threading.Lock()


os.register_at_fork(after_in_child=_Forked.renew)


class WorkerLostError(BackendUnavailableError):
    """What a worker made in a session is gone with it."""


def _call() -> None:
    """Stand for a call nobody named, where calls are counted."""


class WorkerPool:
    """Workers of one token.

    Args:
        spec: what they open.
        count: how many.
        deadline_seconds: how long a worker may take for a call, and how long a call waits for one.
        operations: counts the calls.
        observer: returns, for the token's label, what hears when the last worker is lost and when there is one again.
        monotonic: seconds that never run backwards.

    Raises:
        BackendConfigurationError: the first worker says that a person must act.
        BackendUnavailableError: the first worker does not start.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        *,
        count: int = 2,
        deadline_seconds: float = 5.0,
        operations: Operations | None = None,
        observer: Callable[[str], RecoveryObserver] = lambda _label: NullObserver(),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pid = os.getpid()
        self._spec = spec
        self._count = count
        self._deadline = deadline_seconds
        self._clock = monotonic
        self._numbers = itertools.count(1)
        self._changed = threading.Condition()
        self._idle: deque[Worker] = deque()
        self._alive: dict[int, Worker] = {}
        self._worn: Worker | None = None  # the one whose successor is being started
        self._missing = 0
        self._failure: BackendError | None = None
        self._reason: BackendError | None = None
        self._forgotten: deque[Made] = deque()
        self._closed = False
        self._waiting = 0
        self._outages = 0
        self._returns = 0
        self._operations = Operations() if operations is None else operations
        self.replaced = 0
        first = self._start()
        self.label, self._identity = first.label, first.identity
        self._observer = observer(first.label)
        self._alive[first.number] = first
        self._idle.append(first)
        for _ in range(count - 1):
            self._replace()

    @property
    def size(self) -> int:
        """How many workers take calls."""
        with self._changed:
            return sum(worker.leaves_at is None for worker in self._alive.values())

    def workers(self) -> list[int]:
        """Return the process IDs of the workers that are alive."""
        with self._changed:
            return [worker.pid for worker in self._alive.values()]

    def holds(self, recipe: Made) -> bool:
        """Tell whether the worker that made something is alive.

        Args:
            recipe: what was made.
        """
        return recipe.worker in self._alive

    def use_of(self, recipe: Recipe) -> Use:
        """Return what calls on a key are counted under.

        Args:
            recipe: the key.
        """
        return self._operations.of_key(recipe.label).use if isinstance(recipe, OnToken) else SESSION

    def status(self) -> TokenStatus:
        """Return how the token is, without asking it."""
        with self._changed:
            alive, idle = len(self._alive), len(self._idle)
            up = self._up()
            down = next((worker.down for worker in self._alive.values() if worker.down is not None), None)
            if not up and down is not None:
                self._reason = BackendUnavailableError(down)
            return TokenStatus(
                up=up,
                outages=self._outages,
                returns=self._returns,
                reconnects={"new worker": self.replaced},
                sessions={"busy": alive - idle, "idle": idle, "waiting": self._waiting},
                operations=self._operations,
                reason=None if up else self._failure or self._reason,
                identity=self._identity,
            )

    def run(self, call: Call, operation: Callable[..., object] = _call, use: Use = OTHER) -> tuple[Value, int]:
        """Let a worker answer a call.

        Args:
            call: what to do. A call on what one worker made goes to that worker.
            operation: the function that asks, to count it.
            use: purpose and version of the key, to count it.

        Returns:
            The value, and the number of the worker.

        Raises:
            HsmMslError: what the worker raised.
            WorkerLostError: the worker that made the key is gone.
            BackendUnavailableError: no worker answered before the deadline.
            BackendConfigurationError: workers do not start until a person acts.
        """
        self._leave_to_parent()
        meter, started = self._operations.of_use(use), perf_counter_ns()
        try:
            answered = self._run(call)
        except BaseException as error:
            meter.failed(operation, perf_counter_ns() - started, error)
            raise
        meter.add(operation, perf_counter_ns() - started)
        return answered

    def _run(self, call: Call) -> tuple[Value, int]:
        deadline = self._clock() + self._deadline
        pinned = _pinned(call)
        body = frame(call)
        fatal = 0
        while True:
            worker = self._take(deadline, pinned)
            fatal += worker.alive
            # One that waited long for its turn must not be the end of a worker in good health.
            until = self._clock() + self._deadline
            try:
                self._tidy(worker, until)
                answer = worker.call(body, until)
            except TimeoutError:
                stuck = BackendUnavailableError(f"the token gave no answer in {self._deadline:.1f} s")
                self._lose(worker, stuck)
                raise stuck from None
            except (EOFError, OSError):
                self._lose(worker, BackendUnavailableError("the token's worker ended"))
                if fatal >= MOST_ENDED:  # what two workers did not survive is not shown to a third one
                    raise BackendUnavailableError(f"{fatal} token workers ended over this call") from None
                continue  # calls may repeat; what was made in this worker is refused by the next round
            except BaseException:  # an interrupt: the answer to this call must not meet the next one
                self._lose(worker, BackendUnavailableError("a call was interrupted"))
                raise
            worker.worn |= answer.worn
            if worker.down != answer.down:
                self._heard(worker, answer.down)
            if call.verb in MAKES and isinstance(answer.value, int):
                worker.made.add(answer.value)
            self._give(worker)
            return result_of(answer), worker.number

    def forget(self, recipe: Made) -> None:
        """Note that nobody holds what a worker made; safe in a finaliser. The worker hears of it with its next call.

        Args:
            recipe: what was made.
        """
        self._forgotten.append(recipe)

    def close(self) -> None:
        """Stop every worker."""
        self._leave_to_parent()
        with self._changed:
            self._closed = True
            alive, self._alive = list(self._alive.values()), {}
            self._idle.clear()
            self._changed.notify_all()
        for worker in alive:
            worker.stop()

    def _leave_to_parent(self) -> None:
        """In a forked child, start workers of its own: two on one socket would read each other's answers."""
        if self._pid == os.getpid():
            return
        with _Forked.lock:
            if self._pid == os.getpid():
                return
            self._changed = threading.Condition()  # another thread of the parent may have held the old one
            for worker in self._alive.values():
                worker.leave()
            self._idle, self._alive, self._worn = deque(), {}, None
            self._forgotten.clear()
            self._missing = self._waiting = 0
            # What the parent's workers made is not here: its numbers must not name what ours make.
            self._numbers = itertools.count(next(self._numbers) + _CHILD_NUMBERS)
            self._pid = os.getpid()
        if not self._closed:
            for _ in range(self._count):
                self._replace()

    def _tidy(self, worker: Worker, deadline: float) -> None:
        """Tell a worker which of the things it made nobody holds any more."""
        for _ in range(len(self._forgotten)):
            try:
                recipe = self._forgotten.popleft()
            except IndexError:
                return
            maker = self._alive.get(recipe.worker)
            if maker is None:
                continue
            maker.made.discard(recipe.number)
            if maker is worker:
                worker.call(frame(Call(recipe, "forget", [])), deadline)
            elif maker.leaves_at is None:
                self._forgotten.append(recipe)

    def _take(self, deadline: float, pinned: int | None) -> Worker:
        with self._changed:
            while True:
                if self._closed:
                    raise BackendUnavailableError("the token was closed")
                if pinned is not None and pinned not in self._alive:
                    raise WorkerLostError("a key made in a session was lost with its worker")
                for worker in self._idle:
                    if worker.leaves_at is None if pinned is None else worker.number == pinned:
                        self._idle.remove(worker)
                        return worker
                if not self._alive and self._failure is not None:
                    raise type(self._failure)(str(self._failure))
                self._waiting += 1
                try:
                    changed = self._changed.wait(max(0.0, deadline - self._clock()))
                finally:
                    self._waiting -= 1
                if not changed:
                    raise BackendUnavailableError(f"no token worker became free in {self._deadline:.1f} s")

    def _give(self, worker: Worker) -> None:
        with self._changed:
            if not self._closed:
                self._idle.append(worker)
                self._changed.notify_all()
            replace = worker.worn and self._worn is None and worker.leaves_at is None
            if replace:
                self._worn = worker
        if replace:
            self._replace()
        self._dismiss()

    def _up(self) -> bool:
        """Tell whether calls reach the token through at least one worker; the lock is held."""
        return any(worker.down is None for worker in self._alive.values())

    def _heard(self, worker: Worker, down: str | None) -> None:
        """Note what a worker says about its token: out of service, and why, or not."""
        with self._changed:
            before, worker.down = self._up(), down
            after = self._up()
            self._outages += before and not after
            back = after and not before and self._returns < self._outages
            self._returns += back
        if down is not None and before and not after:
            self._observer.out_of_service(down)
        elif back:
            self._observer.in_service()

    def _dismiss(self) -> None:
        """Stop the worn workers that have a successor and hold nothing that only they have."""
        now = self._clock()
        with self._changed:
            done = [
                worker
                for worker in self._idle
                if worker.leaves_at is not None and (not worker.made or now >= worker.leaves_at)
            ]
            for worker in done:
                self._idle.remove(worker)
                self._alive.pop(worker.number, None)
            self.replaced += len(done)
        for worker in done:
            worker.stop()

    def _lose(self, worker: Worker, reason: BackendError) -> None:
        with self._changed:
            up = self._up()
            known = self._alive.pop(worker.number, None)
            expected = worker.leaves_at is not None or worker is self._worn  # its successor is here or on its way
            if worker is self._worn:
                self._worn = None
            outage = known is not None and up and not self._up() and not self._closed
            if outage:
                self._outages += 1
                self._reason = reason
            self._changed.notify_all()
            closed = self._closed
        if outage:
            self._observer.out_of_service(str(reason))
        worker.kill()
        if known is not None and not closed:
            self.replaced += 1
            if not expected:
                self._replace()

    def _replace(self) -> None:
        with self._changed:
            self._missing += 1
            if self._missing > 1:
                return  # the thread that is at work takes this one as well
        threading.Thread(target=self._start_missing, name="token-workers", daemon=True).start()

    def _start(self) -> Worker:
        number = next(self._numbers)
        turn = (number - 1) % self._count
        return Worker(Hello(number, self._spec, 1.0 - STAGGER * turn / self._count))

    def _start_missing(self) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                worker = self._start()
            except TokenAbsentError as error:  # it was there when the service started, so this is an outage
                failure: BackendError = BackendUnavailableError(str(error))
            except PinRefusedError as error:  # another process would try it again, and another
                with self._changed:
                    self._failure, self._missing = error, 0
                    self._changed.notify_all()
                return
            except BackendError as error:  # a source of the PIN or a library that is away comes back, too
                failure = error
            else:
                if not self._welcome(worker):
                    return
                pause = FIRST_PAUSE
                continue
            with self._changed:
                self._failure = failure
                self._changed.notify_all()
                if self._changed.wait_for(lambda: self._closed, pause):
                    return
            pause = min(LONGEST_PAUSE, pause * 2)

    def _welcome(self, worker: Worker) -> bool:
        """Give a worker that has started to the callers; tell whether another one is missing."""
        with self._changed:
            self._failure = None
            self._missing -= 1
            more = self._missing > 0 and not self._closed
            back = not self._closed and not self._up() and self._returns < self._outages
            if not self._closed:
                self._returns += back
                self._alive[worker.number] = worker
                self._idle.append(worker)
                self._relieve()
                self._changed.notify_all()
        if self._closed:
            worker.stop()
        if back:
            self._observer.in_service()
        self._dismiss()
        return more

    def _relieve(self) -> None:
        """Let the worn worker take no more calls, now that there is one in its place; the lock is held."""
        worn, self._worn = self._worn, None
        if worn is not None:
            worn.leaves_at = self._clock() + DRAIN_SECONDS


def _pinned(call: Call) -> int | None:
    for recipe in (call.recipe, *call.keys):
        root = _root(recipe)
        if isinstance(root, Made):
            return root.worker
    return None


def _root(recipe: Recipe) -> Recipe:
    while isinstance(recipe, Remade):
        recipe = recipe.parent
    return recipe
