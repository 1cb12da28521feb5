"""The versions of every symmetric purpose, as the configuration or the key manifest has them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from hsm_msl.backend.key_manifest import KeyManifest, PurposeVersions
from hsm_msl.backend.keyring import PurposeView
from hsm_msl.errors import ConfigurationError
from hsm_msl.ports import SymmetricKeys
from hsm_msl.service.compose.keys import KeySources, read_public_key
from hsm_msl.service.documents import Configuration, ServerConfig
from hsm_msl.service.rotation import KeyRotation


class Rings:
    """Views of purposes, each made once; with a manifest they follow its rotations.

    Args:
        config: the configuration.
        sources: opens tokens.

    Raises:
        ConfigurationError: the manifest cannot be used; names the key.
    """

    def __init__(self, config: Configuration[ServerConfig], sources: KeySources) -> None:
        document = config.document
        self._sources = sources
        self._sections = document.keys
        self._views: dict[str, PurposeView[SymmetricKeys]] = {}
        self._versions = {
            purpose: PurposeVersions(section.primary, section.active) for purpose, section in document.keys.items()
        }
        self._manifest: KeyManifest | None = None
        self._every = 0.0
        section = document.key_manifest
        if section is not None:
            try:
                signer = read_public_key(config.resolve(section.signed_by))
            except ConfigurationError as error:
                raise config.error("key_manifest.signed_by", str(error)) from None
            self._manifest = KeyManifest(config.resolve(section.file), signer.public_key)
            self._every = float(section.every)
            try:
                announced = self._manifest.poll() or {}
            except ConfigurationError as error:
                raise config.error("key_manifest.file", str(error)) from None
            self._versions |= {name: announced[name] for name in self._versions if name in announced}

    def view(self, purpose: str) -> PurposeView[SymmetricKeys]:
        """Return the view of a purpose of ``[keys]``. Raises ConfigurationError, BackendError as ``KeySources``."""
        view = self._views.get(purpose)
        if view is None:
            view = self._sources.ring(purpose, self._sections[purpose], self._versions[purpose])
            self._views[purpose] = view
        return view

    def follow(self, closing: ExitStack, retired: Callable[[], None]) -> None:
        """Follow the manifest, if there is one, until ``closing`` ends; ``retired`` as for ``KeyRotation``."""
        if self._manifest is None:
            return
        current = {purpose: self._versions[purpose] for purpose in self._views}
        rotation = KeyRotation(self._manifest, current, self._replace, retired, self._every)
        closing.callback(rotation.close)
        rotation.start()

    def _replace(self, purpose: str, versions: PurposeVersions) -> None:
        self._views[purpose].replace(self._sources.versions(purpose, self._sections[purpose], versions))
