"""Takes rotations of keys into use while the server runs, as the signed manifest announces them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from hsm_msl.backend.key_manifest import KeyManifest, PurposeVersions
from hsm_msl.errors import HsmMslError

_LOG = logging.getLogger("hsm_msl.keys")


class KeyRotation:
    """Looks at a manifest now and then, in a thread of its own.

    What cannot be used (a manifest that is not signed, a key that is not on the token) is logged once and tried again
    with every look; the versions in use stay.

    Args:
        manifest: the manifest.
        current: the versions in use by purpose.
        replace: takes other versions of a purpose into use; raises HsmMslError and then has changed nothing.
        retired: called after a version was taken out of use.
        every: seconds between two looks.
    """

    def __init__(
        self,
        manifest: KeyManifest,
        current: Mapping[str, PurposeVersions],
        replace: Callable[[str, PurposeVersions], None],
        retired: Callable[[], None],
        every: float,
    ) -> None:
        self._manifest = manifest
        self._current = dict(current)
        self._wanted = dict(current)
        self._replace = replace
        self._retired = retired
        self._every = every
        self._said: dict[str, str] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="key rotation", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self) -> None:
        """Look once and take up what changed; whatever goes wrong is logged, not raised."""
        announced = None
        try:
            announced = self._manifest.poll()
            self._said.pop("", None)
        except HsmMslError as error:
            self._complain("", f"key manifest not used: {error}")
        for purpose, versions in (announced or {}).items():
            if purpose in self._wanted:
                self._wanted[purpose] = versions
        for purpose, versions in self._wanted.items():
            before = self._current[purpose]
            if versions == before:
                continue
            try:
                self._replace(purpose, versions)
            except HsmMslError as error:
                self._complain(purpose, f"versions of {purpose} not taken into use: {error}")
                continue
            self._said.pop(purpose, None)
            self._current[purpose] = versions
            _LOG.info("%s: version %d makes, %s also open", purpose, versions.primary, versions.active or "no others")
            if {before.primary, *before.active} - {versions.primary, *versions.active}:
                self._retired()

    def _complain(self, about: str, text: str) -> None:
        """Log what is wrong, unless it was already wrong in the same way at the last look."""
        if self._said.get(about) != text:
            self._said[about] = text
            _LOG.error("%s", text)

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            self.look()
