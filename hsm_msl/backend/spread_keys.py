"""Handles of keys that several tokens hold: the ports, each method a call on whichever token is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from hsm_msl.backend.any_token import PackingKey
from hsm_msl.backend.derived import DerivationKey
from hsm_msl.backend.rota import Rota
from hsm_msl.backend.spread import LazySpread, OneToken, Spread, each_of, finders_of, same
from hsm_msl.errors import KeyPolicyError
from hsm_msl.ports import (
    AesKey,
    AgreementKey,
    DecryptionKey,
    MacAlgorithm,
    MacKey,
    RsaPadding,
    SignatureScheme,
    SigningKey,
    WrappingKey,
)
from hsm_msl.ports.dialog import ExchangeKey, UnwrappingKey

K = TypeVar("K")
T = TypeVar("T")


class _Held(Generic[K]):
    __slots__ = ("__weakref__", "spread")

    def __init__(self, spread: Spread[K]) -> None:
        self.spread = spread

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.spread.width} tokens)"


class SpreadAesKey(_Held[AesKey]):
    """An AES key that several tokens hold (port ``AesKey``)."""

    __slots__ = ()

    def encrypt_ecb(self, data: bytes) -> bytes:
        """Encrypt whole blocks, each on its own."""
        return self.spread.call(lambda key: key.encrypt_ecb(data))

    def decrypt_ecb(self, data: bytes) -> bytes:
        """Invert ``encrypt_ecb``."""
        return self.spread.call(lambda key: key.decrypt_ecb(data))

    def encrypt_cbc(self, iv: bytes, data: bytes) -> bytes:
        """Encrypt whole blocks, chained from a 16-byte ``iv``."""
        return self.spread.call(lambda key: key.encrypt_cbc(iv, data))

    def decrypt_cbc(self, iv: bytes, data: bytes) -> bytes:
        """Invert ``encrypt_cbc``."""
        return self.spread.call(lambda key: key.decrypt_cbc(iv, data))

    def crypt_ctr(self, counter: bytes, data: bytes) -> bytes:
        """Encrypt or decrypt in counter mode."""
        return self.spread.call(lambda key: key.crypt_ctr(counter, data))

    def encrypt_gcm(self, nonce: bytes, data: bytes, associated: bytes) -> bytes:
        """Return ciphertext and tag under a 12-byte nonce."""
        return self.spread.call(lambda key: key.encrypt_gcm(nonce, data, associated))

    def decrypt_gcm(self, nonce: bytes, data: bytes, associated: bytes) -> bytes:
        """Invert ``encrypt_gcm``."""
        return self.spread.call(lambda key: key.decrypt_gcm(nonce, data, associated))


class SpreadMacKey(_Held[MacKey]):
    """A MAC key that several tokens hold (port ``MacKey``)."""

    __slots__ = ("_algorithm",)

    def __init__(self, spread: Spread[MacKey], algorithm: MacAlgorithm) -> None:
        super().__init__(spread)
        self._algorithm = algorithm

    @property
    def algorithm(self) -> MacAlgorithm:
        """The one algorithm this key is for."""
        return self._algorithm

    def sign(self, data: bytes) -> bytes:
        """Return the full-length tag over ``data``."""
        return self.spread.call(lambda key: key.sign(data))

    def verify(self, data: bytes, tag: bytes) -> bool:
        """Tell whether ``tag`` is the tag over ``data``."""
        return self.spread.call(lambda key: key.verify(data, tag))


class SpreadSigningKey(_Held[SigningKey]):
    """A private key that several tokens hold (port ``SigningKey``)."""

    __slots__ = ()

    @property
    def public_key(self) -> bytes:
        """The public half, SubjectPublicKeyInfo DER."""
        return self.spread.call(lambda key: key.public_key)

    def sign(self, data: bytes, scheme: SignatureScheme) -> bytes:
        """Return the signature over ``data``."""
        return self.spread.call(lambda key: key.sign(data, scheme))


class SpreadDecryptionKey(_Held[DecryptionKey]):
    """An RSA private key that several tokens hold (port ``DecryptionKey``)."""

    __slots__ = ()

    @property
    def public_key(self) -> bytes:
        """The public half, SubjectPublicKeyInfo DER."""
        return self.spread.call(lambda key: key.public_key)

    def decrypt(self, data: bytes, padding: RsaPadding) -> bytes:
        """Return the plaintext."""
        return self.spread.call(lambda key: key.decrypt(data, padding))


class SpreadAgreementKey(_Held[AgreementKey]):
    """An EC private key that several tokens hold (port ``AgreementKey``)."""

    __slots__ = ()

    @property
    def public_value(self) -> bytes:
        """The public half, SubjectPublicKeyInfo DER."""
        return self.spread.call(lambda key: key.public_value)

    def agree(self, peer: bytes) -> bytes:
        """Return the shared secret."""
        return self.spread.call(lambda key: key.agree(peer))


class SpreadWrappingKey(_Held[WrappingKey]):
    """A key-encrypting key that several tokens hold (port ``WrappingKey``).

    What it unwraps is unwrapped on each token when that one is first asked to use it.
    """

    __slots__ = ()

    def wrap(self, data: bytes, *, pad: bool = False) -> bytes:
        """Wrap bytes the caller holds."""
        return self.spread.call(lambda key: key.wrap(data, pad=pad))

    def unwrap(self, wrapped: bytes, *, pad: bool = False) -> bytes:
        """Invert ``wrap``."""
        return self.spread.call(lambda key: key.unwrap(wrapped, pad=pad))

    def wrap_key(self, key: AesKey | MacKey) -> bytes:
        """Wrap a session key that was made in one token of the same set; from then on every token can have it."""
        if not isinstance(key, (MadeAesKey, MadeMacKey)) or key.index >= self.spread.width:
            raise KeyPolicyError("only session keys made in a token of the same set can be wrapped")
        wrapped = self.spread.on(key.index).wrap_key(key.inner)
        if isinstance(key, MadeMacKey):
            algorithm = key.algorithm
            key.spread = self._others(key.index, key.inner, lambda wrapping: wrapping.unwrap_mac(wrapped, algorithm))
        else:
            key.spread = self._others(key.index, key.inner, lambda wrapping: wrapping.unwrap_aes(wrapped))
        return wrapped

    def unwrap_aes(self, wrapped: bytes) -> AesKey:
        """Unwrap into a fresh, non-extractable AES key on whichever token is asked."""
        return SpreadAesKey(each_of(self.spread, lambda key: key.unwrap_aes(wrapped)))

    def unwrap_mac(self, wrapped: bytes, algorithm: MacAlgorithm) -> MacKey:
        """Unwrap into a fresh, non-extractable MAC key on whichever token is asked."""
        return SpreadMacKey(each_of(self.spread, lambda key: key.unwrap_mac(wrapped, algorithm)), algorithm)

    def unwrap_wrapping(self, wrapped: bytes) -> WrappingKey:
        """Unwrap into a fresh, non-extractable key-encrypting key on whichever token is asked."""
        return SpreadWrappingKey(each_of(self.spread, lambda key: key.unwrap_wrapping(wrapped)))

    def wrap_made(self, key: MadeExchangeKey) -> bytes:
        """Wrap a key exchange key made in one token of the same set; from then on every token can have it."""
        wrapped = key.inner.wrap_under(self.spread.on(key.index))
        key.spread = self._others(key.index, key.inner, lambda wrapping: wrapping.unwrap_wrapping(wrapped))
        return wrapped

    def _others(self, index: int, made: T, unwrap: Callable[[WrappingKey], T]) -> Spread[T]:
        return LazySpread(finders_of(self.spread, unwrap), same, self.spread.rota, made=(index, made))


class SpreadPackingKey(SpreadWrappingKey):
    """An RSA key pair that several tokens hold and that packs session keys (``any_token.PackingKey``).

    Args:
        pairs: the pair on each token.
    """

    __slots__ = ("_public",)

    def __init__(self, pairs: Spread[PackingKey]) -> None:
        self._public = pairs.call(lambda key: key.public_key)
        super().__init__(pairs)  # type: ignore[arg-type]  # a spread only gives handles out, and these wrap keys

    @property
    def public_key(self) -> bytes:
        """The public half, SubjectPublicKeyInfo DER."""
        return self._public


class MadeAesKey(SpreadAesKey):
    """An AES session key made in one token of a set; it may leave wrapped.

    Args:
        index: which token.
        inner: its handle.
        rota: of the set.
    """

    __slots__ = ("index", "inner")

    def __init__(self, index: int, inner: AesKey, rota: Rota) -> None:
        super().__init__(OneToken(inner, rota))
        self.index = index
        self.inner = inner


class MadeMacKey(SpreadMacKey):
    """A MAC session key made in one token of a set; it may leave wrapped.

    Args:
        index: which token.
        inner: its handle.
        rota: of the set.
    """

    __slots__ = ("index", "inner")

    def __init__(self, index: int, inner: MacKey, rota: Rota) -> None:
        super().__init__(OneToken(inner, rota), inner.algorithm)
        self.index = index
        self.inner = inner


class MadeExchangeKey(SpreadWrappingKey):
    """A key exchange key made in one token of a set (``ports.dialog.ExchangeKey``).

    Args:
        index: which token.
        inner: its handle.
        rota: of the set.
    """

    __slots__ = ("index", "inner")

    def __init__(self, index: int, inner: ExchangeKey, rota: Rota) -> None:
        super().__init__(OneToken[WrappingKey](inner, rota))
        self.index = index
        self.inner = inner

    def wrap_for_rsa(self, public_key: bytes, padding: RsaPadding) -> bytes:
        """Return this key encrypted to an RSA public key, by the token that made it."""
        return self.inner.wrap_for_rsa(public_key, padding)

    def wrap_under(self, key: WrappingKey) -> bytes:
        """Return this key wrapped under another one of the same set."""
        if not isinstance(key, SpreadWrappingKey) or key.spread.width <= self.index:
            raise KeyPolicyError("a key exchange key is wrapped only under a key of the same token set")
        return key.wrap_made(self)


class SpreadUnwrappingKey(_Held[UnwrappingKey]):
    """An RSA private key on several tokens that opens key exchange keys (``ports.dialog.UnwrappingKey``)."""

    __slots__ = ()

    @property
    def public_key(self) -> bytes:
        """The public half, SubjectPublicKeyInfo DER."""
        return self.spread.call(lambda key: key.public_key)

    def unwrap_exchange(self, wrapped: bytes, padding: RsaPadding, size: int) -> SpreadWrappingKey:
        """Open a key exchange key on whichever token is asked."""
        return SpreadWrappingKey(
            each_of(self.spread, lambda key: key.unwrap_exchange(wrapped, padding, size)),
        )


class SpreadDerivationKey(_Held[DerivationKey]):
    """A master key that several tokens hold (``derived.DerivationKey``)."""

    __slots__ = ()

    def derive_aes(self, label: bytes, context: bytes, size: int) -> SpreadAesKey:
        """Return an AES key, derived on whichever token is asked."""
        return SpreadAesKey(each_of(self.spread, lambda key: key.derive_aes(label, context, size)))

    def derive_mac(self, label: bytes, context: bytes, size: int, algorithm: MacAlgorithm) -> SpreadMacKey:
        """Return a MAC key, derived on whichever token is asked."""
        derived = each_of(self.spread, lambda key: key.derive_mac(label, context, size, algorithm))
        return SpreadMacKey(derived, algorithm)

    def derive_wrapping(self, label: bytes, context: bytes, size: int) -> SpreadWrappingKey:
        """Return a key-encrypting key, derived on whichever token is asked."""
        return SpreadWrappingKey(each_of(self.spread, lambda key: key.derive_wrapping(label, context, size)))
