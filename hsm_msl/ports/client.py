"""What a client keeps between messages and between runs, as records no store needs to understand (msl-engine 16)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol


class MasterTokenKey(NamedTuple):
    """What makes two master tokens the same one (msl-engine section 3)."""

    serial_number: int
    sequence_number: int
    expiration: int


class UserIdTokenKey(NamedTuple):
    """What makes two user ID tokens the same one (msl-engine section 3)."""

    serial_number: int
    master_token_serial_number: int


@dataclass(frozen=True, slots=True)
class StoredMasterToken:
    """A master token as received, and its session keys sealed by the caller.

    Attributes:
        tokendata: the token's text, returned unchanged.
        signature: likewise.
        session_keys: session keys protected by a key the store never sees.
        key_label: names that key, so that it can be rotated.
    """

    tokendata: str
    signature: str
    serial_number: int
    sequence_number: int
    renewal_window: int
    expiration: int
    session_keys: bytes = field(repr=False)
    key_label: str

    @property
    def key(self) -> MasterTokenKey:
        """What identifies the token."""
        return MasterTokenKey(self.serial_number, self.sequence_number, self.expiration)


@dataclass(frozen=True, slots=True)
class StoredUserIdToken:
    """A user ID token as received."""

    tokendata: str
    signature: str
    serial_number: int
    master_token_serial_number: int
    renewal_window: int
    expiration: int

    @property
    def key(self) -> UserIdTokenKey:
        """What identifies the token."""
        return UserIdTokenKey(self.serial_number, self.master_token_serial_number)


@dataclass(frozen=True, slots=True)
class StoredServiceToken:
    """A service token as received or made; ``deleted`` marks one with empty data, which removes its namesake."""

    tokendata: str
    signature: str
    name: str
    master_token_serial_number: int | None
    user_id_token_serial_number: int | None
    deleted: bool = False


class ClientStore(Protocol):
    """A client's tokens and counters for one network (msl-engine section 16); every method is atomic.

    What returned is durable. Every method raises StoreError when the state cannot be reached.
    """

    def put_master_token(self, token: StoredMasterToken) -> None:
        """Add a master token, or replace the same one."""

    def master_tokens(self) -> Sequence[StoredMasterToken]:
        """Return every master token, in no order; which one is newest is the protocol's to say."""

    def master_token(self, key: MasterTokenKey) -> StoredMasterToken | None:
        """Return this master token, or None."""

    def remove_master_token(self, key: MasterTokenKey) -> None:
        """Drop a master token if it is stored.

        With the last one of its serial number go the user ID tokens bound to it with their service tokens, the
        service tokens bound to it, and its counter of non-replayable IDs.
        """

    def clear_master_tokens(self) -> None:
        """Drop all master tokens, counters, user ID tokens and bound service tokens; unbound ones stay."""

    def put_user_id_token(self, user: str, token: StoredUserIdToken) -> None:
        """Keep the user's token in place of an earlier one.

        Raises MslError USERIDTOKEN_MASTERTOKEN_NOT_FOUND when no master token with that serial number is stored.
        """

    def user_id_token(self, user: str) -> StoredUserIdToken | None:
        """Return the user's token, or None."""

    def remove_user_id_token(self, key: UserIdTokenKey) -> None:
        """Drop a user ID token if it is stored, and the service tokens bound to it."""

    def next_non_replayable_id(self, serial_number: int) -> int:
        """Return the next ID of a master token's serial number: 1 first, 0 after 2^53. Never the same one twice."""

    def store_service_tokens(self, tokens: Iterable[StoredServiceToken]) -> None:
        """Add service tokens, in place of those with the same name and binding, or remove those marked deleted.

        All or none. Raises MslError SERVICETOKEN_MASTERTOKEN_NOT_FOUND or SERVICETOKEN_USERIDTOKEN_NOT_FOUND when
        a token to be added is bound to a token that is not stored.
        """

    def service_tokens(
        self, master_token_serial_number: int | None, user_id_token: UserIdTokenKey | None
    ) -> Sequence[StoredServiceToken]:
        """Return those unbound, those bound to the master token alone, and those bound to both (section 13.2).

        Raises MslError USERIDTOKEN_MASTERTOKEN_NULL for a user ID token without master token, and
        USERIDTOKEN_MASTERTOKEN_MISMATCH for one bound to another.
        """

    def remove_service_tokens(
        self, name: str | None, master_token_serial_number: int | None, user_id_token: UserIdTokenKey | None
    ) -> None:
        """Drop service tokens of a name (None: any) and of exactly this binding (None: not bound to such a token).

        All None drops nothing. Raises MslError USERIDTOKEN_MASTERTOKEN_MISMATCH.
        """
