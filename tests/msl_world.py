"""A whole trusted-services network in one process: servers, clients, stores and a clock the test sets.

Everything is the real engine over process-local keys and in-memory stores. Time stands still until a test moves it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from hsm_msl.crypto.sealing import HostVault
from hsm_msl.crypto.symmetric import SymmetricContext
from hsm_msl.crypto.token_keys import TokenKeys
from hsm_msl.errors import ResponseCode
from hsm_msl.msl.client import MslClient
from hsm_msl.msl.client_state import ClientState
from hsm_msl.msl.context import MslContext
from hsm_msl.msl.conversation import Conversation, KeyRequestSource, Message, Response, Send, Wait
from hsm_msl.msl.entityauth.base import EntityAuthData, EntityAuthScheme, LocalEntity
from hsm_msl.msl.entityauth.psk import PskScheme, psk_data
from hsm_msl.msl.entityauth.rsa import RsaScheme, rsa_data
from hsm_msl.msl.entityauth.unauthenticated import NoneScheme, none_data
from hsm_msl.msl.keyx.asymmetric_wrapped import AsymmetricWrapped
from hsm_msl.msl.keyx.base import KeyExchange, PendingKeyRequest
from hsm_msl.msl.keyx.diffie_hellman import DiffieHellman
from hsm_msl.msl.message.capabilities import Capabilities
from hsm_msl.msl.renewal import Mutex, RenewalLock
from hsm_msl.msl.response import NO_REQUIREMENTS, Requirements
from hsm_msl.msl.server import Application, MslServer
from hsm_msl.msl.server_exchange import ServerEvents
from hsm_msl.msl.tokens.issuer import TokenIssuer, TokenPolicy
from hsm_msl.msl.tokens.master_token import MasterTokens, TokenCache
from hsm_msl.msl.tokens.service_token import ServiceTokenKeys
from hsm_msl.msl.tokens.user_id_token import UserIdTokens
from hsm_msl.msl.userauth.email_password import EmailPasswordScheme
from hsm_msl.ports import RandomBytes, RenewalStore, ReplayStore, SymmetricKeys, VerifyingKey
from hsm_msl.stores.client_memory import MemoryClientStore
from hsm_msl.stores.memory import MemoryRenewalStore, MemoryReplayStore
from msl_actors import (
    ADA,
    BOB,
    LIFETIME,
    PASSWORDS,
    RENEWAL_WINDOW,
    SERVER,
    START,
    Clock,
    Credentials,
    Grants,
    Inbox,
    PasswordList,
    RevocationList,
    echo,
    public,
    secret,
)
from msl_keys import GROUPS, SMALL_GROUP, Ephemeral, Lookup, Ring, RsaSigner, RsaVerifier, rsa_key, symmetric_keys

CAPABILITIES = Capabilities(("GZIP", "LZW"), ("en-US",))

Answer = Callable[[bytes], bytes]

__all__ = [
    "ADA",
    "BOB",
    "CAPABILITIES",
    "LIFETIME",
    "PASSWORDS",
    "RENEWAL_WINDOW",
    "SERVER",
    "START",
    "Answer",
    "Clock",
    "Credentials",
    "Device",
    "Grants",
    "Inbox",
    "PasswordList",
    "RevocationList",
    "World",
    "body_of",
    "drive",
    "echo",
    "key_requests",
    "public",
    "secret",
]


@dataclass
class Device:
    """One client: its engine, its state, and the pairs of bodies it exchanged through ``ask``."""

    context: MslContext
    state: ClientState
    lock: RenewalLock
    engine: MslClient
    pairs: list[tuple[bytes, bytes]] = field(default_factory=list)

    @property
    def identity(self) -> str:
        return self.context.local.data.identity

    def ask(self, message: Message, answer: Answer) -> Response:
        """Run a conversation to its end against a server."""
        return drive(self.engine.request(message), self.recorded(answer))

    def recorded(self, answer: Answer) -> Answer:
        def record(body: bytes) -> bytes:
            reply = answer(body)
            self.pairs.append((body, reply))
            return reply

        return record


def body_of(step: Send | Wait) -> bytes:
    """Return what a conversation wants to send; it must not be waiting."""
    if not isinstance(step, Send):
        raise TypeError("the conversation waits for another")
    return step.body


def drive(conversation: Conversation, answer: Answer) -> Response:
    """Run a conversation that needs to wait for no other."""
    try:
        step = next(conversation)
        while True:
            step = conversation.send(answer(body_of(step)))
    except StopIteration as done:
        response: Response = done.value
        return response
    finally:
        conversation.close()


class World:
    """The keys, stores and policies that the servers of one network share, and the clients enrolled with them.

    Args:
        seed: makes everything but RSA keys the same on each run.
        policy: lifetimes of tokens.
        server_scheme: how the servers authenticate themselves: RSA, NONE or PSK.
        exchanges: key exchange schemes of the servers, preferred first.
        replays, renewals: shared state, in memory unless given.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        policy: TokenPolicy | None = None,
        server_scheme: str = "RSA",
        exchanges: Sequence[str] = ("DIFFIE_HELLMAN", "ASYMMETRIC_WRAPPED"),
        replays: ReplayStore | None = None,
        renewals: RenewalStore | None = None,
    ) -> None:
        self.clock = Clock()
        self.random: RandomBytes = random.Random(seed).randbytes
        self.policy = TokenPolicy(RENEWAL_WINDOW, LIFETIME) if policy is None else policy
        self.grants = Grants()
        self.revocations = RevocationList()
        self.users = PasswordList()
        self.replays: ReplayStore = MemoryReplayStore() if replays is None else replays
        self.renewals: RenewalStore = MemoryRenewalStore() if renewals is None else renewals
        self.ring = Ring(symmetric_keys(self.random))
        self.preshared: Lookup[SymmetricKeys] = Lookup()
        self.public_keys: Lookup[VerifyingKey] = Lookup()
        self.public_keys[f"{SERVER}-key"] = RsaVerifier(RsaSigner(rsa_key(SERVER)).public_key)
        self.preshared[SERVER] = symmetric_keys(self.random)
        self.service_token_keys: ServiceTokenKeys = {
            "": SymmetricContext(symmetric_keys(self.random), "service-tokens", self.random)
        }
        self.vault = HostVault(self.random)
        self.exchanges = exchanges
        self.server_scheme = server_scheme
        self.context = self.server_context()

    def key_exchanges(self, names: Sequence[str]) -> dict[str, KeyExchange]:
        ephemeral = Ephemeral(self.random)
        made: Mapping[str, KeyExchange] = {
            "DIFFIE_HELLMAN": DiffieHellman(GROUPS, ephemeral, self.vault),
            "ASYMMETRIC_WRAPPED": AsymmetricWrapped(ephemeral, self.vault, self.random),
        }
        return {name: made[name] for name in names}

    def server_context(self, *, clock: Clock | None = None, cache: int = 1000) -> MslContext:
        """Return the context of one more server of the network: shared keys and stores, caches of its own."""
        now = self.clock if clock is None else clock
        keys = TokenKeys(self.ring, SERVER, self.random)
        master_tokens = MasterTokens(keys, self.vault, self.random, TokenCache(cache))
        user_id_tokens = UserIdTokens(keys, TokenCache(cache))
        issuer = TokenIssuer(
            master_tokens,
            user_id_tokens,
            self.policy,
            clock=now,
            random=self.random,
            replays=self.replays,
            renewals=self.renewals,
            revocations=self.revocations,
        )
        schemes: dict[str, EntityAuthScheme] = {
            "PSK": PskScheme(self.preshared, self.grants, self.random),
            "RSA": RsaScheme(self.public_keys, self.grants, f"{SERVER}-key", RsaSigner(rsa_key(SERVER))),
            "NONE": NoneScheme(self.grants),
        }
        data = _entity_data(self.server_scheme, SERVER)
        return MslContext(
            _local(schemes[self.server_scheme], data),
            schemes,
            {"EMAIL_PASSWORD": EmailPasswordScheme(self.users, self.grants)},
            self.key_exchanges(self.exchanges),
            self.grants,
            keys,
            master_tokens,
            user_id_tokens,
            issuer,
            self.vault,
            now,
            self.random,
            CAPABILITIES,
            self.service_token_keys,
            TokenCache(cache),
        )

    def server(
        self,
        application: Application = echo,
        *,
        context: MslContext | None = None,
        requirements: Requirements = NO_REQUIREMENTS,
        events: ServerEvents | None = None,
    ) -> MslServer:
        return MslServer(
            self.context if context is None else context, application, requirements=requirements, events=events
        )

    def client(
        self,
        scheme: str = "PSK",
        identity: str | None = None,
        *,
        offers: Sequence[str] = ("DIFFIE_HELLMAN",),
        group: str = SMALL_GROUP,
        capabilities: Capabilities | None = CAPABILITIES,
        clock: Clock | None = None,
        expected_identity: str | None = None,
        reauthenticate: Callable[[ResponseCode], LocalEntity | None] | None = None,
        renew_after_messages: int = 0,
        service_token_keys: ServiceTokenKeys | None = None,
        mutex: Mutex | None = None,
        lock: RenewalLock | None = None,
    ) -> Device:
        """Enrol and return a client.

        Args:
            scheme: PSK, RSA or NONE.
            identity: its identity, by default derived from the scheme.
            offers: key exchange schemes it offers, in this order; ASYMMETRIC_WRAPPED uses JWK_RSA.
            group: its Diffie-Hellman group.
            mutex: a re-entrant lock when several threads share the client.
            lock: its renewal lock.
        """
        name = f"{scheme.lower()}-client" if identity is None else identity
        schemes: dict[str, EntityAuthScheme] = {
            "RSA": RsaScheme(self.public_keys, self.grants),
            "NONE": NoneScheme(self.grants),
        }
        if scheme == "PSK":
            self.preshared.setdefault(name, symmetric_keys(self.random))
        if scheme == "RSA":
            self.public_keys.setdefault(f"{name}-key", RsaVerifier(RsaSigner(rsa_key(name)).public_key))
            schemes["RSA"] = RsaScheme(self.public_keys, self.grants, f"{name}-key", RsaSigner(rsa_key(name)))
        # A client knows its own keys and, where servers speak PSK, theirs.
        known = Lookup({owner: self.preshared[owner] for owner in (name, SERVER) if owner in self.preshared})
        schemes["PSK"] = PskScheme(known, self.grants, self.random)
        keys = TokenKeys(None, name, self.random)
        context = MslContext(
            _local(schemes[scheme], _entity_data(scheme, name)),
            schemes,
            {},
            self.key_exchanges(("DIFFIE_HELLMAN", "ASYMMETRIC_WRAPPED")),
            self.grants,
            keys,
            MasterTokens(keys, self.vault, self.random, TokenCache(0)),
            UserIdTokens(keys, TokenCache(0)),
            None,
            self.vault,
            self.clock if clock is None else clock,
            self.random,
            capabilities,
            {} if service_token_keys is None else service_token_keys,
        )
        state = ClientState(context, MemoryClientStore(), mutex=mutex)
        lock = RenewalLock(mutex) if lock is None else lock
        engine = MslClient(
            context,
            state,
            key_requests(context, offers, group),
            lock=lock,
            reauthenticate=reauthenticate,
            expected_identity=expected_identity,
            renew_after_messages=renew_after_messages,
        )
        return Device(context, state, lock, engine)


def key_requests(context: MslContext, offers: Sequence[str], group: str = SMALL_GROUP) -> KeyRequestSource:
    """Return what makes fresh key requests of the schemes named."""
    makers: list[Callable[[], PendingKeyRequest]] = []
    for name in offers:
        exchange = context.key_exchanges[name]
        if isinstance(exchange, DiffieHellman):
            makers.append(partial(exchange.request, group))
        elif isinstance(exchange, AsymmetricWrapped):
            makers.append(partial(exchange.request, "JWK_RSA"))
    return lambda: [make() for make in makers]


def _entity_data(scheme: str, identity: str) -> EntityAuthData:
    if scheme == "RSA":
        return rsa_data(identity, f"{identity}-key")
    return psk_data(identity) if scheme == "PSK" else none_data(identity)


def _local(scheme: EntityAuthScheme, data: EntityAuthData) -> LocalEntity:
    return LocalEntity(data, scheme.context(data), scheme.encrypts, scheme.protects_integrity)
