"""Diffie-Hellman and ECDH with keys in this process, and one-time key pairs."""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsm_msl.backend.inputs import check_dh_value
from hsm_msl.backend.software.asymmetric import SoftwareDecryptionKey, spki
from hsm_msl.backend.software.secret import Secret
from hsm_msl.errors import DataRejectedError
from hsm_msl.ports import RandomBytes


class SoftwareDhKey(Secret):
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
        return pow(check_dh_value(peer, self._prime), self._exponent, self._prime).to_bytes(self._size)


class SoftwareEcdhKey(Secret):
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
        return spki(self._key.public_key())

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
