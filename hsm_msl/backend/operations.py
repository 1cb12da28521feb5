"""What was asked of a token, how long it took and how it ended: counted where it happens, read when somebody asks.

Counting costs a fraction of a microsecond, so it is always on. Nothing is locked: each step that changes a number is
one that threads of CPython do not interrupt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Final, NamedTuple

from hsm_msl.errors import (
    BackendConfigurationError,
    BackendUnavailableError,
    DataRejectedError,
    KeyNotFoundError,
    KeyPolicyError,
    MechanismUnsupportedError,
)

_SMALLEST, _LARGEST = 14, 34

BOUNDS: Final = tuple(2**bits / 1e9 for bits in range(_SMALLEST, _LARGEST + 1))
"""Upper bounds of the buckets in seconds, each twice the one before: from 16 us, a software token's MAC, to 17 s.

Powers of two because the bit length of a number of nanoseconds is the cheapest index there is.
"""

TOTAL: Final = 63
"""Where the sum of the nanoseconds stands; no duration has as many bits."""

Latency = list[int]
"""A histogram: at index n how many took less than 2^n nanoseconds but at least half of that, and the ``TOTAL``."""

ANSWERED: Final = "ok"

_RESULTS: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (BackendUnavailableError, "unavailable"),
    (BackendConfigurationError, "configuration"),
    (KeyNotFoundError, "missing"),
    (KeyPolicyError, "policy"),
    (MechanismUnsupportedError, "unsupported"),
    (DataRejectedError, "rejected"),
)

_NAMES: Final = {
    "nothing": "find",
    "ready": "find",
    "itself": "find",
    "public": "read",
    "token": "read",
    "mechanisms": "read",
    "chain": "encrypt",
    "block": "encrypt",
    "agree": "derive",
    "agreed": "make",
    "made": "make",
    "generate": "make",
    "ephemeral": "make",
}
"""What some calls are named to an operator; the others by the first word of their own name."""

Use = tuple[str, str]
"""Purpose and version of a key."""

OTHER: Final[Use] = ("other", "")
"""Keys that belong to no purpose with versions: identities, pre-shared keys, and the token itself."""

SESSION: Final[Use] = ("session", "")
"""Keys made or unwrapped in a session."""


def no_latency() -> Latency:
    """Return a histogram of nothing."""
    return [0] * (TOTAL + 1)


def add(latency: Latency, nanoseconds: int) -> None:
    """Count one."""
    latency[nanoseconds.bit_length()] += 1
    latency[TOTAL] += nanoseconds


def cumulated(latency: Latency) -> list[int]:
    """Return how many took at most each of ``BOUNDS``, and as the last number how many there were."""
    sums = list(accumulate(latency[:TOTAL]))
    return [*sums[_SMALLEST : _LARGEST + 1], sums[-1]]


def seconds(latency: Latency) -> float:
    """Return the sum of what was counted."""
    return latency[TOTAL] / 1e9


class Row(NamedTuple):
    """The calls of one kind."""

    use: Use
    operation: str
    result: str
    latency: Latency


class Meter:
    """Counts the calls on the keys of one purpose and version.

    Args:
        use: which.

    Attributes:
        answered: calls that were answered, by the function that made them; functions of a module, so they are few.
    """

    __slots__ = ("_failed", "answered", "use")

    def __init__(self, use: Use) -> None:
        self.use = use
        self.answered: dict[Callable[..., object], Latency] = {}
        self._failed: dict[tuple[str, str], Latency] = {}

    def begin(self, operation: Callable[..., object]) -> Latency:
        """Return where a function's calls are counted, from its first one on."""
        return self.answered.setdefault(operation, no_latency())

    def add(self, operation: Callable[..., object], nanoseconds: int) -> None:
        """Count a call that was answered; arguments as ``failed``."""
        add(self.answered.get(operation) or self.begin(operation), nanoseconds)

    def failed(self, operation: Callable[..., object], nanoseconds: int, error: BaseException) -> None:
        """Count a call that raised.

        Args:
            operation: the function.
            nanoseconds: what it took, waiting and recovery included.
            error: what it raised.
        """
        result = next((result for kind, result in _RESULTS if isinstance(error, kind)), "error")
        add(self._failed.setdefault((operation_of(operation.__name__), result), no_latency()), nanoseconds)

    def rows(self) -> Iterator[Row]:
        """Yield what was counted."""
        for operation, latency in list(self.answered.items()):
            yield Row(self.use, operation_of(operation.__name__), ANSWERED, latency)
        for (name, result), latency in list(self._failed.items()):
            yield Row(self.use, name, result, latency)


class Operations:
    """The meters of one token.

    Args:
        use_of: purpose and version of a key by its label. It has few answers, or the meters become many.
    """

    __slots__ = ("_meters", "_use_of")

    def __init__(self, use_of: Callable[[str], Use] = lambda label: OTHER) -> None:  # noqa: ARG005 - looks at no label
        self._use_of = use_of
        self._meters: dict[Use, Meter] = {}

    def of_key(self, label: str | None) -> Meter:
        """Return the meter of a key on the token.

        Args:
            label: the key's label; None for what is no such key.
        """
        return self.of_use(OTHER if label is None else self._use_of(label))

    def of_use(self, use: Use) -> Meter:
        """Return the meter of a purpose and version."""
        return self._meters.setdefault(use, Meter(use))

    def rows(self) -> Iterator[Row]:
        """Yield what was counted."""
        for meter in list(self._meters.values()):
            yield from meter.rows()


def operation_of(name: str) -> str:
    """Return what an operator calls an operation.

    Args:
        name: of the function or verb that does it.
    """
    word = name.strip("_").partition("_")[0]
    return _NAMES.get(word, word)
