"""Keys that travel under RSA: encrypted to a peer inside the token, and opened into it."""

from __future__ import annotations

import contextlib
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pkcs11 import MGF, Attribute, KeyType, Mechanism, ObjectClass
from pkcs11.exceptions import PKCS11Error

from hsm_msl.backend.pkcs11.binding import Handle
from hsm_msl.backend.pkcs11.connection import Connection
from hsm_msl.backend.pkcs11.session_objects import SessionObject
from hsm_msl.backend.software.asymmetric import RSA_PADDINGS
from hsm_msl.errors import DataRejectedError, MechanismUnsupportedError
from hsm_msl.ports import RsaPadding

_OAEP = Mechanism.RSA_PKCS_OAEP
MECHANISMS: dict[RsaPadding, tuple[Mechanism, tuple[Mechanism, MGF, None] | None]] = {
    RsaPadding.OAEP_SHA1: (_OAEP, (Mechanism.SHA_1, MGF.SHA1, None)),
    RsaPadding.OAEP_SHA256: (_OAEP, (Mechanism.SHA256, MGF.SHA256, None)),
    RsaPadding.PKCS1: (Mechanism.RSA_PKCS, None),
}
"""How the paddings of the ports are named to a token, with their parameters."""

OVERHEAD = {RsaPadding.OAEP_SHA1: 42, RsaPadding.OAEP_SHA256: 66, RsaPadding.PKCS1: 11}
"""Bytes of the modulus that each padding takes (RFC 8017 sections 7.1.1 and 7.2.1)."""

LONGEST_KEY = 32


def mechanism_for(
    connection: Connection, padding: RsaPadding
) -> tuple[Mechanism, tuple[Mechanism, MGF, None] | None]:
    """Return mechanism and parameter. Raises MechanismUnsupportedError when the token does not list the mechanism.

    Args:
        connection: the token.
        padding: RSA encryption padding.
    """
    mechanism, parameter = MECHANISMS[padding]
    if mechanism not in connection.mechanisms:
        raise MechanismUnsupportedError(f"token {connection.name!r} has no RSA wrapping with {padding.value}")
    return mechanism, parameter


def wrap_for_peer(target: SessionObject, public_key: bytes, padding: RsaPadding) -> bytes:
    """Encrypt a session key to a peer's RSA key, inside the token.

    Args:
        target: a session key that may leave.
        public_key: SubjectPublicKeyInfo DER.
        padding: RSA encryption padding.

    Raises:
        DataRejectedError: it is no RSA key, one that cannot be used, or too small for the session key.
        KeyPolicyError: the session key may not leave.
        MechanismUnsupportedError: the token does not wrap with this padding.
        BackendError: see ``errors.translate``.
    """
    mechanism, parameter = mechanism_for(target.connection, padding)
    try:
        peer = load_der_public_key(public_key)
    except (ValueError, UnsupportedAlgorithm):
        peer = None
    if not isinstance(peer, rsa.RSAPublicKey):
        raise DataRejectedError("not an RSA public key")
    if peer.key_size // 8 < LONGEST_KEY + OVERHEAD[padding]:
        raise DataRejectedError("the RSA key is too small for a session key")
    # A stranger's key that nobody can encrypt to (an even modulus, a modulus or exponent beyond all limits) is found
    # out here: a token answers it as it answers its own failures, and would be taken through its recovery.
    try:
        peer.encrypt(bytes(LONGEST_KEY), RSA_PADDINGS[padding])
    except ValueError:
        raise DataRejectedError("the RSA key cannot be used") from None
    numbers = peer.public_numbers()
    template = {
        Attribute.CLASS: ObjectClass.PUBLIC_KEY,
        Attribute.KEY_TYPE: KeyType.RSA,
        Attribute.TOKEN: False,
        Attribute.PRIVATE: False,
        Attribute.WRAP: True,
        Attribute.ENCRYPT: False,
        Attribute.VERIFY: False,
        Attribute.MODULUS: _number(numbers.n),
        Attribute.PUBLIC_EXPONENT: _number(numbers.e),
    }
    target.connection.homes.wear()  # the peer's key is an object for the length of the call
    return target.call(_wrap, template, mechanism, parameter)


def _wrap(handle: Handle, template: dict[Attribute, Any], mechanism: Mechanism, parameter: object) -> bytes:
    peer = handle.session.create_object(template)
    try:
        wrapped: bytes = peer.wrap_key(handle, mechanism=mechanism, mechanism_param=parameter)
    finally:
        with contextlib.suppress(PKCS11Error):  # the session takes it along otherwise
            peer.destroy()
    return wrapped


def _number(value: int) -> bytes:
    return value.to_bytes((value.bit_length() + 7) // 8, "big")
