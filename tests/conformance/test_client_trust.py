"""Whom a composed client takes for its server (msl-engine section 19, points 7 and 20)."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.msl.server import Request
from hsm_msl.service.compose.client import compose_client
from hsm_msl.service.config import read_client_config
from msl_keys import rsa_key, spki
from msl_messages import entity, error_message
from msl_world import SERVER, Answer, World, drive

CLIENT = """
[entity]
{entity}
[server]
identity = "{server}"
[key_exchange]
schemes = ["ASYMMETRIC_WRAPPED"]
{known}
"""
KNOWN = f"""
[[entities]]
scheme = "RSA"
key_id = "{SERVER}-key"
identity = "{SERVER}"
public_key = "server.pem"
"""
UNPROVEN = ['scheme = "NONE"\nidentity = "guest"', 'scheme = "NONE_SUFFIXED"\nroot = "model"\nsuffix = "42"']


def ask(directory: Path, own: str, known: str, answer: Answer) -> bytes:
    (directory / "server.pem").write_bytes(spki(rsa_key(SERVER)))
    (directory / "client.toml").write_text(CLIENT.format(entity=own, server=SERVER, known=known))
    client = compose_client(read_client_config(directory / "client.toml"))
    try:
        return drive(client.msl.request(client.message(b"secret")), answer).payload
    finally:
        client.close()


@pytest.mark.parametrize("own", UNPROVEN)
def test_nobody_without_the_servers_key_is_taken_for_it(tmp_path: Path, own: str) -> None:
    """The client proves nothing, the server it was told of does: whoever merely claims its name is refused."""
    impostor = World(server_scheme="NONE")
    heard: list[bytes] = []

    def application(request: Request) -> bytes:
        heard.append(request.payload)
        return b"forged"

    with pytest.raises(MslError) as refused:
        ask(tmp_path, own, KNOWN, impostor.server(application).handle)
    assert refused.value.code is ErrorCode.ENTITYAUTH_FACTORY_NOT_FOUND
    assert heard == []


def test_nor_is_its_error(tmp_path: Path) -> None:
    impostor = World(server_scheme="NONE")
    forged = error_message(entity(impostor.context), 1, 1)
    with pytest.raises(MslError) as refused:
        ask(tmp_path, UNPROVEN[0], KNOWN, lambda body: forged)
    assert refused.value.code is ErrorCode.ENTITYAUTH_FACTORY_NOT_FOUND


def test_the_server_itself_is(tmp_path: Path) -> None:
    world = World()
    assert ask(tmp_path, UNPROVEN[0], KNOWN, world.server().handle) == b"secret"


def test_a_server_that_proves_nothing_is_where_nobody_else_was_named(tmp_path: Path) -> None:
    world = World(server_scheme="NONE")
    assert ask(tmp_path, UNPROVEN[0], "", world.server().handle) == b"secret"
