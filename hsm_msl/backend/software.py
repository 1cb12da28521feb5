"""Keys in this process, through ``cryptography``: for clients without a token, for public keys, and for tests.

Nothing here protects a key from whoever can read this process's memory; that is what the PKCS#11 backend is for.
"""

from __future__ import annotations

import hmac
from typing import NoReturn

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.keywrap import (
    InvalidUnwrap,
    aes_key_unwrap_with_padding,
    aes_key_wrap_with_padding,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
    load_pem_private_key,
)

from hsm_msl.backend import inputs, rfc3394
from hsm_msl.crypto.sealing import LocalAesKey, LocalCmacKey
from hsm_msl.errors import ConfigurationError, DataRejectedError, KeyPolicyError, UsageError
from hsm_msl.ports import AesKey, MacAlgorithm, MacKey, RandomBytes, RsaPadding, SignatureScheme, WrappingKey

_HASHES: dict[MacAlgorithm, type[HashAlgorithm]] = {
    MacAlgorithm.HMAC_SHA1: SHA1,
    MacAlgorithm.HMAC_SHA256: SHA256,
    MacAlgorithm.HMAC_SHA384: SHA384,
    MacAlgorithm.HMAC_SHA512: SHA512,
}
_RSA_SIGNATURES: dict[SignatureScheme, padding.AsymmetricPadding] = {
    SignatureScheme.RSA_PKCS1_SHA256: padding.PKCS1v15(),
    SignatureScheme.RSA_PSS_SHA256: padding.PSS(padding.MGF1(SHA256()), 32),
}
_EC_HASHES: dict[SignatureScheme, HashAlgorithm] = {
    SignatureScheme.ECDSA_SHA256: SHA256(),
    SignatureScheme.ECDSA_SHA384: SHA384(),
}
_RSA_PADDINGS: dict[RsaPadding, padding.AsymmetricPadding] = {
    RsaPadding.OAEP_SHA1: padding.OAEP(padding.MGF1(SHA1()), SHA1(), None),  # noqa: S303 - what deployed peers speak
    RsaPadding.OAEP_SHA256: padding.OAEP(padding.MGF1(SHA256()), SHA256(), None),
    RsaPadding.PKCS1: padding.PKCS1v15(),
}


def _spki(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _load_private(data: bytes) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
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


class _Secret:
    """Keep keys out of representations and pickles."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __reduce__(self) -> NoReturn:
        raise UsageError("keys are not serialisable")


class SoftwareAesKey(LocalAesKey):
    """An AES key of 16, 24 or 32 bytes. Raises ValueError for other sizes.

    Args:
        value: the key.
    """

    __slots__ = ()

    def encrypt_ecb(self, data: bytes) -> bytes:
        """Encrypt whole blocks. Raises UsageError for anything else."""
        inputs.check_plain_blocks(data)
        return super().encrypt_ecb(data)

    def decrypt_ecb(self, data: bytes) -> bytes:
        """Decrypt whole blocks. Raises DataRejectedError for anything else."""
        inputs.check_cipher_blocks(data)
        return super().decrypt_ecb(data)

    def encrypt_cbc(self, iv: bytes, data: bytes) -> bytes:
        """Encrypt whole blocks. Raises UsageError for anything else, DataRejectedError for a wrong ``iv``."""
        inputs.check_block(iv)
        inputs.check_plain_blocks(data)
        return super().encrypt_cbc(iv, data)

    def decrypt_cbc(self, iv: bytes, data: bytes) -> bytes:
        """Decrypt whole blocks. Raises DataRejectedError for anything else."""
        inputs.check_block(iv)
        inputs.check_cipher_blocks(data)
        return super().decrypt_cbc(iv, data)

    def crypt_ctr(self, counter: bytes, data: bytes) -> bytes:
        """Encrypt or decrypt in counter mode. Raises DataRejectedError for a counter that is not 16 bytes."""
        inputs.check_block(counter)
        return super().crypt_ctr(counter, data)

    def encrypt_gcm(self, nonce: bytes, data: bytes, associated: bytes) -> bytes:
        """Return ciphertext and tag. Raises DataRejectedError for a nonce that is not 12 bytes."""
        inputs.check_nonce(nonce)
        return super().encrypt_gcm(nonce, data, associated)

    def decrypt_gcm(self, nonce: bytes, data: bytes, associated: bytes) -> bytes:
        """Open ciphertext and tag. Raises DataRejectedError for a bad nonce or tag."""
        inputs.check_nonce(nonce)
        return super().decrypt_gcm(nonce, data, associated)


class SoftwareHmacKey(_Secret):
    """An HMAC key of any size above zero.

    Args:
        value: the key.
        algorithm: one of the HMAC algorithms.
    """

    __slots__ = ("_algorithm", "_keyed", "_value")

    def __init__(self, value: bytes, algorithm: MacAlgorithm) -> None:
        if not value:
            raise ValueError("empty MAC key")
        self._algorithm = algorithm
        self._value = value
        self._keyed = HMAC(value, _HASHES[algorithm]())

    @property
    def algorithm(self) -> MacAlgorithm:
        """The one algorithm this key is for."""
        return self._algorithm

    def sign(self, data: bytes) -> bytes:
        """Return the full tag."""
        keyed = self._keyed.copy()
        keyed.update(data)
        return keyed.finalize()

    def verify(self, data: bytes, tag: bytes) -> bool:
        """Tell in constant time whether the tag fits."""
        return hmac.compare_digest(self.sign(data), tag)


def software_mac_key(value: bytes, algorithm: MacAlgorithm) -> MacKey:
    """Return a MAC key of this algorithm. Raises ValueError for a size it cannot have."""
    return LocalCmacKey(value) if algorithm is MacAlgorithm.AES_CMAC else SoftwareHmacKey(value, algorithm)


class SoftwareSigningKey(_Secret):
    """An RSA or EC private key that signs.

    Args:
        data: unencrypted PKCS#8, PEM or DER.

    Raises:
        ConfigurationError: it is no such key.
    """

    __slots__ = ("_key", "_public")

    def __init__(self, data: bytes) -> None:
        self._key = _load_private(data)
        self._public = _spki(self._key.public_key())

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


class SoftwareVerifyingKey:
    """An RSA or EC public key.

    Args:
        spki: SubjectPublicKeyInfo DER.

    Raises:
        DataRejectedError: it is no such key.
    """

    __slots__ = ("_key", "_spki")

    def __init__(self, spki: bytes) -> None:
        try:
            key = load_der_public_key(spki)
        except (ValueError, UnsupportedAlgorithm):
            raise DataRejectedError("not a public key") from None
        if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
            raise DataRejectedError("not an RSA or EC public key")
        self._key = key
        self._spki = spki

    @property
    def public_key(self) -> bytes:
        """The key, SubjectPublicKeyInfo DER."""
        return self._spki

    def verify(self, data: bytes, signature: bytes, scheme: SignatureScheme) -> bool:
        """Tell whether the signature fits; a scheme of another kind of key never does."""
        try:
            if isinstance(self._key, rsa.RSAPublicKey) and scheme in _RSA_SIGNATURES:
                self._key.verify(signature, data, _RSA_SIGNATURES[scheme], SHA256())
                return True
            if isinstance(self._key, ec.EllipticCurvePublicKey) and scheme in _EC_HASHES:
                self._key.verify(signature, data, ec.ECDSA(_EC_HASHES[scheme]))
                return True
        except InvalidSignature:
            return False
        return False


class SoftwareDecryptionKey(_Secret):
    """An RSA private key that decrypts.

    Args:
        key: unencrypted PKCS#8, PEM or DER, or a key just made.

    Raises:
        ConfigurationError: it is no RSA key.
    """

    __slots__ = ("_key", "_public")

    def __init__(self, key: bytes | rsa.RSAPrivateKey) -> None:
        loaded = _load_private(key) if isinstance(key, bytes) else key
        if not isinstance(loaded, rsa.RSAPrivateKey):
            raise ConfigurationError("not an RSA private key")
        self._key = loaded
        self._public = _spki(loaded.public_key())

    @property
    def public_key(self) -> bytes:
        """The public half, SubjectPublicKeyInfo DER."""
        return self._public

    def decrypt(self, data: bytes, padding: RsaPadding) -> bytes:
        """Return the plaintext. Raises DataRejectedError, the same for every kind of bad input."""
        try:
            return self._key.decrypt(data, _RSA_PADDINGS[padding])
        except ValueError:
            raise DataRejectedError("the RSA ciphertext is refused") from None


class SoftwareDhKey(_Secret):
    """A one-time Diffie-Hellman key of any group, the small ones of interoperability tests included.

    Args:
        prime: the modulus.
        generator: the base.
        random: source of the private exponent, as long as the modulus.

    Raises:
        DataRejectedError: the group is unusable.
    """

    __slots__ = ("_exponent", "_prime", "_public", "_size")

    def __init__(self, prime: int, generator: int, random: RandomBytes) -> None:
        if prime < 7 or not prime & 1 or not 2 <= generator <= prime - 2:
            raise DataRejectedError("not a Diffie-Hellman group")
        self._prime = prime
        self._size = (prime.bit_length() + 7) // 8
        # 1 to p - 2: reducing eight bytes more than the modulus has leaves no measurable bias.
        self._exponent = 1 + int.from_bytes(random(self._size + 8)) % (prime - 2)
        self._public = pow(generator, self._exponent, prime).to_bytes(self._size)

    @property
    def public_value(self) -> bytes:
        """The public value, as long as the modulus."""
        return self._public

    def agree(self, peer: bytes) -> bytes:
        """Return the shared secret, as long as the modulus. Raises DataRejectedError outside 2 to p - 2."""
        value = int.from_bytes(peer)
        if not 2 <= value <= self._prime - 2:
            raise DataRejectedError("the public value is out of range")
        return pow(value, self._exponent, self._prime).to_bytes(self._size)


class SoftwareEcdhKey(_Secret):
    """An ECDH key.

    Args:
        key: an EC private key.
    """

    __slots__ = ("_key",)

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key

    @property
    def public_value(self) -> bytes:
        """The public half, SubjectPublicKeyInfo DER."""
        return _spki(self._key.public_key())

    def agree(self, peer: bytes) -> bytes:
        """Return the shared x coordinate. Raises DataRejectedError for a key that is not of this curve."""
        try:
            public = load_der_public_key(peer)
        except (ValueError, UnsupportedAlgorithm):
            raise DataRejectedError("not a public key") from None
        if not isinstance(public, ec.EllipticCurvePublicKey) or public.curve.name != self._key.curve.name:
            raise DataRejectedError("not a public key of this curve")
        return self._key.exchange(ec.ECDH(), public)


class SoftwareEphemeralKeys:
    """Makes one-time key pairs in this process; no long-term secret is among them.

    Args:
        random: source of Diffie-Hellman exponents; RSA keys come from the library's own generator.
    """

    __slots__ = ("_random",)

    def __init__(self, random: RandomBytes) -> None:
        self._random = random

    def agreement(self, prime: int, generator: int) -> SoftwareDhKey:
        """Return a fresh key of this group. Raises DataRejectedError for an unusable group."""
        return SoftwareDhKey(prime, generator, self._random)

    def decryption(self) -> SoftwareDecryptionKey:
        """Return a fresh RSA key of 2048 bits."""
        return SoftwareDecryptionKey(rsa.generate_private_key(public_exponent=65537, key_size=2048))


class SoftwareWrappingKey(_Secret):
    """An AES key-encrypting key of 16, 24 or 32 bytes. Raises ValueError for other sizes.

    Args:
        value: the key.
    """

    __slots__ = ("_block", "_value")

    def __init__(self, value: bytes) -> None:
        self._block = LocalAesKey(value)
        self._value = value

    def wrap(self, data: bytes, *, pad: bool = False) -> bytes:
        """Wrap bytes. Raises UsageError for a length that cannot be wrapped."""
        inputs.check_to_wrap(data, pad)
        if pad:
            return aes_key_wrap_with_padding(self._value, data)
        return rfc3394.wrap(self._block.encrypt_ecb, data)

    def unwrap(self, wrapped: bytes, *, pad: bool = False) -> bytes:
        """Invert ``wrap``. Raises DataRejectedError."""
        inputs.check_wrapped(wrapped)
        if not pad:
            return rfc3394.unwrap(self._block.decrypt_ecb, wrapped)
        try:
            return aes_key_unwrap_with_padding(self._value, wrapped)
        except InvalidUnwrap:
            raise DataRejectedError(rfc3394.REFUSED) from None

    def wrap_key(self, key: AesKey | MacKey) -> bytes:
        """Wrap a software key. Raises KeyPolicyError for a key that is not one."""
        if isinstance(key, LocalAesKey):
            return self.wrap(bytes(key._algorithm.key))
        if isinstance(key, SoftwareHmacKey):
            return self.wrap(key._value)
        raise KeyPolicyError("the key is not a software key")

    def unwrap_aes(self, wrapped: bytes) -> SoftwareAesKey:
        """Unwrap into an AES key. Raises DataRejectedError."""
        inputs.check_wrapped_aes(wrapped)
        return SoftwareAesKey(self.unwrap(wrapped))

    def unwrap_mac(self, wrapped: bytes, algorithm: MacAlgorithm) -> MacKey:
        """Unwrap into a MAC key. Raises DataRejectedError."""
        (inputs.check_wrapped_aes if algorithm is MacAlgorithm.AES_CMAC else inputs.check_wrapped)(wrapped)
        return software_mac_key(self.unwrap(wrapped), algorithm)

    def unwrap_wrapping(self, wrapped: bytes) -> WrappingKey:
        """Unwrap into a key-encrypting key. Raises DataRejectedError."""
        inputs.check_wrapped_aes(wrapped)
        return SoftwareWrappingKey(self.unwrap(wrapped))
