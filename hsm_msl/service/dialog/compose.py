"""Opens what a dialog configuration names: token, keys, certificates, database; the one place that does."""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from hsm_msl.backend.any_token import AnyToken
from hsm_msl.backend.pkcs11.token import Token
from hsm_msl.backend.workers import WorkerToken
from hsm_msl.dialog.binding import Binding, PinnedCertificate, certificate_facts
from hsm_msl.dialog.clock import SteadyClock
from hsm_msl.dialog.context import CacheSizes
from hsm_msl.dialog.engine import DialogEngine
from hsm_msl.dialog.headers import Certificates
from hsm_msl.dialog.identity import LocalService
from hsm_msl.dialog.issuers import IssuerTrust
from hsm_msl.dialog.names import ID_SIZE
from hsm_msl.dialog.proving import prove_residence, prove_suites
from hsm_msl.dialog.session import Event
from hsm_msl.errors import ConfigurationError, HsmMslError
from hsm_msl.ports import AgreementKey
from hsm_msl.ports.dialog import UnwrappingKey
from hsm_msl.service.compose.audit import Occasion, open_journal
from hsm_msl.service.compose.tokens import Tokens
from hsm_msl.service.dialog.certificates import read_certificate, read_chain, read_presented
from hsm_msl.service.dialog.config import BindingSection, DialogConfiguration
from hsm_msl.service.dialog.rejections import Rejections
from hsm_msl.service.dialog.revocation import FileEvidence
from hsm_msl.service.watch.transitions import TokenTransitions
from hsm_msl.stores.dialog_sql import SqlDialogStore
from hsm_msl.stores.sql import Database


class FileMirror:
    """Keeps the store's incarnation in a file outside the database (``IncarnationMirror``).

    Args:
        path: the file; its directory exists.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> bytes | None:
        """Return the value, or None when there is none. Raises ConfigurationError when the file cannot be read."""
        try:
            return bytes.fromhex(self._path.read_text(encoding="ascii").strip())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{self._path}: cannot be read as an incarnation: {error}") from None

    def write(self, value: bytes) -> None:
        """Replace the value durably. Raises ConfigurationError when the file cannot be written."""
        fresh = self._path.with_name(self._path.name + ".new")
        try:
            with fresh.open("w", encoding="ascii") as file:
                file.write(value.hex() + "\n")
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self._path)
            directory = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise ConfigurationError(f"{self._path}: cannot be written: {error.strerror}") from None


@dataclass(frozen=True, slots=True)
class ComposedDialogs:
    """A service that can hold dialogs.

    Args:
        engine: its engine.
        store: where its dialogs live.
        mirror: the incarnation outside the database.
        node: name of this process.
        closing: closes database and token.
        threads: for engine, token and database.
        opened: returns the tokens of its own, by name.
        observer: hears of every event of the engine.
    """

    engine: DialogEngine
    store: SqlDialogStore
    mirror: FileMirror
    node: str
    closing: ExitStack
    threads: int
    opened: Callable[[], Mapping[str, Token | WorkerToken]]
    observer: Callable[[Event], None]

    def close(self) -> None:
        """Close the database and log out of the token."""
        self.closing.close()


def compose_dialogs(
    config: DialogConfiguration,
    *,
    sizes: CacheSizes | None = None,
    token: Callable[[str, str | None], AnyToken] | None = None,
    occasion: Occasion = "serve",
) -> ComposedDialogs:
    """Open everything a configuration names and put its bindings in force.

    Args:
        config: the configuration.
        sizes: most entries of the engine's caches.
        token: returns a token of the service around this one, for a configuration without tokens of its own.
        occasion: whether the service is to serve or only to be looked at, for the audit log.

    Raises ConfigurationError, BackendError, StoreError: something cannot be opened; the text says what to do.
    """
    document = config.document
    journal = open_journal(config, document.audit, time.time, occasion)
    own = Tokens(config.path, document.tokens, document.token_sets, config.pin)
    closing = ExitStack()
    closing.callback(own.close)

    def holder(key: str, name: str | None) -> AnyToken:
        if token is not None and not document.tokens:
            return token(f"dialog.{key}", name or document.service.token)
        return own.open(config.token(key, name))

    def facts() -> Mapping[str, str]:
        tokens = {f"token {name}": each.status().identity or each.name for name, each in own.opened().items()}
        return {"identity": document.service.name, **tokens}

    rejections = Rejections(journal.record, time.monotonic)
    try:
        composed = _compose(config, closing, sizes, holder("service.token", None), own.opened, rejections.observe)
        journal.begin(closing, holder, facts, (TokenTransitions(own.opened, journal.record).look, rejections.look))
        closing.callback(rejections.look, last=True)
    except HsmMslError as error:
        journal.refused(error)
        closing.close()
        raise
    except BaseException:
        closing.close()
        raise
    return composed


def _compose(
    config: DialogConfiguration,
    closing: ExitStack,
    sizes: CacheSizes | None,
    token: AnyToken,
    opened: Callable[[], Mapping[str, Token | WorkerToken]],
    observer: Callable[[Event], None],
) -> ComposedDialogs:
    section = config.document.service
    try:
        database = Database(config.database())
        closing.callback(database.close)
        store = SqlDialogStore(database)
    except ConfigurationError as error:
        raise config.error("store.database", str(error)) from None
    local = _local(config, token, _instance(store, section.name))
    _prove(config, local)
    put_bindings(config, store)
    clock = SteadyClock(time.time, time.monotonic)
    revocation, threads = config.document.revocation, config.document.server.threads
    evidence = FileEvidence(
        [config.resolve(name) for name in revocation.lists],
        [config.resolve(name) for name in revocation.responses],
        time.monotonic,
    )
    engine = DialogEngine(local, store, clock, _MixedRandom(token), sizes or _sizes(config), evidence)
    mirror = FileMirror(config.resolve(section.incarnation))
    return ComposedDialogs(engine, store, mirror, section.node, closing, threads, opened, observer)


def _prove(config: DialogConfiguration, local: LocalService) -> None:
    suites = {suite for binding in read_bindings(config) for suite in binding.suites}
    try:
        prove_suites(local, suites)
        prove_residence(local, suites)
    except ConfigurationError as error:
        raise ConfigurationError(f"{config.path}: {error}") from None


def _instance(store: SqlDialogStore, name: str) -> bytes:
    """Return the random identity of this deployment, made once per database."""
    key = f"instance of {name}"
    with store.transaction() as tx:
        value = tx.incarnation(key)
        if value is None:
            value = secrets.token_bytes(ID_SIZE)
            tx.set_incarnation(key, value)
        return value


def read_bindings(config: DialogConfiguration) -> list[Binding]:
    """Return the bindings of a configuration. Raises ConfigurationError for one that could never work."""
    wanted = [read_binding_section(config, section) for section in config.document.bindings]
    for binding in wanted:
        binding.validate()
    return wanted


def put_bindings(config: DialogConfiguration, store: SqlDialogStore) -> None:
    """Make the bindings in the store those of the configuration. Raises ConfigurationError, StoreError."""
    local = config.document.service.name
    wanted = read_bindings(config)
    remotes = {binding.remote for binding in wanted}
    with store.transaction() as tx:
        for row in tx.bindings(local):
            if row.remote not in remotes:
                tx.drop_binding(local, row.remote)
        for binding in wanted:
            tx.put_binding(binding.row())


def read_binding_section(config: DialogConfiguration, section: BindingSection) -> Binding:
    """Return the binding a section describes, certificates read. Raises ConfigurationError."""

    def pins(names: tuple[str, ...]) -> tuple[PinnedCertificate, ...]:
        return tuple(
            PinnedCertificate(read_certificate(config.resolve(name)), name not in section.disabled) for name in names
        )

    where = f"bindings: {section.remote!r}"
    if not section.signing and not section.issuers:
        raise config.error(where, "trusts nobody: name signing certificates (signing) or their issuers (issuers)")
    if not section.encryption and not section.issuers:
        raise config.error(where, "has nothing to encrypt to: name encryption certificates, or issuers")
    trust = None
    if section.issuers:
        trust = IssuerTrust(
            issuers=tuple(read_chain(config.resolve(name))[0] for name in section.issuers),
            subject=section.subject,
            revocation=section.revocation,
            dual_use=section.allow_dual_use,
        )
    return Binding(
        local=config.document.service.name,
        remote=section.remote,
        prefix=section.prefix,
        signing=pins(section.signing),
        encryption=pins(section.encryption),
        suites=section.suites,
        policy=section.policy,
        max_body=section.max_body,
        ack_mode=section.ack_mode,
        trust=trust,
        certificates=tuple(read_chain(config.resolve(name)) for name in section.certificates),
        url=section.url,
        principal=section.principal,
        enabled=section.enabled,
        not_after=None if section.not_after is None else section.not_after.timestamp(),
        split_keys=section.split_keys,
        allow_dual_use=section.allow_dual_use,
    )


def _local(config: DialogConfiguration, token: AnyToken, instance: bytes) -> LocalService:
    section = config.document.service
    resolve = config.resolve
    signing = read_presented(resolve(section.signing_certificate))
    signing_cert = signing[0]
    signing_key = token.signing_key(section.signing_key)
    _check_pair(section.signing_key, signing_key.public_key, signing_cert)
    encryption = read_presented(resolve(section.encryption_certificate))
    current = encryption[0]
    opening = {hashlib.sha256(current).digest(): _opening_key(token, section.encryption_key, current)}
    for retired in section.retired:
        der = read_certificate(resolve(retired.encryption_certificate))
        opening[hashlib.sha256(der).digest()] = _opening_key(token, retired.encryption_key, der)
    return LocalService(
        name=section.name,
        instance=instance,
        signing_key=signing_key,
        signing_cert=hashlib.sha256(signing_cert).digest(),
        encryption_keys=opening,
        encryption_cert=hashlib.sha256(current).digest(),
        exchange=token.exchange_keys(),
        storage=token.wrapping_key(section.storage_key),
        resident=token if config.document.session_keys.residency == "token" else None,
        presented=Certificates(signing, encryption),
    )


def _opening_key(token: AnyToken, label: str, der: bytes) -> UnwrappingKey | AgreementKey:
    if isinstance(x509.load_der_x509_certificate(der).public_key(), rsa.RSAPublicKey):
        unwrapping = token.unwrapping_key(label)
        _check_pair(label, unwrapping.public_key, der)
        return unwrapping
    agreement = token.agreement_key(label)
    _check_pair(label, agreement.public_value, der)
    return agreement


def _check_pair(label: str, public_key: bytes, der: bytes) -> None:
    if certificate_facts(der).public_key != public_key:
        raise ConfigurationError(f"the certificate for key {label!r} belongs to another key")


def _sizes(config: DialogConfiguration) -> CacheSizes:
    section = config.document.cache
    return CacheSizes(section.keks, section.session_keys, section.failures, section.certificates)


class _MixedRandom:
    """Random bytes that are good when either the token's generator or the system's is (dialog section 10).

    Fewer bytes than a key has are jitter, for which no token is asked.
    """

    def __init__(self, token: AnyToken) -> None:
        self._token = token

    def __call__(self, size: int) -> bytes:
        own = secrets.token_bytes(size)
        if size < ID_SIZE:
            return own
        return bytes(a ^ b for a, b in zip(own, self._token.random(size), strict=True))
