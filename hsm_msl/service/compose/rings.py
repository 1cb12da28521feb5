"""The versions of every symmetric purpose, as the configuration or the key manifest has them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from hsm_msl.backend.key_manifest import KeyManifest, ManifestReading, PurposeVersions
from hsm_msl.backend.keyring import KeyVersion, PurposeView
from hsm_msl.backend.manifest_memory import ManifestMemory
from hsm_msl.errors import ConfigurationError
from hsm_msl.ports import Clock, SymmetricKeys
from hsm_msl.service.compose.keys import KeySources, read_public_key
from hsm_msl.service.documents import Configuration, ServerConfig
from hsm_msl.service.key_drift import AnyKey
from hsm_msl.service.key_usage import KeyUsage, uncounted
from hsm_msl.service.repeated import Repeated
from hsm_msl.service.rotation import KeyRotation
from hsm_msl.service.usage_reports import UsageReports
from hsm_msl.service.watch.transitions import Record, no_record


def key_manifest(config: Configuration[ServerConfig]) -> KeyManifest | None:
    """Return the manifest of a configuration, not yet read; None without one.

    Raises:
        ConfigurationError: the signer's key cannot be read; names the key.
    """
    section = config.document.key_manifest
    if section is None:
        return None
    try:
        signer = read_public_key(config.resolve(section.signed_by))
    except ConfigurationError as error:
        raise config.error("key_manifest.signed_by", str(error)) from None
    memory = ManifestMemory(config.resolve(section.memory))
    return KeyManifest(config.resolve(section.file), signer.public_key, memory)


class Rings:
    """Views of purposes, each made once; with a manifest they follow its rotations.

    Args:
        config: the configuration.
        sources: opens tokens.
        manifest: from ``key_manifest``; read here for the first time.
        clock: local time.
        record: writes to the audit log.

    Raises:
        ConfigurationError: the manifest cannot be used; names the key.
    """

    def __init__(
        self,
        config: Configuration[ServerConfig],
        sources: KeySources,
        manifest: KeyManifest | None,
        clock: Clock,
        record: Record = no_record,
    ) -> None:
        document = config.document
        self._config = config
        self._sources = sources
        self._sections = document.keys
        self._views: dict[str, PurposeView[SymmetricKeys]] = {}
        self._versions = {
            purpose: PurposeVersions(section.primary, section.active) for purpose, section in document.keys.items()
        }
        self._manifest = manifest
        self._record = record
        self._usage: KeyUsage | None = None
        section = document.key_manifest
        if section is not None and manifest is not None:
            try:
                announced = manifest.poll() or {}
            except ConfigurationError as error:
                record("key manifest refused", {"reason": str(error)})
                raise config.error("key_manifest.file", str(error)) from None
            self._versions |= {name: announced[name] for name in self._versions if name in announced}
            if section.usage is not None:
                self._usage = KeyUsage(f"{socket.gethostname()} pid {os.getpid()}", clock)

    @property
    def reading(self) -> ManifestReading | None:
        """What was read of the manifest; None without one."""
        return None if self._manifest is None else self._manifest.reading

    def view(self, purpose: str) -> PurposeView[SymmetricKeys]:
        """Return the view of a purpose of ``[keys]``. Raises ConfigurationError, BackendError as ``KeySources``."""
        view = self._views.get(purpose)
        if view is None:
            view = self._sources.ring(purpose, self._sections[purpose], self._versions[purpose])
            view.replace(self._counted(purpose, view.versions()))
            self._views[purpose] = view
        return view

    def keys(self) -> Iterator[tuple[str, AnyKey]]:
        """Yield every key in use with its label, for examinations: uses through these handles are not counted."""
        for purpose, view in list(self._views.items()):
            for version in view.versions():
                held = version.key
                number = int(version.version.removeprefix("v"))
                mac = None if held.mac is None else uncounted(held.mac)
                for role, key in (("encryption", held.encryption), ("mac", mac), ("wrap", held.wrapping)):
                    if key is not None:
                        yield self._sections[purpose].named(purpose, role, number), key

    def followers(self, forget_tokens: Callable[[], None]) -> Iterator[Repeated]:
        """Yield what follows the manifest and reports the use of keys, if so configured; not yet started.

        Args:
            forget_tokens: makes every token be verified anew.

        Raises:
            ConfigurationError: usage cannot be reported; names the key.
        """
        section = self._config.document.key_manifest
        if section is None or self._manifest is None:
            return
        current = {purpose: self._versions[purpose] for purpose in self._views}
        every = float(section.every)
        yield KeyRotation(self._manifest, current, self._replace, forget_tokens, every, self._record)
        if section.usage is None or self._usage is None:
            return
        path = self._config.resolve(section.usage) / f"{socket.gethostname()}-{os.getpid()}.json"
        try:
            yield UsageReports(path, self._usage, forget_tokens, float(section.report_every))
        except ConfigurationError as error:
            raise self._config.error("key_manifest.usage", str(error)) from None

    def _replace(self, purpose: str, versions: PurposeVersions) -> None:
        fresh = self._sources.versions(purpose, self._sections[purpose], versions)
        self._views[purpose].replace(self._counted(purpose, fresh))

    def _counted(
        self, purpose: str, versions: Sequence[KeyVersion[SymmetricKeys]]
    ) -> Sequence[KeyVersion[SymmetricKeys]]:
        usage = self._usage
        if usage is None:
            return versions
        section = self._sections[purpose]

        def labels(version: KeyVersion[SymmetricKeys]) -> tuple[str, ...]:
            keys = version.key
            roles = (("mac", keys.mac), ("encryption", keys.encryption), ("wrap", keys.wrapping))
            number = int(version.version.removeprefix("v"))
            return tuple(section.named(purpose, role, number) for role, key in roles if key is not None)

        return [replace(version, key=usage.counted(version.key, labels(version))) for version in versions]
