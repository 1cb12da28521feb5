"""The configuration of a service that holds dialogs: one TOML document, checked as a whole."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from hsm_msl.dialog.binding import AckMode
from hsm_msl.dialog.issuers import RevocationMode
from hsm_msl.dialog.policy import Policy
from hsm_msl.errors import ConfigurationError
from hsm_msl.service.audit_section import AuditSection
from hsm_msl.service.key_sections import TokenSection, TokenSetSection
from hsm_msl.service.sections import Count, LogSection, ManagementSection, Name, Section
from hsm_msl.service.token_names import check_tokens, token_meant
from hsm_msl.toml_document import read_document

_Suite = Annotated[int, msgspec.Meta(ge=1, le=4)]


class DialogListenSection(Section, frozen=True, kw_only=True):
    """``[server]``: where packets are received.

    Attributes:
        host: address to listen on.
        port: TCP port; 0 takes a free one, which is printed.
        threads: threads for engine, token and database.
        health: path prefix of the health pages.
        grace: seconds that requests in progress may take when the service stops; 10 s later a process in which a call
            still hangs is ended (``last_resort``).
    """

    host: Name = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8090
    threads: Annotated[int, msgspec.Meta(ge=1, le=256)] = 4
    health: Annotated[str, msgspec.Meta(pattern="^/[^?#]*[^/?#]$")] = "/health"
    grace: Annotated[int, msgspec.Meta(ge=1)] = 10


class RetiredKey(Section, frozen=True, kw_only=True):
    """``[[service.retired]]``: an encryption key that still opens what was encrypted to it.

    Attributes:
        encryption_key: label of the private key.
        encryption_certificate: file of its certificate, PEM or DER.
    """

    encryption_key: Name
    encryption_certificate: Name


class ServiceSection(Section, frozen=True, kw_only=True):
    """``[service]``: who this service is, and the labels of its keys on the token.

    Attributes:
        name: URI-like name, up to 255 bytes.
        token: name of the token, where several are configured.
        signing_key: label of the key that signs pair headers.
        signing_certificate: file of its certificate, PEM or DER.
        encryption_key: label of the key that opens key exchange keys; an RSA key that unwraps or an EC key.
        encryption_certificate: file of its certificate.
        storage_key: label of the AES key that wraps what rests in the database.
        retired: earlier encryption keys.
        node: name of this process among those that share the database; no two may run under one name.
        incarnation: file outside the database's backup by which a restore is noticed.
    """

    name: Name
    token: Name | None = None
    signing_key: Name
    signing_certificate: Name
    encryption_key: Name
    encryption_certificate: Name
    storage_key: Name
    retired: tuple[RetiredKey, ...] = ()
    node: Name = "node"
    incarnation: Name = "incarnation"


class BindingSection(Section, frozen=True, kw_only=True):
    """``[[bindings]]``: another service; see ``dialog.binding.Binding`` for what the keys mean.

    Attributes:
        signing: files of certificates that sign, PEM or DER.
        encryption: files of certificates to encrypt to.
        disabled: those of the files above that are revoked.
        issuers: files of authorities whose certificates are trusted when they name the remote service (a URI among
            the alternative names), PEM or DER.
        subject: name attributes such a certificate must have, as in ``O=Example``.
        revocation: what else it needs: see ``dialog.issuers.IssuerTrust``.
        certificates: files of encryption certificates of these issuers to begin with; the service presents later
            ones. A PEM file holds the certificate first, then those between it and its issuer.
    """

    remote: Name
    prefix: bool = False
    url: str = ""
    signing: tuple[Name, ...] = ()
    encryption: tuple[Name, ...] = ()
    disabled: tuple[Name, ...] = ()
    issuers: tuple[Name, ...] = ()
    subject: str = ""
    revocation: RevocationMode = "required"
    certificates: tuple[Name, ...] = ()
    suites: tuple[_Suite, ...] = (2,)
    policy: Policy = Policy()
    max_body: Annotated[int, msgspec.Meta(ge=1)] = 16 * 1024 * 1024
    ack_mode: AckMode = "on_enqueue"
    principal: str = ""
    enabled: bool = True
    not_after: datetime | None = None
    split_keys: bool = False
    allow_dual_use: bool = False


class DialogCacheSection(Section, frozen=True, kw_only=True):
    """``[cache]``: most entries a process remembers; 0 remembers nothing, which is slow and changes nothing else.

    Attributes:
        keks: key exchange keys, own ones and peers'.
        session_keys: session keys, own ones and peers'.
        failures: headers that failed a moment ago.
        certificates: favourable judgements of certificates trusted by issuer.
    """

    keks: Count = 4096
    session_keys: Count = 65536
    failures: Count = 1024
    certificates: Count = 1024


class DialogKeysSection(Section, frozen=True, kw_only=True):
    """``[session_keys]``: where the session keys of dialogs live.

    Attributes:
        residency: ``host`` keeps them in this process while in use; ``token`` never lets them out of the token, and
            needs peers that send theirs one by one (``split_keys`` in their binding, or the same residency).
    """

    residency: Literal["host", "token"] = "host"


class RevocationSection(Section, frozen=True, kw_only=True):
    """``[revocation]``: what is known about certificates of issuers; files that change are read again.

    Attributes:
        lists: files of revocation lists, PEM or DER; one per authority, intermediate ones too.
        responses: files of OCSP responses, DER.
    """

    lists: tuple[Name, ...] = ()
    responses: tuple[Name, ...] = ()


class DialogStoreSection(Section, frozen=True, kw_only=True):
    """``[store]``: where dialogs rest.

    Attributes:
        database: SQLAlchemy URL; ``sqlite:///FILE`` for one process, ``postgresql://...`` for several.
    """

    database: Name = "sqlite:///dialogs.sqlite"


class DialogConfig(Section, frozen=True, kw_only=True):
    """The document; every attribute is the table of that name."""

    service: ServiceSection
    tokens: dict[str, TokenSection] = msgspec.field(default_factory=dict)
    token_sets: dict[str, TokenSetSection] = msgspec.field(default_factory=dict)
    bindings: tuple[BindingSection, ...] = ()
    cache: DialogCacheSection = DialogCacheSection()
    session_keys: DialogKeysSection = DialogKeysSection()
    audit: AuditSection | None = None
    revocation: RevocationSection = RevocationSection()
    store: DialogStoreSection = DialogStoreSection()
    server: DialogListenSection = DialogListenSection()
    management: ManagementSection | None = None
    log: LogSection = LogSection()


class DialogConfiguration:
    """A checked document and where it came from.

    Args:
        document: the document.
        path: the file it was read from; paths in it are relative to its directory.
    """

    def __init__(self, document: DialogConfig, path: Path) -> None:
        self.document = document
        self.path = path

    def resolve(self, text: str) -> Path:
        """Return a path of the document, made absolute."""
        return self.path.parent / text

    def database(self) -> str:
        """Return the database URL in which an SQLite file is absolute."""
        url, prefix = self.document.store.database, "sqlite:///"
        return prefix + str(self.resolve(url.removeprefix(prefix))) if url.startswith(prefix) else url

    def pin(self, source: str) -> str:
        """Return the source of a PIN in which a file is absolute."""
        kind, _, rest = source.partition(":")
        return f"file:{self.resolve(rest)}" if kind == "file" and rest else source

    def error(self, key: str, problem: str) -> ConfigurationError:
        """Return the error that names this file, a key and what is wrong with it; the caller raises it."""
        return ConfigurationError(f"{self.path}: {key}: {problem}")

    def token(self, key: str = "service.token", name: str | None = None) -> str:
        """Return the name of the token, or set of them, that a section means: by custom the service's own.

        Args:
            key: the configuration key that asks, for errors.
            name: the token's name, where it is not the service's.

        Raises:
            ConfigurationError: no such token.
        """
        document = self.document
        try:
            return token_meant(name or document.service.token, document.tokens, document.token_sets)
        except ConfigurationError as error:
            raise self.error(key, str(error)) from None


def read_dialog_config(path: Path) -> DialogConfiguration:
    """Read and check a configuration.

    Args:
        path: the TOML file.

    Raises ConfigurationError: the file cannot be read or something in it is not allowed; names the key.
    """
    path = path.absolute()
    document = read_document(path, DialogConfig)
    try:
        check_tokens(document.tokens, document.token_sets)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None
    remotes = [binding.remote for binding in document.bindings]
    for remote in remotes:
        if remotes.count(remote) > 1:
            raise ConfigurationError(f"{path}: bindings: {remote!r} twice")
    return DialogConfiguration(document, path)
