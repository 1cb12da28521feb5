"""Key wrapping on a token (port ``WrappingKey``): RFC 3394 and RFC 5649, natively or block by block."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator

from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11.exceptions import PKCS11Error

from hsm_msl.backend import rfc3394
from hsm_msl.backend.inputs import check_to_wrap, check_wrapped, check_wrapped_aes
from hsm_msl.backend.pkcs11 import session_keys
from hsm_msl.backend.pkcs11.aes import TokenAesKey
from hsm_msl.backend.pkcs11.binding import Handle
from hsm_msl.backend.pkcs11.lookup import TokenObject
from hsm_msl.backend.pkcs11.mac import TokenMacKey
from hsm_msl.backend.pkcs11.session_objects import SessionObject
from hsm_msl.backend.pkcs11.sessions import Lease
from hsm_msl.backend.pkcs11.verdicts import judged
from hsm_msl.errors import DataRejectedError, KeyPolicyError, MechanismUnsupportedError
from hsm_msl.ports import AesKey, MacAlgorithm, MacKey

_REFUSED = rfc3394.REFUSED
_SHORTEST_NATIVE = 16  # RFC 3394 starts at two units


class TokenWrappingKey:
    """A key-encrypting key on a token or in a session.

    Args:
        target: the key. One that may wrap and unwrap uses the token's own mechanisms; one that may encrypt and
            decrypt instead works block by block and cannot unwrap into the token.
        by_blocks: which of the two it is.

    Raises:
        MechanismUnsupportedError: the token has no AES key wrap and the key is not for working by blocks.
    """

    __slots__ = ("_by_blocks", "_connection", "_target")

    def __init__(self, target: TokenObject | SessionObject, *, by_blocks: bool = False) -> None:
        self._target = target
        self._connection = target.connection
        self._by_blocks = by_blocks
        if not by_blocks and Mechanism.AES_KEY_WRAP not in self._connection.mechanisms:
            raise MechanismUnsupportedError(
                f"{target.doing}: the token has no AES key wrap; make the key for encryption and decryption and wrap "
                "by blocks"
            )

    @property
    def target(self) -> TokenObject | SessionObject:
        """What the operations are run on."""
        return self._target

    def wrap(self, data: bytes, *, pad: bool = False) -> bytes:
        """Wrap bytes the caller holds. They become a session key for the moment of the call.

        Args:
            data: whole units of 8 bytes, at least two of them; any length with ``pad``.
            pad: use RFC 5649.

        Returns:
            The wrapped bytes.

        Raises:
            UsageError: a length that cannot be wrapped.
            MechanismUnsupportedError: the token does not do this length right.
            BackendError: see ``errors.translate``.
        """
        check_to_wrap(data, pad)
        if self._by_blocks:
            return rfc3394.wrap(self._block("encrypt"), data, pad=pad)
        self._connection.homes.wear()
        return self._target.call(_wrap_bytes, data, self._mechanism(pad, len(data)))

    def unwrap(self, wrapped: bytes, *, pad: bool = False) -> bytes:
        """Invert ``wrap``.

        Args:
            wrapped: what ``wrap`` or a peer made.
            pad: it is RFC 5649.

        Raises:
            DataRejectedError: the integrity check fails or the length is wrong.
            MechanismUnsupportedError: the token cannot do this.
            BackendError: see ``errors.translate``.
        """
        check_wrapped(wrapped)
        if self._by_blocks:
            return rfc3394.unwrap(self._block("decrypt"), wrapped, pad=pad)
        if (not pad and len(wrapped) - 8 < _SHORTEST_NATIVE) or not self._connection.fits(len(wrapped)):
            # A stranger may send this: it is bad input and no want of the token, since no key is so short or long.
            raise DataRejectedError(_REFUSED)
        mechanism = self._mechanism(pad, len(wrapped) - 8)
        self._connection.homes.wear()
        return self._target.call(_unwrap_bytes, wrapped, mechanism, self._connection.profile.vague)

    def wrap_key(self, key: AesKey | MacKey) -> bytes:
        """Wrap a session key of the same token that was made to leave it.

        Args:
            key: from ``Token.generate_aes`` or ``Token.generate_mac``.

        Raises:
            KeyPolicyError: the key lives elsewhere, is on the token for good, or may not leave it.
            BackendError: see ``errors.translate``.
        """
        target = key.target if isinstance(key, (TokenAesKey, TokenMacKey)) else None
        if not isinstance(target, SessionObject) or target.connection is not self._connection:
            raise KeyPolicyError(f"{self._target.doing}: only session keys of the same token can be wrapped")
        return self.wrap_target(target, *session_keys.kind_of(key))

    def wrap_target(self, target: SessionObject, key_type: KeyType, uses: MechanismFlag) -> bytes:
        """Wrap a session key of the same token, of whatever use, that was made to leave it.

        Args:
            target: the session key.
            key_type: its type.
            uses: what it may do when it is unwrapped again.

        Raises:
            KeyPolicyError: it may not leave, or this key works by blocks.
            BackendError: see ``errors.translate``.
        """
        if self._by_blocks:
            raise KeyPolicyError(f"{self._target.doing}: a key used by blocks wraps no keys")
        # Taken before the wrapping key's session is: two homes are never locked at once.
        handle = target.call(_itself)
        wrapped = self._target.call(_wrap_object, handle, Mechanism.AES_KEY_WRAP)
        target.packed(self._maker(wrapped, key_type, uses))
        return wrapped

    def unwrap_aes(self, wrapped: bytes) -> TokenAesKey:
        """Unwrap into a fresh, non-extractable AES key of the same token.

        Args:
            wrapped: RFC 3394 over 16, 24 or 32 bytes.

        Raises:
            DataRejectedError: the integrity check fails or the length is wrong.
            KeyPolicyError: the token would not keep the key to itself.
            BackendError: see ``errors.translate``.
        """
        check_wrapped_aes(wrapped)
        return TokenAesKey(self._unwrap(wrapped, KeyType.AES, session_keys.DATA_KEY))

    def unwrap_mac(self, wrapped: bytes, algorithm: MacAlgorithm) -> TokenMacKey:
        """Unwrap into a fresh, non-extractable MAC key of the same token.

        Args:
            wrapped: RFC 3394 over the key.
            algorithm: what it is for; AES-CMAC keys must have an AES length.

        Raises:
            DataRejectedError, KeyPolicyError, BackendError: as ``unwrap_aes``.
        """
        key_type = session_keys.mac_key_type(algorithm)
        (check_wrapped_aes if key_type is KeyType.AES else check_wrapped)(wrapped)
        return TokenMacKey(self._unwrap(wrapped, key_type, session_keys.MAC_KEY), algorithm)

    def unwrap_wrapping(self, wrapped: bytes) -> TokenWrappingKey:
        """Unwrap into a fresh, non-extractable key-encrypting key of the same token.

        Args:
            wrapped: RFC 3394 over 16, 24 or 32 bytes.

        Raises:
            DataRejectedError, KeyPolicyError, BackendError: as ``unwrap_aes``.
        """
        check_wrapped_aes(wrapped)
        return TokenWrappingKey(self._unwrap(wrapped, KeyType.AES, session_keys.WRAPPING_KEY))

    def _unwrap(self, wrapped: bytes, key_type: KeyType, uses: MechanismFlag) -> SessionObject:
        if self._by_blocks:
            raise KeyPolicyError(f"{self._target.doing}: a key used by blocks cannot unwrap into the token")
        parent, make = self._target, self._maker(wrapped, key_type, uses)
        home = parent.home if isinstance(parent, SessionObject) else self._connection.homes.next()
        doing = f"using a key unwrapped on token {self._connection.name!r}"
        return SessionObject(self._connection, home, make, doing, lasting=True)

    def _maker(self, wrapped: bytes, key_type: KeyType, uses: MechanismFlag) -> session_keys.Make:
        parent, vague = self._target, self._connection.profile.vague

        def make(lease: Lease) -> Handle:
            return _unwrap_object(parent.handle_on(lease), wrapped, key_type, uses, vague)

        return make

    def _mechanism(self, pad: bool, size: int) -> Mechanism:
        if not pad:
            if size < _SHORTEST_NATIVE:
                raise MechanismUnsupportedError(f"{self._target.doing}: the token wraps 16 bytes and more")
            return Mechanism.AES_KEY_WRAP
        profile = self._connection.profile
        if profile.padded_wrap is None or profile.padded_wrap not in self._connection.mechanisms:
            raise MechanismUnsupportedError(f"{self._target.doing}: the token has no RFC 5649 key wrap")
        if size % 8 and not profile.ragged_key_wrap:
            raise MechanismUnsupportedError(f"{self._target.doing}: the token pads to 8 bytes before RFC 5649")
        return profile.padded_wrap

    def _block(self, verb: str) -> rfc3394.Block:
        target = self._target

        def run(block: bytes) -> bytes:
            return target.call(_block, block, verb)

        return run

    def __repr__(self) -> str:
        return f"TokenWrappingKey({self._target!r})"


@contextlib.contextmanager
def _temporary(handle: Handle) -> Iterator[Handle]:
    try:
        yield handle
    finally:
        with contextlib.suppress(PKCS11Error):  # the result is what counts; the session takes it along otherwise
            handle.destroy()


def _import(handle: Handle, data: bytes) -> Handle:
    return handle.session.create_object(
        {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: KeyType.GENERIC_SECRET,
            Attribute.VALUE: data,
            Attribute.TOKEN: False,
            Attribute.PRIVATE: True,
            Attribute.SENSITIVE: False,
            Attribute.EXTRACTABLE: True,
        }
    )


def _wrap_bytes(handle: Handle, data: bytes, mechanism: Mechanism) -> bytes:
    with _temporary(_import(handle, data)) as source:
        return _wrap_object(handle, source, mechanism)


def _wrap_object(handle: Handle, key: Handle, mechanism: Mechanism) -> bytes:
    result: bytes = handle.wrap_key(key, mechanism=mechanism)
    return result


def _unwrap_bytes(
    handle: Handle, wrapped: bytes, mechanism: Mechanism, vague: tuple[type[PKCS11Error], ...]
) -> bytes:
    def run() -> Handle:
        return handle.unwrap_key(
            ObjectClass.SECRET_KEY,
            KeyType.GENERIC_SECRET,
            wrapped,
            mechanism=mechanism,
            capabilities=0,
            template={
                Attribute.TOKEN: False,
                Attribute.PRIVATE: True,
                Attribute.SENSITIVE: False,
                Attribute.EXTRACTABLE: True,
            },
        )

    with _temporary(judged(run, lambda: _prove(handle), vague, _REFUSED)) as key:
        value: bytes = key[Attribute.VALUE]
        return value


def _unwrap_object(
    handle: Handle,
    wrapped: bytes,
    key_type: KeyType,
    uses: MechanismFlag,
    vague: tuple[type[PKCS11Error], ...],
) -> Handle:
    def run() -> Handle:
        return handle.unwrap_key(
            ObjectClass.SECRET_KEY,
            key_type,
            wrapped,
            mechanism=Mechanism.AES_KEY_WRAP,
            capabilities=uses,
            template=session_keys.template(uses, extractable=False),
        )

    return session_keys.enforce(judged(run, lambda: _prove(handle), vague, _REFUSED), uses, extractable=False)


def _prove(handle: Handle) -> None:
    """Wrap and unwrap a sample. A key that may only unwrap is believed when its attributes can still be read."""
    if not hasattr(handle, "wrap_key"):
        _ = handle[Attribute.KEY_TYPE]
        return
    sample = _wrap_bytes(handle, secrets.token_bytes(16), Mechanism.AES_KEY_WRAP)
    _unwrap_bytes(handle, sample, Mechanism.AES_KEY_WRAP, ())


def _itself(handle: Handle) -> Handle:
    return handle


def _block(handle: Handle, block: bytes, verb: str) -> bytes:
    result: bytes = getattr(handle, verb)(block, mechanism=Mechanism.AES_ECB)
    return result
