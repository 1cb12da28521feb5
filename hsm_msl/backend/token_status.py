"""How a token is, as far as this process knows without asking it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hsm_msl.backend.operations import Operations
from hsm_msl.errors import BackendError


@dataclass(frozen=True, slots=True)
class TokenStatus:
    """One token in one process.

    Attributes:
        up: calls reach it; False while the circuit breaker answers for it.
        outages: how often it went out of service.
        returns: how often it came back.
        reconnects: how often each stage of the recovery brought something back.
        sessions: sessions, or worker processes, that are ``busy`` or ``idle``, and callers ``waiting`` for one.
        operations: the calls.
        reason: why it is out of service, where that is known.
        identity: label and serial number, where they are known.
    """

    up: bool
    outages: int
    returns: int
    reconnects: Mapping[str, int]
    sessions: Mapping[str, int]
    operations: Operations
    reason: BackendError | None = None
    identity: str = ""
