"""Whole MSL exchanges whose long-term keys are on one vendor's token; run in its process by ``vendor_runs``."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import Attribute
from pkcs11.mechanisms import Mechanism

from hsm_msl.backend.pkcs11.token import Token
from hsm_msl.cli.doctor import examine
from hsm_msl.crypto.sealing import LocalAesKey, LocalHmacKey
from hsm_msl.crypto.symmetric import SymmetricContext
from hsm_msl.errors import ConfigurationError
from hsm_msl.msl.client import MslClient
from hsm_msl.msl.context import MslContext
from hsm_msl.msl.conversation import Send
from hsm_msl.msl.keyx.asymmetric_wrapped import AsymmetricWrapped
from hsm_msl.ports import MacAlgorithm, SignatureScheme, SigningKey, SymmetricKeys, WrappingKey
from hsm_msl.service.compose.client import ComposedClient, compose_client
from hsm_msl.service.compose.server import compose_server
from hsm_msl.service.compose.tokens import Tokens
from hsm_msl.service.config import read_client_config, read_server_config
from hsm_msl.service.echo import echo
from key_backends import rsa_pair
from msl_keys import Ring
from msl_world import Credentials, Device, World, secret
from served_tokens import GUEST, KEYS
from token_fixture import WRAP
from token_places import with_identity, with_resident_keys
from vendor_tokens import MadeInToken, TpmKeys, VendorKeys

CLIENT = "psk-client"
AES_KEY_WRAP = Mechanism.AES_KEY_WRAP


def token_keys(backend: VendorKeys, wrapping: WrappingKey | None = None) -> SymmetricKeys:
    mac = backend.mac(bytes(range(40, 72)), MacAlgorithm.HMAC_SHA256)
    return SymmetricKeys(backend.aes(bytes(range(16))), mac, wrapping)


def identity_of(backend: VendorKeys) -> SigningKey:
    """A server's RSA identity: imported where the token takes keys, else made in it."""
    return backend.signing(rsa_pair())


def converse(world: World, device: Device, context: MslContext) -> None:
    """A first message that gets tokens, one under them, one with a user, and one after a renewal."""
    server = world.server(context=context)
    assert device.ask(secret(b"first"), server.handle).payload == b"first"
    assert len(device.pairs) <= 2
    device.pairs.clear()
    assert device.ask(secret(b"second"), server.handle).payload == b"second"
    assert len(device.pairs) == 1
    assert device.ask(secret(b"third", user=Credentials()), server.handle).payload == b"third"
    world.clock.advance(world.policy.renewal_window + 1)
    assert device.ask(secret(b"fourth", non_replayable=True), server.handle).payload == b"fourth"


def test_a_server_signs_with_its_identity_on_the_token(vendor_backend: VendorKeys) -> None:
    """Server RSA; the client stays unauthenticated, so the answer is signed by the token."""
    world = World()
    context = with_identity(world, world.server_context(), identity_of(vendor_backend))
    converse(world, world.client("NONE"), context)


def test_a_server_keeps_token_keys_and_pre_shared_keys_on_the_token(vendor_backend: VendorKeys) -> None:
    """Master tokens, user ID tokens, PSK entity authentication and service tokens, every key on the token."""
    world = World()
    encryption, mac = os.urandom(16), os.urandom(32)
    world.preshared[CLIENT] = SymmetricKeys(LocalAesKey(encryption), LocalHmacKey(mac))
    device = world.client("PSK", CLIENT)
    world.preshared[CLIENT] = SymmetricKeys(
        vendor_backend.aes(encryption), vendor_backend.mac(mac, MacAlgorithm.HMAC_SHA256)
    )
    world.ring = Ring(token_keys(vendor_backend))
    world.service_token_keys = {"": SymmetricContext(token_keys(vendor_backend), "service-tokens", world.random)}
    context = with_identity(world, world.server_context(), identity_of(vendor_backend))
    converse(world, device, context)


def test_session_keys_never_leave_the_token(vendor_backend: VendorKeys, vendor_token: Token) -> None:
    """``token`` residency over ASYMMETRIC_WRAPPED / RSA; packed by AES key wrap, or under RSA where there is none."""
    wrapping = vendor_backend.packing()
    world = World()
    world.ring = Ring(token_keys(vendor_backend, wrapping))
    base = with_identity(world, world.server_context(), identity_of(vendor_backend))
    context = with_resident_keys(world, base, vendor_token)
    device = world.client("NONE", offers=("ASYMMETRIC_WRAPPED",))
    mine = device.context.key_exchanges["ASYMMETRIC_WRAPPED"]
    assert isinstance(mine, AsymmetricWrapped)
    device.engine = MslClient(device.context, device.state, lambda: [mine.request("RSA")], lock=device.lock)
    converse(world, device, context)


SERVER_FILE = """
[tokens.a]
module = "unused"
label = "unused"

[entity]
scheme = "RSA"
identity = "development-server"
key_id = "development-server-1"

[keys."msl.token"]

[schemes]
key_exchange = ["ASYMMETRIC_WRAPPED"]

[[schemes.rule]]
entities = ["guest-*"]
entity = ["NONE"]
key_exchange = ["ASYMMETRIC_WRAPPED"]

[session_keys]
residency = "token"
"""


def test_a_server_composed_from_a_file_packs_session_keys_as_the_token_can(
    vendor_backend: VendorKeys, vendor_token: Token, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wrapping key under its usual name is for AES key wrap, or an RSA pair where the token has none."""
    token_keys(vendor_backend)  # a token without secret keys refuses by name
    keys = vendor_backend.keys
    for label, value in KEYS.items():
        if label.startswith("msl.token.mac"):
            keys.hmac(value, label=label)
        elif label.startswith("msl.token.encryption"):
            keys.aes(value, label=label)
    if "AES_KEY_WRAP" in vendor_token.mechanisms():
        keys.aes(KEYS["msl.token.wrap.v1"], WRAP, label="msl.token.wrap.v1")
    else:
        keys.rsa(rsa_pair(), (Attribute.UNWRAP,), label="msl.token.wrap.v1")
    keys.rsa(rsa_pair(), (Attribute.SIGN,), label="identity.rsa.v1")
    (tmp_path / "server.toml").write_text(SERVER_FILE)
    (tmp_path / "guest.toml").write_text(GUEST.replace("{number}", "1"))
    public = rsa_pair().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "server.pem").write_bytes(public)
    monkeypatch.setattr(Tokens, "open", lambda self, name: vendor_token)  # it is open in this process already
    with (
        closing(compose_server(read_server_config(tmp_path / "server.toml"), echo)) as server,
        closing(compose_client(read_client_config(tmp_path / "guest.toml"))) as client,
    ):
        assert ("session keys", f"in token {vendor_token.name!r}, which they leave only wrapped") in server.places
        for text in (b"first", b"second"):
            assert converse_with(server.server.handle, client, text) == text
        for cache in (server.context.service_token_cache, server.context.master_tokens._cache):
            cache.clear()
        assert converse_with(server.server.handle, client, b"third") == b"third"  # unpacked from the master token


def converse_with(handle: Callable[[bytes], bytes], client: ComposedClient, text: bytes) -> bytes:
    conversation = client.msl.request(client.message(text))
    step = next(conversation)
    while True:
        assert isinstance(step, Send)
        try:
            step = conversation.send(handle(step.body))
        except StopIteration as done:
            payload: bytes = done.value.payload
            return payload


def test_a_key_that_packs_nothing_is_refused_when_the_server_is_composed(
    vendor_backend: VendorKeys, vendor_token: Token, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that works by blocks wraps for peers, and no key of the token."""
    token_keys(vendor_backend)
    if "AES_KEY_WRAP" in vendor_token.mechanisms():
        monkeypatch.setattr(
            vendor_token.connection, "mechanisms", vendor_token.connection.mechanisms - {AES_KEY_WRAP}
        )
    keys = vendor_backend.keys
    keys.hmac(KEYS["msl.token.mac.v1"], label="by.blocks.mac.v1")
    for role in ("encryption", "wrap"):
        keys.aes(KEYS[f"msl.token.{role}.v1"], label=f"by.blocks.{role}.v1")
    named = SERVER_FILE.replace("[schemes]", 'label = "by.blocks.{role}.v{version}"\n\n[schemes]')
    (tmp_path / "server.toml").write_text(named)
    monkeypatch.setattr(Tokens, "open", lambda self, name: vendor_token)
    with pytest.raises(ConfigurationError, match=r"session_keys\.residency: .* under an RSA key"):
        compose_server(read_server_config(tmp_path / "server.toml"), echo)


def test_threads_share_the_token(vendor_backend: VendorKeys, vendor_token: Token) -> None:
    """Four threads on separate sessions: a wrong result or a crash would show within a second of work."""
    signing = identity_of(vendor_backend)
    calls = [lambda: len(signing.sign(b"data", SignatureScheme.RSA_PKCS1_SHA256)) == 256]
    if not isinstance(rsa_pair(), MadeInToken):
        keys = token_keys(vendor_backend)
        assert keys.encryption is not None
        assert keys.mac is not None
        aes, mac, tag = keys.encryption, keys.mac, keys.mac.sign(b"data")
        block = aes.encrypt_ecb(bytes(16))
        calls = [
            lambda: mac.sign(b"data") == tag,
            lambda: aes.encrypt_ecb(bytes(16)) == block,
            lambda: len(vendor_token.random(16)) == 16,
        ]
    wrong: list[object] = []
    deadline = time.monotonic() + 1.0

    def work() -> None:
        try:
            while time.monotonic() < deadline:
                wrong.extend(call for call in calls if not call())
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("size", [1, 32, 65536])
def test_random_bytes(vendor_token: Token, size: int) -> None:
    drawn = vendor_token.random(size)
    assert len(drawn) == size
    assert size < 32 or drawn != vendor_token.random(size)


def test_the_doctor_finds_nothing_wrong(
    vendor_backend: VendorKeys, vendor_token: Token, record_property: Callable[[str, object], None]
) -> None:
    """What a token lacks is no illness; a wrong result or an outage in a trial is. The table shows its findings."""
    identity_of(vendor_backend)  # a TPM signs with keys it holds and has no session keys to try
    if isinstance(vendor_backend, TpmKeys):
        vendor_backend.pair(SECP256R1)
    diagnosis = examine(vendor_token)
    for name, part in msgspec.to_builtins(diagnosis).items():
        record_property(name, json.dumps(part))
    assert diagnosis.healthy, diagnosis.findings
    assert [speed.operation for speed in diagnosis.speed if speed.per_second]
