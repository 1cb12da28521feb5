"""Composes a server: tokens, keys, stores, schemes and the engine."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from hsm_msl.backend.any_token import AnyToken
from hsm_msl.backend.software import SoftwareEphemeralKeys
from hsm_msl.backend.token_vault import TokenVault
from hsm_msl.crypto.sealing import HostVault
from hsm_msl.crypto.token_keys import TokenKeys
from hsm_msl.errors import ConfigurationError, HsmMslError, KeyPolicyError, MechanismUnsupportedError
from hsm_msl.msl.context import MslContext
from hsm_msl.msl.entityauth.defaults import EntityParts, entity_auth_schemes
from hsm_msl.msl.entityauth.psk import NAME as PSK
from hsm_msl.msl.entityauth.psk import PskScheme
from hsm_msl.msl.keyx.base import KeyExchanges
from hsm_msl.msl.keyx.defaults import ExchangeParts, Residency, key_exchanges
from hsm_msl.msl.message.capabilities import Capabilities
from hsm_msl.msl.server import Application, MslServer
from hsm_msl.msl.tokens.issuer import TokenIssuer, TokenPolicy
from hsm_msl.msl.tokens.master_token import MasterTokens, TokenCache
from hsm_msl.msl.tokens.user_id_token import UserIdTokens
from hsm_msl.msl.userauth.attempts import FailedAttempts
from hsm_msl.msl.userauth.base import UserAuthSchemes
from hsm_msl.msl.userauth.defaults import OwnTokens, UserParts, user_auth_schemes
from hsm_msl.ports import Clock, PresharedKeys, RandomBytes, SessionVault, TokenKeyRing
from hsm_msl.service.circuit_breaker import CircuitBreaker
from hsm_msl.service.compose.audit import Journal, Occasion, open_journal
from hsm_msl.service.compose.entities import SeveralKeys, known_entities, local_entity, trust_store
from hsm_msl.service.compose.keys import KeySources, Place, read_secret
from hsm_msl.service.compose.parts import groups
from hsm_msl.service.compose.preshared import preshared_keys
from hsm_msl.service.compose.rings import Rings, key_manifest
from hsm_msl.service.compose.state import ServerState, open_state, renewal_policy
from hsm_msl.service.compose.users import user_services
from hsm_msl.service.compose.watched import Watched
from hsm_msl.service.documents import TOKEN_KEYS, Configuration, ServerConfig
from hsm_msl.service.key_sections import EccIdentity, RsaIdentity, X509Identity
from hsm_msl.service.load import Load
from hsm_msl.service.ring_context import RingContext
from hsm_msl.service.server_sections import RuleSection
from hsm_msl.service.user_texts import user_texts
from hsm_msl.service.watch.event_log import EventLog, Listeners
from hsm_msl.service.watch.health import Check
from hsm_msl.service.watch.message_counts import MessageCounts
from hsm_msl.service.watch.metrics import Metrics
from hsm_msl.service.watch.transitions import (
    Record,
)

_PROBE = b"is this key still there?"
_IDENTITY_BYTES = 16
_PSEUDONYM_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class ComposedServer:
    """A server ready to answer, and what it stands on.

    Attributes:
        server: the engine.
        context: what the engine was given.
        places: what each key is for and where it lives.
        ring: the token keys.
        state: stores and rules.
        load: counts the messages in work.
        token: returns a token of the configuration, for the key that asks and the name of the token, if it has one.
        counts: counts what became of messages.
        metrics: what this process exports.
        deep: returns checks that use every key and the store.
        drift: returns checks that compare the keys with the key manifest.
        journal: what is written to the audit log.
    """

    server: MslServer
    context: MslContext
    places: tuple[Place, ...]
    ring: TokenKeyRing
    state: ServerState
    load: Load
    counts: MessageCounts
    metrics: Metrics
    deep: Callable[[], Iterable[Check]]
    drift: Callable[[], Iterable[Check]]
    journal: Journal
    _closing: ExitStack = field(repr=False)
    token: Callable[[str, str | None], AnyToken] = field(repr=False)

    @property
    def identity(self) -> str:
        """The server's identity."""
        return self.context.local.data.identity

    def check(self) -> None:
        """Use a token key and ask a store, to see whether they answer.

        Raises:
            BackendError, StoreError: they do not.
            ConfigurationError: the audit log cannot be written.
        """
        self.journal.check()
        mac = self.ring.primary().mac
        if mac is not None:
            mac.sign(_PROBE)
        self.state.revocations.entity_revoked(self.identity)

    def close(self) -> None:
        """Log out of tokens and close databases; a second call does nothing."""
        self._closing.close()


@dataclass(frozen=True, slots=True)
class RandomIdentities:
    """Names entities that have no identity yet by 128 random bits (``IdentityService``)."""

    random: RandomBytes

    def assign(self) -> str:
        """Return an identity nobody else has, but for luck beyond all odds."""
        return f"provisioned-{self.random(_IDENTITY_BYTES).hex()}"


def compose_server(
    config: Configuration[ServerConfig],
    application: Application,
    *,
    clock: Clock = time.time,
    random: RandomBytes = os.urandom,
    occasion: Occasion = "serve",
) -> ComposedServer:
    """Open everything a server's configuration names and build the engine on it.

    Args:
        config: the checked configuration.
        application: answers requests.
        clock: local time.
        random: source of initialisation vectors, IDs and salts.
        occasion: whether the server is to serve or only to be tried, for the audit log.

    Raises:
        ConfigurationError: something in the file does not fit what is there; names the key.
        BackendConfigurationError: wrong PIN, missing token or module.
        BackendUnavailableError, StoreError: a token or database gives no answer.
    """
    with ExitStack() as closing:
        journal = open_journal(config, config.document.audit, clock, occasion)
        try:
            composition = _Composition(config, closing, clock, random, journal)
            context = composition.context()
            watched = composition.watched(journal.record)
            followers = [*composition.rings.followers(composition.forget_tokens), *watched.followers()]
            journal.begin(closing, composition.sources.token, watched.facts, watched.looks())
            # After the begin and, since they are closed first, before the end: both frame what they record.
            for follower in followers:
                closing.callback(follower.close)
                follower.start()
        except HsmMslError as error:
            journal.refused(error)
            raise
        counts = MessageCounts(clock)
        log = config.document.log
        key = (
            random(_PSEUDONYM_KEY_BYTES)
            if log.pseudonym_key is None
            else read_secret(config.resolve(log.pseudonym_key))
        )
        events = Listeners((EventLog(log.entities, key), counts))
        server = MslServer(context, application, events=events, chunk_bytes=config.document.limits.chunk)
        places = tuple(composition.sources.places)
        return ComposedServer(
            server,
            context,
            places,
            composition.ring,
            composition.state,
            composition.load,
            counts,
            watched.metrics(counts),
            watched.deep(),
            watched.drift,
            journal,
            closing.pop_all(),
            composition.sources.token,
        )


def server_public_key(config: Configuration[ServerConfig]) -> bytes:
    """Return a server's own public key, SubjectPublicKeyInfo DER, for its clients.

    Raises:
        ConfigurationError: the entity authentication scheme of this server has none.
        BackendError: the token gives no answer.
    """
    entity = config.document.entity
    if not isinstance(entity, RsaIdentity | EccIdentity | X509Identity):
        raise config.error("entity.scheme", "this server has no key pair; only RSA, ECC and X509 servers do")
    sources = KeySources(config)
    try:
        return sources.signing(entity).public_key
    finally:
        sources.close()


class _Composition:
    """The parts of one server on their way to its context."""

    def __init__(
        self,
        config: Configuration[ServerConfig],
        closing: ExitStack,
        clock: Clock,
        random: RandomBytes,
        journal: Journal,
    ) -> None:
        document = config.document
        self.config = config
        self.clock = clock
        self.random = random
        self.closing = closing
        self.load = Load(document.token_policy.defer_above)
        manifest = key_manifest(config)
        self.manifest = manifest
        self.sources = KeySources(config, None if manifest is None else manifest.check, journal.record)
        closing.callback(self.sources.close)
        self.rings = Rings(config, self.sources, manifest, clock, journal.record)
        self.breakers: dict[str, CircuitBreaker] = {}
        self.ring: TokenKeyRing = self.rings.view(TOKEN_KEYS)
        self.state = open_state(config, closing, clock, random)
        self.residency = Residency(document.session_keys.residency)
        self.vault = self._vault()
        self.local = local_entity(config, self.sources, document.entity, random)
        self.token_keys = TokenKeys(self.ring, self.local.entity.data.identity, random)
        sizes = document.cache
        self.caches = [TokenCache(size) for size in (sizes.tokens, sizes.tokens, sizes.service_tokens)]
        self.master_tokens = MasterTokens(self.token_keys, self.vault, random, self.caches[0])
        self.user_id_tokens = UserIdTokens(self.token_keys, self.caches[1])

    def forget_tokens(self) -> None:
        """Make every token be verified anew, since a key version was retired or uses are counted."""
        for cache in self.caches:
            cache.clear()

    def watched(self, record: Record) -> Watched:
        """Return what people see of the server, once ``context`` has opened all of it."""
        return Watched(
            sources=self.sources,
            rings=self.rings,
            manifest=self.manifest,
            section=self.config.document.key_manifest,
            state=self.state,
            identity=self.local.entity.data.identity,
            load=self.load,
            caches=dict(zip(("master", "user", "service"), self.caches, strict=True)),
            breakers=self.breakers,
            record=record,
        )

    def context(self) -> MslContext:
        """Return the finished context."""
        config, document = self.config, self.config.document
        issuer = self._issuer()
        known = known_entities(self.sources, document.entities, document.entity, self.local)
        preshared = SeveralKeys(preshared_keys(config, self.sources, self.state, known.preshared))
        authorization = self.state.authorization
        entity_parts = EntityParts(
            authorization,
            self.random,
            preshared=preshared,
            rsa=known.rsa,
            ecc=known.ecc,
            trust=trust_store(config, document.x509, self.clock),
            certificate_keys=known.certificate_keys,
            identities=RandomIdentities(self.random),
            master_tokens=self.master_tokens,
        )
        return MslContext(
            local=self.local.entity,
            entity_schemes=entity_auth_schemes(self._permitted(lambda rule: rule.entity), entity_parts),
            user_schemes=self._user_schemes(issuer),
            key_exchanges=self._key_exchanges(preshared),
            authorization=authorization,
            token_keys=self.token_keys,
            master_tokens=self.master_tokens,
            user_id_tokens=self.user_id_tokens,
            issuer=issuer,
            vault=self.vault,
            clock=self.clock,
            random=self.random,
            capabilities=Capabilities(document.capabilities.compression, document.capabilities.languages),
            service_token_keys=self._service_token_keys(),
            service_token_cache=self.caches[2],
            user_text=user_texts(config),
        )

    def _vault(self) -> SessionVault:
        document = self.config.document
        section = document.session_keys
        if self.residency is Residency.TOKEN:
            token = self.sources.token("tokens", document.keys[TOKEN_KEYS].token)
            self._prove_packing(token)
            self.sources.places.append(("session keys", f"in token {token.name!r}, which they leave only wrapped"))
            return TokenVault(token, self.ring)
        self.sources.places.append(("session keys", "sealed in master tokens; in this process while in use"))
        if section.source == "system":
            return HostVault(self.random)
        return HostVault(self.sources.token("session_keys.source", section.source).random)

    def _prove_packing(self, token: AnyToken) -> None:
        """Pack a session key once: not every key that wraps for peers wraps keys of the token itself."""
        packing, where = self.ring.primary().wrapping, "session_keys.residency"
        if packing is None:
            raise self.config.error(
                where, f"token {token.name!r} has no {TOKEN_KEYS} wrapping key to pack session keys with"
            )
        try:
            packing.wrap_key(token.generate_aes(_IDENTITY_BYTES))
        except (KeyPolicyError, MechanismUnsupportedError) as error:
            raise self.config.error(
                where,
                f"{error}; a token without AES key wrap packs session keys under an RSA key (profile msl-token-pack)",
            ) from None

    def _issuer(self) -> TokenIssuer:
        policy = self.config.document.token_policy
        renewed = renewal_policy(policy.rule)
        return TokenIssuer(
            self.master_tokens,
            self.user_id_tokens,
            TokenPolicy(
                renewal_window=policy.renewal_window,
                lifetime=policy.lifetime,
                unanswered_limit=policy.unanswered_limit,
                renewable_after_expiry=policy.renewable_after_expiry,
                renews_unknown=policy.unknown_renewal_state == "accept",
                out_of_order=policy.out_of_order,
                renews=lambda identity: renewed(identity) != "never",
                renews_early=lambda identity: renewed(identity) == "when-asked",
                defers=self.load.busy,
            ),
            clock=self.clock,
            random=self.random,
            replays=self.state.replays,
            renewals=self.state.renewals,
            revocations=self.state.revocations,
        )

    def _user_schemes(self, issuer: TokenIssuer) -> UserAuthSchemes:
        state = self.state
        tokens = OwnTokens(self.master_tokens, self.user_id_tokens, issuer)
        parts = UserParts(
            state.authorization,
            users=state.users,
            attempts=self._attempts(),
            tokens=tokens,
            external=user_services(self.config, self.closing, state.authorization, tokens, self.breakers),
        )
        return user_auth_schemes(self._permitted(lambda rule: rule.user), parts)

    def _attempts(self) -> FailedAttempts | None:
        section = self.config.document.users
        if section is None or not section.failures:
            return None
        return FailedAttempts(
            self.clock, most=section.failures, per_hour=section.failures_per_hour, mutex=threading.Lock()
        )

    def _key_exchanges(self, preshared: PresharedKeys) -> KeyExchanges:
        schemes = self.config.document.schemes
        parts = ExchangeParts(
            self.vault,
            self.random,
            ephemeral=SoftwareEphemeralKeys(self.random),
            groups=groups(self.config),
            mechanisms=schemes.mechanisms,
            psk=self._psk(preshared),
            ring=self.ring,
            residency=self.residency,
        )
        try:
            return key_exchanges(schemes.key_exchange, parts)
        except (ConfigurationError, KeyPolicyError) as error:
            raise self.config.error("schemes.key_exchange", str(error)) from None

    def _psk(self, preshared: PresharedKeys) -> PskScheme | None:
        """Return what finds pre-shared keys for key exchanges; None on a server that does not speak PSK at all."""
        spoken = PSK in self._permitted(lambda rule: rule.entity)
        return PskScheme(preshared, self.state.authorization, self.random) if spoken else None

    def _permitted(self, names: Callable[[RuleSection], tuple[str, ...] | None]) -> tuple[str, ...]:
        """Return the schemes that any rule permits, each once; what nobody may use is not even there."""
        schemes = self.config.document.schemes
        used = dict.fromkeys(name for rule in (*schemes.rule, schemes.default) for name in names(rule) or ())
        return tuple(used)

    def _service_token_keys(self) -> Mapping[str, RingContext]:
        purposes = {section.name: section.keys for section in self.config.document.service_token_keys}
        contexts = {
            purpose: RingContext(TokenKeys(self.rings.view(purpose), purpose, self.random))
            for purpose in dict.fromkeys(purposes.values())
        }
        return {name: contexts[purpose] for name, purpose in purposes.items()}
