"""Wrapping keys of a fleet under a storage key of the token."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass

from hsm_provision.check_values import ZERO_BLOCK
from hsm_provision.token.access import token_errors
from hsm_provision.token.objects import TokenSession, find_object

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

    def wrap(self, value: bytes) -> bytes:
        """Return a key wrapped (RFC 3394). Raises BackendError."""
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
