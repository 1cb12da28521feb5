"""ASYMMETRIC_WRAPPED: fresh session keys, encrypted to the requester's one-time RSA key (msl-schemes section 5)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from hsm_msl.crypto.jwe import JweTransport, Serialization
from hsm_msl.crypto.transport import RsaTransport, load_rsa_public_key
from hsm_msl.errors import ErrorCode, MslError, UsageError
from hsm_msl.msl.keyx.base import Answer, KeyRequest, PendingKeyRequest, Requester
from hsm_msl.ports import (
    DecryptionKey,
    EphemeralKeys,
    KeyForm,
    KeyTransport,
    RandomBytes,
    RsaPadding,
    SessionVault,
    SymmetricKeys,
)
from hsm_msl.wire import binary, fields
from hsm_msl.wire.jose import encode_jwe_compact, encode_jwe_json

NAME = "ASYMMETRIC_WRAPPED"


@dataclass(frozen=True, slots=True)
class Mechanism:
    """How one mechanism writes a key and carries it.

    Attributes:
        form: how the key is written.
        padding: how RSA carries it, or carries the content key of a JWE.
        serialize: how a JWE is written; None when RSA carries the written key itself.
    """

    form: KeyForm
    padding: RsaPadding = RsaPadding.OAEP_SHA1
    serialize: Serialization | None = None

    def transport(self, public_key: bytes, own: DecryptionKey | None, random: RandomBytes) -> KeyTransport:
        """Return the transport to the holder of ``public_key``, or, with ``own``, from whoever wrapped for it."""
        carrier = RsaTransport(self.padding, public_key, own)
        return carrier if self.serialize is None else JweTransport("RSA-OAEP", carrier, self.serialize, random)

    @property
    def malformed(self) -> ErrorCode:
        """The code for a plaintext that is no key.

        With PKCS#1 v1.5 it is the code of a failed decryption, so that nobody learns which of the two happened.
        """
        bad_padding = self.padding is RsaPadding.PKCS1
        return ErrorCode.CIPHERTEXT_BAD_PADDING if bad_padding else ErrorCode.SESSION_KEY_CREATION_FAILURE


MECHANISMS: Mapping[str, Mechanism | None] = {
    "RSA": Mechanism(KeyForm.RAW),
    "ECC": None,  # a name every stack knows and none implements
    "JWE_RSA": Mechanism(KeyForm.JWK_USE, serialize=encode_jwe_compact),
    "JWEJS_RSA": Mechanism(KeyForm.JWK_USE, serialize=encode_jwe_json),
    "JWK_RSA": Mechanism(KeyForm.JWK_KEY_OPS),
    "JWK_RSAES": Mechanism(KeyForm.JWK_KEY_OPS, RsaPadding.PKCS1),
}


@dataclass(frozen=True, slots=True)
class WrappedRequest:
    """A request: ID of the requester's key pair, mechanism, and public key as SubjectPublicKeyInfo DER."""

    key_pair_id: str
    mechanism: str
    public_key: bytes


@dataclass(frozen=True, slots=True)
class WrappedResponse:
    """A response: the echoed key pair ID and both wrapped keys."""

    key_pair_id: str
    encryption_key: bytes
    hmac_key: bytes


@dataclass(frozen=True, slots=True)
class AsymmetricWrapped:
    """The ASYMMETRIC_WRAPPED scheme with the mechanisms of ``MECHANISMS``.

    Attributes:
        ephemeral: makes one-time key pairs.
        vault: makes and carries session keys.
        random: source of key pair IDs, and of content keys and IVs of JWE.
        mechanisms: names of the mechanisms this side answers and uses.
    """

    ephemeral: EphemeralKeys
    vault: SessionVault
    random: RandomBytes
    mechanisms: Collection[str] = tuple(MECHANISMS)
    name: str = NAME

    def parse_request(self, keydata: Mapping[str, Any]) -> KeyRequest:
        """Read a request.

        Raises:
            MslError: MSL_PARSE_ERROR, UNIDENTIFIED_KEYX_MECHANISM, UNSUPPORTED_KEYX_MECHANISM, INVALID_PUBLIC_KEY.
        """
        key_pair_id = fields.string(keydata, "keypairid")
        mechanism = fields.string(keydata, "mechanism")
        if mechanism not in MECHANISMS:
            raise MslError(ErrorCode.UNIDENTIFIED_KEYX_MECHANISM)
        public_key = fields.binary(keydata, "publickey")
        if MECHANISMS[mechanism] is None:
            raise MslError(ErrorCode.UNSUPPORTED_KEYX_MECHANISM)
        load_rsa_public_key(public_key)
        return KeyRequest(NAME, keydata, WrappedRequest(key_pair_id, mechanism, public_key))

    def parse_response(self, keydata: Mapping[str, Any]) -> WrappedResponse:
        """Read a response. Raises MslError MSL_PARSE_ERROR."""
        return WrappedResponse(
            fields.string(keydata, "keypairid"),
            fields.binary(keydata, "encryptionkey"),
            fields.binary(keydata, "hmackey"),
        )

    def request(self, mechanism: str, key: DecryptionKey | None = None) -> PendingKeyRequest:
        """Make a request, with a fresh key pair unless one is given.

        Raises:
            MslError: UNIDENTIFIED_KEYX_MECHANISM.
            BackendError: no key could be made.
        """
        own = self.ephemeral.decryption() if key is None else key
        keydata: dict[str, object] = {
            "publickey": binary.encode(own.public_key),
            "mechanism": mechanism,
            "keypairid": self.random(8).hex(),
        }
        return PendingKeyRequest(self.parse_request(keydata), own)

    def answer(self, request: KeyRequest, requester: Requester) -> Answer:  # noqa: ARG002 - only its public key counts
        """Make session keys and wrap each for the requester.

        Raises:
            MslError: UNSUPPORTED_KEYX_MECHANISM for a mechanism not configured, INVALID_PUBLIC_KEY,
                PLAINTEXT_ILLEGAL_BLOCK_SIZE.
            BackendError: the session keys could not be made.
        """
        asked = request.parsed
        if not isinstance(asked, WrappedRequest):
            raise UsageError("not an ASYMMETRIC_WRAPPED request")
        mechanism = MECHANISMS[asked.mechanism] if asked.mechanism in self.mechanisms else None
        if mechanism is None:
            raise MslError(ErrorCode.UNSUPPORTED_KEYX_MECHANISM)
        keys = self.vault.generate()
        transport = mechanism.transport(asked.public_key, None, self.random)
        encryption, mac = self.vault.export(keys, transport, mechanism.form)
        return Answer(
            {
                "hmackey": binary.encode(mac),
                "encryptionkey": binary.encode(encryption),
                "keypairid": asked.key_pair_id,
            },
            keys,
        )

    def accept(self, pending: PendingKeyRequest, response: object) -> SymmetricKeys | None:
        """Open both keys with the private key of our request.

        Raises:
            MslError: KEYX_PRIVATE_KEY_MISSING, CIPHERTEXT_BAD_PADDING, and the codes of msl-schemes section 5.
            BackendError: the key operation did not happen.
        """
        asked = pending.request.parsed
        if not isinstance(response, WrappedResponse) or not isinstance(asked, WrappedRequest):
            return None
        mechanism = MECHANISMS.get(asked.mechanism)
        if response.key_pair_id != asked.key_pair_id or mechanism is None:
            return None
        if not isinstance(pending.secret, DecryptionKey):
            raise MslError(ErrorCode.KEYX_PRIVATE_KEY_MISSING)
        transport = mechanism.transport(asked.public_key, pending.secret, self.random)
        return self.vault.receive(
            response.encryption_key, response.hmac_key, transport, mechanism.form, malformed=mechanism.malformed
        )
