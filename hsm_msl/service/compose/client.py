"""Composes a client: its identity and keys, the servers it trusts, its state and the engine."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from hsm_msl.backend.pin import pin_source
from hsm_msl.backend.software import SoftwareEphemeralKeys
from hsm_msl.crypto.sealing import HostVault
from hsm_msl.crypto.token_keys import TokenKeys
from hsm_msl.errors import BackendConfigurationError, ResponseCode
from hsm_msl.msl.client import MslClient
from hsm_msl.msl.client_state import ClientState
from hsm_msl.msl.context import MslContext
from hsm_msl.msl.conversation import KeyRequestSource, Message
from hsm_msl.msl.keyx.asymmetric_wrapped import MECHANISMS, AsymmetricWrapped
from hsm_msl.msl.keyx.base import KeyExchange, PendingKeyRequest
from hsm_msl.msl.keyx.diffie_hellman import DiffieHellman
from hsm_msl.msl.keyx.ladder import Ladder
from hsm_msl.msl.keyx.symmetric_wrapped import SymmetricWrapped
from hsm_msl.msl.renewal import RenewalLock
from hsm_msl.msl.tokens.master_token import MasterTokens, TokenCache
from hsm_msl.msl.tokens.user_id_token import UserIdTokens
from hsm_msl.msl.userauth.base import UserAuthData
from hsm_msl.msl.userauth.email_password import email_password_data
from hsm_msl.ports import Clock, RandomBytes
from hsm_msl.service.compose.entities import known_entities, local_entity, schemes_of
from hsm_msl.service.compose.keys import KeySources, Place
from hsm_msl.service.compose.server import capabilities, groups
from hsm_msl.service.config import ClientConfig, Configuration
from hsm_msl.service.schemes import ENTITY_SCHEMES, KEY_EXCHANGES, Materials
from hsm_msl.service.sections import KeyExchangeOffer
from hsm_msl.stores.authorization import RuleAuthorization, SchemeRule
from hsm_msl.stores.client_memory import MemoryClientStore
from hsm_msl.stores.memory import MemoryRevocations

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
    _sources: KeySources = field(repr=False)

    def message(self, payload: bytes) -> Message:
        """Return an application message protected and authenticated as the configuration says."""
        section = self._config.document.message
        user = self._config.document.user
        return Message(
            payload,
            user=None if user is None else user.email,
            user_auth=None if user is None else self._user_auth,
            encrypted=section.encrypted,
            integrity=section.integrity,
            non_replayable=section.non_replayable,
        )

    def close(self) -> None:
        """Log out of tokens."""
        self._sources.close()

    def _user_auth(self, code: ResponseCode | None, required: bool) -> UserAuthData | None:
        """Give the password while it is needed; there is no other one to offer when it was refused."""
        user = self._config.document.user
        if user is None or code in _NEW_DATA or not required:
            return None
        try:
            secret = pin_source(self._config.source(user.password)).read()
        except BackendConfigurationError as error:
            raise self._config.error("user.password", str(error).replace("PIN", "password")) from None
        return email_password_data(user.email, secret.reveal().decode("utf-8", "replace"))


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
        BackendError: a token cannot be used.
    """
    document = config.document
    for name in document.key_exchange.schemes:
        config.check_name("key_exchange.schemes", name, KEY_EXCHANGES, "key exchange")
    config.check_name("key_exchange.rsa_mechanism", document.key_exchange.rsa_mechanism, MECHANISMS, "mechanism")
    sources = KeySources(config)
    try:
        local = local_entity(sources, document.entity, random)
        entities = known_entities(sources, document.entities, document.entity, local)
        names = schemes_of(document.entities, document.entity)
        # The hooks are for issuers; a client asks them about the servers it was told to trust, and nobody else.
        authorization = RuleAuthorization(
            (), MemoryRevocations(clock), SchemeRule("*", pattern=True, entity_schemes=names)
        )
        vault = HostVault(random)
        materials = Materials(
            authorization=authorization,
            random=random,
            preshared=entities.preshared,
            rsa=entities.rsa,
            ecc=entities.ecc,
            vault=vault,
            ephemeral=SoftwareEphemeralKeys(random),
            groups=groups(config),
            own_wrapping=None if local.preshared is None else local.preshared.wrapping,
        )
        exchanges = {name: KEY_EXCHANGES[name](materials) for name in document.key_exchange.schemes}
        token_keys = TokenKeys(None, document.entity.identity, random)
        context = MslContext(
            local=local.entity,
            entity_schemes={name: ENTITY_SCHEMES[name](materials) for name in sorted(names)},
            user_schemes={},
            key_exchanges=exchanges,
            authorization=authorization,
            token_keys=token_keys,
            master_tokens=MasterTokens(token_keys, vault, random, TokenCache(0)),
            user_id_tokens=UserIdTokens(token_keys, TokenCache(0)),
            issuer=None,
            vault=vault,
            clock=clock,
            random=random,
            capabilities=capabilities(document.capabilities),
        )
    except BaseException:
        sources.close()
        raise
    sources.places.append(("session keys", "in this process"))
    state = ClientState(context, MemoryClientStore(), mutex=threading.RLock())
    client = MslClient(
        context,
        state,
        key_request_source(exchanges, document.key_exchange),
        lock=RenewalLock(threading.Lock()),
        expected_identity=document.server.identity,
        chunk_bytes=document.limits.chunk,
    )
    return ComposedClient(client, state, tuple(sources.places), config, sources)


def key_request_source(exchanges: Mapping[str, KeyExchange], offer: KeyExchangeOffer) -> KeyRequestSource:
    """Return the function that makes one fresh key request per scheme offered."""

    def request(exchange: KeyExchange) -> PendingKeyRequest:
        match exchange:
            case DiffieHellman():
                return exchange.request(offer.dh_group)
            case AsymmetricWrapped():
                return exchange.request(offer.rsa_mechanism)
            case SymmetricWrapped() | Ladder():
                return exchange.request()
        raise TypeError(f"no request is known for {exchange.name}")

    return lambda: [request(exchange) for exchange in exchanges.values()]
