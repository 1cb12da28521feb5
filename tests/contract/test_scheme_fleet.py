"""Fleet keys: wrapped in a database, unwrapped into a token when used (issue: fleet keys)."""

from __future__ import annotations

import gc
import hmac
import os
import threading
from collections.abc import Callable

import pytest
from pkcs11 import Attribute, ObjectClass

from hsm_msl.backend.deferred import DeferredWrappingKey
from hsm_msl.backend.fleet import FleetKeys
from hsm_msl.backend.pkcs11.token import Token
from hsm_msl.backend.software import SoftwareAesKey, SoftwareWrappingKey
from hsm_msl.crypto.symmetric import SymmetricContext
from hsm_msl.crypto.transport import WrapTransport
from hsm_msl.errors import KeyNotFoundError, StoreError
from hsm_msl.ports import MacAlgorithm, WrappingKey
from hsm_msl.ports.schemes import WrappedKeys
from hsm_msl.stores.fleet_keys import FleetEntry, FleetKeyStore
from hsm_msl.stores.schema import prepare
from hsm_msl.stores.sql import Database
from hsm_provision.key_material import derive_wrapping_key
from scheme_places import Place
from scheme_support import assert_keys
from token_fixture import KeyMaker

KEK = bytes(range(32))
KPE, KPH = bytes(range(16)), bytes(range(16, 48))


def wrapped(kek: WrappingKey, kpe: bytes, kph: bytes) -> WrappedKeys:
    """Wrap an entity's keys as an import does."""
    return WrappedKeys(kek.wrap(kpe), kek.wrap(kph), kek.wrap(derive_wrapping_key(kpe, kph)), "fleet.v1")


def numbered(number: int) -> WrappedKeys:
    return wrapped(SoftwareWrappingKey(KEK), bytes([number] * 16), bytes([number] * 32))


@pytest.fixture
def store(database: Database) -> FleetKeyStore:
    prepare(database)
    return FleetKeyStore(database)


def test_an_entity_found_in_the_store_can_speak(store: FleetKeyStore, place: Place) -> None:
    store.put_many([FleetEntry("device", wrapped(place.wrapping(KEK), KPE, KPH))])
    keys = FleetKeys(store, {"fleet.v1": place.wrapping(KEK)}).find("device")
    assert_keys(keys, KPE, KPH)
    assert keys is not None
    assert keys.wrapping is not None
    kpw = derive_wrapping_key(KPE, KPH)
    assert keys.wrapping.wrap(bytes(16)) == SoftwareWrappingKey(kpw).wrap(bytes(16))
    context = SymmetricContext(keys, "device", os.urandom)
    sealed = context.encrypt(b"plain")
    assert context.decrypt(sealed) == b"plain"


def test_an_unknown_entity_has_no_keys(store: FleetKeyStore, place: Place) -> None:
    assert FleetKeys(store, {"fleet.v1": place.wrapping(KEK)}).find("nobody") is None


class Counting:
    """A ``FleetStore`` that counts and may be changed."""

    def __init__(self, *identities: str) -> None:
        self.rows = {identity: numbered(number) for number, identity in enumerate(identities, 1)}
        self.asked = 0
        self.down = False

    def get(self, identity: str) -> WrappedKeys | None:
        self.asked += 1
        if self.down:
            raise StoreError("down")
        return self.rows.get(identity)


def counting_fleet(store: Counting, *, capacity: int = 2, now: Callable[[], float] = lambda: 0.0) -> FleetKeys:
    return FleetKeys(store, {"fleet.v1": SoftwareWrappingKey(KEK)}, capacity=capacity, monotonic=now)


def test_the_cache_is_bounded_and_keeps_what_was_used_last() -> None:
    store = Counting("a", "b", "c")
    fleet = counting_fleet(store)
    for identity in ("a", "b", "a", "c", "a"):
        assert fleet.find(identity) is not None
    assert store.asked == 3
    assert fleet.cached == 2
    fleet.find("b")
    assert store.asked == 4
    fleet.forget()
    assert fleet.cached == 0


def test_replaced_and_removed_keys_are_noticed_after_the_recheck_time() -> None:
    now = [0.0]
    store = Counting("a", "b")
    fleet = counting_fleet(store, now=lambda: now[0])
    first = fleet.find("a")
    now[0] = 59
    store.rows["a"] = store.rows["b"]
    assert fleet.find("a") is first
    now[0] = 61
    assert_keys(fleet.find("a"), bytes([2] * 16), bytes([2] * 32))
    now[0] = 122
    unchanged = fleet.find("a")
    assert fleet.find("a") is unchanged
    del store.rows["a"]
    now[0] = 190
    assert fleet.find("a") is None
    assert fleet.cached == 0


def test_a_store_that_is_down_is_no_verdict() -> None:
    store = Counting("a")
    store.down = True
    with pytest.raises(StoreError):
        counting_fleet(store).find("a")


def test_damaged_keys_and_missing_wrapping_keys_are_the_operators_business() -> None:
    store = Counting("a")
    row = store.rows["a"]
    store.rows["a"] = WrappedKeys(bytes(24), row.mac, row.wrapping, row.wrapping_key)
    with pytest.raises(StoreError, match=r"fleet\.v1"):
        counting_fleet(store).find("a")
    store.rows["a"] = WrappedKeys(row.encryption, row.mac, row.wrapping, "fleet.v0")
    with pytest.raises(KeyNotFoundError, match=r"fleet\.v0"):
        counting_fleet(store).find("a")


def test_a_wrapping_key_is_unwrapped_when_it_is_used_and_its_damage_is_no_verdict() -> None:
    store = Counting("a")
    row = store.rows["a"]
    store.rows["a"] = WrappedKeys(row.encryption, row.mac, bytes(24), row.wrapping_key)
    keys = counting_fleet(store).find("a")
    assert_keys(keys, bytes([1] * 16), bytes([1] * 32))
    assert keys is not None
    with pytest.raises(StoreError, match=r"fleet\.v1"):
        WrapTransport(keys.wrapping).wrap(bytes(16))


def test_a_deferred_key_does_all_a_wrapping_key_does() -> None:
    fetched: list[int] = []

    def fetch() -> SoftwareWrappingKey:
        fetched.append(1)
        return SoftwareWrappingKey(KEK)

    deferred, direct = DeferredWrappingKey(fetch), SoftwareWrappingKey(KEK)
    assert not fetched
    assert deferred.wrap(bytes(16)) == direct.wrap(bytes(16))
    assert deferred.wrap(b"x", pad=True) == direct.wrap(b"x", pad=True)
    assert deferred.unwrap(direct.wrap(b"x", pad=True), pad=True) == b"x"
    wrapped_key = deferred.wrap_key(SoftwareAesKey(bytes(16)))
    assert wrapped_key == direct.wrap(bytes(16))
    assert deferred.unwrap_aes(wrapped_key).encrypt_ecb(bytes(16)) == SoftwareAesKey(bytes(16)).encrypt_ecb(bytes(16))
    assert deferred.unwrap_mac(direct.wrap(bytes(32)), MacAlgorithm.HMAC_SHA256).sign(b"") == hmac.digest(
        bytes(32), b"", "sha256"
    )
    assert deferred.unwrap_wrapping(wrapped_key).wrap(bytes(16)) == SoftwareWrappingKey(bytes(16)).wrap(bytes(16))
    assert fetched == [1]


def test_an_entity_may_go_without_wrapping_key() -> None:
    store = Counting("a")
    row = store.rows["a"]
    store.rows["a"] = WrappedKeys(row.encryption, row.mac, None, row.wrapping_key)
    keys = counting_fleet(store).find("a")
    assert keys is not None
    assert keys.wrapping is None


def session_objects(keys: KeyMaker) -> int:
    with keys.session() as session:
        template = {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.TOKEN: False}
        return len(list(session.get_objects(template)))


def test_evicted_keys_leave_the_token(hsm_token: Token, keys: KeyMaker) -> None:
    """Non-extractable session objects while cached, destroyed on eviction, never before their last user is done."""
    kek = hsm_token.wrapping_key(keys.aes(KEK, (Attribute.WRAP, Attribute.UNWRAP)))
    store = Counting(*(f"e{n}" for n in range(40)))
    fleet = FleetKeys(store, {"fleet.v1": kek}, capacity=4)
    gc.collect()
    before = session_objects(keys)
    held = fleet.find("e0")
    for identity in store.rows:
        fleet.find(identity)
    gc.collect()
    # Destruction happens with the next use of the session; every home may hold a few that wait for it.
    waiting = 3 * (len(hsm_token.connection.homes._homes) + 1)
    assert session_objects(keys) - before <= 3 * (fleet.cached + 1) + waiting
    assert_keys(held, bytes([1] * 16), bytes([1] * 32))


def test_many_threads_share_a_small_cache(hsm_token: Token, keys: KeyMaker) -> None:
    kek = hsm_token.wrapping_key(keys.aes(KEK, (Attribute.WRAP, Attribute.UNWRAP)))
    store = Counting("a", "b", "c", "d", "e")
    fleet = FleetKeys(store, {"fleet.v1": kek}, capacity=2)
    failures: list[BaseException] = []

    def work(start: int) -> None:
        try:
            for turn in range(40):
                number = (start + turn) % 5
                found = fleet.find("abcde"[number])
                assert found is not None
                assert found.mac is not None
                expected = hmac.digest(bytes([number + 1] * 32), b"data", "sha256")
                assert found.mac.sign(b"data") == expected
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
