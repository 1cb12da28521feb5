"""The SQL client store against the one in memory: any sequence of operations has the same answers and refusals."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from hsm_msl.errors import MslError
from hsm_msl.ports.client import (
    ClientStore,
    MasterTokenKey,
    StoredMasterToken,
    StoredServiceToken,
    StoredUserIdToken,
    UserIdTokenKey,
)
from hsm_msl.stores.client_memory import MemoryClientStore
from hsm_msl.stores.client_schema import prepare_client
from hsm_msl.stores.client_sql import SqlClientStore
from hsm_msl.stores.sql import Database

SERIALS = st.integers(1, 2)
USER_SERIALS = st.integers(11, 12)
USERS = st.sampled_from(["ann", "bob"])
NAMES = st.sampled_from(["a", "b"])
MASTER_KEYS = st.builds(MasterTokenKey, SERIALS, st.integers(0, 1), st.just(9))
USER_KEYS = st.builds(UserIdTokenKey, USER_SERIALS, SERIALS)
SERVICE_TOKENS = st.builds(
    StoredServiceToken,
    st.sampled_from(["one", "two"]),
    st.just("signature"),
    NAMES,
    st.none() | SERIALS,
    st.none() | USER_SERIALS,
    st.booleans(),
)


class ClientStores(RuleBasedStateMachine):
    """Does the same to both stores and compares what they say."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.database = Database(f"sqlite:///{Path(self.directory.name) / 'client.db'}")
        prepare_client(self.database)
        self.stores: tuple[ClientStore, ClientStore] = (MemoryClientStore(), SqlClientStore(self.database))

    def teardown(self) -> None:
        self.database.close()
        self.directory.cleanup()

    def both(self, operation: Callable[[ClientStore], object]) -> None:
        answers = [answer(operation, store) for store in self.stores]
        assert answers[0] == answers[1]

    @initialize()
    def fill(self) -> None:
        """Begin where most operations have something to do."""
        for serial, sequence in itertools.product((1, 2), (0, 1)):
            self.put_master_token(MasterTokenKey(serial, sequence, 9), b"keys")
        self.put_user_id_token("ann", UserIdTokenKey(11, 1))
        self.put_user_id_token("bob", UserIdTokenKey(12, 2))
        bindings = [(None, None), (1, None), (1, 11), (None, 11), (2, 12)]
        tokens = [StoredServiceToken("t", "s", name, *binding) for name in ("a", "b") for binding in bindings]
        self.store_service_tokens(tokens)

    @rule(key=MASTER_KEYS, keys=st.binary(max_size=4))
    def put_master_token(self, key: MasterTokenKey, keys: bytes) -> None:
        token = StoredMasterToken("t", "s", key.serial_number, key.sequence_number, 1, key.expiration, keys, "label")
        self.both(lambda store: store.put_master_token(token))

    @rule(key=MASTER_KEYS)
    def remove_master_token(self, key: MasterTokenKey) -> None:
        self.both(lambda store: store.remove_master_token(key))

    @rule(user=USERS, key=USER_KEYS)
    def put_user_id_token(self, user: str, key: UserIdTokenKey) -> None:
        token = StoredUserIdToken("t", "s", key.serial_number, key.master_token_serial_number, 1, 2)
        self.both(lambda store: store.put_user_id_token(user, token))

    @rule(key=USER_KEYS)
    def remove_user_id_token(self, key: UserIdTokenKey) -> None:
        self.both(lambda store: store.remove_user_id_token(key))

    @rule(serial=SERIALS)
    def next_non_replayable_id(self, serial: int) -> None:
        self.both(lambda store: store.next_non_replayable_id(serial))

    @rule(tokens=st.lists(SERVICE_TOKENS, max_size=4))
    def store_service_tokens(self, tokens: list[StoredServiceToken]) -> None:
        self.both(lambda store: store.store_service_tokens(tokens))

    @rule(name=st.none() | NAMES, master=st.none() | SERIALS, user=st.none() | USER_KEYS)
    def remove_service_tokens(self, name: str | None, master: int | None, user: UserIdTokenKey | None) -> None:
        self.both(lambda store: store.remove_service_tokens(name, master, user))

    @rule(master=st.none() | SERIALS, user=st.none() | USER_KEYS)
    def service_tokens(self, master: int | None, user: UserIdTokenKey | None) -> None:
        self.both(lambda store: _set(store.service_tokens(master, user)))

    @invariant()
    def hold_the_same(self) -> None:
        self.both(lambda store: _set(store.master_tokens()))
        for user in ("ann", "bob"):
            self.both(lambda store, user=user: store.user_id_token(user))
        for master, serial in itertools.product((1, 2), (11, 12)):
            key = UserIdTokenKey(serial, master)
            self.both(lambda store, key=key: _set(store.service_tokens(key.master_token_serial_number, key)))

    @invariant()
    def nothing_is_bound_to_what_is_gone(self) -> None:
        store = self.stores[1]
        serials = {token.serial_number for token in store.master_tokens()}
        for user in ("ann", "bob"):
            token = store.user_id_token(user)
            assert token is None or token.master_token_serial_number in serials


def answer(operation: Callable[[ClientStore], object], store: ClientStore) -> object:
    try:
        return operation(store)
    except MslError as error:
        return error.code


def _set(tokens: Iterable[object]) -> set[object]:
    return set(tokens)


ClientStores.TestCase.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
TestClientStores = ClientStores.TestCase
