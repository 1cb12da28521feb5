"""The draft-era JWE of two key exchanges: AES-GCM under a one-time key that another transport carries.

The authenticated text covers header, encrypted key and IV, as an early draft had it; RFC 7516 takes the header alone,
so that no JOSE library opens these values (msl-schemes section 9.2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.ports import KeyTransport, RandomBytes
from hsm_msl.wire import jose

_KEY_BYTES = {"A128GCM": 16, "A256GCM": 32}
_IV_BYTES = 12
_TAG_BYTES = 16

Serialization = Callable[[bytes, bytes, bytes], bytes]
"""``encode_jwe_compact`` or ``encode_jwe_json`` of ``wire.jose``."""


@dataclass(frozen=True, slots=True)
class JweTransport:
    """Carries a written key as a JWE.

    Attributes:
        algorithm: how ``carrier`` carries the content key: RSA-OAEP or A128KW.
        carrier: carries the one-time content key.
        serialize: writes the JWE; either form is accepted on receipt.
        random: source of content keys and IVs.
        encryption: A128GCM, which every exchange uses, or A256GCM.
    """

    algorithm: str
    carrier: KeyTransport
    serialize: Serialization
    random: RandomBytes
    encryption: str = "A128GCM"

    def wrap(self, plaintext: bytes) -> bytes:
        """Encrypt a written key under a fresh content key.

        Returns:
            The JWE text.

        Raises:
            MslError: the carrier cannot carry the content key.
            BackendError: the carrier's key operation did not happen.
        """
        content_key = self.random(_KEY_BYTES[self.encryption])
        iv = self.random(_IV_BYTES)
        associated = jose.associated_data(self.algorithm, self.encryption, self.carrier.wrap(content_key), iv)
        sealed = AESGCM(content_key).encrypt(iv, plaintext, associated)
        return self.serialize(associated, sealed[:-_TAG_BYTES], sealed[-_TAG_BYTES:])

    def unwrap(self, wrapped: bytes) -> bytes:
        """Open a JWE of the configured algorithms.

        Returns:
            The written key.

        Raises:
            MslError: JWE_PARSE_ERROR, JWE_ALGORITHM_MISMATCH, what the carrier raises, INVALID_SYMMETRIC_KEY for a
                content key and INVALID_ALGORITHM_PARAMS for a tag or IV of another length, UNWRAP_ERROR.
            BackendError: the carrier's key operation did not happen.
        """
        jwe = jose.decode_jwe(wrapped)
        jwe.require(self.algorithm, self.encryption)
        content_key = self.carrier.unwrap(jwe.encrypted_key)
        if len(content_key) != _KEY_BYTES[self.encryption]:
            raise MslError(ErrorCode.INVALID_SYMMETRIC_KEY)
        if len(jwe.tag) != _TAG_BYTES:
            raise MslError(ErrorCode.INVALID_ALGORITHM_PARAMS)
        try:
            return AESGCM(content_key).decrypt(jwe.iv, jwe.ciphertext + jwe.tag, jwe.associated)
        except InvalidTag:
            raise MslError(ErrorCode.UNWRAP_ERROR) from None
        except ValueError:
            # An IV of a length the library does not take.
            raise MslError(ErrorCode.INVALID_ALGORITHM_PARAMS) from None
