"""Several tokens that hold the same keys, as one: with the methods of ``pkcs11.token.Token``.

Keys are matched by check value, not by name alone. A token that is away is passed over and taken back when it answers
again; a token that holds another key under a name is an error of configuration, found when that key is first used.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from hsm_msl.backend.any_token import AnyToken
from hsm_msl.backend.derived import DerivationKey
from hsm_msl.backend.rota import Mode, Rota
from hsm_msl.backend.spread import LazySpread, Spread, same
from hsm_msl.backend.spread_keys import (
    MadeAesKey,
    MadeExchangeKey,
    MadeMacKey,
    SpreadAesKey,
    SpreadAgreementKey,
    SpreadDecryptionKey,
    SpreadDerivationKey,
    SpreadMacKey,
    SpreadPackingKey,
    SpreadSigningKey,
    SpreadUnwrappingKey,
    SpreadWrappingKey,
)
from hsm_msl.errors import BackendConfigurationError, BackendError, BackendUnavailableError, KeyPolicyError
from hsm_msl.ports import AesKey, MacAlgorithm, MacKey, RsaPadding

T = TypeVar("T")

_ZERO = bytes(16)

RETRY_SECONDS = 5.0
"""How long a token that could not be opened is left alone."""


def _aes_check(key: AesKey) -> bytes:
    try:
        return key.encrypt_ecb(_ZERO)
    except KeyPolicyError:  # it may only decrypt, on every token alike
        return key.decrypt_ecb(_ZERO)


def _derivation_check(key: DerivationKey) -> bytes:
    return key.derive_aes(_ZERO, _ZERO, len(_ZERO)).encrypt_ecb(_ZERO)


class TokenSet:
    """Tokens with the same keys. Methods raise what those of one token raise, when no token can answer.

    Args:
        openers: one per token; opens it. A token that is away is opened when it is needed again and the last try
            was ``RETRY_SECONDS`` ago.
        mode: ``FAILOVER`` calls the first token that answers, in the order given; ``SPREAD`` goes round.
        monotonic: seconds that never run backwards.

    Raises:
        BackendConfigurationError: no opener, or a token whose configuration is wrong.
        BackendUnavailableError: not one token answers.
    """

    __slots__ = ("_clock", "_failures", "_openers", "_opening", "_rota", "_tokens", "_tried")

    def __init__(
        self,
        openers: Sequence[Callable[[], AnyToken]],
        mode: Mode = Mode.SPREAD,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._openers = tuple(openers)
        self._tokens: list[AnyToken | None] = [None] * len(self._openers)
        self._failures: list[BackendUnavailableError | None] = [None] * len(self._openers)
        self._tried = [float("-inf")] * len(self._openers)
        self._clock = monotonic
        self._opening = threading.Lock()
        self._rota = Rota(len(self._openers), mode, monotonic)
        failure: BackendUnavailableError | None = None
        for index in range(len(self._openers)):
            try:
                self._token(index)
            except BackendUnavailableError as error:
                failure = error
        if not any(token is not None for token in self._tokens):
            raise failure or BackendConfigurationError("a token set needs at least one token")

    @property
    def name(self) -> str:
        """The labels of the tokens that were reached."""
        return " + ".join(token.name for token in self._tokens if token is not None)

    def aes_key(self, label: str | None = None, *, id: bytes | None = None) -> SpreadAesKey:
        """Return an AES key for data."""
        return SpreadAesKey(self._spread(lambda token: token.aes_key(label, id=id), _aes_check))

    def mac_key(
        self, label: str | None = None, algorithm: MacAlgorithm = MacAlgorithm.HMAC_SHA256, *, id: bytes | None = None
    ) -> SpreadMacKey:
        """Return a key for message authentication."""
        return SpreadMacKey(
            self._spread(lambda token: token.mac_key(label, algorithm, id=id), lambda key: key.sign(b"")), algorithm
        )

    def wrapping_key(
        self, label: str | None = None, *, id: bytes | None = None, by_blocks: bool = False
    ) -> SpreadWrappingKey:
        """Return a key-encrypting key."""
        return SpreadWrappingKey(
            self._spread(
                lambda token: token.wrapping_key(label, id=id, by_blocks=by_blocks), lambda key: key.wrap(_ZERO)
            )
        )

    def rsa_wrapping_key(self, label: str | None = None, *, id: bytes | None = None) -> SpreadPackingKey:
        """Return an RSA key pair that packs this service's own session keys."""
        return SpreadPackingKey(
            self._spread(lambda token: token.rsa_wrapping_key(label, id=id), lambda key: key.public_key)
        )

    def signing_key(self, label: str | None = None, *, id: bytes | None = None) -> SpreadSigningKey:
        """Return an RSA or EC private key that signs."""
        return SpreadSigningKey(
            self._spread(lambda token: token.signing_key(label, id=id), lambda key: key.public_key)
        )

    def decryption_key(self, label: str | None = None, *, id: bytes | None = None) -> SpreadDecryptionKey:
        """Return an RSA private key that decrypts."""
        return SpreadDecryptionKey(
            self._spread(lambda token: token.decryption_key(label, id=id), lambda key: key.public_key)
        )

    def agreement_key(self, label: str | None = None, *, id: bytes | None = None) -> SpreadAgreementKey:
        """Return an EC private key that agrees on keys."""
        return SpreadAgreementKey(
            self._spread(lambda token: token.agreement_key(label, id=id), lambda key: key.public_value)
        )

    def unwrapping_key(self, label: str | None = None, *, id: bytes | None = None) -> SpreadUnwrappingKey:
        """Return an RSA private key that opens key exchange keys."""
        return SpreadUnwrappingKey(
            self._spread(lambda token: token.unwrapping_key(label, id=id), lambda key: key.public_key)
        )

    def derivation_key(self, label: str | None = None, *, id: bytes | None = None) -> SpreadDerivationKey:
        """Return a master key from which others are derived."""
        return SpreadDerivationKey(self._spread(lambda token: token.derivation_key(label, id=id), _derivation_check))

    def exchange_keys(self) -> SetExchangeKeys:
        """Return the maker of the secure dialog's key exchange keys."""
        return SetExchangeKeys(self)

    def generate_exchange(self, size: int) -> MadeExchangeKey:
        """Make a key exchange key in one of the tokens."""
        index, key = self._somewhere(lambda token: token.exchange_keys().generate(size))
        return MadeExchangeKey(index, key, self._rota)

    def agreed_wrapping(self, value: bytes) -> SpreadWrappingKey:
        """Take a key agreed on the host into whichever token is asked."""
        return SpreadWrappingKey(self._lazy(lambda index: self._token(index).exchange_keys().wrapping_key(value)))

    def generate_aes(self, size: int) -> MadeAesKey:
        """Make an AES session key in one of the tokens; it may leave it wrapped and no other way."""
        index, key = self._somewhere(lambda token: token.generate_aes(size))
        return MadeAesKey(index, key, self._rota)

    def generate_mac(self, size: int, algorithm: MacAlgorithm = MacAlgorithm.HMAC_SHA256) -> MadeMacKey:
        """Make a MAC session key in one of the tokens; it may leave it wrapped and no other way."""
        index, key = self._somewhere(lambda token: token.generate_mac(size, algorithm))
        return MadeMacKey(index, key, self._rota)

    def wrap_for(self, key: AesKey | MacKey, public_key: bytes, padding: RsaPadding) -> bytes:
        """Encrypt a session key made here to a peer's RSA key, inside its token (``token_vault.ResidentKeys``)."""
        if not isinstance(key, (MadeAesKey, MadeMacKey)) or key.index >= len(self._openers):
            raise KeyPolicyError("only session keys of the token set can be wrapped for a peer")
        return self._token(key.index).wrap_for(key.inner, public_key, padding)

    def random(self, count: int) -> bytes:
        """Return random bytes of one of the tokens."""
        return self._somewhere(lambda token: token.random(count))[1]

    def mechanisms(self) -> frozenset[str]:
        """Return the names of what every token that answers does right."""
        reached = [token.mechanisms() for token in self._tokens if token is not None]
        return frozenset.intersection(*reached)

    def close(self) -> None:
        """Log out of every token."""
        for token in self._tokens:
            if token is not None:
                token.close()

    def _spread(self, find: Callable[[AnyToken], T], check: Callable[[T], bytes]) -> Spread[T]:
        def finder(index: int) -> Callable[[], T]:
            return lambda: find(self._token(index))

        return Spread([finder(index) for index in range(len(self._openers))], check, self._rota)

    def _lazy(self, make: Callable[[int], T]) -> Spread[T]:
        def finder(index: int) -> Callable[[], T]:
            return lambda: make(index)

        return LazySpread([finder(index) for index in range(len(self._openers))], same, self._rota)

    def _somewhere(self, operation: Callable[[AnyToken], T]) -> tuple[int, T]:
        failure: BackendError = BackendUnavailableError("a token set without tokens")
        for index in self._rota.order():
            try:
                result = operation(self._token(index))
            except (BackendUnavailableError, BackendConfigurationError) as error:  # the others serve meanwhile
                self._rota.failed(index)
                failure = error
            else:
                self._rota.answered(index)
                return index, result
        raise failure

    def _token(self, index: int) -> AnyToken:
        token = self._tokens[index]
        if token is not None:
            return token
        with self._opening:
            token, failure = self._tokens[index], self._failures[index]
            if token is None:
                now = self._clock()
                if failure is not None and now - self._tried[index] < RETRY_SECONDS:
                    raise failure
                self._tried[index] = now
                try:
                    token = self._tokens[index] = self._openers[index]()
                except BackendUnavailableError as error:
                    self._failures[index] = error
                    raise
        return token

    def __repr__(self) -> str:
        return f"TokenSet({self.name!r})"


class SetExchangeKeys:
    """Makes key exchange keys in the tokens of a set (``ports.dialog.ExchangeKeys``).

    Args:
        tokens: the set.
    """

    __slots__ = ("_tokens",)

    def __init__(self, tokens: TokenSet) -> None:
        self._tokens = tokens

    def generate(self, size: int) -> MadeExchangeKey:
        """Make a key that wraps session keys and may leave its token wrapped."""
        return self._tokens.generate_exchange(size)

    def wrapping_key(self, value: bytes) -> SpreadWrappingKey:
        """Take a key agreed on the host into whichever token is asked."""
        return self._tokens.agreed_wrapping(value)
