"""What a client remembers between messages: sessions, user ID tokens, service tokens, counters (msl-engine 16)."""

from __future__ import annotations

from collections.abc import Iterable, Set
from contextlib import nullcontext
from dataclasses import dataclass, field

from hsm_msl.crypto.context import CryptoContext
from hsm_msl.errors import DataRejectedError, ErrorCode, MslError
from hsm_msl.msl.context import MslContext
from hsm_msl.msl.tokens.master_token import MasterToken, session_context
from hsm_msl.msl.tokens.service_token import ServiceToken, parse_service_token
from hsm_msl.msl.tokens.user_id_token import UserIdToken
from hsm_msl.ports import Mutex, Sealing, SessionData, SymmetricKeys
from hsm_msl.ports.client import (
    ClientStore,
    MasterTokenKey,
    StoredMasterToken,
    StoredServiceToken,
    StoredUserIdToken,
    UserIdTokenKey,
)


@dataclass(frozen=True, slots=True)
class Session:
    """A master token this client uses, the context of its session keys, and the keys where they are to be kept."""

    master_token: MasterToken
    context: CryptoContext
    keys: SymmetricKeys | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class SessionSeal:
    """Protects session keys at rest.

    Attributes:
        sealing: encrypts and authenticates, with a key in a token or of the operating system's.
        label: names that key; sessions sealed under another are not used.
    """

    sealing: Sealing
    label: str


class ClientState:
    """The client's view of its store: tokens as the protocol sees them, and sessions ready for use.

    Several threads, and several processes over one durable store, may share a client. Exchanges keep their own
    reference to the session they use, so that a reply under a session that was replaced meanwhile is still readable.

    Args:
        context: the client.
        store: its tokens and counters, durable or not.
        seal: protects session keys in a durable store; without it they are not kept and a restart begins anew.
        mutex: a re-entrant lock when several threads share the client.
    """

    def __init__(
        self,
        context: MslContext,
        store: ClientStore,
        *,
        seal: SessionSeal | None = None,
        mutex: Mutex | None = None,
    ) -> None:
        self._context = context
        self._store = store
        self._seal = seal
        self._mutex: Mutex = nullcontext() if mutex is None else mutex
        self._sessions: dict[MasterTokenKey, Session] = {}
        self._messages: dict[int, int] = {}
        self._offset: float | None = None

    def remote_time(self, now: float) -> float | None:
        """Return the other side's time, seconds, or None before its first authenticated timestamp."""
        return None if self._offset is None else now + self._offset

    def update_remote_time(self, remote: int, now: float) -> None:
        """Take note of the other side's timestamp (seconds) received at local time ``now``."""
        self._offset = remote - now

    def newest(self) -> Session | None:
        """Return the session of the newest master token, or None. Raises StoreError, BackendError."""
        with self._mutex:
            newest: Session | None = None
            kept = self._store.master_tokens()
            self._forget_others({stored.key for stored in kept})
            for stored in kept:
                session = self._session(stored)
                if session is not None and (
                    newest is None or session.master_token.is_newer_than(newest.master_token)
                ):
                    newest = session
            return newest

    def find(self, token: MasterToken) -> CryptoContext | None:
        """Return the context of this master token, or None. Raises StoreError, BackendError."""
        with self._mutex:
            stored = self._store.master_token(_key(token))
            session = None if stored is None else self._session(stored)
            return None if session is None else session.context

    def add_session(self, session: Session, replaced: MasterToken | None) -> None:
        """Take a new session into use and drop the one it replaces.

        Sequence numbers of different serial numbers say nothing about age, so a new serial number also drops every
        older session.

        Args:
            session: the new one.
            replaced: the master token of the request that brought it.

        Raises:
            StoreError: it could not be kept.
            BackendError: its keys could not be sealed.
        """
        token = session.master_token
        with self._mutex:
            others = [stored.key for stored in self._store.master_tokens() if stored.key != _key(token)]
            self._store.put_master_token(
                StoredMasterToken(
                    token.tokendata,
                    token.signature,
                    token.serial_number,
                    token.sequence_number,
                    token.renewal_window,
                    token.expiration,
                    self._sealed(session),
                    "" if self._seal is None else self._seal.label,
                )
            )
            self._sessions[_key(token)] = session
            self._messages[token.serial_number] = 0
            for key in others:
                if key.serial_number != token.serial_number or (replaced is not None and key == _key(replaced)):
                    self._remove(key)

    def remove_session(self, token: MasterToken) -> None:
        """Drop a master token; with the last one of its serial number go its user and service tokens and counter."""
        with self._mutex:
            self._remove(_key(token))

    def user_id_token(self, user: str | None, master_token: MasterToken | None) -> UserIdToken | None:
        """Return the user's token if it is bound to this master token, or None. Raises StoreError."""
        if user is None:
            return None
        stored = self._store.user_id_token(user)
        if stored is None or master_token is None:
            return None
        if stored.master_token_serial_number != master_token.serial_number:
            return None
        return UserIdToken(
            stored.tokendata,
            stored.signature,
            stored.renewal_window,
            stored.expiration,
            stored.master_token_serial_number,
            stored.serial_number,
        )

    def add_user_id_token(self, user: str, token: UserIdToken, exchange: MasterToken | None = None) -> None:
        """Keep the user's token, replacing an earlier one.

        Args:
            user: local key of the user.
            token: the token.
            exchange: the master token of the exchange that brought it. If another exchange has dropped that one
                meanwhile, ``token`` is dropped with it, which is no error.

        Raises:
            MslError: USERIDTOKEN_MASTERTOKEN_NOT_FOUND.
            StoreError: it could not be kept.
        """
        stored = StoredUserIdToken(
            token.tokendata,
            token.signature,
            token.serial_number,
            token.master_token_serial_number,
            token.renewal_window,
            token.expiration,
        )
        try:
            self._store.put_user_id_token(user, stored)
        except MslError:
            if not token.is_bound_to(exchange):
                raise

    def remove_user_id_token(self, token: UserIdToken) -> None:
        """Drop a user ID token and the service tokens bound to it. Raises StoreError."""
        self._store.remove_user_id_token(_user_key(token))

    def next_non_replayable_id(self, master_token: MasterToken) -> int:
        """Return the next ID for this master token's serial number; it is durable. Raises StoreError."""
        return self._store.next_non_replayable_id(master_token.serial_number)

    def messages(self, master_token: MasterToken) -> int:
        """Return how many messages this process sent under the serial number since the last renewal."""
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
            StoreError: they cannot be read.
        """
        context = self._context
        stored = self._store.service_tokens(
            None if master_token is None else master_token.serial_number,
            None if user_id_token is None else _user_key(user_id_token),
        )
        return tuple(
            parse_service_token(
                {"tokendata": token.tokendata, "signature": token.signature},
                context.service_token_keys,
                context.service_token_cache,
                master_token,
                user_id_token,
            )
            for token in stored
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
            StoreError: they could not be kept.
        """
        kept = [
            StoredServiceToken(
                token.tokendata,
                token.signature,
                token.name,
                token.master_token_serial_number,
                token.user_id_token_serial_number,
                token.deleted,
            )
            for token in tokens
        ]
        master, user = exchange
        dropped = {
            ErrorCode.SERVICETOKEN_MASTERTOKEN_NOT_FOUND: (None if master is None else master.serial_number, None),
            ErrorCode.SERVICETOKEN_USERIDTOKEN_NOT_FOUND: (None, None if user is None else user.serial_number),
        }
        while kept:
            try:
                return self._store.store_service_tokens(kept)
            except MslError as error:
                master_serial, user_serial = dropped.get(error.code, (None, None))
                remaining = [
                    token
                    for token in kept
                    if not _bound(token.master_token_serial_number, master_serial)
                    and not _bound(token.user_id_token_serial_number, user_serial)
                ]
                if len(remaining) == len(kept):
                    raise
                kept = remaining
        return None

    def _remove(self, key: MasterTokenKey) -> None:
        self._store.remove_master_token(key)
        self._sessions.pop(key, None)

    def _forget_others(self, kept: Set[MasterTokenKey]) -> None:
        """Forget what another process with this store has removed: session keys are not to outlive their token."""
        for key in self._sessions.keys() - kept:
            del self._sessions[key]
        for serial in self._messages.keys() - {key.serial_number for key in kept}:
            del self._messages[serial]

    def _session(self, stored: StoredMasterToken) -> Session | None:
        known = self._sessions.get(stored.key)
        if known is not None:
            return known
        if self._seal is None or not stored.session_keys or stored.key_label != self._seal.label:
            return None
        context = self._context
        token = context.master_tokens.parse({"tokendata": stored.tokendata, "signature": stored.signature})
        try:
            data = context.vault.open(stored.session_keys, self._seal.sealing)
        except DataRejectedError:
            # A damaged record is worth no more than a lost one: the client starts anew.
            return None
        crypto = session_context(data.identity, token.sequence_number, data.keys, context.random)
        session = self._sessions[stored.key] = Session(token, crypto, data.keys)
        return session

    def _sealed(self, session: Session) -> bytes:
        if self._seal is None or session.keys is None:
            return b""
        data = SessionData(self._context.local.data.identity, session.keys)
        return self._context.vault.seal(data, self._seal.sealing)


def _key(token: MasterToken) -> MasterTokenKey:
    return MasterTokenKey(token.serial_number, token.sequence_number, token.expiration)


def _user_key(token: UserIdToken) -> UserIdTokenKey:
    return UserIdTokenKey(token.serial_number, token.master_token_serial_number)


def _bound(serial: int | None, dropped: int | None) -> bool:
    return serial is not None and serial == dropped
