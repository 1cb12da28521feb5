"""Keys for trying a token out: session objects of known value where the token takes them, else made in it."""

from __future__ import annotations

import contextlib
import secrets
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from pkcs11 import Attribute, KeyType, MechanismFlag, ObjectClass
from pkcs11.exceptions import PKCS11Error

from hsm_msl.backend.pkcs11 import session_keys
from hsm_msl.backend.pkcs11.binding import Handle
from hsm_msl.backend.pkcs11.connection import Connection
from hsm_msl.backend.pkcs11.errors import Fault, fault_of
from hsm_msl.backend.pkcs11.lookup import Fingerprint, TokenObject, key_type_of, read
from hsm_msl.backend.pkcs11.public import curve_parameters
from hsm_msl.backend.pkcs11.session_objects import SessionObject
from hsm_msl.backend.pkcs11.sessions import Lease

_DOING = "trying out a session key"
_RSA_BITS = 2048


class SampleKey(SessionObject):
    """A session key under trial; looks like a key on the token to what uses it."""

    __slots__ = ()

    @property
    def fingerprint(self) -> Fingerprint:
        """What kind of key it is."""
        return Fingerprint(self.call(key_type_of), b"", "", b"")


class Samples:
    """Makes session keys of one token for trials.

    Args:
        connection: the token.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def secret(self, key_type: KeyType, size: int, uses: MechanismFlag) -> tuple[SampleKey, bytes | None]:
        """Return a secret key and its value, or None for the value when the token lets no key in.

        Args:
            key_type: AES or generic secret.
            size: in bytes.
            uses: what it may do.

        Raises:
            KeyPolicyError: the token would not keep it to itself.
            BackendError: see ``errors.translate``.
        """
        value = secrets.token_bytes(size)
        imported = True

        def make(lease: Lease) -> Handle:
            nonlocal imported
            attributes: dict[Attribute, Any] = session_keys.template(uses, extractable=False)
            described = {
                Attribute.CLASS: ObjectClass.SECRET_KEY,
                Attribute.KEY_TYPE: key_type,
                Attribute.VALUE: value,
            }
            try:
                key = lease.session.create_object(attributes | described)
            except PKCS11Error as error:
                if fault_of(error) not in (Fault.MECHANISM, Fault.POLICY, Fault.OPERATOR):
                    raise
                imported = False
                key = lease.session.generate_key(
                    key_type, size * 8, store=False, capabilities=uses, template=attributes
                )
            return session_keys.enforce(key, uses, extractable=False)

        key = self._object(make)
        return key, value if imported else None

    def rsa(self, use: Attribute) -> SampleKey:
        """Return the private half of a fresh RSA-2048 pair. Raises BackendError.

        Args:
            use: SIGN, DECRYPT or UNWRAP.
        """
        identity = secrets.token_bytes(8)

        def make(lease: Lease) -> Handle:
            _, private = lease.session.generate_keypair(
                KeyType.RSA,
                _RSA_BITS,
                id=identity,
                store=False,
                private_template=_private(use),
                public_template=_public(use),
            )
            return private

        return self._object(make)

    def ec(self, curve: ec.EllipticCurve) -> SampleKey:
        """Return the private half of a fresh EC pair that signs. Raises MechanismUnsupportedError, BackendError.

        Args:
            curve: one of ``public.CURVES``.
        """
        identity = secrets.token_bytes(8)
        parameters = curve_parameters(curve)

        def make(lease: Lease) -> Handle:
            group = lease.session.create_domain_parameters(KeyType.EC, {Attribute.EC_PARAMS: parameters}, local=True)
            _, private = group.generate_keypair(
                id=identity,
                store=False,
                private_template=_private(Attribute.SIGN),
                public_template=_public(Attribute.SIGN),
            )
            return private

        return self._object(make)

    def existing(self, key_type: KeyType) -> tuple[str, bytes] | None:
        """Return label and ID of a private key on the token that signs, for tokens without session key pairs.

        Args:
            key_type: RSA or EC.

        Raises:
            BackendError: see ``errors.translate``.
        """
        with self._connection.pool.session() as session:
            wanted = {
                Attribute.CLASS: ObjectClass.PRIVATE_KEY,
                Attribute.KEY_TYPE: key_type,
                Attribute.SIGN: True,
            }
            found = list(session.get_objects(wanted))
            return (read(found[0], Attribute.LABEL, ""), read(found[0], Attribute.ID, b"")) if found else None

    def _object(self, make: session_keys.Make) -> SampleKey:
        return SampleKey(self._connection, self._connection.homes.next(), make, _DOING, lasting=False)


def as_token_object(key: SampleKey) -> TokenObject:
    """Let a sample stand where a key on the token is asked for; it has everything of one that is used there.

    Args:
        key: the sample.
    """
    return key  # type: ignore[return-value]  # a trial may do this, a service may not


def discard(*keys: SessionObject) -> None:
    """Destroy samples now; errors are of no interest.

    Args:
        keys: the samples.
    """
    for key in keys:
        with contextlib.suppress(PKCS11Error):
            key.close()


def _private(use: Attribute) -> dict[Attribute, Any]:
    uses = (Attribute.SIGN, Attribute.DECRYPT, Attribute.UNWRAP, Attribute.DERIVE, Attribute.SIGN_RECOVER)
    return {attribute: attribute is use for attribute in uses} | {
        Attribute.PRIVATE: True,
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: False,
    }


def _public(use: Attribute) -> dict[Attribute, Any]:
    counterparts = {
        Attribute.VERIFY: Attribute.SIGN,
        Attribute.ENCRYPT: Attribute.DECRYPT,
        Attribute.WRAP: Attribute.UNWRAP,
        Attribute.DERIVE: Attribute.DERIVE,
        Attribute.VERIFY_RECOVER: Attribute.SIGN_RECOVER,
    }
    return {attribute: counterpart is use for attribute, counterpart in counterparts.items()}
