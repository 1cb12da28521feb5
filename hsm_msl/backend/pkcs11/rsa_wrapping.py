"""Key wrapping under an RSA key pair, for tokens that have no AES key wrap (openCryptoki, p11-kit remote).

What it makes is not RFC 3394, so no peer can open it: it packs the session keys of this service's own master tokens
(``token`` residency), which are encrypted and authenticated around it.
"""

from __future__ import annotations

import secrets

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pkcs11 import Attribute, KeyType, MechanismFlag, ObjectClass

from hsm_msl.backend.inputs import AES_KEY_SIZES
from hsm_msl.backend.pkcs11 import session_keys
from hsm_msl.backend.pkcs11.aes import TokenAesKey
from hsm_msl.backend.pkcs11.binding import Handle
from hsm_msl.backend.pkcs11.lookup import TokenObject, read
from hsm_msl.backend.pkcs11.mac import TokenMacKey
from hsm_msl.backend.pkcs11.public import public_half
from hsm_msl.backend.pkcs11.rsa_transport import mechanism_for, wrap_for_peer
from hsm_msl.backend.pkcs11.session_objects import SessionObject
from hsm_msl.backend.pkcs11.sessions import Lease
from hsm_msl.backend.pkcs11.verdicts import judged
from hsm_msl.backend.pkcs11.wrapping import TokenWrappingKey
from hsm_msl.backend.software.asymmetric import RSA_PADDINGS
from hsm_msl.errors import DataRejectedError, KeyPolicyError, MechanismUnsupportedError
from hsm_msl.ports import AesKey, MacAlgorithm, MacKey, RsaPadding

REFUSED = "the wrapped key was refused"
_PADDING = RsaPadding.OAEP_SHA1  # the one that every token measured unwraps with
_SAMPLE = 32


class TokenRsaWrappingKey:
    """An RSA private key on a token that opens what was wrapped to its own public half (port ``WrappingKey``).

    Args:
        target: the private key; it may unwrap and nothing else.

    Raises:
        KeyPolicyError: not an RSA key.
        MechanismUnsupportedError: the token does not unwrap with RSA-OAEP.
        BackendError: the public half cannot be read.
    """

    __slots__ = ("_connection", "_key", "_mechanism", "_public", "_target")

    def __init__(self, target: TokenObject) -> None:
        self._target = target
        self._connection = target.connection
        self._mechanism = mechanism_for(target.connection, _PADDING)
        self._public = target.call(public_half)
        key = load_der_public_key(self._public)
        if not isinstance(key, rsa.RSAPublicKey):
            raise KeyPolicyError(f"{target.doing}: only RSA keys wrap this way")
        self._key = key

    @property
    def target(self) -> TokenObject:
        """What the operations are run on."""
        return self._target

    @property
    def public_key(self) -> bytes:
        """The public half, SubjectPublicKeyInfo DER."""
        return self._public

    def wrap(self, data: bytes, *, pad: bool = False) -> bytes:  # noqa: ARG002 - refused whatever it is
        """Refuse: peers expect RFC 3394. Raises MechanismUnsupportedError."""
        raise self._not_for_peers()

    def unwrap(self, wrapped: bytes, *, pad: bool = False) -> bytes:  # noqa: ARG002 - refused whatever it is
        """Refuse, as ``wrap``."""
        raise self._not_for_peers()

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
        wrapped = wrap_for_peer(target, self._public, _PADDING)
        target.packed(self._maker(wrapped, *session_keys.kind_of(key)))
        return wrapped

    def unwrap_aes(self, wrapped: bytes) -> TokenAesKey:
        """Unwrap into a fresh, non-extractable AES key of the same token.

        Args:
            wrapped: from ``wrap_key``.

        Raises:
            DataRejectedError: it was not made for this key, or is no AES key.
            KeyPolicyError: the token would not keep the key to itself.
            BackendError: see ``errors.translate``.
        """
        return TokenAesKey(self._unwrap(wrapped, KeyType.AES, session_keys.DATA_KEY))

    def unwrap_mac(self, wrapped: bytes, algorithm: MacAlgorithm) -> TokenMacKey:
        """Unwrap into a fresh, non-extractable MAC key of the same token.

        Args:
            wrapped: from ``wrap_key``.
            algorithm: what it is for.

        Raises:
            DataRejectedError, KeyPolicyError, BackendError: as ``unwrap_aes``.
        """
        return TokenMacKey(
            self._unwrap(wrapped, session_keys.mac_key_type(algorithm), session_keys.MAC_KEY), algorithm
        )

    def unwrap_wrapping(self, wrapped: bytes) -> TokenWrappingKey:
        """Unwrap into a fresh, non-extractable key-encrypting key of the same token.

        Args:
            wrapped: from ``wrap_key``.

        Raises:
            DataRejectedError, KeyPolicyError, BackendError: as ``unwrap_aes``.
            MechanismUnsupportedError: the token has no AES key wrap to use it with.
        """
        return TokenWrappingKey(self._unwrap(wrapped, KeyType.AES, session_keys.WRAPPING_KEY))

    def _unwrap(self, wrapped: bytes, key_type: KeyType, uses: MechanismFlag) -> SessionObject:
        if len(wrapped) != self._key.key_size // 8 or int.from_bytes(wrapped, "big") >= self._key.public_numbers().n:
            raise DataRejectedError(REFUSED)
        doing = f"using a key unwrapped on token {self._connection.name!r}"
        make = self._maker(wrapped, key_type, uses)
        return SessionObject(self._connection, self._connection.homes.next(), make, doing, lasting=True)

    def _maker(self, wrapped: bytes, key_type: KeyType, uses: MechanismFlag) -> session_keys.Make:
        mechanism, parameter = self._mechanism

        def open_(parent: Handle, data: bytes) -> Handle:
            return parent.unwrap_key(
                ObjectClass.SECRET_KEY,
                key_type,
                data,
                mechanism=mechanism,
                mechanism_param=parameter,
                capabilities=uses,
                template=session_keys.template(uses, extractable=False),
            )

        def make(lease: Lease) -> Handle:
            parent = self._target.handle_on(lease)

            def prove() -> None:
                sample = self._key.encrypt(secrets.token_bytes(_SAMPLE), RSA_PADDINGS[_PADDING])
                open_(parent, sample).destroy()

            key = judged(lambda: open_(parent, wrapped), prove, self._connection.profile.vague, REFUSED)
            session_keys.enforce(key, uses, extractable=False)
            length = read(key, Attribute.VALUE_LEN, 0)  # 0 where the token does not tell (SoftHSMv2)
            if key_type is KeyType.AES and length and length not in AES_KEY_SIZES:
                key.destroy()
                raise DataRejectedError(REFUSED)
            return key

        return make

    def _not_for_peers(self) -> MechanismUnsupportedError:
        return MechanismUnsupportedError(f"{self._target.doing}: RSA wraps no bytes for peers, who expect RFC 3394")

    def __repr__(self) -> str:
        return f"TokenRsaWrappingKey({self._target!r})"
