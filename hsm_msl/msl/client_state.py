"""What a client remembers between messages: sessions, user ID tokens, service tokens, counters (msl-engine 16)."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass

from hsm_msl.crypto.context import CryptoContext
from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.msl.renewal import Mutex
from hsm_msl.msl.tokens.issuer import next_long
from hsm_msl.msl.tokens.master_token import MasterToken
from hsm_msl.msl.tokens.service_token import ServiceToken
from hsm_msl.msl.tokens.user_id_token import UserIdToken


@dataclass(frozen=True, slots=True)
class Session:
    """A master token this client uses, and the context of its session keys."""

    master_token: MasterToken
    context: CryptoContext


class ClientState:
    """The client's tokens and counters, in memory.

    Every operation is atomic under the mutex. Exchanges keep their own reference to the session they use, so that a
    reply under a session that was replaced meanwhile is still readable.

    Args:
        mutex: a re-entrant lock when several threads share the client.
    """

    def __init__(self, mutex: Mutex | None = None) -> None:
        self._mutex: Mutex = nullcontext() if mutex is None else mutex
        self._sessions: list[Session] = []
        self._user_id_tokens: dict[str, UserIdToken] = {}
        self._service_tokens: dict[tuple[str, int | None, int | None], ServiceToken] = {}
        self._non_replayable_ids: dict[int, int] = {}
        self._messages: dict[int, int] = {}
        self._offset: float | None = None

    def remote_time(self, now: float) -> float | None:
        """Return the other side's time, seconds, or None before its first authenticated timestamp."""
        return None if self._offset is None else now + self._offset

    def update_remote_time(self, remote: int, now: float) -> None:
        """Take note of the other side's timestamp (seconds) received at local time ``now``."""
        self._offset = remote - now

    def newest(self) -> Session | None:
        """Return the session of the newest master token, or None."""
        with self._mutex:
            newest: Session | None = None
            for session in self._sessions:
                if newest is None or session.master_token.is_newer_than(newest.master_token):
                    newest = session
            return newest

    def find(self, token: MasterToken) -> CryptoContext | None:
        """Return the context of this master token, or None."""
        with self._mutex:
            for session in self._sessions:
                if session.master_token.same_as(token):
                    return session.context
        return None

    def add_session(self, session: Session, replaced: MasterToken | None) -> None:
        """Take a new session into use and drop the one it replaces.

        Sequence numbers of different serial numbers say nothing about age, so a new serial number also drops every
        older session.

        Args:
            session: the new one.
            replaced: the master token of the request that brought it.
        """
        with self._mutex:
            serial = session.master_token.serial_number
            self._sessions = [s for s in self._sessions if not s.master_token.same_as(session.master_token)]
            old = [s.master_token for s in self._sessions]
            self._sessions.append(session)
            self._messages[serial] = 0
            for token in old:
                if token.same_as(replaced) or token.serial_number != serial:
                    self.remove_session(token)

    def remove_session(self, token: MasterToken) -> None:
        """Drop a master token; with the last one of its serial number go its user and service tokens and counter."""
        with self._mutex:
            self._sessions = [s for s in self._sessions if not s.master_token.same_as(token)]
            serial = token.serial_number
            if any(s.master_token.serial_number == serial for s in self._sessions):
                return
            for user, bound in list(self._user_id_tokens.items()):
                if bound.master_token_serial_number == serial:
                    self._remove_user(user, bound)
            self._service_tokens = {
                key: t for key, t in self._service_tokens.items() if t.master_token_serial_number != serial
            }
            self._non_replayable_ids.pop(serial, None)
            self._messages.pop(serial, None)

    def user_id_token(self, user: str | None, master_token: MasterToken | None) -> UserIdToken | None:
        """Return the user's token if it is bound to this master token, or None."""
        if user is None:
            return None
        with self._mutex:
            token = self._user_id_tokens.get(user)
        return token if token is not None and token.is_bound_to(master_token) else None

    def add_user_id_token(self, user: str, token: UserIdToken, exchange: MasterToken | None = None) -> None:
        """Keep the user's token, replacing an earlier one.

        Args:
            user: local key of the user.
            token: the token.
            exchange: the master token of the exchange that brought it. If another exchange has dropped that one
                meanwhile, ``token`` is dropped with it, which is no error.

        Raises:
            MslError: USERIDTOKEN_MASTERTOKEN_NOT_FOUND.
        """
        with self._mutex:
            serial = token.master_token_serial_number
            if any(s.master_token.serial_number == serial for s in self._sessions):
                self._user_id_tokens[user] = token
            elif not token.is_bound_to(exchange):
                raise MslError(ErrorCode.USERIDTOKEN_MASTERTOKEN_NOT_FOUND)

    def remove_user_id_token(self, token: UserIdToken) -> None:
        """Drop a user ID token and the service tokens bound to it."""
        with self._mutex:
            for user, known in list(self._user_id_tokens.items()):
                if known.serial_number == token.serial_number:
                    self._remove_user(user, known)

    def next_non_replayable_id(self, master_token: MasterToken) -> int:
        """Return the next ID for this master token's serial number, 1 at first, wrapping from 2^53 to 0."""
        with self._mutex:
            serial = master_token.serial_number
            value = next_long(self._non_replayable_ids.get(serial, 0))
            self._non_replayable_ids[serial] = value
            return value

    def messages(self, master_token: MasterToken) -> int:
        """Return how many messages were sent under this master token's serial number since its last renewal."""
        return self._messages.get(master_token.serial_number, 0)

    def count_message(self, master_token: MasterToken) -> None:
        """Count a message sent under this master token."""
        with self._mutex:
            serial = master_token.serial_number
            self._messages[serial] = self._messages.get(serial, 0) + 1

    def service_tokens(
        self, master_token: MasterToken | None, user_id_token: UserIdToken | None
    ) -> tuple[ServiceToken, ...]:
        """Return what goes into a message: unbound tokens, and those bound to the message's tokens.

        Raises:
            MslError: USERIDTOKEN_MASTERTOKEN_NULL, USERIDTOKEN_MASTERTOKEN_MISMATCH.
        """
        if user_id_token is not None:
            if master_token is None:
                raise MslError(ErrorCode.USERIDTOKEN_MASTERTOKEN_NULL)
            if not user_id_token.is_bound_to(master_token):
                raise MslError(ErrorCode.USERIDTOKEN_MASTERTOKEN_MISMATCH)
        masters = (None, None if master_token is None else master_token.serial_number)
        users = (None, None if user_id_token is None else user_id_token.serial_number)
        with self._mutex:
            return tuple(
                token
                for token in self._service_tokens.values()
                if token.master_token_serial_number in masters and token.user_id_token_serial_number in users
            )

    def store_service_tokens(
        self,
        tokens: Iterable[ServiceToken],
        exchange: tuple[MasterToken | None, UserIdToken | None] = (None, None),
    ) -> None:
        """Add, replace and, where the data is empty, delete service tokens; all or none.

        Args:
            tokens: what a message carries.
            exchange: the master and user ID token of the exchange. If another exchange has dropped them meanwhile,
                what is bound to them is dropped with them, which is no error.

        Raises:
            MslError: SERVICETOKEN_MASTERTOKEN_NOT_FOUND, SERVICETOKEN_USERIDTOKEN_NOT_FOUND.
        """
        with self._mutex:
            masters = {s.master_token.serial_number for s in self._sessions}
            users = {t.serial_number for t in self._user_id_tokens.values()}
            kept = dict(self._service_tokens)
            for token in tokens:
                if token.deleted:
                    kept.pop(token.key, None)
                    continue
                master, user = token.master_token_serial_number, token.user_id_token_serial_number
                if master is not None and master not in masters:
                    if exchange[0] is None or master != exchange[0].serial_number:
                        raise MslError(ErrorCode.SERVICETOKEN_MASTERTOKEN_NOT_FOUND)
                elif user is not None and user not in users:
                    if exchange[1] is None or user != exchange[1].serial_number:
                        raise MslError(ErrorCode.SERVICETOKEN_USERIDTOKEN_NOT_FOUND)
                else:
                    kept[token.key] = token
            self._service_tokens = kept

    def _remove_user(self, user: str, token: UserIdToken) -> None:
        del self._user_id_tokens[user]
        self._service_tokens = {
            key: t for key, t in self._service_tokens.items() if t.user_id_token_serial_number != token.serial_number
        }
