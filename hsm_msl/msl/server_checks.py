"""What an issuing entity checks once a header is decoded (msl-engine section 6, stages E3 and E4)."""

from __future__ import annotations

from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.msl.message.header import MessageHeader
from hsm_msl.msl.tokens.issuer import TokenIssuer
from hsm_msl.msl.tokens.master_token import MasterToken


def check_received(header: MessageHeader, issuer: TokenIssuer, now: float) -> None:
    """Refuse revoked tokens, an expired master token that is not being renewed, and a replayed ID, in this order.

    Args:
        header: the decoded header.
        issuer: this entity's token factory.
        now: local time, seconds.

    Raises:
        MslError: the first failing check.
        BackendError, StoreError: no answer, which is no verdict about the sender.
    """
    master = header.master_token
    if master is not None and master.verified:
        issuer.check_master_token(master)
    _check_key_response(header, issuer, now)
    if header.user_id_token is not None:
        # Also beside entity authentication data: a key response can make the token count there.
        issuer.check_user_id_token(header.user_id_token)
    if master is not None and master.verified:
        _check_renewal(header, master, issuer, now)
    if header.non_replayable_id is not None:
        if master is None:
            raise MslError(ErrorCode.INCOMPLETE_NONREPLAYABLE_MESSAGE)
        issuer.accept_non_replayable_id(master, header.non_replayable_id)


def _check_renewal(header: MessageHeader, master: MasterToken, issuer: TokenIssuer, now: float) -> None:
    if master.expiration <= now:
        if not header.renewable:
            raise MslError(ErrorCode.MESSAGE_EXPIRED_NOT_RENEWABLE)
        if not header.key_requests:
            raise MslError(ErrorCode.MESSAGE_EXPIRED_NO_KEYREQUEST_DATA)
        issuer.check_renewable(master)
        return
    asked = header.renewable and bool(header.key_requests)
    if asked and issuer.renews_now(master):
        # The response will renew the token. If that must fail, it does so before the application is asked, since the
        # sender will send again and the application would see the message twice.
        issuer.check_renewable(master)


def _check_key_response(header: MessageHeader, issuer: TokenIssuer, now: float) -> None:
    """Hold a master token of our own in a key response to what a header's must fulfil.

    It takes the header token's place for payload, user and answer, so it may neither be somebody else's nor stale.
    """
    if header.key_response is None or not header.key_response.master_token.verified:
        return
    carried = header.key_response.master_token
    if carried.identity != header.identity:
        raise MslError(ErrorCode.KEYX_RESPONSE_REQUEST_MISMATCH, "the master token belongs to another entity")
    issuer.check_master_token(carried)
    if carried.expiration <= now:
        raise MslError(ErrorCode.MESSAGE_EXPIRED_NOT_RENEWABLE)
