"""When a message must, and when it may, ask for new tokens (msl-engine section 4.2)."""

from __future__ import annotations

from hsm_msl.msl.client_state import ClientState
from hsm_msl.msl.conversation import Message
from hsm_msl.msl.entityauth.base import LocalEntity
from hsm_msl.msl.tokens.master_token import MasterToken
from hsm_msl.msl.tokens.user_id_token import UserIdToken


def must_renew(
    message: Message,
    local: LocalEntity,
    state: ClientState,
    token: MasterToken | None,
    user_id_token: UserIdToken | None,
    now: float,
) -> bool:
    """Tell whether the message cannot be sent as wanted without new tokens (rules M1, M2, M4 to M7).

    Args:
        message: what is to be sent.
        local: how this client authenticates itself without a master token.
        state: knows the other side's time.
        token: the master token at hand.
        user_id_token: the user's token at hand.
        now: local time, seconds.
    """
    encrypts = token is not None or local.encrypts
    protects = token is not None or local.protects_integrity
    without_user_token = message.user is not None and user_id_token is None
    return (
        (message.encrypted and not encrypts)
        or (message.integrity and not protects)
        or (message.non_replayable and token is None)
        or (token is not None and token.is_expired(state.remote_time(now), now))
        or (without_user_token and not (encrypts and protects))
        or (message.request_tokens and (token is None or without_user_token))
    )


def renewable(state: ClientState, token: MasterToken, now: float, after_messages: int) -> bool:
    """Tell whether to offer a key exchange for this master token: by its renewal window, or by messages sent.

    Args:
        state: knows the other side's time and counts messages.
        token: the master token at hand.
        now: local time, seconds.
        after_messages: messages after which its keys count as worn; 0 for never.
    """
    if token.is_renewable(state.remote_time(now), now):
        return True
    sent = state.messages(token)
    # A server that does not renew yet is asked again after as many more messages, not with each of them.
    return after_messages > 0 and sent > 0 and sent % after_messages == 0


def user_may_renew(message: Message, state: ClientState, user_id_token: UserIdToken | None, now: float) -> bool:
    """Tell whether the user's token is missing or inside its renewal window."""
    if message.user is None:
        return False
    return user_id_token is None or user_id_token.is_renewable(state.remote_time(now), now)
