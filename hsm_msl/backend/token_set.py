"""Several tokens that hold the same keys, as one: with the methods of ``pkcs11.token.Token``.

Keys are matched by check value, not by name alone. A token that is away is passed over and taken back when it answers
again; a token that holds another key under a name is an error of configuration, found when that key is first used.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from hsm_msl.backend.spread import (
    MadeAesKey,
    MadeMacKey,
    Spread,
    SpreadAesKey,
    SpreadAgreementKey,
    SpreadDecryptionKey,
    SpreadMacKey,
    SpreadSigningKey,
    SpreadWrappingKey,
)
from hsm_msl.errors import BackendConfigurationError, BackendUnavailableError, KeyPolicyError
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

T = TypeVar("T")

_ZERO = bytes(16)


def _aes_check(key: AesKey) -> bytes:
    try:
        return key.encrypt_ecb(_ZERO)
    except KeyPolicyError:  # it may only decrypt, on every token alike
        return key.decrypt_ecb(_ZERO)


class AnyToken(Protocol):
    """What a set asks of its members: ``pkcs11.token.Token`` and ``workers.WorkerToken`` have it."""

    @property
    def name(self) -> str:
        """The token's label."""

    def aes_key(self, label: str | None = None, *, id: bytes | None = None) -> AesKey:
        """Return an AES key for data."""

    def mac_key(self, label: str | None = None, algorithm: MacAlgorithm = ..., *, id: bytes | None = None) -> MacKey:
        """Return a key for message authentication."""

    def wrapping_key(self, label: str | None = None, *, id: bytes | None = None) -> WrappingKey:
        """Return a key-encrypting key."""

    def signing_key(self, label: str | None = None, *, id: bytes | None = None) -> SigningKey:
        """Return a private key that signs."""

    def decryption_key(self, label: str | None = None, *, id: bytes | None = None) -> DecryptionKey:
        """Return an RSA private key that decrypts."""

    def agreement_key(self, label: str | None = None, *, id: bytes | None = None) -> AgreementKey:
        """Return an EC private key that agrees on keys."""

    def generate_aes(self, size: int) -> AesKey:
        """Make an AES session key that may leave the token wrapped."""

    def generate_mac(self, size: int, algorithm: MacAlgorithm = ...) -> MacKey:
        """Make a MAC session key that may leave the token wrapped."""

    def random(self, count: int) -> bytes:
        """Return random bytes."""

    def mechanisms(self) -> frozenset[str]:
        """Return the names of what the token does right."""

    def close(self) -> None:
        """Log out."""


class TokenSet:
    """Tokens with the same keys. Methods raise what those of one token raise, when no token can answer.

    Args:
        openers: one per token; opens it. A token that is away is opened when it is first needed again.

    Raises:
        BackendConfigurationError: no opener, or a token whose configuration is wrong.
        BackendUnavailableError: not one token answers.
    """

    __slots__ = ("_openers", "_tokens", "_turn")

    def __init__(self, openers: Sequence[Callable[[], AnyToken]]) -> None:
        self._openers = tuple(openers)
        self._tokens: list[AnyToken | None] = [None] * len(self._openers)
        self._turn = itertools.count()
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

    def wrapping_key(self, label: str | None = None, *, id: bytes | None = None) -> SpreadWrappingKey:
        """Return a key-encrypting key."""
        return SpreadWrappingKey(
            self._spread(lambda token: token.wrapping_key(label, id=id), lambda key: key.wrap(_ZERO))
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

    def generate_aes(self, size: int) -> MadeAesKey:
        """Make an AES session key in one of the tokens; it may leave it wrapped and no other way."""
        index, key = self._somewhere(lambda token: token.generate_aes(size))
        return MadeAesKey(index, key)

    def generate_mac(self, size: int, algorithm: MacAlgorithm = MacAlgorithm.HMAC_SHA256) -> MadeMacKey:
        """Make a MAC session key in one of the tokens; it may leave it wrapped and no other way."""
        index, key = self._somewhere(lambda token: token.generate_mac(size, algorithm))
        return MadeMacKey(index, key)

    def wrap_for(self, key: AesKey | MacKey, public_key: bytes, padding: RsaPadding) -> bytes:
        """Encrypt a session key made here to a peer's RSA key, inside its token (``token_vault.ResidentKeys``)."""
        if not isinstance(key, (MadeAesKey, MadeMacKey)) or key.index >= len(self._openers):
            raise KeyPolicyError("only session keys of the token set can be wrapped for a peer")
        token = self._token(key.index)
        wrap = getattr(token, "wrap_for", None)
        if wrap is None:
            raise KeyPolicyError(f"token {token.name!r} wraps no session keys for peers")
        wrapped: bytes = wrap(key.inner, public_key, padding)
        return wrapped

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

        return Spread([finder(index) for index in range(len(self._openers))], check)

    def _somewhere(self, operation: Callable[[AnyToken], T]) -> tuple[int, T]:
        failure = BackendUnavailableError("a token set without tokens")
        start, count = next(self._turn), len(self._openers)
        for offset in range(count):
            index = (start + offset) % count
            try:
                return index, operation(self._token(index))
            except BackendUnavailableError as error:
                failure = error
        raise failure

    def _token(self, index: int) -> AnyToken:
        token = self._tokens[index]
        if token is None:
            token = self._tokens[index] = self._openers[index]()
        return token

    def __repr__(self) -> str:
        return f"TokenSet({self.name!r})"
