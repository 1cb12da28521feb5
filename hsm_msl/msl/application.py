"""What an application sees of MSL: a request, a reply, a way to refuse (msl-engine section 8)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hsm_msl.errors import ErrorCode, HsmMslError, UsageError
from hsm_msl.msl.message.header import MessageHeader
from hsm_msl.msl.response import NO_REQUIREMENTS, Requirements
from hsm_msl.msl.tokens.service_token import ServiceToken


@dataclass(frozen=True, slots=True)
class Request:
    """What an application gets to see of a message.

    Attributes:
        payload: the application data; empty where the payload is streamed.
        entity: the authenticated identity of the client.
        user: the authenticated user, or None.
        message_id: the message's ID.
        languages: languages the client prefers, best first.
        service_tokens: what the client sent along; contents only where this server has the keys.
    """

    payload: bytes
    entity: str
    user: str | None
    message_id: int
    languages: tuple[str, ...] = ()
    service_tokens: tuple[ServiceToken, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """What an application answers.

    Attributes:
        payload: the application data.
        text: whether the payload is UTF-8 text, so that no chunk splits a character.
        requirements: protection, user and service tokens the reply needs.
    """

    payload: bytes
    text: bool = False
    requirements: Requirements = NO_REQUIREMENTS


Application = Callable[[Request], bytes | Reply]
"""One function from request to reply."""


class RejectedError(HsmMslError):
    """Raised by an application to refuse the entity or the user of a request.

    Args:
        subject: ``entity`` or ``user``.
        message: text for developers, without secrets.
    """

    def __init__(self, subject: str, message: str = "") -> None:
        if subject not in ("entity", "user"):
            raise UsageError("a rejection is of an entity or a user")
        super().__init__(message or f"{subject} rejected")
        self.subject = subject


_REJECTIONS = {
    ("entity", True): ErrorCode.MASTERTOKEN_REJECTED_BY_APP,
    ("entity", False): ErrorCode.ENTITY_REJECTED_BY_APP,
    ("user", True): ErrorCode.USERIDTOKEN_REJECTED_BY_APP,
    ("user", False): ErrorCode.USER_REJECTED_BY_APP,
}


def rejection_code(error: RejectedError, header: MessageHeader | None) -> ErrorCode:
    """Return how a rejection is told: of the token that stands for the subject, or of the subject itself."""
    tokens = None if header is None else (header.master_token, header.user_id_token)
    return _REJECTIONS[error.subject, tokens is not None and tokens[error.subject == "user"] is not None]


def request_of(header: MessageHeader, payload: bytes) -> Request:
    """Show an application what it may see of a message."""
    capabilities = header.capabilities
    return Request(
        payload,
        header.identity or "",
        header.user,
        header.message_id,
        () if capabilities is None else capabilities.languages,
        header.service_tokens,
    )
