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


@dataclass(frozen=True, slots=True)
class ReplayState:
    """What was accepted of the non-replayable IDs of one master token.

    Attributes:
        largest: the largest ID accepted.
        unused: IDs below it that may still be accepted: bit n stands for ``largest`` - 1 - n. What has no bit counts
            as used, so that a state without bits refuses everything below ``largest``.
        until: when the master token used last expires, seconds since the epoch; the state must be kept till then.
    """

    largest: int = 0
    unused: int = 0
    until: int = 0


class ReplayStore(Protocol):
    """Accepted non-replayable IDs per entity and master token serial number (msl-engine section 14).

    Shared by every server of one network and durable: an answer means the new state will survive a crash.
    Raises StoreError when the state cannot be reached; callers fail closed.
    """

    def advance(self, identity: str, serial: int, decide: Callable[[ReplayState], ReplayState | None]) -> None:
        """Atomically replace the state (zeros when none is stored) by ``decide(state)``; None leaves it."""


@dataclass(frozen=True, slots=True)
class RenewalState:
    """What was issued for one master token serial number.

    Attributes:
        last_issued: the sequence number issued last.
        last_used: the one last used to renew.
        unanswered: renewals in a row without use of what they issued.
        until: when the last token issued expires, seconds since the epoch; the state must be kept till then.
    """

    last_issued: int
    last_used: int
    unanswered: int
    until: int = 0


class RenewalStore(Protocol):
    """Renewal state per entity and master token serial number (msl-engine sections 17 and 22); as ReplayStore."""

    def create(self, identity: str, serial: int, state: RenewalState) -> None:
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
