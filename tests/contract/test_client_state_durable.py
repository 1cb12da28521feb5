"""A client's state over every store: what survives a restart, and that session keys rest sealed (msl-engine 16)."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from hsm_msl.backend.software import SoftwareAesKey, software_mac_key
from hsm_msl.crypto.sealed_box import SealedBox
from hsm_msl.errors import DataRejectedError
from hsm_msl.msl.client import MslClient
from hsm_msl.msl.client_state import ClientState, SessionSeal
from hsm_msl.ports import MacAlgorithm
from hsm_msl.ports.client import ClientStore, StoredUserIdToken
from hsm_msl.stores.client_memory import MemoryClientStore
from msl_world import Credentials, Device, World, drive, key_requests, secret


def box(purpose: str = "client sessions") -> SealedBox:
    mac = software_mac_key(bytes(range(32)), MacAlgorithm.HMAC_SHA256)
    return SealedBox(SoftwareAesKey(bytes(range(16))), mac, purpose, os.urandom)


def restarted(world: World, device: Device, store: ClientStore, seal: SessionSeal | None) -> MslClient:
    """Return the same client as after a restart: nothing but its store is left."""
    state = ClientState(device.context, store, seal=seal)
    return MslClient(device.context, state, key_requests(device.context, ("DIFFIE_HELLMAN",)))


@pytest.fixture
def world() -> World:
    return World()


def test_a_sealed_session_survives_a_restart(world: World) -> None:
    store, seal = MemoryClientStore(), SessionSeal(box(), "k1")
    device, server, user = world.client(), world.server(), Credentials()
    first = drive(restarted(world, device, store, seal).request(secret(user=user)), server.handle)
    assert first.requests[0].master_token is None
    again = drive(restarted(world, device, store, seal).request(secret(user=user)), server.handle)
    assert again.requests[0].master_token is not None
    assert again.requests[0].user_id_token is not None
    assert again.requests[0].user_auth is None


def test_non_replayable_ids_go_on_after_a_restart(world: World) -> None:
    store, seal = MemoryClientStore(), SessionSeal(box(), "k1")
    device, server = world.client(), world.server()
    for expected in (1, 2, 3):
        client = restarted(world, device, store, seal)
        reply = drive(client.request(secret(non_replayable=True)), server.handle)
        assert reply.requests[-1].non_replayable_id == expected


def test_without_a_seal_no_session_key_rests_and_a_restart_begins_anew(world: World) -> None:
    store = MemoryClientStore()
    device, server = world.client(), world.server()
    drive(restarted(world, device, store, None).request(secret()), server.handle)
    assert [token.session_keys for token in store.master_tokens()] == [b""]
    again = drive(restarted(world, device, store, None).request(secret()), server.handle)
    assert again.requests[0].master_token is None


@pytest.mark.parametrize("other", [SessionSeal(box("another use"), "k1"), SessionSeal(box(), "k2")])
def test_a_session_of_another_seal_is_not_used(world: World, other: SessionSeal) -> None:
    store = MemoryClientStore()
    device, server = world.client(), world.server()
    drive(restarted(world, device, store, SessionSeal(box(), "k1")).request(secret()), server.handle)
    again = drive(restarted(world, device, store, other).request(secret()), server.handle)
    assert again.requests[0].master_token is None
    assert again.payload == b"secret"


class TestSealedBox:
    def test_round_trip_and_freshness(self) -> None:
        assert box().decrypt(box().encrypt(b"keys")) == b"keys"
        assert box().encrypt(b"keys") != box().encrypt(b"keys")
        assert b"keys" not in box().encrypt(b"keys")

    def test_every_changed_byte_is_refused(self) -> None:
        sealed = box().encrypt(b"keys of a session")
        for index in range(len(sealed)):
            changed = sealed[:index] + bytes([sealed[index] ^ 1]) + sealed[index + 1 :]
            with pytest.raises(DataRejectedError):
                box().decrypt(changed)

    @pytest.mark.parametrize("length", [0, 1, 31, 32, 47, 48, 63])
    def test_every_short_text_is_refused(self, length: int) -> None:
        with pytest.raises(DataRejectedError):
            box().decrypt(box().encrypt(b"keys")[:length])


class SharedStore(MemoryClientStore):
    """Lets another process with the same store come in between a new session and what is bound to it."""

    meanwhile: Callable[[], object] | None = None

    def put_user_id_token(self, user: str, token: StoredUserIdToken) -> None:
        happening, self.meanwhile = self.meanwhile, None
        if happening is not None:
            happening()
        super().put_user_id_token(user, token)


def test_a_reply_is_good_whose_session_another_process_has_replaced(world: World) -> None:
    server, store = world.server(), SharedStore()
    one, other = (restarted(world, device, store, None) for device in (world.client("PSK"), world.client("PSK")))
    store.meanwhile = lambda: drive(other.request(secret(b"other", user=Credentials())), server.handle)
    assert drive(one.request(secret(b"one", user=Credentials())), server.handle).payload == b"one"
    assert len(store.master_tokens()) == 1
