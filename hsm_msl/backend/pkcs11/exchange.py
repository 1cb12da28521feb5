"""Key exchange keys of the secure dialog in a token (``ports.dialog``; dialog sections 4 and 10)."""

from __future__ import annotations

import contextlib
import secrets

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11.exceptions import PKCS11Error

from hsm_msl.backend.inputs import AES_KEY_SIZES
from hsm_msl.backend.pkcs11 import session_keys
from hsm_msl.backend.pkcs11.binding import Handle
from hsm_msl.backend.pkcs11.connection import Connection
from hsm_msl.backend.pkcs11.errors import Fault, fault_of
from hsm_msl.backend.pkcs11.lookup import TokenObject, read
from hsm_msl.backend.pkcs11.public import public_half
from hsm_msl.backend.pkcs11.rsa_transport import mechanism_for, wrap_for_peer
from hsm_msl.backend.pkcs11.session_objects import SessionObject
from hsm_msl.backend.pkcs11.sessions import Lease
from hsm_msl.backend.pkcs11.verdicts import judged
from hsm_msl.backend.pkcs11.wrapping import TokenWrappingKey
from hsm_msl.backend.software.asymmetric import RSA_PADDINGS
from hsm_msl.errors import DataRejectedError, KeyPolicyError, UsageError
from hsm_msl.ports import RsaPadding, WrappingKey

REFUSED = "the key exchange key was refused"


class TokenExchangeKey(TokenWrappingKey):
    """A key exchange key at its maker: it may leave the token wrapped.

    Args:
        target: a session key made to be wrapped.
    """

    __slots__ = ("_made",)

    def __init__(self, target: SessionObject) -> None:
        super().__init__(target)
        self._made = target

    def wrap_for_rsa(self, public_key: bytes, padding: RsaPadding) -> bytes:
        """Return this key encrypted to a peer's RSA key, inside the token.

        Args:
            public_key: SubjectPublicKeyInfo DER.
            padding: RSA encryption padding.

        Raises:
            DataRejectedError: it is no RSA key, or too small.
            MechanismUnsupportedError: the token does not wrap with this padding (SoftHSMv2: OAEP with SHA-256).
            BackendError: see ``errors.translate``.
        """
        return wrap_for_peer(self._made, public_key, padding)

    def wrap_under(self, key: WrappingKey) -> bytes:
        """Return this key wrapped (RFC 3394) under another one of the same token.

        Args:
            key: from ``TokenExchangeKeys.wrapping_key`` or the token.

        Raises:
            KeyPolicyError: it lives elsewhere.
            BackendError: see ``errors.translate``.
        """
        if not isinstance(key, TokenWrappingKey) or key.target.connection is not self._made.connection:
            raise KeyPolicyError("a key exchange key is wrapped only under a key of the same token")
        return key.wrap_target(self._made, KeyType.AES, session_keys.WRAPPING_KEY)


class TokenExchangeKeys:
    """Makes key exchange keys in a token (port ``ExchangeKeys``).

    Args:
        connection: the token.
    """

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def generate(self, size: int) -> TokenExchangeKey:
        """Make a key that wraps session keys and may leave the token wrapped.

        Args:
            size: 16 or 32 bytes.

        Raises:
            UsageError: another size.
            BackendError: see ``errors.translate``.
        """
        if size not in AES_KEY_SIZES:
            raise UsageError(f"a key exchange key of {size} bytes")

        def make(lease: Lease) -> Handle:
            key = lease.session.generate_key(
                KeyType.AES,
                size * 8,
                store=False,
                capabilities=MechanismFlag.WRAP,
                template=session_keys.template(MechanismFlag.WRAP, extractable=True),
            )
            return session_keys.enforce(key, MechanismFlag.WRAP, extractable=True)

        return TokenExchangeKey(self._object(make, "using a key exchange key"))

    def wrapping_key(self, value: bytes) -> TokenWrappingKey:
        """Take a key agreed on the host into the token, from where it does not come back.

        Args:
            value: 16 or 32 bytes, the result of ECDH in this process.

        Raises:
            UsageError: another size.
            BackendError: see ``errors.translate``; the key is gone after the loss of its session.
        """
        if len(value) not in AES_KEY_SIZES:
            raise UsageError(f"a wrapping key of {len(value)} bytes")
        uses = session_keys.WRAPPING_KEY

        def make(lease: Lease) -> Handle:
            attributes = session_keys.template(uses, extractable=False)
            attributes |= {
                Attribute.CLASS: ObjectClass.SECRET_KEY,
                Attribute.KEY_TYPE: KeyType.AES,
                Attribute.VALUE: value,
            }
            return session_keys.enforce(lease.session.create_object(attributes), uses, extractable=False)

        return TokenWrappingKey(self._object(make, "using an agreed wrapping key"))

    def _object(self, make: session_keys.Make, doing: str) -> SessionObject:
        return SessionObject(self._connection, self._connection.homes.next(), make, doing, lasting=False)


class TokenUnwrappingKey:
    """An RSA private key on a token that opens key exchange keys into it (port ``UnwrappingKey``).

    Args:
        target: the private key; it may unwrap and nothing else.

    Raises:
        BackendError: the public half cannot be read.
        KeyPolicyError: not an RSA key.
    """

    __slots__ = ("_connection", "_key", "_public", "_target")

    def __init__(self, target: TokenObject) -> None:
        self._target = target
        self._connection = target.connection
        self._public = target.call(public_half)
        key = load_der_public_key(self._public)
        if not isinstance(key, rsa.RSAPublicKey):
            raise KeyPolicyError(f"{target.doing}: only RSA keys open key exchange keys")
        self._key = key

    @property
    def target(self) -> TokenObject:
        """What the operations are run on."""
        return self._target

    @property
    def public_key(self) -> bytes:
        """The public half, SubjectPublicKeyInfo DER."""
        return self._public

    def unwrap_exchange(self, wrapped: bytes, padding: RsaPadding, size: int) -> TokenWrappingKey:
        """Open a key exchange key into a non-extractable handle beside this key.

        Args:
            wrapped: as long as the modulus.
            padding: RSA encryption padding.
            size: how long the key must be, 16 or 32 bytes.

        Raises:
            DataRejectedError: the same for every kind of bad input, also for a key of another size.
            MechanismUnsupportedError: the token does not unwrap with this padding.
            BackendError: see ``errors.translate``.
        """
        mechanism, parameter = mechanism_for(self._connection, padding)
        if len(wrapped) != self._key.key_size // 8:
            raise DataRejectedError(REFUSED)
        vague = self._connection.profile.vague

        def unwrap(parent: Handle, data: bytes, uses: MechanismFlag, *, extractable: bool) -> Handle:
            return parent.unwrap_key(
                ObjectClass.SECRET_KEY,
                KeyType.AES,
                data,
                mechanism=mechanism,
                mechanism_param=parameter,
                capabilities=uses,
                template=session_keys.template(uses, extractable=extractable),
            )

        def prove(parent: Handle) -> None:
            sample = self._key.encrypt(secrets.token_bytes(size), RSA_PADDINGS[padding])
            unwrap(parent, sample, MechanismFlag.UNWRAP, extractable=False).destroy()

        def make(lease: Lease) -> Handle:
            parent = self._target.handle_on(lease)
            key = judged(
                lambda: unwrap(parent, wrapped, MechanismFlag.UNWRAP, extractable=False),
                lambda: prove(parent),
                vague,
                REFUSED,
            )
            session_keys.enforce(key, MechanismFlag.UNWRAP, extractable=False)
            length = read(key, Attribute.VALUE_LEN, 0)
            if not length:  # SoftHSMv2 does not tell it
                length = judged(
                    lambda: _length(unwrap(parent, wrapped, MechanismFlag.WRAP, extractable=True)),
                    lambda: prove(parent),
                    vague,
                    REFUSED,
                )
            if length != size:
                key.destroy()
                raise DataRejectedError(REFUSED)
            return key

        doing = f"using a key exchange key opened on token {self._connection.name!r}"
        return TokenWrappingKey(
            SessionObject(self._connection, self._connection.homes.next(), make, doing, lasting=True)
        )

    def __repr__(self) -> str:
        return f"TokenUnwrappingKey({self._target!r})"


def _length(copy: Handle) -> int:
    """Return the length of a key that may wrap and leave, by doing both; 0 when it is no AES length."""
    other = None
    try:
        other = copy.session.generate_key(
            KeyType.AES,
            128,
            store=False,
            capabilities=MechanismFlag.WRAP,
            template=session_keys.template(MechanismFlag.WRAP, extractable=True),
        )
        copy.wrap_key(other, mechanism=Mechanism.AES_KEY_WRAP)  # only a key of an AES length can
        return len(other.wrap_key(copy, mechanism=Mechanism.AES_KEY_WRAP)) - 8  # SoftHSMv2 fills others up to 8 bytes
    except PKCS11Error as error:
        if fault_of(error) is not Fault.MECHANISM:
            raise
        return 0
    finally:
        for handle in (copy, other):
            if handle is not None:
                with contextlib.suppress(PKCS11Error):  # the session takes it along otherwise
                    handle.destroy()
