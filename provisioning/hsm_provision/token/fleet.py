"""Wrapping keys of a fleet under a storage key of the token."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass

from hsm_provision.check_values import ZERO_BLOCK
from hsm_provision.token.access import token_errors
from hsm_provision.token.objects import TokenSession, find_object

RENEW_AFTER = 150_000
"""Keys wrapped before the module is started anew. SoftHSMv2 2.6 keeps about 280 bytes of each session object until it
is finalised (measured): this bounds an import to some 40 MB, however large the fleet."""

_PASSING = {Attribute.TOKEN: False, Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: True}


class FleetWrapper:
    """Wraps key after key with one storage key, whose handle is looked up once.

    Args:
        session: the token.
        label: the storage key.

    Raises:
        KeyNotFoundError: there is no such key.
        BackendUnavailableError: the token fails.
    """

    def __init__(self, session: TokenSession, label: str) -> None:
        self.label = label
        self._session = session
        self._key = find_object(session, label, "secret")
        self._older: dict[str, Any] = {}
        self.objects = 0
        """How many session objects were made."""

    def wrap(self, value: bytes) -> bytes:
        """Return a key wrapped (RFC 3394). Raises BackendError."""
        self.objects += 1
        with token_errors("wrapping a fleet key"):
            handle = self._session.binding.create_object(
                {
                    Attribute.CLASS: ObjectClass.SECRET_KEY,
                    Attribute.KEY_TYPE: KeyType.GENERIC_SECRET,
                    Attribute.VALUE: value,
                    **_PASSING,
                }
            )
            try:
                return bytes(self._key.wrap_key(handle, mechanism=Mechanism.AES_KEY_WRAP))
            finally:
                handle.destroy()

    def rewrap(self, wrapped: bytes, older: str) -> bytes:
        """Return a key that is wrapped under an older storage key, wrapped under this one; the host sees no key.

        Raises:
            KeyNotFoundError: the older key is gone.
            BackendError: the token fails or does not open the entry.
        """
        if older not in self._older:
            self._older[older] = find_object(self._session, older, "secret")
        self.objects += 1
        with token_errors("wrapping a fleet key anew"):
            handle = self._older[older].unwrap_key(
                ObjectClass.SECRET_KEY,
                KeyType.GENERIC_SECRET,
                wrapped,
                mechanism=Mechanism.AES_KEY_WRAP,
                store=False,
                template=_PASSING,
            )
            try:
                return bytes(self._key.wrap_key(handle, mechanism=Mechanism.AES_KEY_WRAP))
            finally:
                handle.destroy()

    def opens_to(self, wrapped: bytes, aes_key: bytes) -> bool:
        """Tell whether a wrapped AES key opens, in the token, to the key it was made of. Raises BackendError."""
        with token_errors("proving a wrapped fleet key"):
            handle = self._key.unwrap_key(
                ObjectClass.SECRET_KEY,
                KeyType.AES,
                wrapped,
                mechanism=Mechanism.AES_KEY_WRAP,
                store=False,
                template={
                    Attribute.SENSITIVE: True,
                    Attribute.EXTRACTABLE: False,
                    Attribute.ENCRYPT: True,
                    Attribute.WRAP: False,
                    Attribute.UNWRAP: False,
                },
            )
            try:
                actual = bytes(handle.encrypt(ZERO_BLOCK, mechanism=Mechanism.AES_ECB))
            finally:
                handle.destroy()
        # One constant block, to compare with what the token made of it.
        expected = Cipher(algorithms.AES(aes_key), modes.ECB()).encryptor().update(ZERO_BLOCK)  # noqa: S305  # see above
        return actual == expected


class RenewedWrapper:
    """A fleet wrapper for any number of keys: gives the memory back that modules keep of past session objects.

    The process must use the module for nothing else meanwhile: starting it anew voids all its sessions.

    Args:
        open_session: logs in on the token.
        label: the storage key.
        renew_after: how many session objects to make before the module is started anew.
    """

    def __init__(
        self,
        open_session: Callable[[], AbstractContextManager[TokenSession]],
        label: str,
        *,
        renew_after: int = RENEW_AFTER,
    ) -> None:
        self.label = label
        self._open_session = open_session
        self._renew_after = renew_after
        self._stack = contextlib.ExitStack()
        self._session: TokenSession | None = None
        self._wrapper: FleetWrapper | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._session = self._wrapper = None

    def current(self) -> FleetWrapper:
        """Return the wrapper to use for the next batch.

        Raises:
            KeyNotFoundError: there is no such key.
            BackendConfigurationError: an operator must act on the token.
            BackendUnavailableError: the token fails.
        """
        if self._wrapper is None or self._wrapper.objects >= self._renew_after:
            self._stack.close()
            if self._session is not None:
                self._session.module.reinitialize()
            self._session = self._stack.enter_context(self._open_session())
            self._wrapper = FleetWrapper(self._session, self.label)
        return self._wrapper
