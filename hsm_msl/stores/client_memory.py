"""Client stores without a database: one that forgets with its process, and the server's, which keeps nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.ports.client import (
    MasterTokenKey,
    StoredMasterToken,
    StoredServiceToken,
    StoredUserIdToken,
    UserIdTokenKey,
)
from hsm_msl.stores.client_rules import check_binding, check_query, following

ServiceTokenKey = tuple[str, int | None, int | None]


class MemoryClientStore:
    """A ``ClientStore`` for the threads of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._master_tokens: dict[MasterTokenKey, StoredMasterToken] = {}
        self._user_id_tokens: dict[str, StoredUserIdToken] = {}
        self._service_tokens: dict[ServiceTokenKey, StoredServiceToken] = {}
        self._counters: dict[int, int] = {}

    def put_master_token(self, token: StoredMasterToken) -> None:
        """Add a master token, or replace the same one."""
        with self._lock:
            self._master_tokens[token.key] = token

    def master_tokens(self) -> Sequence[StoredMasterToken]:
        """Return every master token."""
        with self._lock:
            return list(self._master_tokens.values())

    def master_token(self, key: MasterTokenKey) -> StoredMasterToken | None:
        """Return this master token, or None."""
        with self._lock:
            return self._master_tokens.get(key)

    def remove_master_token(self, key: MasterTokenKey) -> None:
        """Drop a master token; with the last one of its serial number goes everything bound to it."""
        serial = key.serial_number
        with self._lock:
            if self._master_tokens.pop(key, None) is None or self._has_master_token(serial):
                return
            for user, token in list(self._user_id_tokens.items()):
                if token.master_token_serial_number == serial:
                    del self._user_id_tokens[user]
                    self._drop_orphans(token.serial_number)
            self._keep([token for token in self._tokens() if token.master_token_serial_number != serial])
            self._counters.pop(serial, None)

    def clear_master_tokens(self) -> None:
        """Drop all master tokens, counters, user ID tokens and bound service tokens."""
        with self._lock:
            self._master_tokens.clear()
            self._user_id_tokens.clear()
            self._counters.clear()
            self._keep([token for token in self._tokens() if _binding(token) == (None, None)])

    def put_user_id_token(self, user: str, token: StoredUserIdToken) -> None:
        """Keep the user's token in place of an earlier one. Raises MslError USERIDTOKEN_MASTERTOKEN_NOT_FOUND."""
        with self._lock:
            if not self._has_master_token(token.master_token_serial_number):
                raise MslError(ErrorCode.USERIDTOKEN_MASTERTOKEN_NOT_FOUND)
            displaced = self._user_id_tokens.get(user)
            self._user_id_tokens[user] = token
            if displaced is not None:
                self._drop_orphans(displaced.serial_number)

    def user_id_token(self, user: str) -> StoredUserIdToken | None:
        """Return the user's token, or None."""
        with self._lock:
            return self._user_id_tokens.get(user)

    def remove_user_id_token(self, key: UserIdTokenKey) -> None:
        """Drop a user ID token if it is stored, and the service tokens bound to it."""
        with self._lock:
            for user, token in list(self._user_id_tokens.items()):
                if token.key == key:
                    del self._user_id_tokens[user]
                    self._drop_orphans(token.serial_number)

    def next_non_replayable_id(self, serial_number: int) -> int:
        """Return the next ID of a master token's serial number."""
        with self._lock:
            value = following(self._counters.get(serial_number, 0))
            self._counters[serial_number] = value
            return value

    def store_service_tokens(self, tokens: Iterable[StoredServiceToken]) -> None:
        """Add, replace and remove service tokens, all or none.

        Raises:
            MslError: SERVICETOKEN_MASTERTOKEN_NOT_FOUND, SERVICETOKEN_USERIDTOKEN_NOT_FOUND.
        """
        with self._lock:
            kept = dict(self._service_tokens)
            for token in tokens:
                kept.pop(_key(token), None)
                if not token.deleted:
                    self._check_bound(token)
                    kept[_key(token)] = token
            self._service_tokens = kept

    def service_tokens(
        self, master_token_serial_number: int | None, user_id_token: UserIdTokenKey | None
    ) -> Sequence[StoredServiceToken]:
        """Return what goes into a message with these tokens.

        Raises:
            MslError: USERIDTOKEN_MASTERTOKEN_NULL, USERIDTOKEN_MASTERTOKEN_MISMATCH.
        """
        check_query(master_token_serial_number, user_id_token)
        bindings: set[tuple[int | None, int | None]] = {(None, None), (master_token_serial_number, None)}
        if user_id_token is not None:
            bindings.add((master_token_serial_number, user_id_token.serial_number))
        with self._lock:
            return [token for token in self._tokens() if _binding(token) in bindings]

    def remove_service_tokens(
        self, name: str | None, master_token_serial_number: int | None, user_id_token: UserIdTokenKey | None
    ) -> None:
        """Drop service tokens of a name and of this binding. Raises MslError USERIDTOKEN_MASTERTOKEN_MISMATCH."""
        check_binding(master_token_serial_number, user_id_token)
        binding = (master_token_serial_number, None if user_id_token is None else user_id_token.serial_number)
        if name is None and binding == (None, None):
            return
        with self._lock:
            self._keep(
                [token for token in self._tokens() if _binding(token) != binding or name not in (None, token.name)]
            )

    def _has_master_token(self, serial_number: int) -> bool:
        return any(key.serial_number == serial_number for key in self._master_tokens)

    def _check_bound(self, token: StoredServiceToken) -> None:
        master, user = _binding(token)
        if master is not None and not self._has_master_token(master):
            raise MslError(ErrorCode.SERVICETOKEN_MASTERTOKEN_NOT_FOUND)
        if user is not None and not any(
            known.serial_number == user and master in (None, known.master_token_serial_number)
            for known in self._user_id_tokens.values()
        ):
            raise MslError(ErrorCode.SERVICETOKEN_USERIDTOKEN_NOT_FOUND)

    def _drop_orphans(self, user_id_token_serial_number: int) -> None:
        if all(token.serial_number != user_id_token_serial_number for token in self._user_id_tokens.values()):
            self._keep([t for t in self._tokens() if t.user_id_token_serial_number != user_id_token_serial_number])

    def _tokens(self) -> Iterable[StoredServiceToken]:
        return self._service_tokens.values()

    def _keep(self, tokens: Iterable[StoredServiceToken]) -> None:
        self._service_tokens = {_key(token): token for token in tokens}


class NullClientStore:
    """The ``ClientStore`` of a trusted-services server: keeps nothing, so no client's token reaches another."""

    def put_master_token(self, token: StoredMasterToken) -> None:
        """Do nothing."""

    def master_tokens(self) -> Sequence[StoredMasterToken]:
        """Return nothing."""
        return ()

    def master_token(self, key: MasterTokenKey) -> StoredMasterToken | None:
        """Return None."""
        del key
        return None

    def remove_master_token(self, key: MasterTokenKey) -> None:
        """Do nothing."""

    def clear_master_tokens(self) -> None:
        """Do nothing."""

    def put_user_id_token(self, user: str, token: StoredUserIdToken) -> None:
        """Do nothing."""

    def user_id_token(self, user: str) -> StoredUserIdToken | None:
        """Return None."""
        del user
        return None

    def remove_user_id_token(self, key: UserIdTokenKey) -> None:
        """Do nothing."""

    def next_non_replayable_id(self, serial_number: int) -> int:
        """Return 1."""
        del serial_number
        return 1

    def store_service_tokens(self, tokens: Iterable[StoredServiceToken]) -> None:
        """Do nothing."""

    def service_tokens(
        self, master_token_serial_number: int | None, user_id_token: UserIdTokenKey | None
    ) -> Sequence[StoredServiceToken]:
        """Return nothing. Raises MslError USERIDTOKEN_MASTERTOKEN_NULL, USERIDTOKEN_MASTERTOKEN_MISMATCH."""
        check_query(master_token_serial_number, user_id_token)
        return ()

    def remove_service_tokens(
        self, name: str | None, master_token_serial_number: int | None, user_id_token: UserIdTokenKey | None
    ) -> None:
        """Do nothing. Raises MslError USERIDTOKEN_MASTERTOKEN_MISMATCH."""
        del name
        check_binding(master_token_serial_number, user_id_token)


def _key(token: StoredServiceToken) -> ServiceTokenKey:
    return token.name, token.master_token_serial_number, token.user_id_token_serial_number


def _binding(token: StoredServiceToken) -> tuple[int | None, int | None]:
    return token.master_token_serial_number, token.user_id_token_serial_number
