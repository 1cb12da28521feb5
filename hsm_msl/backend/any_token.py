"""What a service asks of the place where its keys are: one token here, one in worker processes, or a set of them."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from hsm_msl.backend.derived import DerivationKey
from hsm_msl.ports import (
    AesKey,
    AgreementKey,
    DecryptionKey,
    MacAlgorithm,
    MacKey,
    RsaPadding,
    SigningKey,
    WrappingKey,
)
from hsm_msl.ports.dialog import ExchangeKeys, UnwrappingKey


@runtime_checkable
class PackingKey(WrappingKey, Protocol):
    """An RSA key pair that packs this service's own session keys, where a token has no AES key wrap."""

    @property
    def public_key(self) -> bytes:
        """The public half, SubjectPublicKeyInfo DER."""


class AnyToken(Protocol):
    """``pkcs11.token.Token``, ``workers.WorkerToken`` and ``token_set.TokenSet`` have it.

    What returns a handle takes the key's label, its CKA_ID, or both, and raises as ``pkcs11.token.Token`` does.
    """

    @property
    def name(self) -> str:
        """The token's label."""

    def aes_key(self, label: str | None = None, *, id: bytes | None = None) -> AesKey:
        """Return an AES key for data."""

    def mac_key(self, label: str | None = None, algorithm: MacAlgorithm = ..., *, id: bytes | None = None) -> MacKey:
        """Return a key for message authentication."""

    def wrapping_key(
        self, label: str | None = None, *, id: bytes | None = None, by_blocks: bool = False
    ) -> WrappingKey:
        """Return a key-encrypting key."""

    def rsa_wrapping_key(self, label: str | None = None, *, id: bytes | None = None) -> PackingKey:
        """Return an RSA key pair that packs this service's own session keys."""

    def signing_key(self, label: str | None = None, *, id: bytes | None = None) -> SigningKey:
        """Return a private key that signs."""

    def decryption_key(self, label: str | None = None, *, id: bytes | None = None) -> DecryptionKey:
        """Return an RSA private key that decrypts."""

    def unwrapping_key(self, label: str | None = None, *, id: bytes | None = None) -> UnwrappingKey:
        """Return an RSA private key that opens key exchange keys."""

    def agreement_key(self, label: str | None = None, *, id: bytes | None = None) -> AgreementKey:
        """Return an EC private key that agrees on keys."""

    def derivation_key(self, label: str | None = None, *, id: bytes | None = None) -> DerivationKey:
        """Return a master key from which others are derived."""

    def exchange_keys(self) -> ExchangeKeys:
        """Return the maker of the secure dialog's key exchange keys."""

    def generate_aes(self, size: int) -> AesKey:
        """Make an AES session key that may leave the token wrapped."""

    def generate_mac(self, size: int, algorithm: MacAlgorithm = ...) -> MacKey:
        """Make a MAC session key that may leave the token wrapped."""

    def wrap_for(self, key: AesKey | MacKey, public_key: bytes, padding: RsaPadding) -> bytes:
        """Encrypt a session key made here to a peer's RSA key, inside the token."""

    def random(self, count: int) -> bytes:
        """Return random bytes."""

    def mechanisms(self) -> frozenset[str]:
        """Return the names of what the token does right."""

    def close(self) -> None:
        """Log out."""
