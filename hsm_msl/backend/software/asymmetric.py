"""Signatures and RSA decryption with keys in this process."""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, SHA384, HashAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
)

from hsm_msl.backend.software.secret import Secret
from hsm_msl.errors import ConfigurationError, DataRejectedError, KeyPolicyError
from hsm_msl.ports import RsaPadding, SignatureScheme

_RSA_SIGNATURES: dict[SignatureScheme, padding.AsymmetricPadding] = {
    SignatureScheme.RSA_PKCS1_SHA256: padding.PKCS1v15(),
    SignatureScheme.RSA_PSS_SHA256: padding.PSS(padding.MGF1(SHA256()), 32),
}
_EC_HASHES: dict[SignatureScheme, HashAlgorithm] = {
    SignatureScheme.ECDSA_SHA256: SHA256(),
    SignatureScheme.ECDSA_SHA384: SHA384(),
}
RSA_PADDINGS: dict[RsaPadding, padding.AsymmetricPadding] = {
    RsaPadding.OAEP_SHA1: padding.OAEP(padding.MGF1(SHA1()), SHA1(), None),  # noqa: S303 - what deployed peers speak
    RsaPadding.OAEP_SHA256: padding.OAEP(padding.MGF1(SHA256()), SHA256(), None),
    RsaPadding.PKCS1: padding.PKCS1v15(),
}


def spki(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> bytes:
    """Return a public key as SubjectPublicKeyInfo DER."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def load_private(data: bytes) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    """Return an RSA or EC private key. Raises ConfigurationError for anything else."""
    # The library's own error is not chained: its text and frames may quote the key.
    key: object = None
    try:
        load = load_pem_private_key if data.startswith(b"-----") else load_der_private_key
        key = load(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise ConfigurationError("not an unencrypted RSA or EC private key in PKCS#8 PEM or DER")
    return key


class SoftwareSigningKey(Secret):
    """An RSA or EC private key that signs.

    Args:
        data: unencrypted PKCS#8, PEM or DER.

    Raises:
        ConfigurationError: it is no such key.
    """

    __slots__ = ("_key", "_public")

    def __init__(self, data: bytes) -> None:
        self._key = load_private(data)
        self._public = spki(self._key.public_key())

    @property
    def public_key(self) -> bytes:
        """The public half, SubjectPublicKeyInfo DER."""
        return self._public

    def sign(self, data: bytes, scheme: SignatureScheme) -> bytes:
        """Return the signature. Raises KeyPolicyError when the scheme is of another kind of key."""
        if isinstance(self._key, rsa.RSAPrivateKey) and scheme in _RSA_SIGNATURES:
            return self._key.sign(data, _RSA_SIGNATURES[scheme], SHA256())
        if isinstance(self._key, ec.EllipticCurvePrivateKey) and scheme in _EC_HASHES:
            return self._key.sign(data, ec.ECDSA(_EC_HASHES[scheme]))
        raise KeyPolicyError(f"this key cannot make {scheme.value} signatures")


class SoftwareDecryptionKey(Secret):
    """An RSA private key that decrypts.

    Args:
        key: unencrypted PKCS#8, PEM or DER, or a key just made.

    Raises:
        ConfigurationError: it is no RSA key.
    """

    __slots__ = ("_key", "_public")

    def __init__(self, key: bytes | rsa.RSAPrivateKey) -> None:
        loaded = load_private(key) if isinstance(key, bytes) else key
        if not isinstance(loaded, rsa.RSAPrivateKey):
            raise ConfigurationError("not an RSA private key")
        self._key = loaded
        self._public = spki(loaded.public_key())

    @property
    def public_key(self) -> bytes:
        """The public half, SubjectPublicKeyInfo DER."""
        return self._public

    def decrypt(self, data: bytes, padding: RsaPadding) -> bytes:
        """Return the plaintext. Raises DataRejectedError, the same for every kind of bad input."""
        try:
            return self._key.decrypt(data, RSA_PADDINGS[padding])
        except ValueError:
            raise DataRejectedError("the RSA ciphertext is refused") from None
