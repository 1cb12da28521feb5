"""Pre-shared keys that nobody stores: derived from a master key and the identity (NIST SP 800-108r1, AES-CMAC).

Counter mode with a 32-bit counter before the fixed data and a 32-bit length after it. The label names the key's
purpose, the context is the identity; a fleet is provisioned with the same three derivations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from cryptography.hazmat.primitives.ciphers.algorithms import AES

from hsm_msl.backend.deferred import DeferredWrappingKey
from hsm_msl.backend.key_cache import KeyCache
from hsm_msl.backend.key_derivation import derive_bytes
from hsm_msl.backend.software import SoftwareAesKey, SoftwareWrappingKey, software_mac_key
from hsm_msl.ports import AesKey, MacAlgorithm, MacKey, SymmetricKeys, WrappingKey

ENCRYPTION_LABEL = b"MSL PSK encryption"
MAC_LABEL = b"MSL PSK authentication"
WRAPPING_LABEL = b"MSL PSK wrapping"

ENCRYPTION_BYTES = 16
MAC_BYTES = 32
WRAPPING_BYTES = 16


@runtime_checkable
class DerivationKey(Protocol):
    """A master key from which others are derived, where it lives; its bytes and theirs are never seen."""

    def derive_aes(self, label: bytes, context: bytes, size: int) -> AesKey:
        """Return a derived AES key of ``size`` bytes. Raises BackendError."""

    def derive_mac(self, label: bytes, context: bytes, size: int, algorithm: MacAlgorithm) -> MacKey:
        """Return a derived MAC key of ``size`` bytes. Raises BackendError."""

    def derive_wrapping(self, label: bytes, context: bytes, size: int) -> WrappingKey:
        """Return a derived key-encrypting key of ``size`` bytes. Raises BackendError."""


class SoftwareDerivationKey:
    """A master key in this process, for tests and for provisioning devices.

    Args:
        value: an AES key, 16, 24 or 32 bytes.

    Raises:
        ValueError: another size.
    """

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        AES(value)
        self._value = value

    def __repr__(self) -> str:
        return "<SoftwareDerivationKey>"

    def derive(self, label: bytes, context: bytes, size: int) -> bytes:
        """Return derived bytes, which a device is provisioned with.

        Args:
            label: the key's purpose.
            context: the identity.
            size: in bytes.
        """
        return derive_bytes(self._value, label, context, size)

    def derive_aes(self, label: bytes, context: bytes, size: int) -> AesKey:
        """Return a derived AES key."""
        return SoftwareAesKey(self.derive(label, context, size))

    def derive_mac(self, label: bytes, context: bytes, size: int, algorithm: MacAlgorithm) -> MacKey:
        """Return a derived MAC key."""
        return software_mac_key(self.derive(label, context, size), algorithm)

    def derive_wrapping(self, label: bytes, context: bytes, size: int) -> WrappingKey:
        """Return a derived key-encrypting key."""
        return SoftwareWrappingKey(self.derive(label, context, size))


@dataclass(frozen=True, slots=True)
class _Versioned:
    key: DerivationKey
    version: str


class DerivedKeys:
    """The keys of a fleet that was provisioned by derivation (``PresharedKeys``).

    Every identity has keys, so whether an entity exists is for ``admits`` and for the hooks to say.

    Args:
        key: the master key.
        admits: tells whether an identity belongs to the fleet.
        version: name of the master key's version, for people.
        algorithm: of every entity's MAC key.
        capacity: how many entities' keys to keep; each takes up to three session objects.
    """

    __slots__ = ("_admits", "_algorithm", "_cache", "_master")

    def __init__(
        self,
        key: DerivationKey,
        admits: Callable[[str], bool],
        *,
        version: str = "",
        algorithm: MacAlgorithm = MacAlgorithm.HMAC_SHA256,
        capacity: int = 4096,
    ) -> None:
        self._master = _Versioned(key, version)
        self._admits = admits
        self._algorithm = algorithm
        self._cache: KeyCache[SymmetricKeys] = KeyCache(capacity)

    def find(self, identity: str) -> SymmetricKeys | None:
        """Return the entity's handles, or None for an identity outside the fleet.

        Raises:
            BackendError: the token did not derive.
            StoreError: ``admits`` cannot answer.
        """
        if not self._admits(identity):
            self._cache.drop(identity)
            return None
        keys = self._cache.get(identity)
        if keys is None:
            keys = self._derive(identity.encode())
            self._cache.put(identity, keys)
        return keys

    def _derive(self, context: bytes) -> SymmetricKeys:
        key = self._master.key
        return SymmetricKeys(
            key.derive_aes(ENCRYPTION_LABEL, context, ENCRYPTION_BYTES),
            key.derive_mac(MAC_LABEL, context, MAC_BYTES, self._algorithm),
            DeferredWrappingKey(lambda: key.derive_wrapping(WRAPPING_LABEL, context, WRAPPING_BYTES)),
            self._master.version,
        )
