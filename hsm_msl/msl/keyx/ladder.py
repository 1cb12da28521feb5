"""What JWK_LADDER and JWE_LADDER share: each exchange hands out the wrapping key of the next (msl-schemes section 8).

The first exchange is anchored in the entity's pre-shared wrapping key, each later one in the key handed out before.
The requester keeps that key; the issuer keeps nothing and recovers it from a blob that only its own key opens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hsm_msl.crypto.transport import WrapTransport
from hsm_msl.errors import ErrorCode, MslError, UsageError
from hsm_msl.msl.entityauth.psk import PskScheme
from hsm_msl.msl.keyx.base import Answer, KeyRequest, PendingKeyRequest, Requester
from hsm_msl.ports import (
    KeyForm,
    KeyTransport,
    RandomBytes,
    SessionVault,
    SymmetricKeys,
    TokenKeyRing,
    WrappingKey,
)
from hsm_msl.ports.schemes import WrapRepository
from hsm_msl.wire import binary, fields

PSK = "PSK"
WRAP = "WRAP"

_WRAPPED_NOTHING = b"\xa6" * 8  # RFC 3394 of no data at all is its initial value


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one of the ladders writes and protects keys.

    Attributes:
        name: the scheme's name on the wire.
        form: how keys are written.
        transport: makes what carries them under a wrapping key, with the code of a failed integrity check.
        key_id: makes the key ID of a handed-out wrapping key; nobody reads it.
    """

    name: str
    form: KeyForm
    transport: Callable[[WrappingKey | None, ErrorCode, RandomBytes], KeyTransport]
    key_id: Callable[[RandomBytes], str]


@dataclass(frozen=True, slots=True)
class LadderRequest:
    """A request: what anchors the exchange, and for ``WRAP`` the blob of the key handed out before."""

    mechanism: str
    wrapdata: bytes | None


@dataclass(frozen=True, slots=True)
class LadderResponse:
    """A response: the next wrapping key for the requester and for the issuer, and both session keys under it."""

    wrap_key: bytes
    wrapdata: bytes
    encryption_key: bytes
    hmac_key: bytes


@dataclass(frozen=True, slots=True)
class IssuerSide:
    """What answering takes.

    Attributes:
        ring: versions of the token keys; their wrapping keys make and open the blobs.
        psk: finds the requester's keys after the hooks agreed; None when this side shares keys with nobody.
    """

    ring: TokenKeyRing
    psk: PskScheme | None = None


@dataclass(frozen=True, slots=True)
class RequesterSide:
    """What asking takes.

    Attributes:
        repository: the wrapping keys handed out so far.
        own: the wrapping key this entity shares with the issuer.
    """

    repository: WrapRepository
    own: WrappingKey | None = None


@dataclass(frozen=True, slots=True)
class Ladder:
    """One of the two ladder schemes, for either role.

    Attributes:
        dialect: which of them.
        vault: makes and carries session keys and the wrapping keys in between.
        random: source of key IDs, and of content keys and IVs of JWE.
        issuer: set where this entity answers.
        requester: set where this entity asks.
    """

    dialect: Dialect
    vault: SessionVault
    random: RandomBytes
    issuer: IssuerSide | None = None
    requester: RequesterSide | None = None

    @property
    def name(self) -> str:
        """The scheme's name on the wire."""
        return self.dialect.name

    def parse_request(self, keydata: Mapping[str, Any]) -> KeyRequest:
        """Read a request.

        Raises:
            MslError: MSL_PARSE_ERROR, UNIDENTIFIED_KEYX_MECHANISM, KEYX_WRAPPING_KEY_MISSING for an empty blob.
        """
        mechanism = fields.string(keydata, "mechanism")
        if mechanism not in (PSK, WRAP):
            raise MslError(ErrorCode.UNIDENTIFIED_KEYX_MECHANISM)
        wrapdata = fields.binary(keydata, "wrapdata") if mechanism == WRAP else None
        if mechanism == WRAP and not wrapdata:
            raise MslError(ErrorCode.KEYX_WRAPPING_KEY_MISSING)
        return KeyRequest(self.name, keydata, LadderRequest(mechanism, wrapdata))

    def parse_response(self, keydata: Mapping[str, Any]) -> LadderResponse:
        """Read a response. Raises MslError MSL_PARSE_ERROR."""
        return LadderResponse(
            fields.binary(keydata, "wrapkey"),
            fields.binary(keydata, "wrapdata"),
            fields.binary(keydata, "encryptionkey"),
            fields.binary(keydata, "hmackey"),
        )

    def request(self, mechanism: str | None = None) -> PendingKeyRequest:
        """Make a request: anchored in the newest handed-out key, or in the pre-shared one while there is none.

        Args:
            mechanism: ``PSK`` or ``WRAP`` to insist on one of them.

        Raises:
            MslError: UNIDENTIFIED_KEYX_MECHANISM, KEYX_WRAPPING_KEY_MISSING for ``WRAP`` without a key.
            UsageError: this entity has no requester's side.
        """
        latest = self._requester().repository.latest()
        chosen = mechanism or (PSK if latest is None else WRAP)
        keydata: dict[str, object] = {"mechanism": chosen}
        if chosen == WRAP:
            keydata = {"wrapdata": binary.encode(latest or b""), "mechanism": chosen}
        return PendingKeyRequest(self.parse_request(keydata), None)

    def offers(self) -> list[PendingKeyRequest]:
        """Make the requests to send together.

        The pre-shared key stands beside the newest handed-out one, since the issuer may not open that any more: it
        keeps none of them, and its own key may have been rotated away.

        Raises:
            UsageError: this entity has no requester's side.
        """
        side = self._requester()
        handed_out = side.repository.latest() is not None
        offered = [self.request(WRAP)] if handed_out else []
        return offered if handed_out and side.own is None else [*offered, self.request(PSK)]

    def answer(self, request: KeyRequest, requester: Requester) -> Answer:
        """Make session keys and the next wrapping key.

        Raises:
            MslError: UNSUPPORTED_KEYX_MECHANISM where this side does not issue or shares keys with nobody;
                ENTITY_REVOKED, INCORRECT_ENTITYAUTH_DATA, ENTITY_NOT_FOUND; UNWRAP_ERROR,
                CIPHERTEXT_ILLEGAL_BLOCK_SIZE, KEYX_WRAPPING_KEY_MISSING for a bad blob; WRAP_NOT_SUPPORTED where
                the entity or the token keys have no wrapping key.
            BackendError, StoreError: no answer.
        """
        asked = request.parsed
        if not isinstance(asked, LadderRequest):
            raise UsageError(f"not a {self.name} request")
        if self.issuer is None:
            raise MslError(ErrorCode.UNSUPPORTED_KEYX_MECHANISM)
        anchor = self._issuer_anchor(self.issuer, asked, requester.identity)
        dialect, vault = self.dialect, self.vault
        next_key = vault.generate_wrapping()
        own = WrapTransport(self.issuer.ring.primary().wrapping)
        wrapdata = vault.export_wrapping(next_key, own, KeyForm.RAW)
        to_requester = dialect.transport(anchor, ErrorCode.UNWRAP_ERROR, self.random)
        wrap_key = vault.export_wrapping(next_key, to_requester, dialect.form, dialect.key_id(self.random))
        keys = vault.generate()
        under_next = dialect.transport(next_key, ErrorCode.UNWRAP_ERROR, self.random)
        encryption, mac = vault.export(keys, under_next, dialect.form)
        return Answer(
            {
                "wrapdata": binary.encode(wrapdata),
                "hmackey": binary.encode(mac),
                "encryptionkey": binary.encode(encryption),
                "wrapkey": binary.encode(wrap_key),
            },
            keys,
        )

    def accept(self, pending: PendingKeyRequest, response: object) -> SymmetricKeys | None:
        """Open the next wrapping key and with it the session keys, and remember the former for the next exchange.

        Raises:
            MslError: KEYX_WRAPPING_KEY_MISSING when the key of our request is spent, UNWRAP_NOT_SUPPORTED without a
                pre-shared wrapping key, and the codes of msl-schemes section 8.
            BackendError: the key operation did not happen.
            UsageError: this entity has no requester's side.
        """
        asked = pending.request.parsed
        if not isinstance(response, LadderResponse) or not isinstance(asked, LadderRequest):
            return None
        side, dialect = self._requester(), self.dialect
        # A wrong pre-shared key is told from a wrong handed-out one, as the reference does.
        anchor, failure = side.own, ErrorCode.UNWRAP_ERROR
        if asked.wrapdata is not None:
            anchor, failure = side.repository.find(asked.wrapdata), ErrorCode.INVALID_SYMMETRIC_KEY
            if anchor is None:
                raise MslError(ErrorCode.KEYX_WRAPPING_KEY_MISSING)
        next_key = self.vault.receive_wrapping(
            response.wrap_key,
            dialect.transport(anchor, failure, self.random),
            dialect.form,
            malformed=ErrorCode.INVALID_JWK,
        )
        keys = self.vault.receive(
            response.encryption_key,
            response.hmac_key,
            dialect.transport(next_key, ErrorCode.INVALID_SYMMETRIC_KEY, self.random),
            dialect.form,
            malformed=ErrorCode.INVALID_JWK,
        )
        side.repository.replace(asked.wrapdata, response.wrapdata, next_key)
        return keys

    def _requester(self) -> RequesterSide:
        if self.requester is None:
            raise UsageError(f"this entity does not ask for {self.name}")
        return self.requester

    def _issuer_anchor(self, side: IssuerSide, asked: LadderRequest, identity: str) -> WrappingKey | None:
        if asked.wrapdata is None:
            if side.psk is None:
                raise MslError(ErrorCode.UNSUPPORTED_KEYX_MECHANISM)
            return side.psk.find(identity).wrapping
        if asked.wrapdata == _WRAPPED_NOTHING:
            raise MslError(ErrorCode.KEYX_WRAPPING_KEY_MISSING)
        failure = MslError(ErrorCode.UNWRAP_NOT_SUPPORTED)
        for version in side.ring.candidates():
            if version.wrapping is None:
                continue
            try:
                return self.vault.receive_wrapping(asked.wrapdata, WrapTransport(version.wrapping), KeyForm.RAW)
            except MslError as error:
                failure = error
        raise failure
