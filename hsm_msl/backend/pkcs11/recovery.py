"""Bring a token back in three stages, each rougher than the last, and fail fast while it stays away.

1. *Find again*: the login holds, so only a handle or one session was lost; the caller's retry does the rest.
2. *Log in again*: a new epoch of sessions and one login. Cached handles of the old epoch are never used again.
3. *Reload*: finalise and initialise the module; the only cure once SoftHSMv2 lost its directory.

When the last one fails, a circuit breaker answers for the token. It lets one caller probe after a pause that doubles
from ``FIRST_PAUSE`` to ``LONGEST_PAUSE``, so a dead token costs neither a storm of logins nor a stampede of reloads.
When the stages succeed and one key still fails, that key is out of service and not the token; ``SPACING`` keeps its
callers from reloading the module under everybody else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import Enum
from typing import Protocol

from hsm_msl.errors import BackendError, BackendUnavailableError

FIRST_PAUSE = 0.25
LONGEST_PAUSE = 10.0
CALM_SECONDS = 2.0
"""After this long in service, the next trouble starts with ``FIRST_PAUSE`` again."""

SPACING = {"log in again": 1.0, "reload": 2.0}
"""Seconds between two uses of a stage on a token that says it is in order."""

PATIENCE_SECONDS = 10.0
"""How long a caller waits for the thread that is recovering the token."""


class Stage(Enum):
    """What was done about a token in trouble."""

    FIND = "find again"
    LOGIN = "log in again"
    RELOAD = "reload"


STAGES = tuple(Stage)


class Recoverable(Protocol):
    """The token connection as the recovery sees it."""

    @property
    def epoch(self) -> int:
        """Counts the times that every session and handle became void."""

    @property
    def forked(self) -> bool:
        """Whether this process is a child that inherited the connection."""

    def prove(self) -> bool:
        """Tell whether the token says that this process is logged in. Raises BackendError without an answer."""

    def renew(self) -> None:
        """Begin a new epoch and log in. Raises BackendError."""

    def reload(self, *, gently: bool = False) -> None:
        """Start the module again, find the token again, and ``renew``. Raises BackendError.

        Args:
            gently: not while a key would be lost that cannot be had again.
        """

    def suspend(self) -> None:
        """Begin a new epoch without sessions, so that every caller asks the gate first."""


class RecoveryObserver(Protocol):
    """Hears of transitions, once each: for the log, the audit and the gauges."""

    def recovered(self, stage: Stage) -> None:
        """A stage brought the token back."""

    def out_of_service(self, reason: str) -> None:
        """All stages failed; the breaker answers from now on."""

    def in_service(self) -> None:
        """The breaker closed again."""


class NullObserver:
    """Listens to nothing."""

    def recovered(self, stage: Stage) -> None:
        """Ignore it."""

    def out_of_service(self, reason: str) -> None:
        """Ignore it."""

    def in_service(self) -> None:
        """Ignore it."""


class Recovery:
    """The recovery and breaker of one token connection.

    Args:
        connection: what is recovered.
        name: the token, for messages.
        monotonic: seconds that never run backwards.
        observer: hears of transitions.

    Attributes:
        counts: how often each stage brought something back.
        outages: how often the breaker opened.
        returns: how often it closed again.
    """

    def __init__(
        self,
        connection: Recoverable,
        name: str,
        monotonic: Callable[[], float],
        observer: RecoveryObserver | None = None,
    ) -> None:
        self._connection = connection
        self._name = name
        self._clock = monotonic
        self._observer = observer or NullObserver()
        self._lock = threading.Lock()
        self._reason: BackendError | None = None
        self._pause = FIRST_PAUSE
        self._retry_at = 0.0
        self._restored_at = monotonic()
        self._used_at = dict.fromkeys(Stage, float("-inf"))
        self.counts = dict.fromkeys(Stage, 0)
        self.outages = 0
        self.returns = 0

    @property
    def available(self) -> bool:
        """Whether the breaker lets calls through."""
        return self._reason is None

    @property
    def reason(self) -> BackendError | None:
        """Why the breaker is open; None while it lets calls through."""
        return self._reason

    def gate(self) -> None:
        """Refuse while the breaker is open; when its pause is over, or in a forked child, bring the token back first.

        Raises:
            BackendUnavailableError: the token is out of service.
            BackendConfigurationError: a person must act, for instance on a refused PIN.
        """
        reason = self._reason
        if reason is None:
            return
        if self._clock() < self._retry_at or not self._lock.acquire(blocking=False):
            raise type(reason)(f"token {self._name!r} is out of service: {reason}")
        try:
            if self._reason is not None:
                self._restore(Stage.RELOAD if self._connection.forked else Stage.LOGIN)
                self._reason = None
                self._restored_at = self._clock()
                self.returns += 1
                self._observer.in_service()
        except BackendError as error:
            self._trip(error)
            raise
        finally:
            self._lock.release()

    def heal(self, epoch: int, attempt: int) -> None:
        """Do what the next try of a failed call needs.

        The caller must hold no session: a reload waits for all of them.

        Args:
            epoch: the epoch in which the call failed; a newer one means that another thread did the work.
            attempt: 0 for the first failure of this call, then 1 and 2.

        Raises:
            BackendUnavailableError: nothing helped, and the breaker is open now; or the token is in order, was
                treated just before, and it is the key that fails.
            BackendConfigurationError: a person must act.
        """
        if not self._lock.acquire(timeout=PATIENCE_SECONDS):
            raise BackendUnavailableError(f"token {self._name!r}: its recovery takes too long")
        try:
            if epoch != self._connection.epoch:
                return
            stage = STAGES[attempt]
            if self._still_logged_in():
                if stage is Stage.FIND:
                    self._count(Stage.FIND)
                    return
                if self._clock() - self._used_at[stage] < SPACING[stage.value]:
                    raise BackendUnavailableError(f"token {self._name!r} answers, but not for this key")
            elif stage is Stage.FIND:
                stage = Stage.LOGIN
            try:
                self._restore(stage)
            except BackendError as error:
                self._trip(error)
                raise
        finally:
            self._lock.release()

    def refresh(self) -> None:
        """Reload a module that is in order, when nobody loses a key by it.

        Raises:
            BackendUnavailableError: somebody would, or the token is out of service, before or after.
            BackendConfigurationError: a person must act.
        """
        if not self._lock.acquire(timeout=PATIENCE_SECONDS):
            raise BackendUnavailableError(f"token {self._name!r}: its recovery takes too long")
        try:
            if self._reason is not None:
                raise BackendUnavailableError(f"token {self._name!r} is out of service")
            self._connection.reload(gently=True)
            self._count(Stage.RELOAD)
        finally:
            self._lock.release()

    def forked(self) -> None:
        """Take over in a forked child: the breaker is open, and the first caller brings the token back."""
        self._lock = threading.Lock()  # another thread of the parent may have held the old one
        self._reason = BackendUnavailableError("the process was forked")
        self._retry_at = self._clock()

    def _still_logged_in(self) -> bool:
        try:
            return self._connection.prove()
        except BackendUnavailableError:
            return False

    def _restore(self, stage: Stage) -> None:
        if stage is Stage.LOGIN:
            try:
                self._connection.renew()
            except BackendUnavailableError:
                stage = Stage.RELOAD
            else:
                self._count(Stage.LOGIN)
                return
        self._connection.reload()
        self._count(Stage.RELOAD)

    def _count(self, stage: Stage) -> None:
        self._used_at[stage] = self._clock()
        self.counts[stage] += 1
        self._observer.recovered(stage)

    def _trip(self, error: BackendError) -> None:
        now = self._clock()
        calm = self._reason is None and now - self._restored_at > CALM_SECONDS
        self._pause = FIRST_PAUSE if calm else min(LONGEST_PAUSE, self._pause * 2)
        self._retry_at = now + self._pause
        known = self._reason is not None
        self._reason = error
        self._connection.suspend()
        if not known:
            self.outages += 1
            self._observer.out_of_service(str(error))
