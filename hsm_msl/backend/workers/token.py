"""A token whose keys are in worker processes, with the methods of ``pkcs11.token.Token``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric import ec

from hsm_msl.backend.operations import OTHER, SESSION, Operations
from hsm_msl.backend.pkcs11.recovery import NullObserver, RecoveryObserver
from hsm_msl.backend.token_status import TokenStatus
from hsm_msl.backend.workers.keys import (
    Remote,
    WorkerAesKey,
    WorkerAgreementKey,
    WorkerDecryptionKey,
    WorkerDerivationKey,
    WorkerExchangeKey,
    WorkerMacKey,
    WorkerPackingKey,
    WorkerSigningKey,
    WorkerUnwrappingKey,
    WorkerWrappingKey,
    made,
)
from hsm_msl.backend.workers.pool import WorkerPool
from hsm_msl.backend.workers.protocol import Call, OnToken, Recipe, TokenItself, Value, WorkerSpec
from hsm_msl.errors import BackendError, KeyPolicyError, UsageError
from hsm_msl.ports import AesKey, MacAlgorithm, MacKey, RsaPadding

R = TypeVar("R", bound=Remote)


def open_worker_token(
    spec: WorkerSpec,
    *,
    count: int = 2,
    deadline_seconds: float = 5.0,
    operations: Operations | None = None,
    observer: Callable[[str], RecoveryObserver] = lambda _label: NullObserver(),
) -> WorkerToken:
    """Start workers and return the token they hold.

    Args:
        spec: which token, and how to log in.
        count: how many workers.
        deadline_seconds: how long a call may take, waiting included.
        operations: counts the calls.
        observer: returns, for the token's label, what hears of outages.

    Raises:
        BackendConfigurationError: no such token, or its PIN is missing, refused or not to be tried.
        BackendUnavailableError: the token gives no answer.
    """
    pool = WorkerPool(spec, count=count, deadline_seconds=deadline_seconds, operations=operations, observer=observer)
    return WorkerToken(pool, pool.label)


class WorkerToken:
    """A token held by workers. Methods raise what those of ``pkcs11.token.Token`` raise.

    Args:
        pool: the workers.
        name: the token's label.
    """

    __slots__ = ("name", "pool")

    def __init__(self, pool: WorkerPool, name: str) -> None:
        self.pool = pool
        self.name = name

    def aes_key(self, label: str | None = None, *, id: bytes | None = None) -> WorkerAesKey:
        """Return an AES key for data."""
        return WorkerAesKey(self.pool, OnToken("aes_key", label, id))

    def mac_key(
        self, label: str | None = None, algorithm: MacAlgorithm = MacAlgorithm.HMAC_SHA256, *, id: bytes | None = None
    ) -> WorkerMacKey:
        """Return a key for message authentication."""
        return WorkerMacKey(self.pool, OnToken("mac_key", label, id, algorithm.name), algorithm)

    def wrapping_key(
        self, label: str | None = None, *, id: bytes | None = None, by_blocks: bool = False
    ) -> WorkerWrappingKey:
        """Return a key-encrypting key."""
        return WorkerWrappingKey(self.pool, OnToken("wrapping_key", label, id, by_blocks=by_blocks))

    def rsa_wrapping_key(self, label: str | None = None, *, id: bytes | None = None) -> WorkerPackingKey:
        """Return an RSA key that stands for a key-encrypting key on a token without AES key wrap."""
        return WorkerPackingKey(self.pool, OnToken("rsa_wrapping_key", label, id))

    def signing_key(self, label: str | None = None, *, id: bytes | None = None) -> WorkerSigningKey:
        """Return an RSA or EC private key that signs."""
        return WorkerSigningKey(self.pool, OnToken("signing_key", label, id))

    def decryption_key(self, label: str | None = None, *, id: bytes | None = None) -> WorkerDecryptionKey:
        """Return an RSA private key that decrypts."""
        return WorkerDecryptionKey(self.pool, OnToken("decryption_key", label, id))

    def unwrapping_key(self, label: str | None = None, *, id: bytes | None = None) -> WorkerUnwrappingKey:
        """Return an RSA private key that opens key exchange keys."""
        return WorkerUnwrappingKey(self.pool, OnToken("unwrapping_key", label, id))

    def agreement_key(self, label: str | None = None, *, id: bytes | None = None) -> WorkerAgreementKey:
        """Return an EC private key on the token that agrees on keys."""
        return WorkerAgreementKey(self.pool, OnToken("agreement_key", label, id))

    def derivation_key(self, label: str | None = None, *, id: bytes | None = None) -> WorkerDerivationKey:
        """Return a master key from which others are derived."""
        return WorkerDerivationKey(self.pool, OnToken("derivation_key", label, id))

    def ephemeral_dh(self, prime: int, generator: int) -> WorkerAgreementKey:
        """Make a Diffie-Hellman key pair in a worker's session."""
        return WorkerAgreementKey(self.pool, self._make("ephemeral_dh", _octets(prime), _octets(generator)))

    def ephemeral_ecdh(self, curve: ec.EllipticCurve) -> WorkerAgreementKey:
        """Make an EC key pair in a worker's session."""
        return WorkerAgreementKey(self.pool, self._make("ephemeral_ecdh", curve.name))

    def exchange_keys(self) -> WorkerExchangeKeys:
        """Return the maker of the secure dialog's key exchange keys."""
        return WorkerExchangeKeys(self)

    def generate_aes(self, size: int) -> WorkerAesKey:
        """Make an AES session key that may leave the token wrapped and no other way."""
        return WorkerAesKey(self.pool, self._make("generate_aes", size))

    def generate_mac(self, size: int, algorithm: MacAlgorithm = MacAlgorithm.HMAC_SHA256) -> WorkerMacKey:
        """Make a MAC session key that may leave the token wrapped and no other way."""
        return WorkerMacKey(self.pool, self._make("generate_mac", size, algorithm.name), algorithm)

    def wrap_for(self, key: AesKey | MacKey, public_key: bytes, padding: RsaPadding) -> bytes:
        """Encrypt a session key made here to a peer's RSA key, inside the token (``token_vault.ResidentKeys``)."""
        if not isinstance(key, (WorkerAesKey, WorkerMacKey)) or key.pool is not self.pool:
            raise KeyPolicyError("only session keys of the token can be wrapped for a peer")
        call = Call(TokenItself(), "wrap_for", [public_key, padding.name], {}, [key.recipe])
        value, _ = self.pool.run(call, WorkerToken.wrap_for, SESSION)
        if not isinstance(value, bytes):
            raise BackendError("a token worker answered wrap_for with something else")
        return value

    def random(self, count: int) -> bytes:
        """Return random bytes of the token's generator."""
        value = self._ask("random", count)
        if not isinstance(value, bytes):
            raise BackendError("a token worker answered random with something else")
        return value

    def mechanisms(self) -> frozenset[str]:
        """Return the names of what the token does right."""
        return self._names("mechanisms")

    def pin_flags(self) -> frozenset[str]:
        """Return the names of the token's flags about PINs that are set now."""
        return self._names("pin_flags")

    def status(self) -> TokenStatus:
        """Return how the token is, without asking it."""
        return self.pool.status()

    def close(self) -> None:
        """Stop the workers."""
        self.pool.close()

    def make(self, kind: type[R], verb: str, *arguments: Value) -> R:
        """Return a handle for something a worker makes now.

        Args:
            kind: the handle's class.
            verb: the call.
            arguments: its arguments.
        """
        return kind(self.pool, self._make(verb, *arguments))

    def _make(self, verb: str, *arguments: Value) -> Recipe:
        number, worker = self.pool.run(Call(TokenItself(), verb, list(arguments)), WorkerToken.make, SESSION)
        return made(worker, number)

    def _ask(self, verb: str, *arguments: Value) -> Value:
        value, _ = self.pool.run(Call(TokenItself(), verb, list(arguments)), getattr(WorkerToken, verb), OTHER)
        return value

    def _names(self, verb: str) -> frozenset[str]:
        value = self._ask(verb)
        if not isinstance(value, list):
            raise BackendError(f"a token worker answered {verb} with something else")
        return frozenset(map(str, value))

    def __repr__(self) -> str:
        return f"WorkerToken({self.name!r})"


class WorkerExchangeKeys:
    """Makes key exchange keys in a worker (``ports.dialog.ExchangeKeys``).

    Args:
        token: the token.
    """

    __slots__ = ("_token",)

    def __init__(self, token: WorkerToken) -> None:
        self._token = token

    def generate(self, size: int) -> WorkerExchangeKey:
        """Make a key that wraps session keys and may leave the token wrapped."""
        return self._token.make(WorkerExchangeKey, "generate_exchange", size)

    def wrapping_key(self, value: bytes) -> WorkerWrappingKey:
        """Take a key agreed on the host into the token."""
        return self._token.make(WorkerWrappingKey, "agreed_wrapping", value)


def _octets(number: int) -> bytes:
    if number < 0:
        raise UsageError("a group has no negative numbers")
    return number.to_bytes((number.bit_length() + 7) // 8, "big")
