"""Diffie-Hellman and ECDH with private keys on a token or made in a session (port ``AgreementKey``)."""

from __future__ import annotations

import contextlib

from cryptography.hazmat.primitives.asymmetric import ec
from pkcs11 import KDF, Attribute, KeyType, Mechanism, MechanismFlag
from pkcs11.exceptions import PKCS11Error

from hsm_msl.backend.inputs import check_dh_value
from hsm_msl.backend.pkcs11.binding import Handle
from hsm_msl.backend.pkcs11.connection import Connection
from hsm_msl.backend.pkcs11.lookup import TokenObject
from hsm_msl.backend.pkcs11.public import curve_parameters, ec_point, ec_public_key, public_half
from hsm_msl.backend.pkcs11.session_objects import SessionObject
from hsm_msl.backend.pkcs11.sessions import Lease
from hsm_msl.errors import DataRejectedError, MechanismUnsupportedError

OFF_CURVE = "the peer's public key is no point of the curve in use"


class TokenDhKey:
    """An ephemeral Diffie-Hellman key pair made in a session.

    Args:
        connection: the token.
        prime: the modulus, 512 bits and more.
        generator: the base.

    Raises:
        MechanismUnsupportedError: the token has no DH, or not for this modulus.
        BackendError: see ``errors.translate``.
    """

    __slots__ = ("_prime", "_public", "_size", "_target")

    def __init__(self, connection: Connection, prime: int, generator: int) -> None:
        _need(connection, Mechanism.DH_PKCS_DERIVE)
        self._prime = prime
        self._size = (prime.bit_length() + 7) // 8
        self._public = b""

        def make(lease: Lease) -> Handle:
            attributes = {
                Attribute.PRIME: prime.to_bytes(self._size, "big"),
                Attribute.BASE: generator.to_bytes((generator.bit_length() + 7) // 8, "big"),
            }
            private, self._public = _key_pair(lease, KeyType.DH, attributes, Attribute.VALUE)
            return private

        self._target = SessionObject(connection, connection.homes.next(), make, "agreeing on a key", lasting=False)

    @property
    def public_value(self) -> bytes:
        """Our value, big-endian, as long as the modulus."""
        return self._public.rjust(self._size, b"\0")

    def agree(self, peer: bytes) -> bytes:
        """Return the shared secret, as long as the modulus.

        Args:
            peer: the peer's value, big-endian.

        Raises:
            DataRejectedError: it is not between 2 and the modulus less 2.
            BackendError: see ``errors.translate``; the key is gone after the loss of its session.
        """
        value = check_dh_value(peer, self._prime).to_bytes(self._size, "big")
        secret = self._target.call(_derive, Mechanism.DH_PKCS_DERIVE, value, self._size)
        return secret.rjust(self._size, b"\0")  # some tokens strip leading zeros

    def close(self) -> None:
        """Destroy the private key now."""
        self._target.close()

    def __repr__(self) -> str:
        return f"TokenDhKey({self._prime.bit_length()} bits)"


class TokenEcdhKey:
    """An EC private key that agrees on keys.

    Args:
        target: the private key.
        public: its public half, SubjectPublicKeyInfo DER.

    Raises:
        MechanismUnsupportedError: the token has no ECDH.
    """

    __slots__ = ("_curve", "_public", "_size", "_target")

    def __init__(self, target: TokenObject | SessionObject, public: bytes) -> None:
        _need(target.connection, Mechanism.ECDH1_DERIVE)
        self._target = target
        self._public = public
        self._curve, _ = ec_point(public)
        self._size = (self._curve.key_size + 7) // 8

    @classmethod
    def on_token(cls, target: TokenObject) -> TokenEcdhKey:
        """Use a key on the token.

        Args:
            target: the private key.

        Raises:
            BackendError: its public half cannot be read, or see ``errors.translate``.
        """
        return cls(target, target.call(public_half))

    @classmethod
    def ephemeral(cls, connection: Connection, curve: ec.EllipticCurve) -> TokenEcdhKey:
        """Make a key pair in a session.

        Args:
            connection: the token.
            curve: P-256, P-384 or P-521.

        Raises:
            MechanismUnsupportedError: another curve, or the token has no ECDH.
            BackendError: see ``errors.translate``.
        """
        _need(connection, Mechanism.ECDH1_DERIVE)
        parameters = curve_parameters(curve)
        point = b""

        def make(lease: Lease) -> Handle:
            nonlocal point
            private, point = _key_pair(lease, KeyType.EC, {Attribute.EC_PARAMS: parameters}, Attribute.EC_POINT)
            return private

        target = SessionObject(connection, connection.homes.next(), make, "agreeing on a key", lasting=False)
        return cls(target, ec_public_key(parameters, point))

    @property
    def target(self) -> TokenObject | SessionObject:
        """What the operations are run on."""
        return self._target

    @property
    def public_value(self) -> bytes:
        """Our public key, SubjectPublicKeyInfo DER."""
        return self._public

    def agree(self, peer: bytes) -> bytes:
        """Return the shared secret, as long as the field.

        Args:
            peer: the peer's public key, SubjectPublicKeyInfo DER.

        Raises:
            DataRejectedError: malformed, off the curve, or of another curve.
            BackendError: see ``errors.translate``.
        """
        try:
            curve, point = ec_point(peer)
        except ValueError:
            raise DataRejectedError(OFF_CURVE) from None
        if curve.name != self._curve.name:
            raise DataRejectedError(OFF_CURVE)
        secret = self._target.call(_derive, Mechanism.ECDH1_DERIVE, (KDF.NULL, None, point), self._size)
        return secret.rjust(self._size, b"\0")

    def close(self) -> None:
        """Destroy an ephemeral private key now; one on the token stays."""
        if isinstance(self._target, SessionObject):
            self._target.close()

    def __repr__(self) -> str:
        return f"TokenEcdhKey({self._curve.name})"


def _need(connection: Connection, mechanism: Mechanism) -> None:
    if mechanism not in connection.mechanisms:
        raise MechanismUnsupportedError(f"token {connection.name!r} has no {mechanism.name}")


def _key_pair(
    lease: Lease, key_type: KeyType, parameters: dict[Attribute, bytes], public_value: Attribute
) -> tuple[Handle, bytes]:
    domain = lease.session.create_domain_parameters(key_type, parameters, local=True)
    public, private = domain.generate_keypair(
        store=False,
        capabilities=MechanismFlag.DERIVE,
        private_template={
            Attribute.PRIVATE: True,
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
        },
    )
    value: bytes = public[public_value]
    with contextlib.suppress(PKCS11Error):  # only its value was wanted
        public.destroy()
    return private, value


def _derive(handle: Handle, mechanism: Mechanism, parameter: object, size: int) -> bytes:
    secret = handle.derive_key(
        KeyType.GENERIC_SECRET,
        size * 8,
        mechanism=mechanism,
        mechanism_param=parameter,
        store=False,
        capabilities=0,
        template={Attribute.PRIVATE: True, Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True},
    )
    try:
        value: bytes = secret[Attribute.VALUE]
    finally:
        with contextlib.suppress(PKCS11Error):
            secret.destroy()
    return value
