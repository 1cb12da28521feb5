"""The configuration of a service that holds dialogs: one TOML document, checked as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from hsm_msl.dialog.policy import Policy
from hsm_msl.errors import ConfigurationError
from hsm_msl.service.config import ClientConfig, Configuration
from hsm_msl.service.sections import ListenSection, Name, NoneIdentity, Section, TokenSection
from hsm_msl.toml_document import read_document

_Hash = Annotated[int, msgspec.Meta(ge=1, le=4)]


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
        node: name of this process among those that share the database.
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
    """

    remote: Name
    prefix: bool = False
    url: str = ""
    signing: tuple[Name, ...]
    encryption: tuple[Name, ...]
    disabled: tuple[Name, ...] = ()
    suites: tuple[_Hash, ...] = (2,)
    policy: Policy = Policy()
    max_body: Annotated[int, msgspec.Meta(ge=1)] = 16 * 1024 * 1024
    principal: str = ""
    enabled: bool = True
    allow_dual_use: bool = False


class DialogStoreSection(Section, frozen=True, kw_only=True):
    """``[store]``: where dialogs rest.

    Attributes:
        database: SQLAlchemy URL; ``sqlite:///FILE`` for one process, ``postgresql://...`` for several.
    """

    database: Name = "sqlite:///dialogs.sqlite"


class DialogConfig(Section, frozen=True, kw_only=True):
    """The document; every attribute is the table of that name."""

    service: ServiceSection
    tokens: dict[str, TokenSection]
    bindings: tuple[BindingSection, ...] = ()
    store: DialogStoreSection = DialogStoreSection()
    server: ListenSection = ListenSection()


class DialogConfiguration:
    """A checked document and the view of its tokens that opens them.

    Args:
        document: the document.
        path: the file it was read from; other paths are relative to its directory.
    """

    def __init__(self, document: DialogConfig, path: Path) -> None:
        self.document = document
        self.path = path
        client = ClientConfig(entity=NoneIdentity(identity=document.service.name), tokens=dict(document.tokens))
        self.tokens: Configuration[ClientConfig] = Configuration(client, path)


def read_dialog_config(path: Path) -> DialogConfiguration:
    """Read and check a configuration.

    Args:
        path: the TOML file.

    Raises ConfigurationError: the file cannot be read or something in it is not allowed; names the key.
    """
    path = path.absolute()
    document = read_document(path, DialogConfig)
    remotes = [binding.remote for binding in document.bindings]
    for remote in remotes:
        if remotes.count(remote) > 1:
            raise ConfigurationError(f"{path}: bindings: {remote!r} twice")
    return DialogConfiguration(document, path)
