"""What is known of the request in work: its ID on every log line it causes, and one line about it at its end.

The trace travels in a context variable, so that the token's recovery and the stores need not know of requests.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from hsm_msl.ports import RandomBytes

HEADER: Final = b"x-request-id"
"""The HTTP header in which a request may bring its ID, and in which every answer carries it."""

_WELL_FORMED = re.compile(rb"[A-Za-z0-9._-]{8,64}")
"""Longer and stranger ones are replaced: an ID ends up in logs and in the answer."""

_ID_BYTES = 8

_LOG = logging.getLogger("hsm_msl.messages")


class Trace:
    """One request.

    Args:
        request_id: its ID.

    Attributes:
        fields: what became known about it, for the log.
    """

    __slots__ = ("fields", "request_id")

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.fields: dict[str, object] = {}


_CURRENT: ContextVar[Trace | None] = ContextVar("request", default=None)


def current() -> Trace | None:
    """Return the request this thread works on, or None."""
    return _CURRENT.get()


@contextmanager
def working_on(trace: Trace) -> Iterator[None]:
    """Work on a request for a block, in this thread or task."""
    token = _CURRENT.set(trace)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def request_id(headers: list[tuple[bytes, bytes]], random: RandomBytes) -> str:
    """Return the ID a request brought, if it is well-formed, else a new one.

    Args:
        headers: of the request, names in lower case.
        random: makes the new one.
    """
    for name, value in headers:
        if name == HEADER and _WELL_FORMED.fullmatch(value):
            return value.decode("ascii")
    return random(_ID_BYTES).hex()


def say(trace: Trace, outcome: str, received: int, sent: int, nanoseconds: int) -> None:
    """Write the line about a request that is over.

    Args:
        trace: the request.
        outcome: what became of it, where nobody said before.
        received: bytes of the request's body.
        sent: bytes of the answer's.
        nanoseconds: what it took.
    """
    if not _LOG.isEnabledFor(logging.INFO):
        return
    fields = {"outcome": outcome, **trace.fields}
    fields["milliseconds"] = round(nanoseconds / 1e6, 3)
    fields["received"], fields["sent"] = received, sent
    with working_on(trace):
        _LOG.info("message", extra={"fields": fields})
