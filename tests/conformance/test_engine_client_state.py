"""msl-engine section 21, conformance cases 108 to 110: the client's state (section 16)."""

from __future__ import annotations

from typing import Any

import pytest

from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.msl.client_state import ClientState, Session
from hsm_msl.msl.tokens.service_token import make_service_token
from hsm_msl.stores.client_memory import MemoryClientStore
from hsm_msl.wire.limits import MAX_LONG
from msl_messages import session, user_id_token
from msl_world import ADA, World
from object_graph import walk


@pytest.fixture
def world() -> World:
    return World()


def two_of_one_serial(world: World) -> tuple[ClientState, Session, Session]:
    device = world.client("PSK")
    state = device.state
    opaque = device.context.master_tokens
    sessions = []
    for sequence in (0, 1):
        made = session(world.context, "psk-client", sequencenumber=sequence)
        sessions.append(Session(opaque.parse(made.wire), made.context))
        state.add_session(sessions[-1], None)
    token = world.client("PSK").context.user_id_tokens.parse(
        user_id_token(world.context, sessions[0].master_token, ADA), sessions[0].master_token
    )
    state.add_user_id_token(ADA, token)
    keys = world.service_token_keys[""]
    master = sessions[0].master_token
    state.store_service_tokens(
        [
            make_service_token("unbound", b"1", keys),
            make_service_token("bound", b"2", keys, master_token=master),
            make_service_token("of-user", b"3", keys, master_token=master, user_id_token=token),
        ]
    )
    state.next_non_replayable_id(master)
    return state, sessions[0], sessions[1]


def test_case_108_what_is_bound_goes_with_the_last_token_of_a_serial(world: World) -> None:
    state, old, new = two_of_one_serial(world)
    assert state.newest() == new
    state.remove_session(old.master_token)
    user = state.user_id_token(ADA, new.master_token)
    assert user is not None
    assert len(state.service_tokens(new.master_token, user)) == 3
    assert state.next_non_replayable_id(new.master_token) == 2
    state.remove_session(new.master_token)
    assert state.newest() is None
    assert state.user_id_token(ADA, new.master_token) is None
    assert [token.name for token in state.service_tokens(new.master_token, user)] == ["unbound"]
    assert state.next_non_replayable_id(new.master_token) == 1


def test_case_109_user_id_token_of_an_unknown_master_token(world: World) -> None:
    held = session(world.context, "psk-client")
    token = world.context.user_id_tokens.parse(user_id_token(world.context, held.token, ADA), held.token)
    with pytest.raises(MslError) as caught:
        world.client("PSK").state.add_user_id_token(ADA, token)
    assert caught.value.code is ErrorCode.USERIDTOKEN_MASTERTOKEN_NOT_FOUND


def test_case_110_asking_for_tokens_that_do_not_belong_together(world: World) -> None:
    state, old, _ = two_of_one_serial(world)
    user = state.user_id_token(ADA, old.master_token)
    with pytest.raises(MslError) as caught:
        state.service_tokens(None, user)
    assert caught.value.code is ErrorCode.USERIDTOKEN_MASTERTOKEN_NULL
    other = session(world.context, "psk-client", serialnumber=1234)
    with pytest.raises(MslError) as caught:
        state.service_tokens(other.token, user)
    assert caught.value.code is ErrorCode.USERIDTOKEN_MASTERTOKEN_MISMATCH


@pytest.mark.parametrize(
    ("binding", "code"),
    [
        ("master", ErrorCode.SERVICETOKEN_MASTERTOKEN_NOT_FOUND),
        ("user", ErrorCode.SERVICETOKEN_USERIDTOKEN_NOT_FOUND),
    ],
)
def test_tokens_bound_to_unknown_tokens_are_stored_all_or_none(world: World, binding: str, code: ErrorCode) -> None:
    """Section 16: 3003, 3004, and nothing of the set is kept."""
    state, old, _ = two_of_one_serial(world)
    stranger = session(world.context, "psk-client", serialnumber=1234)
    keys = world.service_token_keys[""]
    bad: dict[str, Any] = {"master_token": stranger.token}
    if binding == "user":
        parsed = world.context.user_id_tokens.parse(
            user_id_token(world.context, old.master_token, ADA, serialnumber=999), old.master_token
        )
        bad = {"master_token": old.master_token, "user_id_token": parsed}
    fine = make_service_token("fine", b"x", keys)
    with pytest.raises(MslError) as caught:
        state.store_service_tokens([fine, make_service_token("bad", b"x", keys, **bad)])
    assert caught.value.code is code
    names = {
        token.name for token in state.service_tokens(old.master_token, state.user_id_token(ADA, old.master_token))
    }
    assert names == {"unbound", "bound", "of-user"}


def test_a_new_serial_number_drops_every_older_session(world: World) -> None:
    """Section 3: sequence numbers of different serial numbers say nothing, so only one serial number is kept."""
    state, old, new = two_of_one_serial(world)
    fresh = session(world.context, "psk-client", serialnumber=5, sequencenumber=0)
    opaque = world.client("PSK").context.master_tokens.parse(fresh.wire)
    state.add_session(Session(opaque, fresh.context), new.master_token)
    newest = state.newest()
    assert newest is not None
    assert newest.master_token.serial_number == 5
    assert state.find(old.master_token) is None
    assert state.find(new.master_token) is None


@pytest.mark.parametrize(
    ("sequence", "other", "newer"),
    [
        (0, MAX_LONG, True),
        (126, MAX_LONG, True),
        (127, MAX_LONG, False),
        (MAX_LONG, 126, False),
        (MAX_LONG, 127, True),
        (200, MAX_LONG - 2, False),
        (2, 1, True),
        (1, 2, False),
    ],
)
def test_which_master_token_is_newer(world: World, sequence: int, other: int, newer: bool) -> None:
    """Section 3, the wrap-around rule; the measured points of msl-wire section 8.1."""
    tokens = [session(world.context, "x", sequencenumber=number).token for number in (sequence, other)]
    assert tokens[0].is_newer_than(tokens[1]) is newer


def test_the_later_expiration_is_newer(world: World) -> None:
    """Section 3: equal sequence numbers."""
    first = session(world.context, "x").token
    second = session(world.context, "x", expiration=first.expiration + 1).token
    assert second.is_newer_than(first)
    assert not first.is_newer_than(second)
    assert not first.is_newer_than(first)


def test_what_another_process_removed_is_forgotten_with_its_session_keys(world: World) -> None:
    """Two states over one store are two processes that share a durable client."""
    context, store = world.client("PSK").context, MemoryClientStore()
    state = ClientState(context, store)
    made = session(world.context, "psk-client")
    own = Session(context.master_tokens.parse(made.wire), made.context)
    state.add_session(own, None)
    state.count_message(own.master_token)
    assert state.newest() == own
    ClientState(context, store).remove_session(own.master_token)
    assert state.newest() is None
    assert not any(item is own.context for item, _ in walk(state))
    assert state.messages(own.master_token) == 0
