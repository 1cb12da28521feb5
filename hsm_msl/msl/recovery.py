"""What a client does about each error response (msl-engine sections 10.2 and 10.3)."""

from __future__ import annotations

from dataclasses import dataclass

from hsm_msl.errors import ResponseCode


@dataclass(frozen=True, slots=True)
class Recovery:
    """How to send a message again.

    Attributes:
        master_token: use the newest stored master token; else entity authentication data.
        user_id_token: use the stored user ID token; else ask for user authentication data.
        renewable: mark the message renewable with key requests.
        renewable_if_same: the same, if the newest master token is the one that failed.
        ask_entity: ask for entity authentication data first; none ends the attempts.
        ask_user: ask for user authentication data first; none ends the attempts.
        drop_master_token: forget the request's master token and what is bound to it.
        drop_user_id_token: forget the request's user ID token and what is bound to it.
    """

    master_token: bool = True
    user_id_token: bool = True
    renewable: bool = False
    renewable_if_same: bool = False
    ask_entity: bool = False
    ask_user: bool = False
    drop_master_token: bool = False
    drop_user_id_token: bool = False


_ENTITY = Recovery(master_token=False, user_id_token=False, ask_entity=True, drop_master_token=True)
_USER_DATA = Recovery(user_id_token=False, ask_user=True, drop_user_id_token=True)

RECOVERIES: dict[ResponseCode, Recovery] = {
    ResponseCode.ENTITY_REAUTH: _ENTITY,
    ResponseCode.ENTITYDATA_REAUTH: _ENTITY,
    ResponseCode.USER_REAUTH: Recovery(user_id_token=False, drop_user_id_token=True),
    ResponseCode.USERDATA_REAUTH: _USER_DATA,
    ResponseCode.SSOTOKEN_REJECTED: _USER_DATA,
    ResponseCode.KEYX_REQUIRED: Recovery(master_token=False, user_id_token=False, renewable=True),
    ResponseCode.EXPIRED: Recovery(renewable_if_same=True),
    ResponseCode.REPLAYED: Recovery(),
}
"""FAIL and TRANSIENT_FAILURE are absent: they are delivered, never answered by sending again."""

UNMATCHED_ID_CODES = frozenset(
    {
        ResponseCode.FAIL,
        ResponseCode.TRANSIENT_FAILURE,
        ResponseCode.ENTITY_REAUTH,
        ResponseCode.ENTITYDATA_REAUTH,
    }
)
"""Errors accepted with any message ID, since their sender may not have known the request's."""
