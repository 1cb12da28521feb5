"""Which key serves which purpose: versions with one primary, and states that say what each may still do.

A purpose such as ``msl.token`` has versions. One is primary and makes whatever is made now; active ones still open
what they made; retired ones are kept for the record and open nothing. A rotation replaces a purpose's versions in one
step, and every view handed out before sees the new ones with its next call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from hsm_msl.errors import ConfigurationError, KeyNotFoundError
from hsm_msl.ports import DecryptionKey, SigningKey, SymmetricKeys

Key = TypeVar("Key")


class KeyState(Enum):
    """What a key version may do."""

    PRIMARY = "primary"
    """Makes and opens."""
    ACTIVE = "active"
    """Opens what it made."""
    RETIRED = "retired"
    """Nothing; kept so that people can tell what happened to it."""


@dataclass(frozen=True, slots=True)
class KeyVersion(Generic[Key]):
    """One version of a purpose.

    Attributes:
        version: its name, for people and logs.
        state: what it may do.
        key: the handle or handles.
    """

    version: str
    state: KeyState
    key: Key


class PurposeView(Generic[Key]):
    """The versions of one purpose, always the current ones.

    Args:
        purpose: its name.
        versions: exactly one primary among them.

    Raises:
        ConfigurationError: no primary, several, or a version named twice.
    """

    __slots__ = ("_candidates", "_primary", "_purpose", "_versions")

    def __init__(self, purpose: str, versions: Iterable[KeyVersion[Key]]) -> None:
        self._purpose = purpose
        self.replace(versions)

    def replace(self, versions: Iterable[KeyVersion[Key]]) -> None:
        """Take other versions into use in one step. Raises ConfigurationError and then changes nothing."""
        found = tuple(versions)
        names = [version.version for version in found]
        if len(set(names)) != len(names):
            raise ConfigurationError(f"key purpose {self._purpose!r} names a version twice")
        primaries = [version.key for version in found if version.state is KeyState.PRIMARY]
        if len(primaries) != 1:
            raise ConfigurationError(
                f"key purpose {self._purpose!r} needs exactly one primary version, and has {len(primaries)}"
            )
        active = [version.key for version in found if version.state is KeyState.ACTIVE]
        self._versions = found
        self._primary = primaries[0]
        self._candidates = (primaries[0], *active)

    @property
    def purpose(self) -> str:
        """The purpose's name."""
        return self._purpose

    def primary(self) -> Key:
        """Return the version that makes what is made now."""
        return self._primary

    def candidates(self) -> Sequence[Key]:
        """Return every version that may still open something, primary first."""
        return self._candidates

    def versions(self) -> Sequence[KeyVersion[Key]]:
        """Return all versions with their states."""
        return self._versions


class KeyRing:
    """Routes purposes to keys, wherever these live.

    Args:
        symmetric: AES, MAC and wrapping handles by purpose.
        signing: private keys that sign, by purpose.
        decryption: private keys that decrypt, by purpose.
    """

    __slots__ = ("_decryption", "_signing", "_symmetric")

    def __init__(
        self,
        *,
        symmetric: Iterable[PurposeView[SymmetricKeys]] = (),
        signing: Iterable[PurposeView[SigningKey]] = (),
        decryption: Iterable[PurposeView[DecryptionKey]] = (),
    ) -> None:
        self._symmetric = _by_purpose(symmetric)
        self._signing = _by_purpose(signing)
        self._decryption = _by_purpose(decryption)

    def symmetric(self, purpose: str) -> PurposeView[SymmetricKeys]:
        """Return the view of a symmetric purpose, a ``TokenKeyRing``. Raises KeyNotFoundError for an unknown one."""
        return _find(self._symmetric, purpose)

    def signing(self, purpose: str) -> PurposeView[SigningKey]:
        """Return the view of a signing purpose. Raises KeyNotFoundError for an unknown one."""
        return _find(self._signing, purpose)

    def decryption(self, purpose: str) -> PurposeView[DecryptionKey]:
        """Return the view of a decryption purpose. Raises KeyNotFoundError for an unknown one."""
        return _find(self._decryption, purpose)

    def purposes(self) -> Sequence[str]:
        """Return every purpose, sorted."""
        return sorted({*self._symmetric, *self._signing, *self._decryption})


def _by_purpose(views: Iterable[PurposeView[Key]]) -> Mapping[str, PurposeView[Key]]:
    found: dict[str, PurposeView[Key]] = {}
    for view in views:
        if view.purpose in found:
            raise ConfigurationError(f"key purpose {view.purpose!r} is given twice")
        found[view.purpose] = view
    return found


def _find(views: Mapping[str, PurposeView[Key]], purpose: str) -> PurposeView[Key]:
    view = views.get(purpose)
    if view is None:
        known = ", ".join(sorted(views)) or "none"
        raise KeyNotFoundError(f"no keys are configured for purpose {purpose!r} (configured: {known})")
    return view
