"""A client's tokens and counters in SQL (msl-engine section 16)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import ColumnElement, Connection, Table, and_, case, delete, exists, or_, select

from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.ports.client import (
    MasterTokenKey,
    StoredMasterToken,
    StoredServiceToken,
    StoredUserIdToken,
    UserIdTokenKey,
)
from hsm_msl.stores.client_rules import check_binding, check_query
from hsm_msl.stores.client_schema import COUNTER, MASTER_TOKEN, SERVICE_TOKEN, UNBOUND, USER_ID_TOKEN
from hsm_msl.stores.rows import insert_or_count, insert_or_replace
from hsm_msl.stores.sql import Database
from hsm_msl.wire.limits import MAX_LONG

_M = MASTER_TOKEN.c
_U = USER_ID_TOKEN.c
_S = SERVICE_TOKEN.c
_C = COUNTER.c


class SqlClientStore:
    """A ``ClientStore`` that several threads, processes and clients may share.

    Args:
        database: where the state is; its client tables are prepared.
        profile: names this client and its network; profiles see nothing of each other.
    """

    def __init__(self, database: Database, profile: str = "default") -> None:
        self._database = database
        self._profile = profile
        self._put_master = insert_or_replace(database, MASTER_TOKEN)
        self._put_user = insert_or_replace(database, USER_ID_TOKEN)
        self._put_service = insert_or_replace(database, SERVICE_TOKEN)
        following = case((_C.last == MAX_LONG, 0), else_=_C.last + 1)
        self._count = insert_or_count(database, COUNTER, _C.last, following)

    def put_master_token(self, token: StoredMasterToken) -> None:
        """Add a master token, or replace the same one. Raises StoreError."""
        row = {
            "profile": self._profile,
            **token.key._asdict(),
            "renewal_window": token.renewal_window,
            "tokendata": token.tokendata,
            "signature": token.signature,
            "session_keys": token.session_keys,
            "key_label": token.key_label,
        }
        with self._change() as connection:
            connection.execute(self._put_master, row)

    def master_tokens(self) -> Sequence[StoredMasterToken]:
        """Return every master token. Raises StoreError."""
        return self._master_tokens()

    def master_token(self, key: MasterTokenKey) -> StoredMasterToken | None:
        """Return this master token, or None. Raises StoreError."""
        return next(iter(self._master_tokens(_is_master(key))), None)

    def remove_master_token(self, key: MasterTokenKey) -> None:
        """Drop a master token; with the last one of its serial number goes what is bound to it. Raises StoreError."""
        serial = key.serial_number
        with self._change() as connection:
            if self._delete(connection, MASTER_TOKEN, _is_master(key)) == 0:
                return
            if self._exists(connection, MASTER_TOKEN, _M.serial_number == serial):
                return
            bound = _U.master_token_serial_number == serial
            users = select(_U.serial_number).where(_U.profile == self._profile, bound)
            serials = connection.scalars(users).all()
            self._delete(connection, USER_ID_TOKEN, bound)
            for user in serials:
                self._drop_orphans(connection, user)
            self._delete(connection, SERVICE_TOKEN, _S.master_token_serial_number == serial)
            self._delete(connection, COUNTER, _C.serial_number == serial)

    def clear_master_tokens(self) -> None:
        """Drop all master tokens, counters, user ID tokens and bound service tokens. Raises StoreError."""
        with self._change() as connection:
            for table in (MASTER_TOKEN, USER_ID_TOKEN, COUNTER):
                self._delete(connection, table)
            bound = or_(_S.master_token_serial_number != UNBOUND, _S.user_id_token_serial_number != UNBOUND)
            self._delete(connection, SERVICE_TOKEN, bound)

    def put_user_id_token(self, user: str, token: StoredUserIdToken) -> None:
        """Keep the user's token in place of an earlier one.

        Raises:
            MslError: USERIDTOKEN_MASTERTOKEN_NOT_FOUND.
            StoreError: the state cannot be reached.
        """
        row = {
            "profile": self._profile,
            "user": user,
            **token.key._asdict(),
            "renewal_window": token.renewal_window,
            "expiration": token.expiration,
            "tokendata": token.tokendata,
            "signature": token.signature,
        }
        with self._change() as connection:
            if not self._exists(connection, MASTER_TOKEN, _M.serial_number == token.master_token_serial_number):
                raise MslError(ErrorCode.USERIDTOKEN_MASTERTOKEN_NOT_FOUND)
            displaced = connection.scalar(
                select(_U.serial_number).where(_U.profile == self._profile, _U.user == user)
            )
            connection.execute(self._put_user, row)
            if displaced is not None:
                self._drop_orphans(connection, displaced)

    def user_id_token(self, user: str) -> StoredUserIdToken | None:
        """Return the user's token, or None. Raises StoreError."""
        query = select(USER_ID_TOKEN).where(_U.profile == self._profile, _U.user == user)
        with self._database.statements() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        return StoredUserIdToken(
            row.tokendata,
            row.signature,
            row.serial_number,
            row.master_token_serial_number,
            row.renewal_window,
            row.expiration,
        )

    def remove_user_id_token(self, key: UserIdTokenKey) -> None:
        """Drop a user ID token if it is stored, and the service tokens bound to it. Raises StoreError."""
        this = and_(
            _U.serial_number == key.serial_number, _U.master_token_serial_number == key.master_token_serial_number
        )
        with self._change() as connection:
            if self._delete(connection, USER_ID_TOKEN, this):
                self._drop_orphans(connection, key.serial_number)

    def next_non_replayable_id(self, serial_number: int) -> int:
        """Return the next ID of a master token's serial number, durably taken. Raises StoreError."""
        row = {"profile": self._profile, "serial_number": serial_number}
        with self._database.statements() as connection:
            return connection.execute(self._count, row).scalar_one()

    def store_service_tokens(self, tokens: Iterable[StoredServiceToken]) -> None:
        """Add, replace and remove service tokens, all or none.

        Raises:
            MslError: SERVICETOKEN_MASTERTOKEN_NOT_FOUND, SERVICETOKEN_USERIDTOKEN_NOT_FOUND.
            StoreError: the state cannot be reached.
        """
        with self._change() as connection:
            for token in tokens:
                binding = (token.master_token_serial_number, token.user_id_token_serial_number)
                if token.deleted:
                    self._delete(connection, SERVICE_TOKEN, _is_bound(*binding), _S.name_key == token.name)
                    continue
                self._check_bound(connection, *binding)
                row = {
                    "profile": self._profile,
                    "name_key": token.name,
                    "master_token_serial_number": _stored(binding[0]),
                    "user_id_token_serial_number": _stored(binding[1]),
                    "name": token.name,
                    "tokendata": token.tokendata,
                    "signature": token.signature,
                }
                connection.execute(self._put_service, row)

    def service_tokens(
        self, master_token_serial_number: int | None, user_id_token: UserIdTokenKey | None
    ) -> Sequence[StoredServiceToken]:
        """Return what goes into a message with these tokens.

        Raises:
            MslError: USERIDTOKEN_MASTERTOKEN_NULL, USERIDTOKEN_MASTERTOKEN_MISMATCH.
            StoreError: the state cannot be reached.
        """
        check_query(master_token_serial_number, user_id_token)
        bindings = [_is_bound(None, None), _is_bound(master_token_serial_number, None)]
        if user_id_token is not None:
            bindings.append(_is_bound(master_token_serial_number, user_id_token.serial_number))
        query = select(SERVICE_TOKEN).where(_S.profile == self._profile, or_(*bindings))
        with self._database.statements() as connection:
            rows = connection.execute(query).all()
        return [
            StoredServiceToken(
                row.tokendata,
                row.signature,
                row.name,
                _given(row.master_token_serial_number),
                _given(row.user_id_token_serial_number),
            )
            for row in rows
        ]

    def remove_service_tokens(
        self, name: str | None, master_token_serial_number: int | None, user_id_token: UserIdTokenKey | None
    ) -> None:
        """Drop service tokens of a name and of exactly this binding.

        Raises:
            MslError: USERIDTOKEN_MASTERTOKEN_MISMATCH.
            StoreError: the state cannot be reached.
        """
        check_binding(master_token_serial_number, user_id_token)
        if name is None and master_token_serial_number is None and user_id_token is None:
            return
        user = None if user_id_token is None else user_id_token.serial_number
        conditions = [_is_bound(master_token_serial_number, user)]
        if name is not None:
            conditions.append(_S.name_key == name)
        with self._change() as connection:
            self._delete(connection, SERVICE_TOKEN, *conditions)

    @contextmanager
    def _change(self) -> Iterator[Connection]:
        """Yield a transaction that no other change of this profile runs beside."""
        with self._database.transaction() as connection:
            self._database.lock(connection, f"msl client {self._profile!a}")
            yield connection

    def _master_tokens(self, *conditions: ColumnElement[bool]) -> Sequence[StoredMasterToken]:
        query = select(MASTER_TOKEN).where(_M.profile == self._profile, *conditions)
        with self._database.statements() as connection:
            rows = connection.execute(query).all()
        return [
            StoredMasterToken(
                row.tokendata,
                row.signature,
                row.serial_number,
                row.sequence_number,
                row.renewal_window,
                row.expiration,
                row.session_keys,
                row.key_label,
            )
            for row in rows
        ]

    def _delete(self, connection: Connection, table: Table, *conditions: ColumnElement[bool]) -> int:
        return connection.execute(delete(table).where(table.c.profile == self._profile, *conditions)).rowcount

    def _exists(self, connection: Connection, table: Table, *conditions: ColumnElement[bool]) -> bool:
        query = select(exists().where(table.c.profile == self._profile, *conditions))
        return bool(connection.scalar(query))

    def _check_bound(self, connection: Connection, master: int | None, user: int | None) -> None:
        if master is not None and not self._exists(connection, MASTER_TOKEN, _M.serial_number == master):
            raise MslError(ErrorCode.SERVICETOKEN_MASTERTOKEN_NOT_FOUND)
        if user is None:
            return
        conditions = [_U.serial_number == user]
        if master is not None:
            conditions.append(_U.master_token_serial_number == master)
        if not self._exists(connection, USER_ID_TOKEN, *conditions):
            raise MslError(ErrorCode.SERVICETOKEN_USERIDTOKEN_NOT_FOUND)

    def _drop_orphans(self, connection: Connection, user_id_token_serial_number: int) -> None:
        if not self._exists(connection, USER_ID_TOKEN, _U.serial_number == user_id_token_serial_number):
            orphan = _S.user_id_token_serial_number == user_id_token_serial_number
            self._delete(connection, SERVICE_TOKEN, orphan)


def _is_master(key: MasterTokenKey) -> ColumnElement[bool]:
    return and_(
        _M.serial_number == key.serial_number,
        _M.sequence_number == key.sequence_number,
        _M.expiration == key.expiration,
    )


def _is_bound(master: int | None, user: int | None) -> ColumnElement[bool]:
    return and_(_S.master_token_serial_number == _stored(master), _S.user_id_token_serial_number == _stored(user))


def _stored(serial: int | None) -> int:
    return UNBOUND if serial is None else serial


def _given(serial: int) -> int | None:
    return None if serial == UNBOUND else serial
