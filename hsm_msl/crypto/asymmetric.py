"""Sign and verify with an RSA or EC key pair; data passes through unencrypted (msl-wire section 4.5)."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.ports import SignatureScheme, SigningKey, VerifyingKey
from hsm_msl.wire import envelope

_ECDSA = {SignatureScheme.ECDSA_SHA256, SignatureScheme.ECDSA_SHA384}
_RAW_PAIR_BYTES = {64, 96, 132}  # twice the field size of P-256, P-384, P-521
_WIRE_NAMES = {SignatureScheme.RSA_PKCS1_SHA256: "SHA256withRSA", SignatureScheme.ECDSA_SHA256: "SHA256withECDSA"}


class SignatureContext:
    """Sign with the private half, verify with the public half; either may be missing.

    Args:
        scheme: RSA PKCS#1 v1.5 or ECDSA; ECDSA is emitted as DER and accepted as DER or as the raw r and s pair.
        signing: the private key, in the token.
        verifying: the peer's public key.
    """

    __slots__ = ("_scheme", "_signing", "_verifying")

    def __init__(
        self,
        scheme: SignatureScheme,
        *,
        signing: SigningKey | None = None,
        verifying: VerifyingKey | None = None,
    ) -> None:
        self._scheme = scheme
        self._signing = signing
        self._verifying = verifying

    def encrypt(self, plaintext: bytes) -> bytes:
        """Return the plaintext: these schemes do not encrypt."""
        return plaintext

    def decrypt(self, ciphertext: bytes) -> bytes:
        """Return the bytes as they came."""
        return ciphertext

    def sign(self, data: bytes) -> bytes:
        """Return the bare signature.

        Raises:
            MslError: SIGN_NOT_SUPPORTED without a private key.
            BackendError: the key operation did not happen.
        """
        if self._signing is None:
            raise MslError(ErrorCode.SIGN_NOT_SUPPORTED)
        return self._signing.sign(data, self._scheme)

    def verify(self, data: bytes, signature: bytes) -> bool:
        """Tell whether the signature fits.

        Raises:
            MslError: VERIFY_NOT_SUPPORTED without a public key.
        """
        key = self._verifying
        if key is None:
            raise MslError(ErrorCode.VERIFY_NOT_SUPPORTED)
        algorithm, value = envelope.decode_signature(signature)
        if algorithm is not None and algorithm != _WIRE_NAMES.get(self._scheme):
            return False
        if key.verify(data, value, self._scheme):
            return True
        if self._scheme not in _ECDSA or len(value) not in _RAW_PAIR_BYTES:
            return False
        half = len(value) // 2
        der = encode_dss_signature(int.from_bytes(value[:half]), int.from_bytes(value[half:]))
        return key.verify(data, der, self._scheme)
