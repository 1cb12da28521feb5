"""What a trusted-services server checks once a header is decoded (msl-engine section 6, stages E3 and E4)."""

from __future__ import annotations

from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.msl.message.header import MessageHeader
from hsm_msl.msl.tokens.issuer import TokenIssuer


def check_received(header: MessageHeader, issuer: TokenIssuer, now: float) -> None:
    """Refuse revoked tokens, an expired master token that is not being renewed, and a replayed ID, in this order.

    Args:
        header: the decoded header.
        issuer: this server's token factory.
        now: local time, seconds.

    Raises:
        MslError: the first failing check.
        BackendError, StoreError: no answer, which is no verdict about the sender.
    """
    master = header.master_token
    if master is not None and master.verified:
        issuer.check_master_token(master)
        if header.user_id_token is not None:
            issuer.check_user_id_token(header.user_id_token)
        if master.expiration <= now:
            if not header.renewable:
                raise MslError(ErrorCode.MESSAGE_EXPIRED_NOT_RENEWABLE)
            if not header.key_requests:
                raise MslError(ErrorCode.MESSAGE_EXPIRED_NO_KEYREQUEST_DATA)
            issuer.check_renewable(master)
    if header.non_replayable_id is not None:
        if master is None:
            raise MslError(ErrorCode.INCOMPLETE_NONREPLAYABLE_MESSAGE)
        issuer.accept_non_replayable_id(master, header.non_replayable_id)
