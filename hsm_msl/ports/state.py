"""What a server asks of its users, its operators' decisions, and the state it shares with its like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class Users(Protocol):
    """Checks user credentials."""

    def authenticate(self, email: str, password: str) -> str | None:
        """Return the user's identity text, or None when email and password do not fit together."""


class Authorization(Protocol):
    """Answers the questions every scheme asks before it looks up keys (msl-schemes section 1.4)."""

    def entity_revoked(self, identity: str) -> bool:
        """Tell whether the entity is revoked."""

    def entity_scheme_permitted(self, identity: str, scheme: str) -> bool:
        """Tell whether the entity may authenticate with this scheme."""

    def user_scheme_permitted(self, identity: str, user: str | None, scheme: str) -> bool:
        """Tell whether the entity (for ``user``, once known) may authenticate users with this scheme."""

    def key_exchange_permitted(self, identity: str, scheme: str) -> bool:
        """Tell whether the entity may obtain session keys with this scheme."""


class ReplayStore(Protocol):
    """The largest non-replayable ID accepted per entity and master token serial number (msl-engine section 14).

    Shared by every server of one network and durable: an answer means the new state will survive a crash.
    Raises StoreError when the state cannot be reached; callers fail closed.
    """

    def advance(self, identity: str, serial: int, decide: Callable[[int], int | None]) -> None:
        """Atomically replace the largest ID (0 when none is stored) by ``decide(largest)``; None leaves it."""

    def forget(self, identity: str) -> None:
        """Drop the state of every master token of the entity (a fresh one was issued)."""


@dataclass(frozen=True, slots=True)
class RenewalState:
    """Sequence numbers of one master token: last issued, last used to renew, renewals in a row without use."""

    last_issued: int
    last_used: int
    unanswered: int


class RenewalStore(Protocol):
    """Renewal state per entity and master token serial number (msl-engine sections 17 and 22); as ReplayStore."""

    def create(self, identity: str, serial: int, sequence: int) -> None:
        """Start the state of a fresh master token and drop that of the entity's earlier ones."""

    def renew(self, identity: str, serial: int, decide: Callable[[RenewalState | None], RenewalState | None]) -> None:
        """Atomically replace the state (None when not stored) by ``decide(state)``; None leaves it."""


class Revocations(Protocol):
    """What an operator has taken back. Raises StoreError when unknown and not cached."""

    def entity_revoked(self, identity: str) -> bool:
        """Tell whether the entity may no longer speak."""

    def master_token_revoked(self, identity: str, serial: int) -> bool:
        """Tell whether this master token, or every one of its entity, is revoked."""

    def user_id_token_revoked(self, user: str, serial: int) -> bool:
        """Tell whether this user ID token, or its user, is revoked."""
