"""The message header: what it says, and how it is written (msl-wire section 5)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from hsm_msl.crypto.context import CryptoContext, protect
from hsm_msl.msl.entityauth.base import EntityAuthData
from hsm_msl.msl.keyx.base import KeyRequest, KeyResponse
from hsm_msl.msl.message.capabilities import Capabilities
from hsm_msl.msl.tokens.master_token import MasterToken
from hsm_msl.msl.tokens.service_token import ServiceToken
from hsm_msl.msl.tokens.user_id_token import UserIdToken
from hsm_msl.msl.userauth.base import UserAuthData
from hsm_msl.ports import SymmetricKeys
from hsm_msl.wire import codec


class MessageHeader(msgspec.Struct, frozen=True, kw_only=True):
    """A message header, received or about to be sent.

    Attributes:
        context: what protects the header.
        payload_context: what protects the payload chunks; differs after a key exchange.
        session_keys: what ``payload_context`` was made of, where a key response to this client brought it.
        encrypted: whether the header counts as encrypted (a master token, or a scheme that encrypts).
        protects_integrity: whether it counts as integrity-protected.
        identity: the authenticated identity of the sender, None where a client cannot know it.
        user: the user this message speaks for, authenticated or by user ID token.
        handshake_stated: whether the sender said if this is a handshake; the oldest clients do not.
    """

    message_id: int
    renewable: bool
    context: CryptoContext
    payload_context: CryptoContext
    session_keys: SymmetricKeys | None = None
    encrypted: bool
    protects_integrity: bool
    entity_auth: EntityAuthData | None = None
    master_token: MasterToken | None = None
    identity: str | None = None
    handshake: bool = False
    handshake_stated: bool = True
    timestamp: int | None = None
    non_replayable_id: int | None = None
    capabilities: Capabilities | None = None
    key_requests: tuple[KeyRequest, ...] = ()
    key_response: KeyResponse | None = None
    user_id_token: UserIdToken | None = None
    user_auth: UserAuthData | None = None
    user: str | None = None
    service_tokens: tuple[ServiceToken, ...] = ()
    peer_master_token: MasterToken | None = None
    peer_user_id_token: UserIdToken | None = None
    peer_service_tokens: tuple[ServiceToken, ...] = ()


def encode_header(header: MessageHeader, sender: str, timestamp: int) -> bytes:
    """Write a header in the reference's member order, which some deployed clients depend on.

    Args:
        header: what to say.
        sender: the local identity, written only with a master token.
        timestamp: this entity's time, seconds since the epoch.

    Returns:
        The outer object.

    Raises:
        MslError: the context lacks a key.
        BackendError: a key operation did not happen.
    """
    data: dict[str, object] = {}
    if header.service_tokens:
        data["servicetokens"] = _tokens(header.service_tokens)
    if header.peer_master_token is not None:
        data["peermastertoken"] = header.peer_master_token.to_wire()
    if header.peer_user_id_token is not None:
        data["peeruseridtoken"] = header.peer_user_id_token.to_wire()
    if header.peer_service_tokens:
        data["peerservicetokens"] = _tokens(header.peer_service_tokens)
    data["handshake"] = header.handshake
    if header.user_id_token is not None:
        data["useridtoken"] = header.user_id_token.to_wire()
    data["nonreplayable"] = header.non_replayable_id is not None
    if header.capabilities is not None:
        data["capabilities"] = header.capabilities.to_wire()
    if header.master_token is not None:
        data["sender"] = sender
    data["renewable"] = header.renewable
    if header.user_auth is not None:
        data["userauthdata"] = header.user_auth.to_wire()
    data["messageid"] = header.message_id
    if header.key_response is not None:
        data["keyresponsedata"] = header.key_response.to_wire()
    if header.key_requests:
        data["keyrequestdata"] = [request.to_wire() for request in header.key_requests]
    if header.non_replayable_id is not None:
        data["nonreplayableid"] = header.non_replayable_id
    data["timestamp"] = timestamp
    protected, signature = protect(header.context, codec.encode(data))
    outer: dict[str, object] = {"headerdata": protected, "signature": signature}
    if header.master_token is not None:
        outer["mastertoken"] = header.master_token.to_wire()
    elif header.entity_auth is not None:
        outer["entityauthdata"] = header.entity_auth.to_wire()
    return codec.encode(outer)


def _tokens(tokens: Sequence[ServiceToken]) -> list[dict[str, object]]:
    return [token.to_wire() for token in tokens]
