"""Every ClientStore (msl-engine sections 13.4, 14 and 16; conformance cases 102, 105 and 107 to 110)."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import text

from database_fixture import url_of
from hsm_msl.errors import ConfigurationError, ErrorCode, MslError, StoreError
from hsm_msl.ports.client import (
    ClientStore,
    MasterTokenKey,
    StoredMasterToken,
    StoredServiceToken,
    StoredUserIdToken,
    UserIdTokenKey,
)
from hsm_msl.stores.client_memory import MemoryClientStore, NullClientStore
from hsm_msl.stores.client_schema import METADATA, prepare_client
from hsm_msl.stores.client_sql import SqlClientStore
from hsm_msl.stores.sql import Database

MAX_LONG = 2**53


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def store(request: pytest.FixtureRequest) -> Iterator[ClientStore]:
    if request.param == "memory":
        yield MemoryClientStore()
        return
    database = Database(url_of(request.param, request))
    prepare_client(database)
    yield SqlClientStore(database)
    database.close()


def master(serial: int = 1, sequence: int = 0, expiration: int = 2000) -> StoredMasterToken:
    return StoredMasterToken(
        f"tokendata {serial} {sequence}", "signature", serial, sequence, 1000, expiration, os.urandom(48), "label"
    )


def user_token(serial: int = 11, master_serial: int = 1) -> StoredUserIdToken:
    return StoredUserIdToken(f"tokendata {serial}", "signature", serial, master_serial, 1000, 2000)


def service(
    name: str, master_serial: int | None = None, user_serial: int | None = None, value: str = "value"
) -> StoredServiceToken:
    return StoredServiceToken(value, "signature", name, master_serial, user_serial)


def names(store: ClientStore, master_serial: int | None = 1, user: UserIdTokenKey | None = None) -> list[str]:
    return sorted(token.name for token in store.service_tokens(master_serial, user))


def held(store: ClientStore) -> set[str]:
    """Return the names of all service tokens a store holds, also of those no message would carry."""
    if isinstance(store, MemoryClientStore):
        return {token.name for token in store._service_tokens.values()}
    assert isinstance(store, SqlClientStore)
    with store._database.statements() as connection:
        return set(connection.scalars(text("SELECT name FROM client_service_token")))


def refusal(code: ErrorCode) -> pytest.RaisesExc[MslError]:
    return pytest.raises(MslError, match=str(code.value), check=lambda error: error.code is code)


@pytest.fixture
def filled(store: ClientStore) -> ClientStore:
    """One master token, one user's token bound to it, and a service token of every kind."""
    store.put_master_token(master())
    store.put_user_id_token("ann", user_token())
    store.store_service_tokens(
        [service("unbound"), service("master", 1), service("both", 1, 11), service("user only", None, 11)]
    )
    return store


class TestMasterTokens:
    def test_a_token_and_its_sealed_keys_come_back_as_they_were(self, store: ClientStore) -> None:
        token = replace(master(serial=MAX_LONG, sequence=MAX_LONG), tokendata="a\0\\\ud800" + "x" * 5000)
        assert store.master_tokens() == []
        store.put_master_token(token)
        assert store.master_token(token.key) == token
        assert list(store.master_tokens()) == [token]
        assert token.session_keys.hex() not in repr(token)
        assert repr(token.session_keys) not in repr(token)

    def test_identity_is_serial_sequence_and_expiration(self, store: ClientStore) -> None:
        token = master(1, 2, 3000)
        store.put_master_token(token)
        for other in (MasterTokenKey(9, 2, 3000), MasterTokenKey(1, 9, 3000), MasterTokenKey(1, 2, 9)):
            assert store.master_token(other) is None
            store.remove_master_token(other)
        assert store.master_token(token.key) == token

    def test_the_same_token_again_replaces(self, store: ClientStore) -> None:
        first, second = master(), replace(master(), key_label="new label")
        store.put_master_token(first)
        store.put_master_token(second)
        assert list(store.master_tokens()) == [second]

    def test_last_of_a_serial_takes_everything_with_it(self, filled: ClientStore) -> None:
        """Case 108: two master tokens with one serial number; everything goes with the last one."""
        assert filled.next_non_replayable_id(1) == 1
        renewed = master(1, 1)
        filled.put_master_token(renewed)

        filled.remove_master_token(master().key)
        assert list(filled.master_tokens()) == [renewed]
        assert filled.user_id_token("ann") == user_token()
        assert names(filled, 1, user_token().key) == ["both", "master", "unbound"]
        assert filled.next_non_replayable_id(1) == 2

        filled.remove_master_token(renewed.key)
        assert filled.master_tokens() == []
        assert filled.user_id_token("ann") is None
        assert names(filled, 1, user_token().key) == ["unbound"]
        assert filled.next_non_replayable_id(1) == 1

    @pytest.mark.parametrize("removal", ["master token", "user ID token", "displaced"])
    def test_nothing_bound_to_the_user_is_left_behind(self, filled: ClientStore, removal: str) -> None:
        """Not even a token bound to the user alone, which goes into no message and could not be found again."""
        if removal == "master token":
            filled.remove_master_token(master().key)
        elif removal == "user ID token":
            filled.remove_user_id_token(user_token().key)
        else:
            filled.put_user_id_token("ann", user_token(12))
        assert "user only" not in held(filled)
        assert "both" not in held(filled)
        assert "unbound" in held(filled)

    def test_other_serials_stay(self, filled: ClientStore) -> None:
        filled.put_master_token(master(2))
        filled.put_user_id_token("bob", user_token(22, 2))
        filled.store_service_tokens([service("other", 2), service("other both", 2, 22)])
        filled.next_non_replayable_id(2)
        filled.remove_master_token(master(1).key)
        assert list(filled.master_tokens()) != []
        assert filled.user_id_token("bob") == user_token(22, 2)
        assert names(filled, 2, UserIdTokenKey(22, 2)) == ["other", "other both", "unbound"]
        assert filled.next_non_replayable_id(2) == 2

    def test_unknown_token_is_not_removed_and_takes_nothing(self, filled: ClientStore) -> None:
        filled.remove_master_token(MasterTokenKey(1, 99, 99))
        assert names(filled, 1, user_token().key) == ["both", "master", "unbound"]

    def test_clear_leaves_unbound_service_tokens_only(self, filled: ClientStore) -> None:
        filled.put_master_token(master(2))
        filled.next_non_replayable_id(1)
        filled.clear_master_tokens()
        assert filled.master_tokens() == []
        assert filled.user_id_token("ann") is None
        assert filled.next_non_replayable_id(1) == 1
        filled.put_master_token(master())
        filled.put_user_id_token("ann", user_token())
        assert names(filled, 1, user_token().key) == ["unbound"]


class TestUserIdTokens:
    def test_unknown_master_token_is_refused(self, store: ClientStore) -> None:
        """Case 109: 2005."""
        store.put_master_token(master(1))
        with refusal(ErrorCode.USERIDTOKEN_MASTERTOKEN_NOT_FOUND):
            store.put_user_id_token("ann", user_token(11, 2))
        assert store.user_id_token("ann") is None

    def test_a_users_token_is_replaced_and_others_stay(self, store: ClientStore) -> None:
        store.put_master_token(master(1))
        store.put_user_id_token("ann", user_token(11))
        store.put_user_id_token("bob", user_token(12))
        store.put_user_id_token("ann", user_token(13))
        assert store.user_id_token("ann") == user_token(13)
        assert store.user_id_token("bob") == user_token(12)
        assert store.user_id_token("Ann") is None

    def test_renewal_with_the_same_serial_keeps_its_service_tokens(self, filled: ClientStore) -> None:
        filled.put_user_id_token("ann", replace(user_token(), tokendata="renewed"))
        assert names(filled, 1, user_token().key) == ["both", "master", "unbound"]

    def test_another_serial_leaves_no_orphans(self, filled: ClientStore) -> None:
        filled.put_user_id_token("ann", user_token(12))
        filled.put_user_id_token("ann", user_token(11))
        assert names(filled, 1, user_token(11).key) == ["master", "unbound"]

    def test_removal_takes_its_service_tokens(self, filled: ClientStore) -> None:
        filled.remove_user_id_token(UserIdTokenKey(11, 2))
        assert filled.user_id_token("ann") == user_token(), "bound to another master token: another token"
        filled.remove_user_id_token(user_token().key)
        assert filled.user_id_token("ann") is None
        assert names(filled, 1, user_token().key) == ["master", "unbound"]

    def test_any_text_names_a_user(self, store: ClientStore) -> None:
        store.put_master_token(master())
        strange = ["", "a\0b", "a\\0b", "\ud800", "é" * 5000, "x" * 100_000]
        for number, user in enumerate(strange):
            store.put_user_id_token(user, user_token(number))
        assert [store.user_id_token(user) for user in strange] == [user_token(n) for n in range(len(strange))]


class TestNonReplayableIds:
    """Section 14, sender: a counter per serial number, first 1, wrapping, never twice."""

    def test_counting_per_serial(self, store: ClientStore) -> None:
        assert [store.next_non_replayable_id(7) for _ in range(3)] == [1, 2, 3]
        assert store.next_non_replayable_id(8) == 1
        assert store.next_non_replayable_id(7) == 4

    def test_memory_wraps_to_zero(self) -> None:
        store = MemoryClientStore()
        store._counters[7] = MAX_LONG - 1
        assert [store.next_non_replayable_id(7) for _ in range(3)] == [MAX_LONG, 0, 1]

    def test_threads_never_get_the_same_id(self, store: ClientStore) -> None:
        taken: list[int] = []
        threads = [
            threading.Thread(target=lambda: taken.extend([store.next_non_replayable_id(7) for _ in range(20)]))
            for _ in range(5)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(taken) == list(range(1, 101))


class TestServiceTokens:
    def test_empty_data_removes(self, filled: ClientStore) -> None:
        """Case 102: a token with empty data removes its namesake with the same binding, and no other."""
        filled.store_service_tokens([service("same name"), service("same name", 1), service("same name", 1, 11)])
        filled.store_service_tokens([replace(service("same name", 1), deleted=True)])
        left = [token for token in filled.service_tokens(1, user_token().key) if token.name == "same name"]
        assert sorted(str(token.user_id_token_serial_number) for token in left) == ["11", "None"]
        assert {token.master_token_serial_number for token in left} == {None, 1}
        assert {"unbound", "master", "both"} <= set(names(filled, 1, user_token().key))

    def test_deleting_what_is_not_there_is_no_error(self, filled: ClientStore) -> None:
        filled.store_service_tokens([replace(service("unknown", 99, 99), deleted=True)])
        assert names(filled, 1, user_token().key) == ["both", "master", "unbound"]

    def test_update_replaces(self, filled: ClientStore) -> None:
        """Case 105: the same name (and binding) again: the store returns the new value only."""
        filled.store_service_tokens([service("master", 1, value="new value")])
        found = [token for token in filled.service_tokens(1, None) if token.name == "master"]
        assert found == [service("master", 1, value="new value")]

    def test_reading_leaves_them_for_the_next_message(self, filled: ClientStore) -> None:
        """Case 107: excluding a token from one message is no business of the store."""
        assert names(filled, 1, user_token().key) == names(filled, 1, user_token().key)

    def test_which_go_into_a_message(self, filled: ClientStore) -> None:
        """Section 13.2: unbound; bound to the master token alone; bound to both."""
        filled.put_master_token(master(2))
        filled.store_service_tokens([service("other master", 2)])
        assert names(filled, None) == ["unbound"]
        assert names(filled, 1) == ["master", "unbound"]
        assert names(filled, 2) == ["other master", "unbound"]
        assert names(filled, 1, UserIdTokenKey(11, 1)) == ["both", "master", "unbound"]
        assert names(filled, 1, UserIdTokenKey(99, 1)) == ["master", "unbound"]

    def test_user_without_or_outside_its_master_token_is_refused(self, filled: ClientStore) -> None:
        """Case 110: 2002 and 2000."""
        with refusal(ErrorCode.USERIDTOKEN_MASTERTOKEN_NULL):
            filled.service_tokens(None, user_token().key)
        with refusal(ErrorCode.USERIDTOKEN_MASTERTOKEN_MISMATCH):
            filled.service_tokens(2, user_token().key)

    @pytest.mark.parametrize(
        ("bad", "code"),
        [
            (service("bad", 9), ErrorCode.SERVICETOKEN_MASTERTOKEN_NOT_FOUND),
            (service("bad", 9, 11), ErrorCode.SERVICETOKEN_MASTERTOKEN_NOT_FOUND),
            (service("bad", 1, 99), ErrorCode.SERVICETOKEN_USERIDTOKEN_NOT_FOUND),
            (service("bad", None, 99), ErrorCode.SERVICETOKEN_USERIDTOKEN_NOT_FOUND),
            (service("bad", 2, 11), ErrorCode.SERVICETOKEN_USERIDTOKEN_NOT_FOUND),
        ],
    )
    def test_all_or_none(self, filled: ClientStore, bad: StoredServiceToken, code: ErrorCode) -> None:
        """Section 13.4: 3003 and 3004, and nothing of the set is stored or removed."""
        filled.put_master_token(master(2))
        tokens = [service("new"), service("unbound", value="new"), replace(service("master", 1), deleted=True), bad]
        before = list(filled.service_tokens(1, user_token().key))
        with refusal(code):
            filled.store_service_tokens(tokens)
        assert sorted(before, key=str) == sorted(filled.service_tokens(1, user_token().key), key=str)

    @pytest.mark.parametrize(
        ("name", "master_serial", "user", "left"),
        [
            (None, None, None, ["both", "master", "unbound"]),
            ("unbound", None, None, ["both", "master"]),
            ("master", None, None, ["both", "master", "unbound"]),
            (None, 1, None, ["both", "unbound"]),
            ("master", 1, None, ["both", "unbound"]),
            ("both", 1, None, ["both", "master", "unbound"]),
            (None, 1, UserIdTokenKey(11, 1), ["master", "unbound"]),
            ("both", 1, UserIdTokenKey(11, 1), ["master", "unbound"]),
            ("master", 1, UserIdTokenKey(11, 1), ["both", "master", "unbound"]),
            (None, None, UserIdTokenKey(11, 1), ["both", "master", "unbound"]),
        ],
    )
    def test_removal_by_name_and_exact_binding(
        self,
        filled: ClientStore,
        name: str | None,
        master_serial: int | None,
        user: UserIdTokenKey | None,
        left: list[str],
    ) -> None:
        """Section 16: None means "not bound to"; no name means any; nothing at all removes nothing."""
        filled.remove_service_tokens(name, master_serial, user)
        assert names(filled, 1, user_token().key) == left

    def test_removal_with_tokens_that_do_not_fit_is_refused(self, filled: ClientStore) -> None:
        with refusal(ErrorCode.USERIDTOKEN_MASTERTOKEN_MISMATCH):
            filled.remove_service_tokens(None, 2, user_token().key)

    def test_any_text_is_a_name_and_comes_back(self, store: ClientStore) -> None:
        strange = ["", "a\0b", "a\\0b", "\ud800", "é" * 5000, "x" * 100_000]
        store.store_service_tokens([service(name) for name in strange])
        assert names(store, None) == sorted(strange)
        store.store_service_tokens([replace(service(name), deleted=True) for name in strange])
        assert names(store, None) == []


class TestNullClientStore:
    """Section 16: get nothing, ignore writes, ID always 1, keep the two binding checks (cases 106 and 110)."""

    def test_nothing_is_kept(self) -> None:
        store: ClientStore = NullClientStore()
        store.put_master_token(master())
        store.put_user_id_token("ann", user_token())
        store.store_service_tokens([service("unbound"), service("bound", 99)])
        assert list(store.master_tokens()) == []
        assert store.master_token(master().key) is None
        assert store.user_id_token("ann") is None
        assert names(store, 1, user_token().key) == []
        assert [store.next_non_replayable_id(1) for _ in range(2)] == [1, 1]
        store.remove_master_token(master().key)
        store.remove_user_id_token(user_token().key)
        store.clear_master_tokens()

    def test_bindings_are_checked(self) -> None:
        store = NullClientStore()
        with refusal(ErrorCode.USERIDTOKEN_MASTERTOKEN_NULL):
            store.service_tokens(None, user_token().key)
        with refusal(ErrorCode.USERIDTOKEN_MASTERTOKEN_MISMATCH):
            store.service_tokens(2, user_token().key)
        with refusal(ErrorCode.USERIDTOKEN_MASTERTOKEN_MISMATCH):
            store.remove_service_tokens(None, 2, user_token().key)


class TestSqlClientStore:
    """What only a durable, shared store has to show."""

    @pytest.fixture
    def prepared(self, database: Database) -> Database:
        prepare_client(database)
        return database

    def test_profiles_see_nothing_of_each_other(self, prepared: Database) -> None:
        """No state crosses networks (section 1)."""
        one, other = SqlClientStore(prepared, "one"), SqlClientStore(prepared, "other")
        for store in (one, other):
            store.put_master_token(master())
            store.put_user_id_token("ann", user_token())
            store.store_service_tokens([service("unbound"), service("both", 1, 11)])
            assert store.next_non_replayable_id(1) == 1
        one.clear_master_tokens()
        one.remove_service_tokens("unbound", None, None)
        assert names(one, None) == []
        assert len(other.master_tokens()) == 1
        assert other.user_id_token("ann") == user_token()
        assert names(other, 1, user_token().key) == ["both", "unbound"]
        assert other.next_non_replayable_id(1) == 2

    def test_largest_id_wraps_to_zero(self, prepared: Database) -> None:
        store = SqlClientStore(prepared)
        store.next_non_replayable_id(7)
        with prepared.transaction() as connection:
            connection.execute(text(f"UPDATE client_counter SET last = {MAX_LONG - 1}"))
        assert [store.next_non_replayable_id(7) for _ in range(3)] == [MAX_LONG, 0, 1]

    def test_id_is_durable_before_it_is_given_out(self, prepared: Database, database_url: str) -> None:
        """Section 16: a client killed after taking an ID never takes it again."""
        child = multiprocessing.get_context("spawn").Process(target=_take_and_die, args=(database_url,), daemon=True)
        child.start()
        child.join(60)
        assert child.exitcode == -signal.SIGKILL
        assert SqlClientStore(prepared).next_non_replayable_id(7) == 4

    def test_state_survives_a_new_process_with_another_connection(
        self, prepared: Database, database_url: str
    ) -> None:
        token = master()
        SqlClientStore(prepared).put_master_token(token)
        other = Database(database_url)
        assert list(SqlClientStore(other).master_tokens()) == [token]
        other.close()

    def test_user_token_is_never_left_behind_by_a_concurrent_removal(self, prepared: Database) -> None:
        """The check for the master token and the write are one step: no orphan whatever the order."""
        store = SqlClientStore(prepared)
        for _ in range(15):
            store.put_master_token(master())
            barrier = threading.Barrier(2)

            def add(barrier: threading.Barrier = barrier) -> None:
                barrier.wait(20)
                with contextlib.suppress(MslError):  # refused when the removal came first
                    store.put_user_id_token("ann", user_token())

            thread = threading.Thread(target=add)
            thread.start()
            barrier.wait(20)
            store.remove_master_token(master().key)
            thread.join(20)
            assert store.user_id_token("ann") is None

    def test_another_layout_version_is_refused(self, prepared: Database) -> None:
        with pytest.raises(ConfigurationError):
            prepared.prepare(METADATA, "msl client", 99)


def _take_and_die(url: str) -> None:
    store = SqlClientStore(Database(url))
    for _ in range(3):
        store.next_non_replayable_id(7)
    os.kill(os.getpid(), signal.SIGKILL)


def test_state_out_of_reach_is_a_store_error(database: Database) -> None:
    """No tables: an outage says nothing about tokens."""
    store = SqlClientStore(database)
    calls = [
        store.master_tokens,
        lambda: store.put_master_token(master()),
        lambda: store.put_user_id_token("ann", user_token()),
        lambda: store.next_non_replayable_id(1),
        lambda: store.service_tokens(None, None),
    ]
    for call in calls:
        with pytest.raises(StoreError):
            call()
