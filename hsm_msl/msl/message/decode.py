"""Reading a header: which check comes when decides which error a bad message gets (msl-engine section 6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hsm_msl.crypto.context import CryptoContext, unprotect
from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.msl.context import MslContext
from hsm_msl.msl.entityauth.base import authenticate_entity, parse_entity_auth
from hsm_msl.msl.keyx.base import (
    KeyRequest,
    KeyResponse,
    PendingKeyRequest,
    accept,
    parse_key_request,
    parse_key_response,
)
from hsm_msl.msl.message.capabilities import parse_capabilities
from hsm_msl.msl.message.error_header import ErrorHeader, decode_error_header
from hsm_msl.msl.message.header import MessageHeader
from hsm_msl.msl.tokens.master_token import MasterToken, session_context
from hsm_msl.msl.tokens.service_token import ServiceToken, parse_service_token
from hsm_msl.msl.tokens.user_id_token import UserIdToken
from hsm_msl.msl.userauth.base import UserAuthData, parse_user_auth
from hsm_msl.ports import SymmetricKeys
from hsm_msl.wire import codec, fields
from hsm_msl.wire.limits import MAX_KEY_REQUESTS, MAX_SERVICE_TOKENS

SessionLookup = Callable[[MasterToken], CryptoContext | None]
"""Finds the context of a master token this entity uses but did not issue."""


class HeaderDecoder:
    """Decodes the first object of one message.

    Args:
        context: the receiving entity.
        sessions: contexts of tokens issued by others; a server gives none.
        pending: our outstanding key requests, when this is a reply.

    Attributes:
        message_id: the ID once it is known, so that whatever fails later can be answered with ID + 1.
        languages: what the sender calls its languages, unchecked, so that a refusal can be worded for its user.
    """

    __slots__ = ("_context", "_pending", "_sessions", "languages", "message_id")

    def __init__(
        self,
        context: MslContext,
        sessions: SessionLookup | None = None,
        pending: Sequence[PendingKeyRequest] = (),
    ) -> None:
        self._context = context
        self._sessions = sessions
        self._pending = pending
        self.message_id: int | None = None
        self.languages: object = None

    def decode(self, outer: Mapping[str, Any]) -> MessageHeader | ErrorHeader:
        """Decode and authenticate a header.

        Raises:
            MslError: the first failing check of msl-engine section 6, stages B to E2.
            BackendError, StoreError: no answer, which is no verdict about the sender.
        """
        msl = self._context
        raw = outer.get("entityauthdata")
        entity = (
            None if raw is None else parse_entity_auth(fields.mapping(outer, "entityauthdata"), msl.entity_schemes)
        )
        raw = outer.get("mastertoken")
        master = None if raw is None else msl.master_tokens.parse(fields.mapping(outer, "mastertoken"))
        signature = fields.binary(outer, "signature")
        if outer.get("headerdata") is None:
            if outer.get("errordata") is None:
                raise MslError(ErrorCode.MSL_PARSE_ERROR, "neither headerdata nor errordata")
            error = decode_error_header(msl, entity, fields.binary(outer, "errordata"), signature)
            self.message_id = error.message_id
            return error
        protected = fields.binary(outer, "headerdata")
        if not protected:
            raise MslError(ErrorCode.HEADER_DATA_MISSING)
        if master is not None:
            entity = None
            context = self._session(master)
            encrypted = integrity = True
            identity = master.identity
            failure = ErrorCode.MESSAGE_MASTERTOKENBASED_VERIFICATION_FAILED
        elif entity is not None:
            scheme, entity, context = authenticate_entity(entity, msl.entity_schemes)
            encrypted, integrity = scheme.encrypts, scheme.protects_integrity
            identity = entity.identity
            failure = ErrorCode.MESSAGE_ENTITYDATABASED_VERIFICATION_FAILED
        else:
            raise MslError(ErrorCode.MESSAGE_ENTITY_NOT_FOUND)
        data = codec.decode(unprotect(context, protected, signature, failure))
        message_id = fields.integer(data, "messageid")
        fields.ranged(message_id, ErrorCode.MESSAGE_ID_OUT_OF_RANGE)
        self.message_id = message_id
        stated = data.get("capabilities")
        if type(stated) is dict:
            self.languages = stated.get("languages")
        timestamp = fields.optional_integer(data, "timestamp")
        response = self._key_response(data)
        verification = master if response is None or msl.peer_to_peer else response.master_token
        user_id_token = self._user_id_token(data, "useridtoken", verification)
        user_auth, user = self._user(data, encrypted, identity, user_id_token, verification)
        service_tokens = self._service_tokens(data, "servicetokens", verification, user_id_token)
        non_replayable_id = fields.optional_integer(data, "nonreplayableid")
        renewable = fields.boolean(data, "renewable")
        handshake = fields.optional_boolean(data, "handshake", False)
        if non_replayable_id is not None:
            fields.ranged(non_replayable_id, ErrorCode.NONREPLAYABLE_ID_OUT_OF_RANGE)
        raw = fields.optional_mapping(data, "capabilities")
        capabilities = None if raw is None else parse_capabilities(raw, msl.capabilities)
        key_requests = self._key_requests(data)
        peer_master: MasterToken | None = None
        peer_user: UserIdToken | None = None
        peer_services: tuple[ServiceToken, ...] = ()
        if msl.peer_to_peer:
            raw = fields.optional_mapping(data, "peermastertoken")
            peer_master = None if raw is None else msl.master_tokens.parse(raw)
            peer_verification = peer_master if response is None else response.master_token
            peer_user = self._user_id_token(data, "peeruseridtoken", peer_verification)
            peer_services = self._service_tokens(data, "peerservicetokens", peer_verification, peer_user)
        payload_context = context
        session_keys: SymmetricKeys | None = None
        if response is not None:
            new_context, session_keys = self._new_session(response)
            # Among peers the payload always uses the header's context (msl-engine section 7.4).
            payload_context = context if msl.peer_to_peer else new_context
        if handshake and not (renewable and key_requests):
            raise MslError(ErrorCode.HANDSHAKE_DATA_MISSING)
        return MessageHeader(
            message_id=message_id,
            renewable=renewable,
            context=context,
            payload_context=payload_context,
            session_keys=session_keys,
            encrypted=encrypted,
            protects_integrity=integrity,
            entity_auth=entity,
            master_token=master,
            identity=identity,
            handshake=handshake,
            handshake_stated="handshake" in data,
            timestamp=timestamp,
            non_replayable_id=non_replayable_id,
            capabilities=capabilities,
            key_requests=key_requests,
            key_response=response,
            user_id_token=user_id_token,
            user_auth=user_auth,
            user=user,
            service_tokens=service_tokens,
            peer_master_token=peer_master,
            peer_user_id_token=peer_user,
            peer_service_tokens=peer_services,
        )

    def _session(self, master: MasterToken) -> CryptoContext:
        if master.context is not None:
            return master.context
        context = self._sessions(master) if self._sessions is not None else None
        if context is None:
            raise MslError(ErrorCode.MASTERTOKEN_UNTRUSTED)
        return context

    def _key_response(self, data: Mapping[str, Any]) -> KeyResponse | None:
        raw = fields.optional_mapping(data, "keyresponsedata")
        if raw is None:
            return None
        return parse_key_response(raw, self._context.key_exchanges, self._context.master_tokens)

    def _new_session(self, response: KeyResponse) -> tuple[CryptoContext, SymmetricKeys | None]:
        token = response.master_token
        msl = self._context
        if token.context is not None:
            if msl.peer_to_peer:
                raise MslError(ErrorCode.KEYX_RESPONSE_REQUEST_MISMATCH, "a master token of our own comes back")
            return token.context, None
        keys = accept(msl.key_exchanges, self._pending, response)
        return session_context(msl.local.data.identity, token.sequence_number, keys, msl.random), keys

    def _user_id_token(self, data: Mapping[str, Any], name: str, master: MasterToken | None) -> UserIdToken | None:
        raw = fields.optional_mapping(data, name)
        return None if raw is None else self._context.user_id_tokens.parse(raw, master)

    def _user(
        self,
        data: Mapping[str, Any],
        encrypted: bool,
        identity: str | None,
        token: UserIdToken | None,
        master: MasterToken | None,
    ) -> tuple[UserAuthData | None, str | None]:
        known = None if token is None else token.user
        raw = fields.optional_mapping(data, "userauthdata")
        if raw is None:
            return None, known
        schemes = self._context.user_schemes
        user_auth = parse_user_auth(raw, schemes, master)
        if not encrypted:
            raise MslError(ErrorCode.UNENCRYPTED_MESSAGE_WITH_USERAUTHDATA)
        user = schemes[user_auth.scheme].authenticate(user_auth, identity or "")
        if known is not None and known != user:
            raise MslError(ErrorCode.USERIDTOKEN_USERAUTH_DATA_MISMATCH)
        return user_auth, user

    def _service_tokens(
        self, data: Mapping[str, Any], name: str, master: MasterToken | None, user: UserIdToken | None
    ) -> tuple[ServiceToken, ...]:
        if name not in data:
            return ()
        msl = self._context
        tokens: dict[tuple[str, int | None, int | None], ServiceToken] = {}
        for obj in _objects(data, name, MAX_SERVICE_TOKENS):
            token = parse_service_token(obj, msl.service_token_keys, msl.service_token_cache, master, user)
            tokens.setdefault(token.key, token)
        return tuple(tokens.values())

    def _key_requests(self, data: Mapping[str, Any]) -> tuple[KeyRequest, ...]:
        if "keyrequestdata" not in data:
            return ()
        exchanges = self._context.key_exchanges
        return tuple(parse_key_request(obj, exchanges) for obj in _objects(data, "keyrequestdata", MAX_KEY_REQUESTS))


def _objects(data: Mapping[str, Any], name: str, limit: int) -> list[dict[str, Any]]:
    items = fields.optional_array(data, name)
    if items is None:
        return []
    if len(items) > limit:
        raise MslError(ErrorCode.MSL_PARSE_ERROR, f"{name} has more than {limit} elements")
    for item in items:
        if not isinstance(item, dict):
            raise MslError(ErrorCode.MSL_PARSE_ERROR, f"{name} holds something that is no object")
    return items
