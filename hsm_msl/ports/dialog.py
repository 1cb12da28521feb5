"""The key exchange keys of the secure dialog as handles: made, wrapped for a peer and opened beside the token.

These complete ``hsm_msl.ports`` for one protocol. A key exchange key (KEK) is unique to an ordered pair of services,
wraps session keys, and leaves the place where it was made only wrapped (dialog section 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from hsm_msl.ports import AesKey, MacKey, RsaPadding, WrappingKey


@runtime_checkable
class ExchangeKey(WrappingKey, Protocol):
    """A key exchange key at its maker: the one handle whose key may leave, and only wrapped."""

    def wrap_for_rsa(self, public_key: bytes, padding: RsaPadding) -> bytes:
        """Return this key encrypted to an RSA public key (SubjectPublicKeyInfo DER).

        Raises MechanismUnsupportedError for a padding the token cannot do, DataRejectedError for a bad public key.
        """

    def wrap_under(self, key: WrappingKey) -> bytes:
        """Return this key wrapped (RFC 3394) under ``key``, which lives in the same place.

        Raises KeyPolicyError when ``key`` lives elsewhere.
        """


@runtime_checkable
class ExchangeKeys(Protocol):
    """The place where key exchange keys live: the token, or this process."""

    def generate(self, size: int) -> ExchangeKey:
        """Make a fresh key of 16 or 32 bytes."""

    def wrapping_key(self, value: bytes) -> WrappingKey:
        """Take a 16- or 32-byte key agreed on the host (ECDH) as a non-extractable wrapping handle."""


class ResidentKeys(Protocol):
    """Makes session keys in the token, which they leave only wrapped; a token has this shape."""

    def generate_aes(self, size: int) -> AesKey:
        """Make an AES key of ``size`` bytes. Raises BackendError."""

    def generate_mac(self, size: int) -> MacKey:
        """Make an HMAC-SHA256 key of ``size`` bytes. Raises BackendError."""


@runtime_checkable
class UnwrappingKey(Protocol):
    """An RSA private key that opens key exchange keys without showing them."""

    @property
    def public_key(self) -> bytes:
        """The public half, SubjectPublicKeyInfo DER."""

    def unwrap_exchange(self, wrapped: bytes, padding: RsaPadding, size: int) -> WrappingKey:
        """Open a KEK of ``size`` bytes into a non-extractable handle beside this key.

        Raises DataRejectedError, the same for every kind of bad input, also for a key of another size.
        """


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is at hand about revoked certificates, DER; ``version`` differs when anything does."""

    version: int = 0
    lists: tuple[bytes, ...] = ()
    responses: tuple[bytes, ...] = ()


class RevocationEvidence(Protocol):
    """Knows the revocation lists and OCSP responses an operator provides."""

    def current(self) -> Evidence:
        """Return them; what cannot be read is simply not among them."""


class IncarnationMirror(Protocol):
    """Keeps the store's incarnation value outside the store's backup set: a token data object or a file."""

    def read(self) -> bytes | None:
        """Return the mirrored value, or None when none was written yet."""

    def write(self, value: bytes) -> None:
        """Replace the mirrored value durably."""
