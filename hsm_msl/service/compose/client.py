"""Composes a client: its identity and keys, the servers it trusts, its state and the engine."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from hsm_msl.backend.pin import pin_source
from hsm_msl.backend.software import SoftwareEphemeralKeys
from hsm_msl.crypto.context import CryptoContext
from hsm_msl.crypto.sealed_box import SealedBox
from hsm_msl.crypto.sealing import HostVault
from hsm_msl.crypto.symmetric import SymmetricContext
from hsm_msl.crypto.token_keys import TokenKeys
from hsm_msl.errors import BackendConfigurationError, ConfigurationError, ResponseCode
from hsm_msl.msl.client import MslClient
from hsm_msl.msl.client_state import ClientState, SessionSeal
from hsm_msl.msl.context import MslContext
from hsm_msl.msl.conversation import KeyRequestSource, Message, Payload
from hsm_msl.msl.entityauth.defaults import EntityParts, entity_auth_schemes
from hsm_msl.msl.keyx.asymmetric_wrapped import AsymmetricWrapped
from hsm_msl.msl.keyx.base import KeyExchange, PendingKeyRequest
from hsm_msl.msl.keyx.defaults import ExchangeParts, key_exchanges
from hsm_msl.msl.keyx.diffie_hellman import DiffieHellman
from hsm_msl.msl.keyx.ladder import Ladder
from hsm_msl.msl.keyx.symmetric_wrapped import SymmetricWrapped
from hsm_msl.msl.message.capabilities import Capabilities
from hsm_msl.msl.renewal import RenewalLock
from hsm_msl.msl.tokens.master_token import MasterTokens, TokenCache
from hsm_msl.msl.tokens.user_id_token import UserIdTokens
from hsm_msl.msl.userauth.base import UserAuthData
from hsm_msl.msl.userauth.email_password import email_password_data
from hsm_msl.ports import Clock, RandomBytes
from hsm_msl.ports.client import ClientStore
from hsm_msl.service.client_sections import KeyExchangeOffer
from hsm_msl.service.compose.entities import known_entities, local_entity, schemes_of, trust_store
from hsm_msl.service.compose.keys import KeySources, KnownKeys, Place
from hsm_msl.service.compose.parts import groups
from hsm_msl.service.documents import MEMORY, ClientConfig, Configuration
from hsm_msl.stores.authorization import RuleAuthorization, SchemeRule
from hsm_msl.stores.client_memory import MemoryClientStore
from hsm_msl.stores.client_schema import prepare_client
from hsm_msl.stores.client_sql import SqlClientStore
from hsm_msl.stores.memory import MemoryRevocations
from hsm_msl.stores.sql import Database

_NEW_DATA = frozenset({ResponseCode.USERDATA_REAUTH, ResponseCode.SSOTOKEN_REJECTED})


@dataclass(frozen=True, slots=True)
class ComposedClient:
    """A client ready to send, and what it stands on.

    Attributes:
        msl: the engine.
        state: its tokens and counters.
        places: what each key is for and where it lives.
    """

    msl: MslClient
    state: ClientState
    places: tuple[Place, ...]
    _config: Configuration[ClientConfig]
    _closing: ExitStack = field(repr=False)

    def message(self, payload: Payload) -> Message:
        """Return an application message protected and authenticated as the configuration says.

        Args:
            payload: the application data, or a function that opens it as pieces.
        """
        document = self._config.document
        section = document.message
        name = document.user.email if document.user else document.credentials.name if document.credentials else None
        return Message(
            payload,
            user=name,
            user_auth=None if name is None else self._user_auth,
            encrypted=section.encrypted,
            integrity=section.integrity,
            non_replayable=section.non_replayable,
        )

    def close(self) -> None:
        """Log out of tokens and close databases."""
        self._closing.close()

    def _user_auth(self, code: ResponseCode | None, required: bool) -> UserAuthData | None:
        """Give the credentials while they are needed; there are no others to offer when they were refused."""
        user, own = self._config.document.user, self._config.document.credentials
        if code in _NEW_DATA or not required:
            return None
        if user is not None:
            return email_password_data(user.email, self._secret("user.password", user.password))
        if own is None:
            return None
        strings = {name: self._secret(f"credentials.strings.{name}", source) for name, source in own.strings.items()}
        return UserAuthData(own.scheme, strings)

    def _secret(self, key: str, source: str) -> str:
        try:
            secret = pin_source(self._config.source(source)).read()
        except BackendConfigurationError as error:
            raise self._config.error(key, str(error).replace("PIN", "password")) from None
        return secret.reveal().decode("utf-8", "replace")


def compose_client(
    config: Configuration[ClientConfig], *, clock: Clock = time.time, random: RandomBytes = os.urandom
) -> ComposedClient:
    """Open what a client's configuration names and build the engine on it.

    Args:
        config: the checked configuration.
        clock: local time.
        random: cryptographic randomness.

    Raises:
        ConfigurationError: something in the file does not fit what is there; names the key.
        BackendError, StoreError: a token or database cannot be used.
    """
    document = config.document
    with ExitStack() as closing:
        sources = KeySources(config)
        closing.callback(sources.close)
        context = _context(config, sources, clock, random)
        store, seal = _state(config, sources, closing, random)
        state = ClientState(context, store, seal=seal, mutex=threading.RLock())
        offer = document.key_exchange
        client = MslClient(
            context,
            state,
            key_request_source(context.key_exchanges, offer),
            lock=RenewalLock(threading.Lock()),
            expected_identity=document.server.identity,
            renew_after_messages=offer.renew_after_messages,
            chunk_bytes=document.limits.chunk,
        )
        return ComposedClient(client, state, tuple(sources.places), config, closing.pop_all())


def _context(
    config: Configuration[ClientConfig], sources: KeySources, clock: Clock, random: RandomBytes
) -> MslContext:
    document = config.document
    own = local_entity(config, sources, document.entity, random)
    known = known_entities(sources, document.entities, document.entity, own)
    names = schemes_of(document.entities, document.entity, x509_trusted=document.x509 is not None)
    # The hooks are for issuers; a client asks them about the servers it was told to trust, and nobody else.
    authorization = RuleAuthorization((), MemoryRevocations(clock), SchemeRule("*", entity_schemes=names))
    vault = HostVault(random)
    token_keys = TokenKeys(None, own.entity.data.identity, random)
    sources.places.append(("session keys", "in this process"))
    parts = EntityParts(
        authorization,
        random,
        preshared=KnownKeys(known.preshared),
        rsa=known.rsa,
        ecc=known.ecc,
        trust=trust_store(config, document.x509, clock),
        certificate_keys=known.certificate_keys,
    )
    exchange_parts = ExchangeParts(
        vault,
        random,
        ephemeral=SoftwareEphemeralKeys(random),
        groups=groups(config),
        own=None if own.preshared is None else own.preshared.wrapping,
    )
    return MslContext(
        local=own.entity,
        entity_schemes=entity_auth_schemes(sorted(names), parts),
        user_schemes={},
        key_exchanges=key_exchanges(document.key_exchange.schemes, exchange_parts),
        authorization=authorization,
        token_keys=token_keys,
        master_tokens=MasterTokens(token_keys, vault, random, TokenCache(0)),
        user_id_tokens=UserIdTokens(token_keys, TokenCache(0)),
        issuer=None,
        vault=vault,
        clock=clock,
        random=random,
        capabilities=Capabilities(document.capabilities.compression, document.capabilities.languages),
        service_token_keys=_service_token_keys(config, sources, random),
    )


def _service_token_keys(
    config: Configuration[ClientConfig], sources: KeySources, random: RandomBytes
) -> dict[str, CryptoContext]:
    contexts: dict[str, CryptoContext] = {}
    for index, section in enumerate(config.document.service_token_keys):
        what = f"keys of service tokens {section.name}".rstrip()
        keys = sources.own(f"service_token_keys[{index}]", what, section.files, section.token, section.label)
        contexts[section.name] = SymmetricContext(keys, section.name, random)
    return contexts


def _state(
    config: Configuration[ClientConfig], sources: KeySources, closing: ExitStack, random: RandomBytes
) -> tuple[ClientStore, SessionSeal | None]:
    section = config.document.state
    if section.database == MEMORY:
        return MemoryClientStore(), None
    try:
        database = Database(config.database(section.database))
        closing.callback(database.close)
        prepare_client(database)
    except ConfigurationError as error:
        raise config.error("state.database", str(error)) from None
    store = SqlClientStore(database, section.profile)
    if section.files is None and section.token is None:
        return store, None
    keys = sources.own("state", "keys that seal stored sessions", section.files, section.token, section.label)
    if keys.encryption is None or keys.mac is None:
        raise config.error("state", "sealing takes an encryption key and a MAC key")
    return store, SessionSeal(SealedBox(keys.encryption, keys.mac, "client sessions", random), section.label)


def key_request_source(exchanges: Mapping[str, KeyExchange], offer: KeyExchangeOffer) -> KeyRequestSource:
    """Return the function that makes fresh key requests of every scheme offered."""

    def requests(exchange: KeyExchange) -> list[PendingKeyRequest]:
        match exchange:
            case DiffieHellman():
                return [exchange.request(offer.dh_group)]
            case AsymmetricWrapped():
                return [exchange.request(offer.rsa_mechanism)]
            case SymmetricWrapped():
                return [exchange.request()]
            case Ladder():
                return exchange.offers()
        raise TypeError(f"no request is known for {exchange.name}")

    return lambda: [request for exchange in exchanges.values() for request in requests(exchange)]
