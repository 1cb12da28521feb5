"""SYMMETRIC_WRAPPED: fresh session keys, wrapped under a key both ends hold already (msl-schemes section 6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hsm_msl.crypto.transport import WrapTransport
from hsm_msl.errors import ErrorCode, MslError, UsageError
from hsm_msl.msl.entityauth.psk import PskScheme
from hsm_msl.msl.keyx.base import Answer, KeyRequest, PendingKeyRequest, Requester
from hsm_msl.ports import KeyForm, SessionVault, SymmetricKeys, WrappingKey
from hsm_msl.wire import binary, fields

NAME = "SYMMETRIC_WRAPPED"

PSK = "PSK"
SESSION = "SESSION"


@dataclass(frozen=True, slots=True)
class SymmetricRequest:
    """A request: which shared key is to wrap."""

    key_id: str


@dataclass(frozen=True, slots=True)
class SymmetricResponse:
    """A response: the echoed key ID and both wrapped keys."""

    key_id: str
    encryption_key: bytes
    hmac_key: bytes


@dataclass(frozen=True, slots=True)
class SymmetricWrapped:
    """The SYMMETRIC_WRAPPED scheme.

    ``SESSION`` is a name every stack knows and none can serve, since session keys hold no wrapping key; it is refused
    with the reference's codes.

    Attributes:
        vault: makes and carries session keys.
        psk: finds the requester's keys after the hooks agreed; None when this side shares keys with nobody.
        own: the wrapping key this entity shares with the issuer, for the requester's role.
    """

    vault: SessionVault
    psk: PskScheme | None = None
    own: WrappingKey | None = None
    name: str = NAME

    def parse_request(self, keydata: Mapping[str, Any]) -> KeyRequest:
        """Read a request. Raises MslError MSL_PARSE_ERROR, UNIDENTIFIED_KEYX_KEY_ID."""
        return KeyRequest(NAME, keydata, SymmetricRequest(_key_id(keydata)))

    def parse_response(self, keydata: Mapping[str, Any]) -> SymmetricResponse:
        """Read a response. Raises MslError as ``parse_request``."""
        return SymmetricResponse(
            _key_id(keydata), fields.binary(keydata, "encryptionkey"), fields.binary(keydata, "hmackey")
        )

    def request(self, key_id: str = PSK) -> PendingKeyRequest:
        """Make a request. Raises MslError UNIDENTIFIED_KEYX_KEY_ID."""
        return PendingKeyRequest(self.parse_request({"keyid": key_id}), None)

    def answer(self, request: KeyRequest, requester: Requester) -> Answer:
        """Make session keys and wrap each under the requester's pre-shared wrapping key.

        Raises:
            MslError: UNSUPPORTED_KEYX_KEY_ID without pre-shared keys, ENTITY_REVOKED, INCORRECT_ENTITYAUTH_DATA,
                ENTITY_NOT_FOUND; WRAP_NOT_SUPPORTED for an entity without wrapping key and for ``SESSION``, there
                after KEYX_MASTER_TOKEN_MISSING and MASTERTOKEN_UNTRUSTED.
            BackendError, StoreError: no answer.
        """
        asked = request.parsed
        if not isinstance(asked, SymmetricRequest):
            raise UsageError("not a SYMMETRIC_WRAPPED request")
        if asked.key_id == SESSION:
            raise MslError(_session_refusal(requester))
        if self.psk is None:
            raise MslError(ErrorCode.UNSUPPORTED_KEYX_KEY_ID)
        transport = WrapTransport(self.psk.find(requester.identity).wrapping)
        keys = self.vault.generate()
        encryption, mac = self.vault.export(keys, transport, KeyForm.RAW)
        return Answer(
            {"hmackey": binary.encode(mac), "keyid": asked.key_id, "encryptionkey": binary.encode(encryption)}, keys
        )

    def accept(self, pending: PendingKeyRequest, response: object) -> SymmetricKeys | None:
        """Unwrap both keys.

        Raises:
            MslError: UNWRAP_NOT_SUPPORTED without a wrapping key and for ``SESSION``, UNWRAP_ERROR,
                CIPHERTEXT_ILLEGAL_BLOCK_SIZE, SESSION_KEY_CREATION_FAILURE.
            BackendError: the key operation did not happen.
        """
        asked = pending.request.parsed
        if not isinstance(response, SymmetricResponse) or not isinstance(asked, SymmetricRequest):
            return None
        if response.key_id != asked.key_id:
            return None
        transport = WrapTransport(self.own if asked.key_id == PSK else None)
        return self.vault.receive(response.encryption_key, response.hmac_key, transport, KeyForm.RAW)


def _key_id(keydata: Mapping[str, Any]) -> str:
    key_id = fields.string(keydata, "keyid")
    if key_id not in (PSK, SESSION):
        raise MslError(ErrorCode.UNIDENTIFIED_KEYX_KEY_ID)
    return key_id


def _session_refusal(requester: Requester) -> ErrorCode:
    if requester.master_token is None:
        return ErrorCode.KEYX_MASTER_TOKEN_MISSING
    return ErrorCode.WRAP_NOT_SUPPORTED if requester.master_token.verified else ErrorCode.MASTERTOKEN_UNTRUSTED
