"""Handles whose keys are in a worker: the ports, each method one call."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import cast

import msgspec

from hsm_msl.backend.inputs import check_to_wrap, check_wrapped, check_wrapped_aes
from hsm_msl.backend.workers.pool import WorkerLostError, WorkerPool
from hsm_msl.backend.workers.protocol import Call, Made, OnToken, Recipe, Remade, Value
from hsm_msl.errors import BackendError, KeyPolicyError
from hsm_msl.ports import AesKey, MacAlgorithm, MacKey, RsaPadding, SignatureScheme, WrappingKey


class Remote:
    """A key in a worker.

    Args:
        pool: the workers of its token.
        recipe: how any of them gets the handle.

    Raises:
        HsmMslError: what the worker says about the key.
    """

    __slots__ = ("__weakref__", "_packed", "_use", "pool", "recipe")

    def __init__(self, pool: WorkerPool, recipe: Recipe) -> None:
        self.pool = pool
        self.recipe = recipe
        self._packed: Recipe | None = None
        self._use = pool.use_of(recipe)
        self.ready()
        if isinstance(recipe, Made):
            weakref.finalize(self, _forget, pool, recipe).atexit = False

    def ready(self) -> None:
        """Let a worker get the handle, and remember which key that was. Raises as the class says."""
        shown = self.ask("ready")
        if isinstance(self.recipe, OnToken) and isinstance(shown, bytes):
            self.recipe = msgspec.structs.replace(self.recipe, fingerprint=shown)

    def ask(self, verb: str, *arguments: Value, keys: Sequence[Remote] = (), **named: Value) -> Value:
        """Make one call. Raises HsmMslError as the worker does, BackendUnavailableError without an answer.

        Args:
            verb: a method of the port.
            arguments: by position, after the keys.
            keys: other keys it takes.
            named: by name.
        """
        while True:
            recipes = [key.recipe for key in keys]
            try:
                call = Call(self.recipe, verb, list(arguments), named, recipes)
                value, _ = self.pool.run(call, _counted(type(self), verb), self._use)
            except WorkerLostError:
                if not any(key.unpack() for key in (self, *keys)):
                    raise
            else:
                return value

    def packed(self, recipe: Recipe) -> None:
        """Note how a key that one worker made is had again when that worker is gone.

        Args:
            recipe: unwraps what a key of the same token wrapped.
        """
        if isinstance(self.recipe, Made):
            self._packed = recipe

    def unpack(self) -> bool:
        """Take the packed form when the worker that made the key is gone; tell whether that changed anything."""
        if self._packed is None or not isinstance(self.recipe, Made) or self.pool.holds(self.recipe):
            return False
        self.recipe, self._packed = self._packed, None
        return True

    def octets(self, verb: str, *arguments: Value, keys: Sequence[Remote] = (), **named: Value) -> bytes:
        """Make a call whose answer is bytes. Raises as ``ask``; BackendError for any other answer.

        Args:
            verb: a method of the port.
            arguments: by position, after the keys.
            keys: other keys it takes.
            named: by name.
        """
        value = self.ask(verb, *arguments, keys=keys, **named)
        if not isinstance(value, bytes):
            raise BackendError(f"a token worker answered {verb} with {type(value).__name__}")
        return value

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.recipe).__name__})"


def _counted(kind: type[Remote], verb: str) -> Callable[..., object]:
    """Return the function a call is counted under; that of a property is what gets it."""
    method = getattr(kind, verb)
    return cast("Callable[..., object]", method.fget if isinstance(method, property) else method)


def _forget(pool: WorkerPool, recipe: Made) -> None:
    pool.forget(recipe)


class WorkerAesKey(Remote):
    """An AES key in a worker (port ``AesKey``). Every method raises as the key's own backend does."""

    __slots__ = ()

    def encrypt_ecb(self, data: bytes) -> bytes:
        """Encrypt whole blocks, each on its own."""
        return self.octets("encrypt_ecb", data)

    def decrypt_ecb(self, data: bytes) -> bytes:
        """Invert ``encrypt_ecb``."""
        return self.octets("decrypt_ecb", data)

    def encrypt_cbc(self, iv: bytes, data: bytes) -> bytes:
        """Encrypt whole blocks, chained from a 16-byte ``iv``."""
        return self.octets("encrypt_cbc", iv, data)

    def decrypt_cbc(self, iv: bytes, data: bytes) -> bytes:
        """Invert ``encrypt_cbc``."""
        return self.octets("decrypt_cbc", iv, data)

    def crypt_ctr(self, counter: bytes, data: bytes) -> bytes:
        """Encrypt or decrypt in counter mode."""
        return self.octets("crypt_ctr", counter, data)

    def encrypt_gcm(self, nonce: bytes, data: bytes, associated: bytes) -> bytes:
        """Return ciphertext and tag under a 12-byte nonce."""
        return self.octets("encrypt_gcm", nonce, data, associated)

    def decrypt_gcm(self, nonce: bytes, data: bytes, associated: bytes) -> bytes:
        """Invert ``encrypt_gcm``."""
        return self.octets("decrypt_gcm", nonce, data, associated)


class WorkerMacKey(Remote):
    """A MAC key in a worker (port ``MacKey``).

    Args:
        pool: the workers of its token.
        recipe: how any of them gets the handle.
        algorithm: the one algorithm it is used with.
    """

    __slots__ = ("_algorithm",)

    def __init__(self, pool: WorkerPool, recipe: Recipe, algorithm: MacAlgorithm) -> None:
        super().__init__(pool, recipe)
        self._algorithm = algorithm

    @property
    def algorithm(self) -> MacAlgorithm:
        """The one algorithm this key is for."""
        return self._algorithm

    def sign(self, data: bytes) -> bytes:
        """Return the full-length tag over ``data``."""
        return self.octets("sign", data)

    def verify(self, data: bytes, tag: bytes) -> bool:
        """Tell whether ``tag`` is the tag over ``data``."""
        return self.ask("verify", data, tag) is True


class WorkerSigningKey(Remote):
    """A private key in a worker that signs (port ``SigningKey``)."""

    __slots__ = ("_public",)

    def __init__(self, pool: WorkerPool, recipe: Recipe) -> None:
        super().__init__(pool, recipe)
        self._public = self.octets("public_key")

    @property
    def public_key(self) -> bytes:
        """The public half, SubjectPublicKeyInfo DER."""
        return self._public

    def sign(self, data: bytes, scheme: SignatureScheme) -> bytes:
        """Return the signature over ``data``."""
        return self.octets("sign", data, scheme.name)


class WorkerDecryptionKey(Remote):
    """An RSA private key in a worker that decrypts (port ``DecryptionKey``)."""

    __slots__ = ("_public",)

    def __init__(self, pool: WorkerPool, recipe: Recipe) -> None:
        super().__init__(pool, recipe)
        self._public = self.octets("public_key")

    @property
    def public_key(self) -> bytes:
        """The public half, SubjectPublicKeyInfo DER."""
        return self._public

    def decrypt(self, data: bytes, padding: RsaPadding) -> bytes:
        """Return the plaintext."""
        return self.octets("decrypt", data, padding.name)


class WorkerAgreementKey(Remote):
    """A DH or ECDH private key in a worker (port ``AgreementKey``)."""

    __slots__ = ("_public",)

    def __init__(self, pool: WorkerPool, recipe: Recipe) -> None:
        super().__init__(pool, recipe)
        self._public = self.octets("public_value")

    @property
    def public_value(self) -> bytes:
        """Our public value, in the form of the port."""
        return self._public

    def agree(self, peer: bytes) -> bytes:
        """Return the shared secret."""
        return self.octets("agree", peer)


class WorkerWrappingKey(Remote):
    """A key-encrypting key in a worker (port ``WrappingKey``)."""

    __slots__ = ()

    def wrap(self, data: bytes, *, pad: bool = False) -> bytes:
        """Wrap bytes the caller holds."""
        check_to_wrap(data, pad)
        return self.octets("wrap", data, pad=pad)

    def unwrap(self, wrapped: bytes, *, pad: bool = False) -> bytes:
        """Invert ``wrap``."""
        return self.octets("unwrap", wrapped, pad=pad)

    def wrap_key(self, key: AesKey | MacKey) -> bytes:
        """Wrap a session key of the same worker that was made to leave it."""
        if not isinstance(key, (WorkerAesKey, WorkerMacKey)) or key.pool is not self.pool:
            raise KeyPolicyError("only session keys of the same token can be wrapped")
        wrapped = self.octets("wrap_key", keys=[key])
        if isinstance(key, WorkerMacKey):
            key.packed(Remade(self.recipe, "unwrap_mac", (wrapped, key.algorithm.name)))
        else:
            key.packed(Remade(self.recipe, "unwrap_aes", (wrapped,)))
        return wrapped

    def unwrap_aes(self, wrapped: bytes) -> WorkerAesKey:
        """Unwrap into a fresh, non-extractable AES key of the token."""
        check_wrapped_aes(wrapped)
        return WorkerAesKey(self.pool, Remade(self.recipe, "unwrap_aes", (wrapped,)))

    def unwrap_mac(self, wrapped: bytes, algorithm: MacAlgorithm) -> WorkerMacKey:
        """Unwrap into a fresh, non-extractable MAC key of the token."""
        check_wrapped(wrapped)
        return WorkerMacKey(self.pool, Remade(self.recipe, "unwrap_mac", (wrapped, algorithm.name)), algorithm)

    def unwrap_wrapping(self, wrapped: bytes) -> WorkerWrappingKey:
        """Unwrap into a fresh, non-extractable key-encrypting key of the token."""
        check_wrapped_aes(wrapped)
        return WorkerWrappingKey(self.pool, Remade(self.recipe, "unwrap_wrapping", (wrapped,)))


class WorkerPackingKey(WorkerWrappingKey):
    """An RSA key pair in a worker that packs session keys (``any_token.PackingKey``)."""

    __slots__ = ("_public",)

    def __init__(self, pool: WorkerPool, recipe: Recipe) -> None:
        super().__init__(pool, recipe)
        self._public = self.octets("public_key")

    @property
    def public_key(self) -> bytes:
        """The public half, SubjectPublicKeyInfo DER."""
        return self._public

    def unwrap_aes(self, wrapped: bytes) -> WorkerAesKey:
        """Unwrap into a fresh, non-extractable AES key of the token; the worker looks at the length."""
        return WorkerAesKey(self.pool, Remade(self.recipe, "unwrap_aes", (wrapped,)))

    def unwrap_mac(self, wrapped: bytes, algorithm: MacAlgorithm) -> WorkerMacKey:
        """Unwrap into a fresh, non-extractable MAC key of the token; the worker looks at the length."""
        return WorkerMacKey(self.pool, Remade(self.recipe, "unwrap_mac", (wrapped, algorithm.name)), algorithm)


class WorkerExchangeKey(WorkerWrappingKey):
    """A key exchange key at its maker, in a worker (``ports.dialog.ExchangeKey``)."""

    __slots__ = ()

    def wrap_for_rsa(self, public_key: bytes, padding: RsaPadding) -> bytes:
        """Return this key encrypted to an RSA public key."""
        return self.octets("wrap_for_rsa", public_key, padding.name)

    def wrap_under(self, key: WrappingKey) -> bytes:
        """Return this key wrapped under another one of the same worker."""
        if not isinstance(key, WorkerWrappingKey) or key.pool is not self.pool:
            raise KeyPolicyError("a key exchange key is wrapped only under a key of the same token")
        wrapped = self.octets("wrap_under", keys=[key])
        self.packed(Remade(key.recipe, "unwrap_wrapping", (wrapped,)))
        return wrapped


class WorkerUnwrappingKey(Remote):
    """An RSA private key in a worker that opens key exchange keys (``ports.dialog.UnwrappingKey``)."""

    __slots__ = ("_public",)

    def __init__(self, pool: WorkerPool, recipe: Recipe) -> None:
        super().__init__(pool, recipe)
        self._public = self.octets("public_key")

    @property
    def public_key(self) -> bytes:
        """The public half, SubjectPublicKeyInfo DER."""
        return self._public

    def unwrap_exchange(self, wrapped: bytes, padding: RsaPadding, size: int) -> WorkerWrappingKey:
        """Open a key exchange key into a non-extractable handle beside this key."""
        return WorkerWrappingKey(self.pool, Remade(self.recipe, "unwrap_exchange", (wrapped, padding.name, size)))


class WorkerDerivationKey(Remote):
    """A master key in a worker, from which others are derived (``derived.DerivationKey``)."""

    __slots__ = ()

    def derive_aes(self, label: bytes, context: bytes, size: int) -> WorkerAesKey:
        """Return a derived AES key of ``size`` bytes."""
        return WorkerAesKey(self.pool, Remade(self.recipe, "derive_aes", (label, context, size)))

    def derive_mac(self, label: bytes, context: bytes, size: int, algorithm: MacAlgorithm) -> WorkerMacKey:
        """Return a derived MAC key of ``size`` bytes."""
        recipe = Remade(self.recipe, "derive_mac", (label, context, size, algorithm.name))
        return WorkerMacKey(self.pool, recipe, algorithm)

    def derive_wrapping(self, label: bytes, context: bytes, size: int) -> WorkerWrappingKey:
        """Return a derived key-encrypting key of ``size`` bytes."""
        return WorkerWrappingKey(self.pool, Remade(self.recipe, "derive_wrapping", (label, context, size)))


def made(worker: int, number: Value) -> Made:
    """Return the recipe of what a worker just made. Raises BackendError when its answer is no number.

    Args:
        worker: which one.
        number: its answer.
    """
    if not isinstance(number, int):
        raise BackendError("a token worker did not say what it made")
    return Made(worker, number)
