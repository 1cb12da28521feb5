"""RSA and EC public keys in this process: verifying needs no secret, and no token."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsm_msl.errors import ConfigurationError
from hsm_msl.ports import SignatureScheme

_RSA_PADDINGS: dict[SignatureScheme, padding.AsymmetricPadding] = {
    SignatureScheme.RSA_PKCS1_SHA256: padding.PKCS1v15(),
    SignatureScheme.RSA_PSS_SHA256: padding.PSS(padding.MGF1(SHA256()), 32),
}
_EC_ALGORITHMS = {
    SignatureScheme.ECDSA_SHA256: ec.ECDSA(SHA256()),
    SignatureScheme.ECDSA_SHA384: ec.ECDSA(SHA384()),
}


class PublicKey:
    """A trusted public key (``VerifyingKey``).

    Args:
        public_key: SubjectPublicKeyInfo DER.

    Raises:
        ConfigurationError: it is not an RSA or EC public key.
    """

    __slots__ = ("_key", "_public_key")

    def __init__(self, public_key: bytes) -> None:
        try:
            key = load_der_public_key(public_key)
        except (ValueError, UnsupportedAlgorithm):
            raise ConfigurationError("not a SubjectPublicKeyInfo that can be read") from None
        if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
            raise ConfigurationError("neither an RSA nor an EC public key")
        self._key = key
        self._public_key = public_key

    @property
    def public_key(self) -> bytes:
        """The key, SubjectPublicKeyInfo DER."""
        return self._public_key

    @property
    def is_rsa(self) -> bool:
        """Whether this is an RSA key."""
        return isinstance(self._key, rsa.RSAPublicKey)

    def verify(self, data: bytes, signature: bytes, scheme: SignatureScheme) -> bool:
        """Tell whether ``signature`` fits; a malformed one, or a scheme of the other kind of key, is simply False."""
        key = self._key
        try:
            if isinstance(key, rsa.RSAPublicKey):
                rsa_padding = _RSA_PADDINGS.get(scheme)
                if rsa_padding is None:
                    return False
                key.verify(signature, data, rsa_padding, SHA256())
            else:
                algorithm = _EC_ALGORITHMS.get(scheme)
                if algorithm is None:
                    return False
                key.verify(signature, data, algorithm)
        except InvalidSignature:
            return False
        return True
