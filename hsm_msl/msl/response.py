"""Building the header of a response: which tokens it carries and which keys protect it (msl-engine section 7)."""

from __future__ import annotations

from dataclasses import dataclass

from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.msl.context import MslContext
from hsm_msl.msl.keyx.base import KeyResponse, Requester, respond
from hsm_msl.msl.message.capabilities import intersection
from hsm_msl.msl.message.header import MessageHeader
from hsm_msl.msl.tokens.builder import ServiceTokenBuilder, ServiceTokenUpdate
from hsm_msl.msl.tokens.issuer import TokenIssuer, next_long, random_long
from hsm_msl.msl.tokens.master_token import MasterToken
from hsm_msl.msl.tokens.service_token import ServiceToken
from hsm_msl.msl.tokens.user_id_token import UserIdToken


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a reply needs; a request that cannot give it is answered with an error the client recovers from.

    Attributes:
        encrypted: the reply's payload must be encrypted.
        integrity: the reply's payload must be integrity-protected.
        user: issue a user ID token for this user, who the application authenticated itself.
        service_tokens: changes the service tokens the client keeps.
    """

    encrypted: bool = False
    integrity: bool = False
    user: str | None = None
    service_tokens: ServiceTokenUpdate | None = None

    def __or__(self, other: Requirements) -> Requirements:
        """Return what fulfils both; a user named by ``other`` goes first, its service tokens are changed last."""
        first, then = self.service_tokens, other.service_tokens

        def both(builder: ServiceTokenBuilder) -> None:
            for update in (first, then):
                if update is not None:
                    update(builder)

        return Requirements(
            self.encrypted or other.encrypted,
            self.integrity or other.integrity,
            self.user if other.user is None else other.user,
            None if first is None and then is None else both,
        )


NO_REQUIREMENTS = Requirements()


def check_requirements(context: MslContext, request: MessageHeader, requirements: Requirements) -> None:
    """Refuse a request whose answer could not be protected as required; it costs nothing and changes nothing.

    Args:
        context: the answering server.
        request: the header being answered.
        requirements: what the reply needs.

    Raises:
        MslError: RESPONSE_REQUIRES_INTEGRITY_PROTECTION, RESPONSE_REQUIRES_ENCRYPTION, RESPONSE_REQUIRES_MASTERTOKEN;
            all make the client come back with a key exchange.
    """
    keyed = (
        request.master_token is not None
        or request.key_response is not None
        or (request.renewable and bool(request.key_requests))
    )
    if requirements.integrity and not (keyed or context.local.protects_integrity):
        raise MslError(ErrorCode.RESPONSE_REQUIRES_INTEGRITY_PROTECTION)
    if requirements.encrypted and not (keyed or context.local.encrypts):
        raise MslError(ErrorCode.RESPONSE_REQUIRES_ENCRYPTION)
    if requirements.user is not None and not keyed:
        raise MslError(ErrorCode.RESPONSE_REQUIRES_MASTERTOKEN)


def build_response(
    context: MslContext,
    issuer: TokenIssuer,
    request: MessageHeader,
    requirements: Requirements = NO_REQUIREMENTS,
) -> MessageHeader:
    """Decide everything about a trusted-services response.

    Args:
        context: the answering server.
        issuer: its token factory.
        request: the header being answered.
        requirements: what the application's reply needs.

    Returns:
        The response's header, ready to be encoded; its ``payload_context`` is the new session after a key exchange.

    Raises:
        MslError: the key exchange failed, a token cannot be renewed, or the requirements cannot be met.
        BackendError, StoreError: no answer.
    """
    check_requirements(context, request, requirements)
    now = context.clock()
    key_response = exchange_keys(context, issuer, request, now)
    reference = _master_token(request) if key_response is None else key_response.master_token
    user_id_token = answer_user_id_token(issuer, request, reference, now)
    if requirements.user is not None and user_id_token is None and reference is not None:
        user_id_token = issuer.create_user_id_token(requirements.user, reference)
    message_id = next_long(request.message_id)
    return _header(context, request, requirements, message_id, key_response, user_id_token)


def build_push(
    context: MslContext, request: MessageHeader, requirements: Requirements = NO_REQUIREMENTS
) -> MessageHeader:
    """Decide everything about a message the server sends unasked; it issues and renews nothing.

    Args:
        context: the server.
        request: the message that opened the connection.
        requirements: what the message needs; a user cannot be issued this way.

    Returns:
        The header, with a random message ID, so that the same push can be sent more than once.

    Raises:
        MslError: the requirements cannot be met without a key exchange.
        BackendError: no answer.
    """
    keyed = _master_token(request) is not None
    if requirements.integrity and not (keyed or context.local.protects_integrity):
        raise MslError(ErrorCode.RESPONSE_REQUIRES_INTEGRITY_PROTECTION)
    if requirements.encrypted and not (keyed or context.local.encrypts):
        raise MslError(ErrorCode.RESPONSE_REQUIRES_ENCRYPTION)
    if requirements.user is not None and request.user_id_token is None:
        raise MslError(ErrorCode.RESPONSE_REQUIRES_MASTERTOKEN)
    return _header(context, request, requirements, random_long(context.random), None, request.user_id_token)


def _master_token(request: MessageHeader) -> MasterToken | None:
    """Return what protects the answer; a client that goes on after a handshake carries it in its key response."""
    return request.master_token if request.key_response is None else request.key_response.master_token


def _header(
    context: MslContext,
    request: MessageHeader,
    requirements: Requirements,
    message_id: int,
    key_response: KeyResponse | None,
    user_id_token: UserIdToken | None,
) -> MessageHeader:
    master = _master_token(request)
    reference = master if key_response is None else key_response.master_token
    header_context = context.local.context
    if master is not None and master.context is not None:
        header_context = master.context
    return MessageHeader(
        message_id=message_id,
        renewable=False,
        context=header_context,
        payload_context=(key_response and key_response.master_token.context) or header_context,
        encrypted=master is not None or context.local.encrypts,
        protects_integrity=master is not None or context.local.protects_integrity,
        entity_auth=context.local.data if master is None else None,
        master_token=master,
        capabilities=intersection(request.capabilities, context.capabilities),
        key_response=key_response,
        user_id_token=user_id_token,
        user=request.user,
        service_tokens=_service_tokens(context, request, requirements, reference, user_id_token),
    )


def exchange_keys(context: MslContext, issuer: TokenIssuer, request: MessageHeader, now: float) -> KeyResponse | None:
    """Answer the key requests of a message where a new master token is due (msl-engine section 7.1).

    Raises:
        MslError: no offer could be answered, or the master token cannot be renewed.
        BackendError, StoreError: no answer.
    """
    if not (request.renewable and request.key_requests):
        return None
    master = request.master_token
    identity = request.identity or ""
    if master is not None and not master.is_expired(None, now) and not issuer.renews_now(master):
        return None
    return respond(
        context.key_exchanges, request.key_requests, Requester(identity, master), issuer, context.authorization
    )


def answer_user_id_token(
    issuer: TokenIssuer, request: MessageHeader, reference: MasterToken | None, now: float
) -> UserIdToken | None:
    """Return the user ID token to answer with: renewed, created, as it came, or none (msl-engine section 7.2).

    Args:
        issuer: the token factory.
        request: the message being answered.
        reference: the master token it is to be bound to.
        now: local time, seconds.

    Raises:
        MslError: the token cannot be renewed.
        BackendError: no answer.
    """
    token = request.user_id_token
    if token is not None and token.verified and reference is not None:
        renew = token.is_renewable(None, now) and request.renewable
        if renew or token.is_expired(None, now) or not token.is_bound_to(reference):
            return issuer.renew_user_id_token(token, reference)
        return token
    if request.renewable and reference is not None and request.user_auth is not None and request.user is not None:
        return issuer.create_user_id_token(request.user, reference)
    return token


def _service_tokens(
    context: MslContext,
    request: MessageHeader,
    requirements: Requirements,
    master: MasterToken | None,
    user_id_token: UserIdToken | None,
) -> tuple[ServiceToken, ...]:
    for token in request.service_tokens:
        token.check_binding(master, user_id_token)
    if requirements.service_tokens is None:
        return request.service_tokens
    builder = ServiceTokenBuilder(request.service_tokens, context.service_token_keys, master, user_id_token)
    requirements.service_tokens(builder)
    return builder.tokens
