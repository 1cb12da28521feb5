"""One key that several tokens hold: calls go round, and past a token that is out of service.

Members are looked up when they are first needed, so a set starts while one of its tokens is away. A member counts
only after it showed the check value of the others: tokens that should hold the same key and do not are found out
before they make something the others cannot open.
"""

from __future__ import annotations

import hmac
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from hsm_msl.backend.rota import Rota
from hsm_msl.errors import (
    BackendConfigurationError,
    BackendError,
    BackendUnavailableError,
    KeyNotFoundError,
)

K = TypeVar("K")
T = TypeVar("T")


class Spread(Generic[K]):
    """The same key on several tokens.

    Args:
        finders: one per token; returns the token's handle. Called again after a failure.
        check: returns what must be the same on every token.
        rota: in which order they are asked.

    Raises:
        BackendError: no token has the key now, or two tokens hold different ones.
    """

    __slots__ = ("_check", "_expected", "_finders", "_handles", "_lock", "rota")

    def __init__(self, finders: Sequence[Callable[[], K]], check: Callable[[K], bytes], rota: Rota) -> None:
        self._finders = tuple(finders)
        self._check = check
        self._handles: list[K | None] = [None] * len(self._finders)
        self._expected: bytes | None = None
        self._lock = threading.Lock()
        self.rota = rota
        self._find_all()

    def call(self, operation: Callable[[K], T]) -> T:
        """Run an operation on the next token, and on the others when that one is out of service.

        Args:
            operation: called with a token's handle; must be safe to repeat.

        Raises:
            BackendError: every token failed: what a person must mend, if there is such a thing, else the outage.
            DataRejectedError: the input was refused; one token's word is enough.
        """
        outage: BackendError = BackendUnavailableError("a token set without tokens")
        fault: BackendError | None = None
        for index in self.rota.order():
            try:
                result = operation(self._handles[index] or self._member(index))
            except BackendUnavailableError as error:
                self.rota.failed(index)
                outage = error
            except (BackendConfigurationError, KeyNotFoundError) as error:
                fault = error  # that token needs a person; the others serve meanwhile
            else:
                self.rota.answered(index)
                return result
        raise fault or outage

    def on(self, index: int) -> K:
        """Return one token's handle. Raises BackendError as its token does.

        Args:
            index: which token of the set.
        """
        return self._handles[index] or self._member(index)

    @property
    def width(self) -> int:
        """How many tokens there are."""
        return len(self._finders)

    def _find_all(self) -> None:
        failure: BackendError | None = None
        for index in range(len(self._finders)):
            try:
                self._member(index)
            except BackendUnavailableError as error:  # it may come back; anything else is wrong for good
                failure = error
        if failure is not None and not any(handle is not None for handle in self._handles):
            raise failure

    def _member(self, index: int) -> K:
        handle = self._finders[index]()
        shown = self._check(handle)
        with self._lock:
            if self._expected is None:
                self._expected = shown
            elif not hmac.compare_digest(self._expected, shown):
                raise BackendConfigurationError(
                    f"token {index + 1} of the set holds another key under this name: the check values differ"
                )
            self._handles[index] = handle
        return handle


class LazySpread(Spread[K]):
    """A spread of what is cheap to make and may never be needed on the other tokens: one member is made at once.

    Args:
        finders: as for ``Spread``.
        check: as for ``Spread``.
        rota: as for ``Spread``.
        made: index and handle of the token that has it already.

    Raises:
        BackendError, DataRejectedError: as the first token that answers.
    """

    __slots__ = ("_made",)

    def __init__(
        self,
        finders: Sequence[Callable[[], K]],
        check: Callable[[K], bytes],
        rota: Rota,
        *,
        made: tuple[int, K] | None = None,
    ) -> None:
        self._made = made
        super().__init__(finders, check, rota)

    def _find_all(self) -> None:
        if self._made is None:
            self.call(lambda handle: handle)
        else:
            index, handle = self._made
            self._handles[index] = handle


class OneToken(Spread[K]):
    """What one token of a set made and no other can have.

    Args:
        made: its handle.
        rota: of the set.
    """

    __slots__ = ()

    def __init__(self, made: K, rota: Rota) -> None:
        super().__init__([lambda: made], same, rota)

    def call(self, operation: Callable[[K], T]) -> T:
        """Run an operation. Raises as the handle does.

        Args:
            operation: called with the handle.
        """
        return operation(self.on(0))


def same(handle: object) -> bytes:  # noqa: ARG001  # the signature of a check
    """Stand for a check value where what they all come from already makes them the same."""
    return b""


def finders_of(parent: Spread[K], make: Callable[[K], T]) -> list[Callable[[], T]]:
    """Return what lets every token make something of its own handle when it is first asked.

    Args:
        parent: the handles.
        make: called with one.
    """

    def finder(index: int) -> Callable[[], T]:
        return lambda: make(parent.on(index))

    return [finder(index) for index in range(parent.width)]


def each_of(parent: Spread[K], make: Callable[[K], T]) -> Spread[T]:
    """Return what every token makes of its own handle when it is first asked. Raises as ``LazySpread``.

    Args:
        parent: the handles.
        make: called with one.
    """
    return LazySpread(finders_of(parent, make), same, parent.rota)
