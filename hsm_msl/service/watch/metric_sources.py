"""Where the values of the metrics are read: tokens, messages, caches, key manifest, dialogs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from hsm_msl.backend.operations import OTHER, SESSION
from hsm_msl.backend.token_status import TokenStatus
from hsm_msl.msl.tokens.master_token import TokenCache
from hsm_msl.service.load import Load
from hsm_msl.service.watch.message_counts import MessageCounts
from hsm_msl.service.watch.metrics import Sample, Source

_NO_USE = frozenset(("find", "read"))
"""Looking at a key is no use of it."""


class WatchedToken(Protocol):
    """A token as the metrics see it."""

    def status(self) -> TokenStatus:
        """Return how it is, without asking it."""


def token_source(tokens: Callable[[], Mapping[str, WatchedToken]]) -> Source:
    """Return the source of what is known about tokens.

    Args:
        tokens: the open ones by name.
    """

    def read() -> Iterator[Sample]:
        for name, token in tokens().items():
            status = token.status()
            yield Sample("hsm_up", (name,), float(status.up))
            yield Sample("hsm_breaker_transitions_total", (name, "open"), status.outages)
            yield Sample("hsm_breaker_transitions_total", (name, "closed"), status.returns)
            for stage, count in status.reconnects.items():
                yield Sample("hsm_reconnects_total", (name, stage), count)
            for state, count in status.sessions.items():
                yield Sample("hsm_sessions", (name, state), count)
            yield from _operations(name, status)

    return read


def _operations(name: str, status: TokenStatus) -> Iterator[Sample]:
    for use, operation, result, latency in status.operations.rows():
        count = float(sum(latency[:-1]))
        yield Sample("hsm_ops_total", (name, operation, *use, result), count)
        yield Sample("hsm_op_seconds", (name, operation, result), latency)
        if use not in (OTHER, SESSION) and operation not in _NO_USE:
            yield Sample("key_version_ops_total", use, count)


def message_source(counts: MessageCounts, load: Load, caches: Mapping[str, TokenCache]) -> Source:
    """Return the source of what became of messages.

    Args:
        counts: the counters.
        load: the messages in work.
        caches: verified tokens, by what they are.
    """

    def read() -> Iterator[Sample]:
        for labels, count in list(counts.outcomes.items()):
            yield Sample("msl_messages_total", labels, count)
        yield Sample("msl_message_seconds", (), list(counts.durations))
        yield Sample("msl_messages_in_work", (), load.count)
        for kind, count in counts.exchanges.items():
            yield Sample("msl_master_tokens_total", (kind,), count)
        yield Sample("msl_renewals_put_off_total", (), counts.put_off)
        for name, cache in caches.items():
            yield Sample("token_cache_hits_total", (name,), cache.hits)
            yield Sample("token_cache_misses_total", (name,), cache.misses)

    return read


def validity_source(ends: Callable[[], Mapping[str, float]]) -> Source:
    """Return the source of when the use of keys ends.

    Args:
        ends: seconds since the epoch by the key's label.
    """

    def read() -> Iterable[Sample]:
        return [Sample("key_not_after_seconds", (label,), end) for label, end in ends().items()]

    return read
