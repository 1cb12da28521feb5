"""Session keys that never leave the token (``token`` residency): the ``SessionVault`` of handles.

Keys are made in the token, reach the peer wrapped by the token, and lie in master tokens as RFC 3394 blobs under the
token-wrapping key. What would need their bytes is refused: as a wrong configuration when the service is composed, and
with KeyPolicyError here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from hsm_msl.crypto.transport import RsaTransport
from hsm_msl.errors import DataRejectedError, ErrorCode, KeyPolicyError, MslError
from hsm_msl.ports import (
    AesKey,
    HandleTransport,
    KeyForm,
    KeyTransport,
    MacAlgorithm,
    MacKey,
    RsaPadding,
    Sealing,
    SessionData,
    SymmetricKeys,
    TokenKeyRing,
    WrappingKey,
)
from hsm_msl.wire import binary, codec, fields

_ENCRYPTION_BYTES = 16
_MAC_BYTES = 32


class ResidentKeys(Protocol):
    """Makes session keys in a token and lets them out for a peer only."""

    def generate_aes(self, size: int) -> AesKey:
        """Return a fresh AES key of ``size`` bytes. Raises BackendError."""

    def generate_mac(self, size: int) -> MacKey:
        """Return a fresh HMAC-SHA256 key of ``size`` bytes. Raises BackendError."""

    def wrap_for(self, key: AesKey | MacKey, public_key: bytes, padding: RsaPadding) -> bytes:
        """Encrypt a session key to a peer's RSA key. Raises DataRejectedError for an unfit one, BackendError."""


class TokenVault:
    """Session keys as session objects of a token.

    Args:
        resident: makes the keys.
        ring: versions of the token keys; their wrapping keys pack session keys into master tokens.
    """

    __slots__ = ("_resident", "_ring")

    def __init__(self, resident: ResidentKeys, ring: TokenKeyRing) -> None:
        self._resident = resident
        self._ring = ring

    def generate(self) -> SymmetricKeys:
        """Return a fresh AES-128 key and a fresh 32-byte HMAC-SHA256 key. Raises BackendError."""
        return SymmetricKeys(self._resident.generate_aes(_ENCRYPTION_BYTES), self._resident.generate_mac(_MAC_BYTES))

    def derive(self, digest: bytes) -> SymmetricKeys:  # noqa: ARG002 - refused whatever it is
        """Refuse: an agreed secret is computed in this process. Raises KeyPolicyError."""
        raise _refused("a key agreement")

    def export(self, keys: SymmetricKeys, transport: KeyTransport, form: KeyForm) -> tuple[bytes, bytes]:
        """Wrap both keys for the peer inside the token.

        Raises:
            KeyPolicyError: the transport or the form needs the bytes of the keys.
            MslError: PLAINTEXT_ILLEGAL_BLOCK_SIZE for a peer's RSA key that is too small, and what the transport
                raises.
            BackendError: the key operation did not happen.
        """
        encryption, mac = _both(keys)
        if form is not KeyForm.RAW:
            raise _refused(f"a key written as {form.value}")
        if isinstance(transport, RsaTransport):
            return self._wrap_for(encryption, transport), self._wrap_for(mac, transport)
        if isinstance(transport, HandleTransport):
            return transport.wrap_key(encryption), transport.wrap_key(mac)
        raise _refused("this way of carrying keys")

    def receive(
        self,
        encryption: bytes,
        mac: bytes,
        transport: KeyTransport,
        form: KeyForm,
        *,
        malformed: ErrorCode = ErrorCode.SESSION_KEY_CREATION_FAILURE,  # noqa: ARG002 - nothing is read here
    ) -> SymmetricKeys:
        """Unwrap both keys into the token.

        Raises:
            KeyPolicyError: the transport or the form needs the bytes of the keys.
            MslError: what the transport raises.
            BackendError: the key operation did not happen.
        """
        if form is not KeyForm.RAW or not isinstance(transport, HandleTransport):
            raise _refused("this way of carrying keys")
        return SymmetricKeys(transport.unwrap_aes(encryption), transport.unwrap_mac(mac, MacAlgorithm.HMAC_SHA256))

    def generate_wrapping(self) -> WrappingKey:
        """Refuse: a ladder's key is written out. Raises KeyPolicyError."""
        raise _refused("a key ladder")

    def export_wrapping(
        self,
        key: WrappingKey,  # noqa: ARG002 - refused whatever it is
        transport: KeyTransport,  # noqa: ARG002
        form: KeyForm,  # noqa: ARG002
        key_id: str = "",  # noqa: ARG002
    ) -> bytes:
        """Refuse, as ``generate_wrapping``."""
        raise _refused("a key ladder")

    def receive_wrapping(
        self,
        wrapped: bytes,  # noqa: ARG002 - refused whatever it is
        transport: KeyTransport,  # noqa: ARG002
        form: KeyForm,  # noqa: ARG002
        *,
        malformed: ErrorCode = ErrorCode.SESSION_KEY_CREATION_FAILURE,  # noqa: ARG002
    ) -> WrappingKey:
        """Refuse, as ``generate_wrapping``."""
        raise _refused("a key ladder")

    def seal(self, data: SessionData, context: Sealing) -> bytes:
        """Encrypt session data that holds both keys wrapped under the token-wrapping key.

        The members are named unlike those of the classic form, so that a server with the other residency refuses the
        token, and its client starts a new session, instead of taking ciphertext for keys.

        Raises:
            KeyPolicyError: a key is not a fresh one of this token, or the token keys have no wrapping key.
            BackendError: a token key operation did not happen.
        """
        encryption, mac = _both(data.keys)
        primary = self._ring.primary()
        if primary.wrapping is None:
            raise KeyPolicyError("the token keys have no wrapping key to pack session keys with")
        session: dict[str, object] = {
            "wrappedhmackey": binary.encode(primary.wrapping.wrap_key(mac)),
            "identity": data.identity,
            "wrappedencryptionkey": binary.encode(primary.wrapping.wrap_key(encryption)),
        }
        if data.issuer_data is not None:
            session["issuerdata"] = data.issuer_data
        return context.encrypt(codec.encode(session))

    def open(self, sealed: bytes, context: Sealing) -> SessionData:
        """Decrypt session data and unwrap both keys into the token.

        Raises:
            MslError: a crypto code, MASTERTOKEN_SESSIONDATA_PARSE_ERROR, also for a token of the other residency,
                MASTERTOKEN_KEY_CREATION_ERROR for keys no version unwraps.
            BackendError: a token key operation did not happen.
        """
        failure = ErrorCode.MASTERTOKEN_SESSIONDATA_PARSE_ERROR
        session = codec.decode(context.decrypt(sealed), failure)
        identity = fields.string(session, "identity", failure)
        encryption = fields.binary(session, "wrappedencryptionkey", failure)
        mac = fields.binary(session, "wrappedhmackey", failure)
        issuer_data: Mapping[str, object] | None = fields.optional_mapping(session, "issuerdata", failure)
        for version in self._ring.candidates():
            if version.wrapping is None:
                continue
            try:
                keys = SymmetricKeys(
                    version.wrapping.unwrap_aes(encryption),
                    version.wrapping.unwrap_mac(mac, MacAlgorithm.HMAC_SHA256),
                )
            except DataRejectedError:
                continue
            return SessionData(identity, keys, issuer_data)
        raise MslError(ErrorCode.MASTERTOKEN_KEY_CREATION_ERROR)

    def _wrap_for(self, key: AesKey | MacKey, transport: RsaTransport) -> bytes:
        try:
            return self._resident.wrap_for(key, transport.public_key, transport.padding)
        except DataRejectedError:
            raise MslError(ErrorCode.PLAINTEXT_ILLEGAL_BLOCK_SIZE) from None


def _both(keys: SymmetricKeys) -> tuple[AesKey, MacKey]:
    if keys.encryption is None or keys.mac is None:
        raise KeyPolicyError("a session has an encryption key and a MAC key")
    return keys.encryption, keys.mac


def _refused(what: str) -> KeyPolicyError:
    return KeyPolicyError(f"session keys stay in the token, and {what} would need their bytes")
