"""The two configuration documents, server and client, as they are declared (values, and where they came from)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from hsm_msl.errors import ConfigurationError
from hsm_msl.service.audit_section import AuditSection
from hsm_msl.service.client_sections import (
    CredentialsSection,
    KeyExchangeOffer,
    MessageSection,
    OwnServiceTokenKeys,
    RemoteSection,
    StateSection,
    UserSection,
)
from hsm_msl.service.key_sections import (
    DerivedKeysSection,
    DhGroupSection,
    FleetSection,
    KeysSection,
    KnownEntity,
    LocalIdentity,
    ManifestSection,
    ServiceTokenKeysSection,
    TokenSection,
    TokenSetSection,
    X509Section,
)
from hsm_msl.service.sections import CapabilitiesSection, LimitsSection, LogSection, ManagementSection, Section
from hsm_msl.service.server_sections import (
    CacheSection,
    DialogIncludeSection,
    ListenSection,
    SchemesSection,
    SessionKeysSection,
    StoreSection,
    TokenPolicySection,
    UserServiceSection,
    UsersSection,
)
from hsm_msl.service.token_names import token_meant
from hsm_msl.toml_document import suggestion

TOKEN_KEYS = "msl.token"  # noqa: S105 - the name of a purpose, not a secret
"""The purpose whose keys protect master and user ID tokens."""

MEMORY = "memory"
"""The database that forgets."""


class ServerConfig(Section, frozen=True, kw_only=True):
    """A server's configuration file; every attribute is the table of that name."""

    entity: LocalIdentity
    tokens: dict[str, TokenSection]
    token_sets: dict[str, TokenSetSection] = msgspec.field(default_factory=dict)
    keys: dict[str, KeysSection]
    key_manifest: ManifestSection | None = None
    audit: AuditSection | None = None
    server: ListenSection = ListenSection()
    management: ManagementSection | None = None
    log: LogSection = LogSection()
    token_policy: TokenPolicySection = TokenPolicySection()
    schemes: SchemesSection = SchemesSection()
    dh_groups: dict[str, DhGroupSection] = msgspec.field(default_factory=dict)
    entities: tuple[KnownEntity, ...] = ()
    fleet: FleetSection | None = None
    derived_keys: DerivedKeysSection | None = None
    x509: X509Section | None = None
    service_token_keys: tuple[ServiceTokenKeysSection, ...] = ()
    users: UsersSection | None = None
    user_services: tuple[UserServiceSection, ...] = ()
    user_texts: dict[str, dict[str, str]] = msgspec.field(default_factory=dict)
    store: StoreSection = StoreSection()
    limits: LimitsSection = LimitsSection()
    capabilities: CapabilitiesSection = CapabilitiesSection()
    cache: CacheSection = CacheSection()
    session_keys: SessionKeysSection = SessionKeysSection()
    dialog: DialogIncludeSection | None = None


class ClientConfig(Section, frozen=True, kw_only=True):
    """A client's configuration file; every attribute is the table of that name."""

    entity: LocalIdentity
    tokens: dict[str, TokenSection] = msgspec.field(default_factory=dict)
    token_sets: dict[str, TokenSetSection] = msgspec.field(default_factory=dict)
    server: RemoteSection = RemoteSection()
    entities: tuple[KnownEntity, ...] = ()
    x509: X509Section | None = None
    key_exchange: KeyExchangeOffer = KeyExchangeOffer()
    dh_groups: dict[str, DhGroupSection] = msgspec.field(default_factory=dict)
    user: UserSection | None = None
    credentials: CredentialsSection | None = None
    service_token_keys: tuple[OwnServiceTokenKeys, ...] = ()
    state: StateSection = StateSection()
    message: MessageSection = MessageSection()
    limits: LimitsSection = LimitsSection()
    capabilities: CapabilitiesSection = CapabilitiesSection()


Document = TypeVar("Document", bound=ServerConfig | ClientConfig, covariant=True)


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
        """Return which token or set of tokens a section means: the one it names, or the only one there is.

        Raises:
            ConfigurationError: no such token or set, or several and none is named.
        """
        try:
            return token_meant(name, self.document.tokens, self.document.token_sets)
        except ConfigurationError as error:
            raise self.error(key, str(error)) from None


AnyConfiguration = Configuration[ServerConfig | ClientConfig]
