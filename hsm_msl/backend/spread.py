"""One key that several tokens hold: calls go round, and past a token that is out of service.

Members are looked up when they are first needed, so a set starts while one of its tokens is away. A member counts
only after it showed the check value of the others: tokens that should hold the same key and do not are found out
before they make something the others cannot open.
"""

from __future__ import annotations

import hmac
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from hsm_msl.backend.any_token import PackingKey
from hsm_msl.backend.derived import DerivationKey
from hsm_msl.backend.rota import Rota
from hsm_msl.errors import (
    BackendConfigurationError,
    BackendError,
    BackendUnavailableError,
    KeyNotFoundError,
    KeyPolicyError,
)
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


class Spread(Generic[K]):
    """The same key on several tokens.

    Args:
        finders: one per token; returns the token's handle. Called again after a failure.
        check: returns what must be the same on every token.
        rota: in which order they are asked.

    Raises:
        BackendError: no token has the key now, or two tokens hold different ones.
    """

    __slots__ = ("_check", "_expected", "_finders", "_handles", "_lock", "rota")

    def __init__(self, finders: Sequence[Callable[[], K]], check: Callable[[K], bytes], rota: Rota) -> None:
        self._finders = tuple(finders)
        self._check = check
        self._handles: list[K | None] = [None] * len(self._finders)
        self._expected: bytes | None = None
        self._lock = threading.Lock()
        self.rota = rota
        self._find_all()

    def call(self, operation: Callable[[K], T]) -> T:
        """Run an operation on the next token, and on the others when that one is out of service.

        Args:
            operation: called with a token's handle; must be safe to repeat.

        Raises:
            BackendError: every token failed: what a person must mend, if there is such a thing, else the outage.
            DataRejectedError: the input was refused; one token's word is enough.
        """
        outage: BackendError = BackendUnavailableError("a token set without tokens")
        fault: BackendError | None = None
        for index in self.rota.order():
            try:
                result = operation(self._handles[index] or self._member(index))
            except BackendUnavailableError as error:
                self.rota.failed(index)
                outage = error
            except (BackendConfigurationError, KeyNotFoundError) as error:
                fault = error  # that token needs a person; the others serve meanwhile
            else:
                self.rota.answered(index)
                return result
        raise fault or outage

    def on(self, index: int) -> K:
        """Return one token's handle. Raises BackendError as its token does.

        Args:
            index: which token of the set.
        """
        return self._handles[index] or self._member(index)

    @property
    def width(self) -> int:
        """How many tokens there are."""
        return len(self._finders)

    def _find_all(self) -> None:
        failure: BackendError | None = None
        for index in range(len(self._finders)):
            try:
                self._member(index)
            except BackendUnavailableError as error:  # it may come back; anything else is wrong for good
                failure = error
        if failure is not None and not any(handle is not None for handle in self._handles):
            raise failure

    def _member(self, index: int) -> K:
        handle = self._finders[index]()
        shown = self._check(handle)
        with self._lock:
            if self._expected is None:
                self._expected = shown
            elif not hmac.compare_digest(self._expected, shown):
                raise BackendConfigurationError(
                    f"token {index + 1} of the set holds another key under this name: the check values differ"
                )
            self._handles[index] = handle
        return handle


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
        return SpreadAesKey(_each_of(self.spread, lambda key: key.unwrap_aes(wrapped)))

    def unwrap_mac(self, wrapped: bytes, algorithm: MacAlgorithm) -> MacKey:
        """Unwrap into a fresh, non-extractable MAC key on whichever token is asked."""
        return SpreadMacKey(_each_of(self.spread, lambda key: key.unwrap_mac(wrapped, algorithm)), algorithm)

    def unwrap_wrapping(self, wrapped: bytes) -> WrappingKey:
        """Unwrap into a fresh, non-extractable key-encrypting key on whichever token is asked."""
        return SpreadWrappingKey(_each_of(self.spread, lambda key: key.unwrap_wrapping(wrapped)))

    def wrap_made(self, key: MadeExchangeKey) -> bytes:
        """Wrap a key exchange key made in one token of the same set; from then on every token can have it."""
        wrapped = key.inner.wrap_under(self.spread.on(key.index))
        key.spread = self._others(key.index, key.inner, lambda wrapping: wrapping.unwrap_wrapping(wrapped))
        return wrapped

    def _others(self, index: int, made: T, unwrap: Callable[[WrappingKey], T]) -> Spread[T]:
        return LazySpread(_finders(self.spread, unwrap), same, self.spread.rota, made=(index, made))


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


class LazySpread(Spread[K]):
    """A spread of what is cheap to make and may never be needed on the other tokens: one member is made at once.

    Args:
        finders: as for ``Spread``.
        check: as for ``Spread``.
        rota: as for ``Spread``.
        made: index and handle of the token that has it already.

    Raises:
        BackendError, DataRejectedError: as the first token that answers.
    """

    __slots__ = ("_made",)

    def __init__(
        self,
        finders: Sequence[Callable[[], K]],
        check: Callable[[K], bytes],
        rota: Rota,
        *,
        made: tuple[int, K] | None = None,
    ) -> None:
        self._made = made
        super().__init__(finders, check, rota)

    def _find_all(self) -> None:
        if self._made is None:
            self.call(lambda handle: handle)
        else:
            index, handle = self._made
            self._handles[index] = handle


class OneToken(Spread[K]):
    """What one token of a set made and no other can have.

    Args:
        made: its handle.
        rota: of the set.
    """

    __slots__ = ()

    def __init__(self, made: K, rota: Rota) -> None:
        super().__init__([lambda: made], same, rota)

    def call(self, operation: Callable[[K], T]) -> T:
        """Run an operation. Raises as the handle does.

        Args:
            operation: called with the handle.
        """
        return operation(self.on(0))


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
            _each_of(self.spread, lambda key: key.unwrap_exchange(wrapped, padding, size)),
        )


class SpreadDerivationKey(_Held[DerivationKey]):
    """A master key that several tokens hold (``derived.DerivationKey``)."""

    __slots__ = ()

    def derive_aes(self, label: bytes, context: bytes, size: int) -> SpreadAesKey:
        """Return an AES key, derived on whichever token is asked."""
        return SpreadAesKey(_each_of(self.spread, lambda key: key.derive_aes(label, context, size)))

    def derive_mac(self, label: bytes, context: bytes, size: int, algorithm: MacAlgorithm) -> SpreadMacKey:
        """Return a MAC key, derived on whichever token is asked."""
        derived = _each_of(self.spread, lambda key: key.derive_mac(label, context, size, algorithm))
        return SpreadMacKey(derived, algorithm)

    def derive_wrapping(self, label: bytes, context: bytes, size: int) -> SpreadWrappingKey:
        """Return a key-encrypting key, derived on whichever token is asked."""
        return SpreadWrappingKey(_each_of(self.spread, lambda key: key.derive_wrapping(label, context, size)))


def same(handle: object) -> bytes:  # noqa: ARG001  # the signature of a check
    """Stand for a check value where what they all come from already makes them the same."""
    return b""


def _finders(parent: Spread[K], make: Callable[[K], T]) -> list[Callable[[], T]]:
    """Return what lets every token make something of its own handle when it is first asked."""

    def finder(index: int) -> Callable[[], T]:
        return lambda: make(parent.on(index))

    return [finder(index) for index in range(parent.width)]


def _each_of(parent: Spread[K], make: Callable[[K], T]) -> Spread[T]:
    return LazySpread(_finders(parent, make), same, parent.rota)
