"""An empty message that offers keys: the reference server answers it as a handshake, with a header alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hsm_msl.errors import TruncatedMessageError
from hsm_msl.msl.conversation import Payload
from msl_world import Answer, Credentials, World, secret


def without_chunks(answer: Answer) -> Answer:
    """Return a server that sends the header alone: no inner value holds a brace that another object follows."""

    def cut(body: bytes) -> bytes:
        reply = answer(body)
        return reply[: reply.index(b"}{") + 1]

    return cut


@pytest.mark.parametrize("payload", [b"", lambda: iter(()), lambda: iter([b""])], ids=["bytes", "none", "empty"])
def test_a_reply_without_chunks_is_an_empty_reply(payload: Payload) -> None:
    world = World()
    device = world.client()
    message = replace(secret(user=Credentials()), payload=payload)
    reply = device.ask(message, without_chunks(world.server().handle))
    assert reply.payload == b""
    assert device.state.newest() is not None


def test_a_reply_without_chunks_to_anything_else_is_truncated() -> None:
    world = World()
    device = world.client()
    with pytest.raises(TruncatedMessageError):
        device.ask(secret(b"data", user=Credentials()), without_chunks(world.server().handle))
