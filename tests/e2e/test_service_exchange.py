"""Messages over real HTTP between a real client and a server whose keys are in a SoftHSMv2 token (issue 2)."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import pytest

from hsm_msl.errors import ErrorCode, ResponseCode
from hsm_msl.msl.conversation import ErrorResponseError, Response
from hsm_msl.service.compose.client import ComposedClient
from hsm_msl.service.http_client import HttpClient
from service_world import RunningServer, ServiceWorld

GUEST = (
    (
        'scheme = "PSK"\nidentity = "development-client"\n'
        'files = { encryption = "keys/development-client.encryption.hex", '
        'mac = "keys/development-client.mac.hex" }',
        'scheme = "NONE"\nidentity = "guest-1"',
    ),
    ('schemes = ["DIFFIE_HELLMAN"]', 'schemes = ["ASYMMETRIC_WRAPPED"]'),
)


def exchange(client: ComposedClient, url: str, *payloads: bytes) -> list[Response]:
    with HttpClient(client.msl, url) as http:
        return [http.request(client.message(payload)) for payload in payloads]


def refusal(client: ComposedClient, url: str) -> ErrorResponseError:
    with closing(client), pytest.raises(ErrorResponseError) as caught:
        exchange(client, url, b"anything")
    return caught.value


def test_one_pair_from_nothing_to_an_answered_message(service_world: ServiceWorld, service: RunningServer) -> None:
    """Engine 4.7: with a scheme that encrypts, the first pair carries keys, user and encrypted application data."""
    with closing(service_world.client()) as client:
        first, second = exchange(client, service.url, b"\x00\xffone", b"two")
    assert first.payload == b"\x00\xffone"
    assert first.pairs == 1
    sent = first.requests[0]
    assert sent.entity_auth is not None
    assert sent.entity_auth.scheme == "PSK"
    assert sent.user_auth is not None
    assert [request.scheme for request in sent.key_requests] == ["DIFFIE_HELLMAN"]
    assert not sent.handshake
    assert first.header.key_response is not None
    assert first.header.user_id_token is not None
    assert second.payload == b"two"
    assert second.pairs == 1
    assert second.requests[0].master_token is not None
    assert second.requests[0].user_auth is None
    assert second.requests[0].user_id_token is not None
    assert second.header.key_response is None


def test_handshake_pair_when_the_scheme_cannot_encrypt(service_world: ServiceWorld, service: RunningServer) -> None:
    """Engine 4.7: with NONE, a handshake comes before any secret message."""
    config = service_world.client_config("guest.toml", *GUEST)
    with closing(service_world.client(config)) as client:
        first, second = exchange(client, service.url, b"one", b"two")
    assert (first.payload, first.pairs) == (b"one", 2)
    handshake, message = first.requests
    assert handshake.handshake
    assert handshake.user_auth is None
    assert [request.scheme for request in handshake.key_requests] == ["ASYMMETRIC_WRAPPED"]
    assert message.master_token is not None
    assert message.user_auth is not None
    assert first.header.user_id_token is not None
    assert (second.payload, second.pairs) == (b"two", 1)


@pytest.mark.parametrize("size", [0, 1, 40_000, 1_500_000], ids=["empty", "one byte", "two chunks", "many chunks"])
def test_payload_comes_back_unchanged(service_world: ServiceWorld, service: RunningServer, size: int) -> None:
    payload = bytes(range(256)) * (size // 256) + bytes(size % 256)
    with closing(service_world.client()) as client:
        (response,) = exchange(client, service.url + "any/path%5E?query", payload)
    assert response.payload == payload


def test_text_is_cut_between_characters(service_world: ServiceWorld, service: RunningServer) -> None:
    """Deployed clients decode each chunk on its own."""
    payload = "\u00e9".encode() * 50_001
    with closing(service_world.client()) as client:
        (response,) = exchange(client, service.url, payload)
    assert response.payload == payload


def test_non_replayable_message_and_its_sequence(service_world: ServiceWorld, service: RunningServer) -> None:
    config = service_world.client_config("once.toml", ("[user]", "[message]\nnon_replayable = true\n\n[user]"))
    with closing(service_world.client(config)) as client:
        first, second = exchange(client, service.url, b"one", b"two")
    assert first.pairs == 2  # a non-replayable message needs a master token first
    assert first.requests[-1].non_replayable_id == 1
    assert second.requests[-1].non_replayable_id == 2


def test_renewal_inside_the_window(service_world: ServiceWorld) -> None:
    """Engine 4.2: from the renewal window on, a message also brings the next master token of the same serial."""
    config = service_world.server_config("renewing.toml", ("renewal_window = 3600", "renewal_window = 1"))
    with service_world.serve(config) as server, closing(service_world.client()) as client:
        (first,) = exchange(client, server.url, b"one")
        assert first.header.key_response is not None
        issued = first.header.key_response.master_token
        deadline = time.monotonic() + 20
        renewed = None
        while renewed is None and time.monotonic() < deadline:
            (response,) = exchange(client, server.url, b"more")
            assert (response.payload, response.pairs) == (b"more", 1)
            renewed = response.header.key_response
        assert renewed is not None
        assert renewed.master_token.serial_number == issued.serial_number
        assert renewed.master_token.sequence_number == issued.sequence_number + 1


def test_entities_that_cannot_follow_are_never_renewed(service_world: ServiceWorld) -> None:
    """The class of deployed clients for which ``renew = "never"`` exists."""
    config = service_world.server_config(
        "constant.toml",
        ("renewal_window = 3600", "renewal_window = 1"),
        (
            "lifetime = 86400",
            'lifetime = 86400\n\n[[token_policy.rule]]\nentities = ["development-*"]\nrenew = "never"',
        ),
    )
    with service_world.serve(config) as server, closing(service_world.client()) as client:
        (first,) = exchange(client, server.url, b"one")
        assert first.header.key_response is not None
        window = first.header.key_response.master_token.renewal_window
        response = first
        while response.header.timestamp is None or response.header.timestamp <= window:
            (response,) = exchange(client, server.url, b"more")
        assert response.requests[0].key_requests  # the client asked
        assert response.header.key_response is None


def test_session_survives_a_restart_of_the_server(service_world: ServiceWorld) -> None:
    """Token keys are in the token and replay state is in the database: nothing else ties a client to a process."""
    config = service_world.server_config("restarting.toml", ("state.sqlite", "restarting.sqlite"))
    once = service_world.client_config("once.toml", ("[user]", "[message]\nnon_replayable = true\n\n[user]"))
    with closing(service_world.client(once)) as client:
        with service_world.serve(config) as server:
            exchange(client, server.url, b"before")
        with service_world.serve(config) as server:
            (after,) = exchange(client, server.url, b"after")
    assert (after.payload, after.pairs) == (b"after", 1)
    assert after.requests[0].non_replayable_id == 2


def test_wrong_password(service_world: ServiceWorld, service: RunningServer) -> None:
    wrong = service_world.directory / "users/wrong.password"
    wrong.touch(mode=0o600)
    wrong.write_text("not the password")
    config = service_world.client_config("wrong.toml", ("user.password", "wrong.password"))
    error = refusal(service_world.client(config), service.url).error
    assert error.internal_code == ErrorCode.EMAILPASSWORD_INCORRECT
    assert error.response is ResponseCode.USERDATA_REAUTH


def test_unknown_entity(service_world: ServiceWorld, service: RunningServer) -> None:
    config = service_world.client_config("stranger.toml", ('"development-client"', '"stranger"'))
    error = refusal(service_world.client(config), service.url).error
    assert error.internal_code == ErrorCode.INCORRECT_ENTITYAUTH_DATA  # no rule permits strangers any scheme


def test_known_scheme_but_no_keys(service_world: ServiceWorld) -> None:
    config = service_world.server_config("open.toml", ('entities = ["development-client"]', 'entities = ["*"]'))
    client = service_world.client_config("stranger.toml", ('"development-client"', '"stranger"'))
    with service_world.serve(config) as server:
        error = refusal(service_world.client(client), server.url).error
    assert error.internal_code == ErrorCode.ENTITY_NOT_FOUND


def test_wrong_signature(service_world: ServiceWorld, service: RunningServer) -> None:
    wrong = service_world.directory / "keys/wrong.hex"
    wrong.touch(mode=0o600)
    wrong.write_text("00" * 32)
    config = service_world.client_config("forger.toml", ("keys/development-client.mac.hex", "keys/wrong.hex"))
    error = refusal(service_world.client(config), service.url).error
    assert error.internal_code == ErrorCode.MESSAGE_ENTITYDATABASED_VERIFICATION_FAILED
    assert error.response is ResponseCode.ENTITYDATA_REAUTH


def test_server_with_another_key_is_not_believed(service_world: ServiceWorld, service: RunningServer) -> None:
    """The answer of whoever does not hold the trusted private key is refused by the client, silently."""
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    from hsm_msl.errors import MslError

    other = rsa.generate_private_key(65537, 2048).public_key()
    path: Path = service_world.directory / "other.pem"
    path.write_bytes(other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    config = service_world.client_config("betrayed.toml", ('"server.pem"', '"other.pem"'))
    with closing(service_world.client(config)) as client, pytest.raises(MslError) as caught:
        exchange(client, service.url, b"secret")
    assert caught.value.code is ErrorCode.MESSAGE_ENTITYDATABASED_VERIFICATION_FAILED
