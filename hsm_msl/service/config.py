"""The two configuration documents, server and client, read and checked as a whole.

What can be seen without opening a token or database is refused here, with the file, the key and what is allowed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from hsm_msl.errors import ConfigurationError
from hsm_msl.service.sections import (
    CacheSection,
    CapabilitiesSection,
    DhGroupSection,
    KeyExchangeOffer,
    KeyPairIdentity,
    KeysSection,
    KnownEntity,
    LimitsSection,
    ListenSection,
    LocalIdentity,
    MessageSection,
    NoneIdentity,
    PskIdentity,
    RemoteSection,
    RuleSection,
    SchemesSection,
    Section,
    ServiceTokenKeysSection,
    SessionKeysSection,
    StoreSection,
    TokenPolicySection,
    TokenSection,
    UserSection,
    UsersSection,
)
from hsm_msl.toml_document import read_document, suggestion

TOKEN_KEYS = "msl.token"  # noqa: S105 - the name of a purpose, not a secret
"""The purpose whose keys protect master and user ID tokens."""


class ServerConfig(Section, frozen=True, kw_only=True):
    """A server's configuration file; every attribute is the table of that name."""

    entity: LocalIdentity
    tokens: dict[str, TokenSection]
    keys: dict[str, KeysSection]
    server: ListenSection = ListenSection()
    token_policy: TokenPolicySection = TokenPolicySection()
    schemes: SchemesSection = SchemesSection()
    dh_groups: dict[str, DhGroupSection] = msgspec.field(default_factory=dict)
    entities: tuple[KnownEntity, ...] = ()
    service_token_keys: tuple[ServiceTokenKeysSection, ...] = ()
    users: UsersSection | None = None
    store: StoreSection = StoreSection()
    limits: LimitsSection = LimitsSection()
    capabilities: CapabilitiesSection = CapabilitiesSection()
    cache: CacheSection = CacheSection()
    session_keys: SessionKeysSection = SessionKeysSection()


class ClientConfig(Section, frozen=True, kw_only=True):
    """A client's configuration file; every attribute is the table of that name."""

    entity: LocalIdentity
    tokens: dict[str, TokenSection] = msgspec.field(default_factory=dict)
    server: RemoteSection = RemoteSection()
    entities: tuple[KnownEntity, ...] = ()
    key_exchange: KeyExchangeOffer = KeyExchangeOffer()
    dh_groups: dict[str, DhGroupSection] = msgspec.field(default_factory=dict)
    user: UserSection | None = None
    message: MessageSection = MessageSection()
    limits: LimitsSection = LimitsSection()
    capabilities: CapabilitiesSection = CapabilitiesSection()


Document = TypeVar("Document", ServerConfig, ClientConfig)


@dataclass(frozen=True, slots=True)
class Configuration(Generic[Document]):
    """A checked document and where it came from."""

    document: Document
    path: Path

    def resolve(self, text: str) -> Path:
        """Return a path of the document, made absolute by the directory of its file."""
        return self.path.parent / text

    def source(self, text: str) -> str:
        """Return the source of a PIN or password with its path, if it names a file, made absolute."""
        kind, _, rest = text.partition(":")
        return f"file:{self.resolve(rest)}" if kind == "file" and rest else text

    def database(self, url: str) -> str:
        """Return a database URL in which an SQLite file is absolute."""
        prefix = "sqlite:///"
        return prefix + str(self.resolve(url.removeprefix(prefix))) if url.startswith(prefix) else url

    def error(self, key: str, problem: str) -> ConfigurationError:
        """Return the error that names this file, a key and what is wrong with it; the caller raises it."""
        return ConfigurationError(f"{self.path}: {key}: {problem}")

    def check_name(self, key: str, name: str, known: Collection[str], what: str) -> None:
        """Refuse a name that nothing carries. Raises ConfigurationError naming those that exist."""
        if name not in known:
            raise self.error(key, f"no {what} {name!r}; {suggestion(name, known)}")

    def token(self, key: str, name: str | None) -> str:
        """Return which token a section means: the one it names, or the only one there is.

        Raises:
            ConfigurationError: no such token, or several and none is named.
        """
        tokens = self.document.tokens
        if name is not None:
            self.check_name(key, name, tokens, "token")
            return name
        if len(tokens) != 1:
            raise self.error(key, f"this key is required; {suggestion('', tokens)}")
        return next(iter(tokens))


def read_server_config(path: Path) -> Configuration[ServerConfig]:
    """Read and check a server's configuration.

    Args:
        path: the TOML file.

    Raises:
        ConfigurationError: the file cannot be read or something in it is not allowed; names the key.
    """
    path = path.absolute()
    config = Configuration(read_document(path, ServerConfig), path)
    document = config.document
    _check_tokens(config)
    _check_local(config)
    _check_entities(config)
    if TOKEN_KEYS not in document.keys:
        raise config.error(f'keys."{TOKEN_KEYS}"', "this table is required; its keys protect the tokens issued here")
    for purpose, keys in document.keys.items():
        config.token(f'keys."{purpose}".token', keys.token)
        if keys.primary in keys.active:
            raise config.error(f'keys."{purpose}".active', f"version {keys.primary} is the primary already")
    _check_service_tokens(config)
    policy = document.token_policy
    if policy.lifetime < policy.renewal_window:
        raise config.error(
            "token_policy.lifetime", f"must be at least token_policy.renewal_window ({policy.renewal_window} s)"
        )
    _check_users(config)
    if isinstance(document.entity, PskIdentity | KeyPairIdentity):
        _check_in_token(config, document.entity)
    if document.session_keys.source != "system":
        config.check_name("session_keys.source", document.session_keys.source, ("system", *document.tokens), "source")
    return config


def read_client_config(path: Path) -> Configuration[ClientConfig]:
    """Read and check a client's configuration. Arguments and errors as ``read_server_config``."""
    path = path.absolute()
    config = Configuration(read_document(path, ClientConfig), path)
    document = config.document
    _check_tokens(config)
    _check_local(config)
    _check_entities(config)
    offer = document.key_exchange
    if "DIFFIE_HELLMAN" in offer.schemes:
        config.check_name("key_exchange.dh_group", offer.dh_group, document.dh_groups, "group in [dh_groups]")
    return config


def check_schemes(
    config: Configuration[ServerConfig],
    *,
    entity: Collection[str],
    user: Collection[str],
    exchange: Collection[str],
) -> None:
    """Refuse scheme names this program does not have.

    Args:
        config: a server's configuration.
        entity: the entity authentication schemes there are.
        user: the user authentication schemes.
        exchange: the key exchanges.

    Raises:
        ConfigurationError: an unknown name; says which exist.
    """
    schemes = config.document.schemes
    for name in schemes.key_exchange:
        config.check_name("schemes.key_exchange", name, exchange, "key exchange")
    rules: list[tuple[str, RuleSection]] = [("schemes.default", schemes.default)]
    rules += [(f"schemes.rule[{index}]", rule) for index, rule in enumerate(schemes.rule)]
    for where, rule in rules:
        for name in rule.entity or ():
            config.check_name(f"{where}.entity", name, entity, "entity authentication scheme")
        for name in rule.user or ():
            config.check_name(f"{where}.user", name, user, "user authentication scheme")
        for name in rule.key_exchange or ():
            config.check_name(f"{where}.key_exchange", name, schemes.key_exchange, "key exchange in schemes")


def _check_tokens(config: Configuration[ServerConfig] | Configuration[ClientConfig]) -> None:
    for name, token in config.document.tokens.items():
        where = f"tokens.{name}"
        if token.label is None and token.serial is None:
            raise config.error(f"{where}.label", "this key is required, or serial")


def _check_local(config: Configuration[ServerConfig] | Configuration[ClientConfig]) -> None:
    entity = config.document.entity
    if isinstance(entity, NoneIdentity):
        return
    in_files = entity.files is not None if isinstance(entity, PskIdentity) else entity.file is not None
    if in_files and entity.token is not None:
        raise config.error("entity.token", "the keys are either in a token or in files, not both")
    if not in_files:
        config.token("entity.token", entity.token)


def _check_in_token(config: Configuration[ServerConfig], entity: PskIdentity | KeyPairIdentity) -> None:
    key = "files" if isinstance(entity, PskIdentity) else "file"
    if getattr(entity, key) is not None:
        raise config.error(f"entity.{key}", "a server's keys are in a token; import them with hsm-provision")


def _check_entities(config: Configuration[ServerConfig] | Configuration[ClientConfig]) -> None:
    for index, entity in enumerate(config.document.entities):
        where = f"entities[{index}]"
        if isinstance(entity, PskIdentity):
            if entity.files is None:
                config.token(f"{where}.token", entity.token)
            elif isinstance(config.document, ServerConfig):
                raise config.error(f"{where}.files", "a server's keys are in a token; import them with hsm-provision")
        elif not config.resolve(entity.public_key).is_file():
            raise config.error(f"{where}.public_key", f"no file {config.resolve(entity.public_key)}")
    entities = config.document.entities
    _check_unique(config, "identity", (e.identity for e in entities if isinstance(e, PskIdentity)))
    _check_unique(config, "key_id", (e.key_id for e in entities if not isinstance(e, PskIdentity)))


def _check_service_tokens(config: Configuration[ServerConfig]) -> None:
    document = config.document
    for index, section in enumerate(document.service_token_keys):
        config.check_name(f"service_token_keys[{index}].keys", section.keys, document.keys, "purpose in [keys]")
    _check_unique(config, "service token name", (section.name for section in document.service_token_keys))


def _check_users(config: Configuration[ServerConfig]) -> None:
    document = config.document
    if document.users is not None:
        return
    if document.schemes.default.user or any(rule.user for rule in document.schemes.rule):
        raise config.error("users", "this table is required, since [schemes] permits user authentication")


def _check_unique(
    config: Configuration[ServerConfig] | Configuration[ClientConfig], what: str, names: Iterable[str]
) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise config.error("entities" if "token" not in what else "service_token_keys", f"{what} {name!r} twice")
        seen.add(name)
