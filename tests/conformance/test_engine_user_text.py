"""Error messages with text for the user by language, also where the refusal precedes the capabilities' own check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.msl.conversation import ErrorResponseError
from hsm_msl.msl.message.capabilities import Capabilities
from msl_peers import Line, Program, peer
from msl_world import Credentials, World, secret


def worded(code: ErrorCode, languages: Sequence[str]) -> str | None:
    return f"{code.name} in {', '.join(languages) or 'no language'}"


def test_a_wrong_password_is_worded_in_the_users_language() -> None:
    world = World()
    server = world.server(context=replace(world.context, user_text=worded))
    device = world.client(capabilities=Capabilities((), ("de-AT", "en")))
    user = Credentials(password="not it")
    user.renewed_password = None
    with pytest.raises(ErrorResponseError) as caught:
        device.ask(secret(user=user), server.handle)
    assert caught.value.error.internal_code == ErrorCode.EMAILPASSWORD_INCORRECT
    assert caught.value.error.user_message == "EMAILPASSWORD_INCORRECT in de-AT, en"


def test_a_client_without_capabilities_is_worded_in_none() -> None:
    world = World()
    server = world.server(context=replace(world.context, user_text=worded))
    device = world.client(capabilities=None)
    user = Credentials(password="not it")
    user.renewed_password = None
    with pytest.raises(ErrorResponseError) as caught:
        device.ask(secret(user=user), server.handle)
    assert caught.value.error.user_message == "EMAILPASSWORD_INCORRECT in no language"


def test_peers_word_their_refusals_too() -> None:
    world = World()
    one, other = peer(world, "PSK", "one"), peer(world, "PSK", "other")
    one.context = replace(one.context, capabilities=Capabilities((), ("de-AT",)))
    other.context = replace(other.context, user_text=worded)
    user = Credentials(password="not it")
    user.renewed_password = None
    here, there = one.connect(), other.connect()

    def ask() -> Program:
        with pytest.raises(ErrorResponseError) as caught:
            yield from here.request(secret(user=user))
        return caught.value.error.user_message

    def refuse() -> Program:
        with pytest.raises(MslError):
            yield from there.receive()
        return None

    assert Line(one, other).run(ask(), refuse())[0] == "EMAILPASSWORD_INCORRECT in de-AT"
