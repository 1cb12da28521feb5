"""Composes a server: tokens, keys, stores, schemes and the engine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from hsm_msl.backend.software import SoftwareEphemeralKeys
from hsm_msl.crypto.sealing import HostVault
from hsm_msl.crypto.symmetric import SymmetricContext
from hsm_msl.crypto.token_keys import TokenKeys
from hsm_msl.msl.context import MslContext
from hsm_msl.msl.keyx.dh_group import STANDARD_GROUPS, DhGroup
from hsm_msl.msl.message.capabilities import Capabilities
from hsm_msl.msl.server import Application, MslServer
from hsm_msl.msl.tokens.issuer import TokenIssuer, TokenPolicy
from hsm_msl.msl.tokens.master_token import MasterTokens, TokenCache
from hsm_msl.msl.tokens.user_id_token import UserIdTokens
from hsm_msl.ports import Clock, RandomBytes, SymmetricKeys, TokenKeyRing
from hsm_msl.service.compose.entities import known_entities, local_entity
from hsm_msl.service.compose.keys import AnyConfiguration, KeySources, Place
from hsm_msl.service.compose.state import ServerState, open_state, renewal_policy
from hsm_msl.service.config import TOKEN_KEYS, Configuration, ServerConfig, check_schemes
from hsm_msl.service.event_log import EventLog
from hsm_msl.service.schemes import ENTITY_SCHEMES, KEY_EXCHANGES, USER_SCHEMES, Materials
from hsm_msl.service.sections import CapabilitiesSection, KeyPairIdentity, RuleSection

_PROBE = b"is this key still there?"


@dataclass(frozen=True, slots=True)
class ComposedServer:
    """A server ready to answer, and what it stands on.

    Attributes:
        server: the engine.
        context: what the engine was given.
        places: what each key is for and where it lives.
        ring: the token keys.
        state: stores and rules.
    """

    server: MslServer
    context: MslContext
    places: tuple[Place, ...]
    ring: TokenKeyRing
    state: ServerState
    _closing: ExitStack = field(repr=False)

    @property
    def identity(self) -> str:
        """The server's identity."""
        return self.context.local.data.identity

    def check(self) -> None:
        """Use a token key and ask a store, to see whether they answer.

        Raises:
            BackendError, StoreError: they do not.
        """
        mac = self.ring.primary().mac
        if mac is not None:
            mac.sign(_PROBE)
        self.state.revocations.entity_revoked(self.identity)

    def close(self) -> None:
        """Log out of tokens and close databases; a second call does nothing."""
        self._closing.close()


def compose_server(
    config: Configuration[ServerConfig],
    application: Application,
    *,
    clock: Clock = time.time,
    random: RandomBytes = os.urandom,
) -> ComposedServer:
    """Open everything a server's configuration names and build the engine on it.

    Args:
        config: the checked configuration.
        application: answers requests.
        clock: local time.
        random: source of initialisation vectors, IDs and salts.

    Raises:
        ConfigurationError: something in the file does not fit what is there; names the key.
        BackendConfigurationError: wrong PIN, missing token or module.
        BackendUnavailableError, StoreError: a token or database gives no answer.
    """
    document = config.document
    check_schemes(config, entity=ENTITY_SCHEMES, user=USER_SCHEMES, exchange=KEY_EXCHANGES)
    with ExitStack() as closing:
        sources = KeySources(config)
        closing.callback(sources.close)
        ring = sources.ring(TOKEN_KEYS, document.keys[TOKEN_KEYS])
        state = open_state(config, closing, clock, random)
        vault = HostVault(_session_key_source(sources, document.session_keys.source, random))
        local = local_entity(sources, document.entity, random)
        entities = known_entities(sources, document.entities, document.entity, local)
        materials = Materials(
            authorization=state.authorization,
            random=random,
            preshared=entities.preshared,
            rsa=entities.rsa,
            ecc=entities.ecc,
            vault=vault,
            ephemeral=SoftwareEphemeralKeys(random),
            groups=groups(config),
            ring=ring,
            users=state.users,
        )
        token_keys = TokenKeys(ring, document.entity.identity, random)
        master_tokens = MasterTokens(token_keys, vault, random, TokenCache(document.cache.tokens))
        user_id_tokens = UserIdTokens(token_keys, TokenCache(document.cache.tokens))
        policy = document.token_policy
        context = MslContext(
            local=local.entity,
            entity_schemes={name: ENTITY_SCHEMES[name](materials) for name in _used(config, lambda r: r.entity)},
            user_schemes={name: USER_SCHEMES[name](materials) for name in _used(config, lambda r: r.user)},
            key_exchanges={name: KEY_EXCHANGES[name](materials) for name in document.schemes.key_exchange},
            authorization=state.authorization,
            token_keys=token_keys,
            master_tokens=master_tokens,
            user_id_tokens=user_id_tokens,
            issuer=TokenIssuer(
                master_tokens,
                user_id_tokens,
                TokenPolicy(
                    renewal_window=policy.renewal_window,
                    lifetime=policy.lifetime,
                    unanswered_limit=policy.unanswered_limit,
                    renews=renewal_policy(policy.rule),
                ),
                clock=clock,
                random=random,
                replays=state.replays,
                renewals=state.renewals,
                revocations=state.revocations,
            ),
            vault=vault,
            clock=clock,
            random=random,
            capabilities=capabilities(document.capabilities),
            service_token_keys=_service_token_keys(sources, config, random),
            service_token_cache=TokenCache(document.cache.service_tokens),
        )
        sources.places.append(("session keys", "sealed in master tokens; in this process while in use"))
        server = MslServer(context, application, events=EventLog(), chunk_bytes=document.limits.chunk)
        return ComposedServer(server, context, tuple(sources.places), ring, state, closing.pop_all())


def server_public_key(config: Configuration[ServerConfig]) -> bytes:
    """Return a server's own public key, SubjectPublicKeyInfo DER, for its clients.

    Raises:
        ConfigurationError: the entity authentication scheme of this server has none.
        BackendError: the token gives no answer.
    """
    entity = config.document.entity
    if not isinstance(entity, KeyPairIdentity):
        raise config.error("entity.scheme", "this server has no key pair; only RSA and ECC servers do")
    sources = KeySources(config)
    try:
        return sources.signing(entity).public_key
    finally:
        sources.close()


def groups(config: AnyConfiguration) -> Mapping[str, DhGroup]:
    """Return the Diffie-Hellman groups of a configuration. Raises ConfigurationError for an unknown name."""
    found: dict[str, DhGroup] = {}
    for parameters_id, section in config.document.dh_groups.items():
        if isinstance(section, str):
            config.check_name(f'dh_groups."{parameters_id}"', section, STANDARD_GROUPS, "group")
            found[parameters_id] = STANDARD_GROUPS[section]
        else:
            found[parameters_id] = DhGroup(int(section.p, 16), int(section.g, 16))
    return found


def capabilities(section: CapabilitiesSection) -> Capabilities:
    """Return what this side publishes that it can read."""
    return Capabilities(section.compression, section.languages)


def _session_key_source(sources: KeySources, name: str, random: RandomBytes) -> RandomBytes:
    return random if name == "system" else sources.token("session_keys.source", name).random


def _used(
    config: Configuration[ServerConfig], names: Callable[[RuleSection], tuple[str, ...] | None]
) -> tuple[str, ...]:
    """Return the schemes that any rule permits, each once; what nobody may use is not even there."""
    schemes = config.document.schemes
    used = dict.fromkeys(name for rule in (*schemes.rule, schemes.default) for name in names(rule) or ())
    return tuple(used)


def _service_token_keys(
    sources: KeySources, config: Configuration[ServerConfig], random: RandomBytes
) -> Mapping[str, SymmetricContext]:
    document = config.document
    rings: dict[str, SymmetricKeys] = {}
    contexts: dict[str, SymmetricContext] = {}
    for section in document.service_token_keys:
        if section.keys not in rings:
            rings[section.keys] = sources.ring(section.keys, document.keys[section.keys]).primary()
        contexts[section.name] = SymmetricContext(rings[section.keys], section.keys, random)
    return contexts
