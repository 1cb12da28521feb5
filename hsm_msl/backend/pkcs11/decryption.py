"""RSA decryption with a private key on a token (port ``DecryptionKey``)."""

from __future__ import annotations

import hmac
import secrets

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from pkcs11 import Mechanism
from pkcs11.exceptions import GeneralError

from hsm_msl.backend.pkcs11.binding import Handle
from hsm_msl.backend.pkcs11.lookup import TokenObject
from hsm_msl.backend.pkcs11.public import public_half
from hsm_msl.backend.pkcs11.rsa_transport import mechanism_for
from hsm_msl.backend.pkcs11.verdicts import judged
from hsm_msl.backend.software.asymmetric import RSA_PADDINGS
from hsm_msl.errors import DataRejectedError, KeyPolicyError
from hsm_msl.ports import RsaPadding

REFUSED = "the RSA ciphertext was refused"


class TokenDecryptionKey:
    """An RSA private key on a token that decrypts.

    Args:
        target: the private key.

    Raises:
        BackendError: the public half cannot be read.
        KeyPolicyError: not an RSA key.
    """

    __slots__ = ("_key", "_modulus", "_public", "_target")

    def __init__(self, target: TokenObject) -> None:
        self._target = target
        self._public = target.call(public_half)
        key = serialization.load_der_public_key(self._public)
        if not isinstance(key, rsa.RSAPublicKey):
            raise KeyPolicyError(f"{target.doing}: only RSA keys decrypt")
        self._key = key
        self._modulus = key.public_numbers().n

    @property
    def target(self) -> TokenObject:
        """What the operations are run on."""
        return self._target

    @property
    def public_key(self) -> bytes:
        """The public half, SubjectPublicKeyInfo DER."""
        return self._public

    def decrypt(self, data: bytes, padding: RsaPadding) -> bytes:
        """Return the plaintext.

        Args:
            data: as long as the modulus.
            padding: how it was padded.

        Raises:
            DataRejectedError: the same for every kind of bad input.
            MechanismUnsupportedError: the token does not know the padding (SoftHSMv2: OAEP with SHA-256).
            BackendError: see ``errors.translate``.
        """
        mechanism, parameter = mechanism_for(self._target.connection, padding)
        # RFC 8017 section 5.1.2: a value past the modulus is no ciphertext (NSS calls it a bad argument). 0 and 1
        # stay what they are, which no padding makes.
        if len(data) != self._key.key_size // 8 or not 1 < int.from_bytes(data, "big") < self._modulus:
            raise DataRejectedError(REFUSED)
        return self._target.call(self._decrypt, data, padding, mechanism, parameter)

    def _decrypt(
        self, handle: Handle, data: bytes, padding: RsaPadding, mechanism: Mechanism, parameter: object
    ) -> bytes:
        def run(ciphertext: bytes = data) -> bytes:
            result: bytes = handle.decrypt(ciphertext, mechanism=mechanism, mechanism_param=parameter)
            return result

        def prove() -> None:
            sample = secrets.token_bytes(16)
            if not hmac.compare_digest(run(self._key.encrypt(sample, RSA_PADDINGS[padding])), sample):
                raise GeneralError

        return judged(run, prove, self._target.connection.profile.vague, REFUSED)

    def __repr__(self) -> str:
        return f"TokenDecryptionKey({self._target!r})"
