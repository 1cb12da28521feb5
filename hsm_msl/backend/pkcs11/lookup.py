"""Keys that live on the token: found exactly once per session and epoch, checked, cached, and called.

A search that finds nothing proves nothing: a lost login hides every private object. And a handle proves nothing
either: after trouble it may stand for another object. So a missing key is believed only after the login and a key
known to exist were proved, and a found one only when it is the one that was first found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from pkcs11 import Attribute, KeyType, ObjectClass
from pkcs11.exceptions import AttributeSensitive, AttributeTypeInvalid, AttributeValueInvalid

from hsm_msl.backend.pkcs11.binding import Handle, handle_of
from hsm_msl.backend.pkcs11.connection import Connection
from hsm_msl.backend.pkcs11.errors import CryptokiError
from hsm_msl.backend.pkcs11.sessions import Lease
from hsm_msl.backend.pkcs11.targets import PooledTarget
from hsm_msl.errors import BackendConfigurationError, KeyNotFoundError

T = TypeVar("T")

MAX_WITNESSES = 4
"""Keys asked for before another one is called missing; more would only cost time."""

_TOKEN_NOT_PRESENT = 0xE0
_USER_NOT_LOGGED_IN = 0x101


@dataclass(frozen=True, slots=True)
class KeyName:
    """What a key is searched by.

    Args:
        object_class: secret, private or public key.
        label: CKA_LABEL, or None.
        id: CKA_ID, or None; at least one of the two.
    """

    object_class: ObjectClass
    label: str | None = None
    id: bytes | None = None

    def template(self) -> dict[Attribute, Any]:
        """Return the search template."""
        found: dict[Attribute, Any] = {Attribute.CLASS: self.object_class}
        if self.label is not None:
            found[Attribute.LABEL] = self.label
        if self.id is not None:
            found[Attribute.ID] = self.id
        return found

    def __str__(self) -> str:
        parts = []
        if self.label is not None:
            parts.append(repr(self.label))
        if self.id is not None:
            parts.append(f"id {self.id.hex()}")
        return f"{self.object_class.name.lower().replace('_', ' ')} {' '.join(parts)}"


class Fingerprint(NamedTuple):
    """What must not change under a key's name while we use it."""

    key_type: KeyType | None
    id: bytes
    label: str
    check: bytes


class TokenObject(PooledTarget):
    """A key on the token, called through whatever session is free.

    Args:
        connection: the token.
        name: what it is searched by.
        check: returns a value that tells this key from others (a check value, a hash of the public half); called
            on every fresh handle.
        admit: looks at a fresh handle's attributes and raises KeyPolicyError when it may not serve.

    Raises:
        KeyNotFoundError: no such key, and the login and another known key were proved.
        BackendConfigurationError: several keys bear the name.
        BackendUnavailableError: the token gives no answer.
        KeyPolicyError: the attributes forbid the use.
    """

    __slots__ = ("_admit", "_check", "_fingerprint", "name")

    def __init__(
        self,
        connection: Connection,
        name: KeyName,
        *,
        check: Callable[[Handle], bytes],
        admit: Callable[[Handle, KeyName], None],
    ) -> None:
        super().__init__(
            connection, f"using {name} on token {connection.name!r}", connection.operations.of_key(name.label)
        )
        self._check = check
        self._admit = admit
        self._fingerprint: Fingerprint | None = None
        self.name = name
        self.call(nothing)  # finds it, or says why not
        template = name.template()
        if len(connection.witnesses) < MAX_WITNESSES and template not in connection.witnesses:
            connection.witnesses.append(template)

    @property
    def fingerprint(self) -> Fingerprint:
        """What was found under the name."""
        if self._fingerprint is None:
            raise KeyNotFoundError(f"{self.name} was never found")
        return self._fingerprint

    def handle_on(self, lease: Lease) -> Handle:
        """Return this key's handle in a session, searching once per session.

        Args:
            lease: the session, held by the caller.

        Raises:
            KeyNotFoundError, BackendConfigurationError, KeyPolicyError: as the class says. The binding's exceptions
            pass.
        """
        handle = lease.objects.get(self)
        if handle is None:
            handle = lease.objects[self] = self._find(lease)
        return handle

    def _find(self, lease: Lease) -> Handle:
        # Asked first because a search on a dead session leaves the binding's iterator behind, which then complains
        # on standard error when it is collected.
        self._connection.module.cryptoki.session_info(handle_of(lease.session))
        found = list(lease.session.get_objects(self.name.template())) or self._search_again(lease)
        if len(found) > 1:
            raise BackendConfigurationError(
                f"{len(found)} objects on token {self._connection.name!r} are {self.name}; exactly one may be"
            )
        handle = found[0]
        self._admit(handle, self.name)
        seen = self._look(handle)
        if self._fingerprint is None:
            self._fingerprint = seen
        elif seen != self._fingerprint:
            raise BackendConfigurationError(
                f"{self.name} on token {self._connection.name!r} is not the key it was when it was loaded; "
                "load the key ring again if that was intended"
            )
        return handle

    def _look(self, handle: Handle) -> Fingerprint:
        return Fingerprint(
            key_type_of(handle),
            read(handle, Attribute.ID, b""),
            read(handle, Attribute.LABEL, ""),
            self._check(handle),
        )

    def _search_again(self, lease: Lease) -> list[Handle]:
        """Search between two proofs of the login, in one epoch: only then does an empty answer mean something.

        Another thread may log in between an empty search and a proof that follows it.
        """
        connection = self._connection
        epoch, mine = connection.epoch, self.name.template()
        if not connection.login.proved():
            raise CryptokiError("C_FindObjects", _USER_NOT_LOGGED_IN)
        found = list(lease.session.get_objects(mine))
        if found:
            return found
        others = [template for template in connection.witnesses if template != mine]
        witnessed = any(list(lease.session.get_objects(template)) for template in others)
        if not connection.login.proved() or connection.epoch != epoch:
            raise CryptokiError("C_FindObjects", _USER_NOT_LOGGED_IN)
        if not witnessed and (others or self._fingerprint is not None):
            raise CryptokiError("C_FindObjects", _TOKEN_NOT_PRESENT)  # what was there is gone: the token, not the key
        raise KeyNotFoundError(f"there is no {self.name} on token {connection.name!r}")


def read(handle: Handle, attribute: Attribute, missing: T) -> T:
    """Return an attribute, or ``missing`` when the token does not know, has or show it; other exceptions pass.

    Args:
        handle: the object.
        attribute: what to read.
        missing: what stands for nothing.
    """
    try:
        value: T = handle[attribute]
    except (AttributeTypeInvalid, AttributeSensitive, AttributeValueInvalid):
        return missing
    return value


def key_type_of(handle: Handle) -> KeyType | None:
    """Return a key's type, or None when the token does not say or the binding does not know it.

    Args:
        handle: the key.
    """
    try:
        kind: KeyType = handle[Attribute.KEY_TYPE]
    except (AttributeTypeInvalid, ValueError):
        return None
    return kind


def nothing(handle: Handle) -> None:
    """Do nothing with a handle: finding or making it was the point."""
