"""Takes rotations of keys into use while the server runs, as the signed manifest announces them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from hsm_msl.backend.key_manifest import KeyManifest, PurposeVersions
from hsm_msl.errors import HsmMslError
from hsm_msl.service.repeated import Repeated
from hsm_msl.service.watch.transitions import Record, no_record

_LOG = logging.getLogger("hsm_msl.keys")


class KeyRotation(Repeated):
    """Looks at a manifest now and then.

    What cannot be used (a manifest that is not signed, a key that is not on the token) is logged once and tried again
    with every look; the versions in use stay.

    Args:
        manifest: the manifest.
        current: the versions in use by purpose.
        replace: takes other versions of a purpose into use; raises HsmMslError and then has changed nothing.
        retired: called after a version was taken out of use.
        every: seconds between two looks.
        record: writes to the audit log.
    """

    def __init__(
        self,
        manifest: KeyManifest,
        current: Mapping[str, PurposeVersions],
        replace: Callable[[str, PurposeVersions], None],
        retired: Callable[[], None],
        every: float,
        record: Record = no_record,
    ) -> None:
        super().__init__("key rotation", every)
        self._manifest = manifest
        self._current = dict(current)
        self._wanted = dict(current)
        self._replace = replace
        self._retired = retired
        self._record = record
        self._said: dict[str, str] = {}

    def look(self) -> None:
        """Look once and take up what changed; whatever goes wrong is logged, not raised."""
        announced = None
        try:
            announced = self._manifest.poll()
            self._said.pop("", None)
        except HsmMslError as error:
            self._complain("", "key manifest refused", "key manifest not used", error)
        if announced is not None and self._manifest.reading is not None:
            reading = self._manifest.reading
            self._record("key manifest accepted", {"number": str(reading.sequence), "sha256": reading.sha256})
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
                self._complain(purpose, "key versions refused", f"versions of {purpose} not taken into use", error)
                continue
            self._said.pop(purpose, None)
            self._record("key versions changed", {"purpose": purpose, **_changes(before, versions)})
            self._current[purpose] = versions
            _LOG.info("%s: version %d makes, %s also open", purpose, versions.primary, versions.active or "no others")
            if {before.primary, *before.active} - {versions.primary, *versions.active}:
                self._retired()

    def _complain(self, about: str, event: str, what: str, error: HsmMslError) -> None:
        """Log what is wrong, unless it was already wrong in the same way at the last look."""
        if self._said.get(about) != str(error):
            self._said[about] = str(error)
            _LOG.error("%s: %s", what, error)
            self._record(event, {**({"purpose": about} if about else {}), "reason": str(error)})


def _changes(before: PurposeVersions, after: PurposeVersions) -> dict[str, str]:
    """Return what changed about the versions of a purpose, for the audit log."""
    primary = str(after.primary) if before.primary == after.primary else f"{before.primary} -> {after.primary}"
    return {"primary": primary, "opening": _listed(after.active), "opening before": _listed(before.active)}


def _listed(versions: tuple[int, ...]) -> str:
    return ", ".join(map(str, versions)) or "none"
