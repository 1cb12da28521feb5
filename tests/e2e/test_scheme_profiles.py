"""A user scheme of one's own by configuration alone: from the user so far to one of its profiles, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hsm_msl.errors import ConfigurationError, ErrorCode, ResponseCode
from hsm_msl.msl.conversation import ErrorResponseError, Message
from hsm_msl.msl.userauth.base import UserAuthData
from hsm_msl.service.compose.client import ComposedClient
from hsm_msl.service.config import read_server_config
from hsm_msl.service.http_client import HttpClient
from service_world import ServiceWorld
from user_directory import Directory

PERMITTED = 'user = ["EMAIL_PASSWORD"]'


@pytest.fixture(scope="module")
def directory() -> Iterator[Directory]:
    made = Directory(
        lambda question: (
            f"{question['credentials']['useridtoken']}/kids"
            if question["credentials"].get("profile") == "kids"
            else "ada"
            if question["credentials"] == {"account": "ada", "pin": "1234"}
            else None
        )
    )
    yield made
    made.close()


def config(world: ServiceWorld, directory: Directory, name: str, token: str = "useridtoken") -> Path:
    path = world.server_config(name, (PERMITTED, 'user = ["EMAIL_PASSWORD", "TO_PROFILE"]'))
    service = f'scheme = "TO_PROFILE"\nurl = "{directory.url}"\nmandatory = ["profile"]\nuser_id_token = "{token}"\n'
    path.write_text(path.read_text() + f"\n[[user_services]]\n{service}")
    return path


def to_profile(client: ComposedClient, user: str, profile: str) -> Message:
    """Return a message that asks to be another user, by the user ID token the client has."""
    session = client.state.newest()
    token = client.state.user_id_token(user, None if session is None else session.master_token)
    assert token is not None
    data = UserAuthData("TO_PROFILE", {"profile": profile, "useridtoken": token.to_wire()})
    return Message(
        b"hello", user=profile, user_auth=lambda code, required: None if code else data, request_tokens=True
    )


def test_from_a_user_to_a_profile(service_world: ServiceWorld, directory: Directory) -> None:
    with (
        service_world.serve(config(service_world, directory, "profiles.toml")) as server,
        closing(service_world.client()) as client,
        HttpClient(client.msl, server.url) as http,
    ):
        first = client.message(b"hello")
        http.request(first)
        assert first.user is not None
        response = http.request(to_profile(client, first.user, "kids"))
        assert response.payload == b"hello"
        question = directory.questions[-1]
        assert question["scheme"] == "TO_PROFILE"
        assert question["entity"] == "development-client"
        account = question["credentials"]["useridtoken"]
        assert account
        assert "{" not in account
        # The profile has a user ID token of its own now, and needs no credentials any more.
        http.request(Message(b"again", user="kids"))
        with pytest.raises(ErrorResponseError) as caught:
            http.request(to_profile(client, first.user, "others"))
        assert caught.value.error.internal_code == ErrorCode.USERAUTH_VERIFICATION_FAILED
        assert caught.value.error.response is ResponseCode.USERDATA_REAUTH


def test_a_client_of_a_scheme_of_ones_own(service_world: ServiceWorld, directory: Directory) -> None:
    """Both sides by configuration alone: the client sends strings under their names, the service judges them."""
    path = service_world.server_config("pins.toml", (PERMITTED, 'user = ["COMPANY_PIN"]'))
    path.write_text(
        f'{path.read_text()}\n[[user_services]]\nscheme = "COMPANY_PIN"\nurl = "{directory.url}"\n'
        'mandatory = ["account", "pin"]\n'
    )
    for name, value in (("account", "ada"), ("pin", "1234"), ("wrong", "0000")):
        file = service_world.directory / f"users/{name}"
        file.touch(mode=0o600)
        file.write_text(value)
    user = '[user]\nemail = "user@example.com"\npassword = "file:users/user.password"\n'
    own = (
        '[credentials]\nscheme = "COMPANY_PIN"\nname = "me"\n'
        'strings = {{ account = "file:users/account", pin = "file:users/{}" }}\n'
    )
    right = service_world.client_config("pin.toml", (user, own.format("pin")))
    wrong = service_world.client_config("wrong-pin.toml", (user, own.format("wrong")))
    with service_world.serve(path) as server:
        with closing(service_world.client(right)) as client, HttpClient(client.msl, server.url) as http:
            first, second = (http.request(client.message(payload)) for payload in (b"one", b"two"))
        assert (first.payload, first.pairs, second.payload, second.pairs) == (b"one", 1, b"two", 1)
        assert second.requests[0].user_id_token is not None
        with (
            closing(service_world.client(wrong)) as client,
            HttpClient(client.msl, server.url) as http,
            pytest.raises(ErrorResponseError) as caught,
        ):
            http.request(client.message(b"one"))
        assert caught.value.error.internal_code == ErrorCode.USERAUTH_VERIFICATION_FAILED


def test_a_member_cannot_be_both(service_world: ServiceWorld, directory: Directory) -> None:
    path = config(service_world, directory, "both.toml", token="profile")
    with pytest.raises(ConfigurationError, match=r"user_services\[0\]\.user_id_token: 'profile' is a string already"):
        read_server_config(path)
