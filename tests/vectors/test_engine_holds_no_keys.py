"""After an exchange, no long-term key is anywhere in the live engine, and session keys only in their handles."""

from __future__ import annotations

import base64
import os

import pytest

from hsm_msl.crypto.sealing import LocalAesKey, LocalHmacKey
from hsm_msl.msl.client import MslClient
from hsm_msl.msl.client_state import ClientState
from hsm_msl.msl.conversation import Message
from hsm_msl.msl.server import MslServer
from hsm_msl.msl.tokens.master_token import MasterToken
from hsm_msl.msl.userauth.email_password import email_password_data
from hsm_msl.stores.client_memory import MemoryClientStore
from msl_world import drive
from object_graph import contains, walk
from recorded_exchange import Recording, SessionSecret, open_token, recordings
from recorded_network import USERS, KeyHome, client_context, server_context

LONG_TERM = (
    "msl_token_enc_key_hex",
    "msl_token_hmac_key_hex",
    "msl_token_wrap_key_hex",
    "psk_enc_key_hex",
    "psk_hmac_key_hex",
    "psk_wrap_key_hex",
    "service_token_enc_key_hex",
    "service_token_hmac_key_hex",
)
HANDLES = (LocalAesKey, LocalHmacKey)


@pytest.fixture
def recording() -> Recording:
    found = recordings(entity_auth=("PSK",), mechanisms=(None,))
    return next(r for r in found if r.name == "PSK_client1.DIFFIE_HELLMAN.user1")


def test_the_walk_finds_what_is_hidden_in_closures_slots_and_nested_data() -> None:
    secret = os.urandom(16)

    def closure() -> bytes:
        return secret

    hidden = {"a": [({"b": closure},)]}
    assert any(contains(item, secret) for item, _ in walk(hidden))
    assert any(contains(item, secret) for item, _ in walk(LocalAesKey(secret)))
    assert any(contains(item, secret) for item, _ in walk({"text": "x" + secret.hex()}))
    assert not any(contains(item, os.urandom(16)) for item, _ in walk(hidden))


def test_no_key_bytes_in_a_live_engine(recording: Recording, token_home: KeyHome) -> None:
    now = recording.pairs[0]["request"]["header"]["timestamp"]
    context = server_context(recording, token_home, lambda: now)
    server = MslServer(context, lambda request: request.payload)
    for pair in recording.pairs:
        server.handle(bytes.fromhex(pair["request_hex"]))
    client = client_of(recording, token_home, now)
    assert drive(client.request(message()), server.handle).payload == b"to be echoed"

    long_term = [bytes.fromhex(recording.secrets[name]) for name in LONG_TERM]
    exposed = [type(item) for item, _ in walk(server, client) for secret in long_term if contains(item, secret)]
    assert exposed == []

    session_keys = issued_keys(recording, context.master_tokens)
    assert session_keys
    found = 0
    for item, path in walk(server, client):
        if any(contains(item, secret) for secret in session_keys):
            found += 1
            assert isinstance(item, bytes)
            assert any(isinstance(step, HANDLES) for step in path), [type(step) for step in path]
    assert found, "the walk must reach the handles themselves"


def client_of(recording: Recording, home: KeyHome, now: float) -> MslClient:
    context = client_context(recording, home, lambda: now)
    exchange = context.key_exchanges["DIFFIE_HELLMAN"]
    group = recording.secrets["dh_parametersid"]
    return MslClient(context, ClientState(context, MemoryClientStore()), lambda: [exchange.request(group)])  # type: ignore[attr-defined] # this one can


def message() -> Message:
    (email, password), *_ = USERS.items()
    return Message(
        b"to be echoed",
        user=email,
        user_auth=lambda code, required: email_password_data(email, password) if required else None,
    )


def issued_keys(recording: Recording, tokens: object) -> list[bytes]:
    """Return the raw session keys of every master token in the server's cache, opened with the recorded keys."""
    secret = SessionSecret(
        bytes.fromhex(recording.secrets["msl_token_enc_key_hex"]),
        bytes.fromhex(recording.secrets["msl_token_hmac_key_hex"]),
    )
    keys = []
    for item, _ in walk(tokens):
        if isinstance(item, MasterToken):
            _, hidden = open_token(secret, {"tokendata": item.tokendata, "signature": item.signature}, "sessiondata")
            keys += [base64.b64decode(hidden["encryptionkey"]), base64.b64decode(hidden["signaturekey"])]
    return keys
