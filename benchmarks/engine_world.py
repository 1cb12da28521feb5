"""One server and one client for measurements: the server's keys in a SoftHSMv2 token made by the real ceremony."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hsm_msl.backend.keyring import KeyState, KeyVersion, PurposeView
from hsm_msl.backend.pin import FilePin
from hsm_msl.backend.pkcs11 import module
from hsm_msl.backend.pkcs11.connection import TokenSelector
from hsm_msl.backend.pkcs11.token import Token, open_token
from hsm_msl.backend.pkcs11.vendors.softhsm import SOFTHSM
from hsm_msl.backend.software import SoftwareAesKey, SoftwareEphemeralKeys, software_mac_key
from hsm_msl.crypto.public_key import PublicKey
from hsm_msl.crypto.sealing import HostVault
from hsm_msl.crypto.token_keys import TokenKeys
from hsm_msl.msl.client import MslClient
from hsm_msl.msl.client_state import ClientState
from hsm_msl.msl.context import MslContext
from hsm_msl.msl.conversation import Message, Response, Send
from hsm_msl.msl.entityauth.base import EntityAuthScheme, LocalEntity
from hsm_msl.msl.entityauth.psk import PskScheme, psk_data
from hsm_msl.msl.entityauth.rsa import RsaScheme, rsa_data
from hsm_msl.msl.keyx.asymmetric_wrapped import AsymmetricWrapped
from hsm_msl.msl.message.capabilities import Capabilities
from hsm_msl.msl.server import MslServer
from hsm_msl.msl.tokens.issuer import TokenIssuer, TokenPolicy
from hsm_msl.msl.tokens.master_token import MasterTokens, TokenCache
from hsm_msl.msl.tokens.user_id_token import UserIdTokens
from hsm_msl.msl.userauth.email_password import EmailPasswordScheme, email_password_data
from hsm_msl.ports import MacAlgorithm, SymmetricKeys, VerifyingKey
from hsm_msl.stores.client_memory import MemoryClientStore
from hsm_msl.stores.memory import MemoryRenewalStore, MemoryReplayStore, MemoryRevocations

ROOT = Path(__file__).parents[1]
CLIENT = "development-client"
USER = "user@example.com"


class Everyone:
    """Permits every scheme, and knows every user: rules and users are not what is measured."""

    def entity_revoked(self, identity: str) -> bool:
        return False

    def entity_scheme_permitted(self, identity: str, scheme: str) -> bool:
        return True

    def user_scheme_permitted(self, identity: str, user: str | None, scheme: str) -> bool:
        return True

    def key_exchange_permitted(self, identity: str, scheme: str) -> bool:
        return True

    def authenticate(self, email: str, password: str) -> str | None:
        return email


class Known(dict[str, SymmetricKeys]):
    """Pre-shared keys by identity."""

    def find(self, identity: str) -> SymmetricKeys | None:
        return self.get(identity)


class Trusted(dict[str, VerifyingKey]):
    """Public keys by ID."""

    def find(self, key_id: str) -> VerifyingKey | None:
        return self.get(key_id)


@dataclass
class World:
    """A server, a client that has started with it, and what the measurements need to know."""

    server: MslServer
    client: MslClient
    state: ClientState
    caches: tuple[TokenCache, ...]
    token: Token

    def ask(self, payload: bytes) -> tuple[Response, list[bytes]]:
        """Send one message; return the reply and every request body it took."""
        message = Message(
            payload,
            user=USER,
            user_auth=lambda code, required: email_password_data(USER, "-") if required else None,
        )
        conversation = self.client.request(message)
        bodies: list[bytes] = []
        try:
            step = next(conversation)
            while isinstance(step, Send):
                bodies.append(step.body)
                step = conversation.send(self.server.handle(step.body))
            raise RuntimeError("a lone client waits for nobody")
        except StopIteration as done:
            response: Response = done.value
            return response, bodies

    def forget_tokens(self) -> None:
        """Empty the verified-token caches, so that the next message costs its token operations."""
        for cache in self.caches:
            cache.clear()


@contextmanager
def provisioned() -> Iterator[tuple[Path, Token]]:
    """Yield the working directory of a development ceremony and its token, in a store that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="hsm-msl-bench-") as name:
        directory = Path(name)
        (directory / "tokens").mkdir()
        configuration = directory / "softhsm2.conf"
        configuration.write_text(
            f"directories.tokendir = {directory / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n"
        )
        os.environ["SOFTHSM2_CONF"] = str(configuration)
        work = directory / "work"
        work.mkdir()
        ceremony = ROOT / "provisioning/ceremonies/development.toml"
        subprocess.run(
            [sys.executable, "-m", "hsm_provision", "apply", str(ceremony), "-C", str(work)],
            check=True,
            capture_output=True,
            timeout=120,
        )
        loaded = module.load("softhsm")
        selector = TokenSelector(label="hsm-msl-development")
        yield work, open_token(loaded, selector, FilePin(work / "pins/user.pin"), SOFTHSM)
        loaded.finalize()


def build(work: Path, token: Token) -> World:
    """Return server and client over a provisioned token."""
    random = os.urandom
    everyone = Everyone()
    vault = HostVault(random)
    ephemeral = SoftwareEphemeralKeys(random)
    signing = token.signing_key("identity.rsa.v1")
    verifying = PublicKey(signing.public_key)
    ring = PurposeView(
        "msl.token",
        [
            KeyVersion(
                "1",
                KeyState.PRIMARY,
                SymmetricKeys(token.aes_key("msl.token.encryption.v1"), token.mac_key("msl.token.mac.v1")),
            )
        ],
    )
    caches = (TokenCache(1000), TokenCache(1000))
    keys = TokenKeys(ring, "server", random)
    masters, users = MasterTokens(keys, vault, random, caches[0]), UserIdTokens(keys, caches[1])
    issuer = TokenIssuer(
        masters,
        users,
        TokenPolicy(),
        clock=time.time,
        random=random,
        replays=MemoryReplayStore(),
        renewals=MemoryRenewalStore(),
        revocations=MemoryRevocations(time.time),
    )
    preshared = SymmetricKeys(token.aes_key(f"psk.{CLIENT}.encryption.v1"), token.mac_key(f"psk.{CLIENT}.mac.v1"))
    exchange = AsymmetricWrapped(ephemeral, vault, random)
    rsa = RsaScheme(Trusted(identity=verifying), everyone, "identity", signing)
    schemes: dict[str, EntityAuthScheme] = {
        "PSK": PskScheme(Known({CLIENT: preshared}), everyone, random),
        "RSA": rsa,
    }
    local = rsa_data("server", "identity")
    server = MslContext(
        local=LocalEntity(local, rsa.context(local), encrypts=False, protects_integrity=True),
        entity_schemes=schemes,
        user_schemes={"EMAIL_PASSWORD": EmailPasswordScheme(everyone, everyone)},
        key_exchanges={exchange.name: exchange},
        authorization=everyone,
        token_keys=keys,
        master_tokens=masters,
        user_id_tokens=users,
        issuer=issuer,
        vault=vault,
        clock=time.time,
        random=random,
        capabilities=Capabilities((), ("en",)),
    )
    client = _client(work, vault, exchange, verifying)
    state = ClientState(client, MemoryClientStore())
    engine = MslClient(client, state, lambda: [exchange.request("JWK_RSA")])
    return World(MslServer(server, lambda request: request.payload), engine, state, caches, token)


def _client(work: Path, vault: HostVault, exchange: AsymmetricWrapped, server_key: VerifyingKey) -> MslContext:
    def key(role: str) -> bytes:
        return bytes.fromhex((work / f"keys/{CLIENT}.{role}.hex").read_text().strip())

    everyone = Everyone()
    own = SymmetricKeys(SoftwareAesKey(key("encryption")), software_mac_key(key("mac"), MacAlgorithm.HMAC_SHA256))
    psk = PskScheme(Known({CLIENT: own}), everyone, os.urandom)
    local = psk_data(CLIENT)
    keys = TokenKeys(None, "", os.urandom)
    return MslContext(
        local=LocalEntity(local, psk.context(local), encrypts=True, protects_integrity=True),
        entity_schemes={"PSK": psk, "RSA": RsaScheme(Trusted(identity=server_key), everyone)},
        user_schemes={},
        key_exchanges={exchange.name: exchange},
        authorization=everyone,
        token_keys=keys,
        master_tokens=MasterTokens(keys, vault, os.urandom, TokenCache(0)),
        user_id_tokens=UserIdTokens(keys, TokenCache(0)),
        issuer=None,
        vault=vault,
        clock=time.time,
        random=os.urandom,
        capabilities=Capabilities((), ("en",)),
    )
