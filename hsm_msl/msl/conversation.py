"""The words of a client conversation: what to send, what came back, what the driver has to do in between."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass

from hsm_msl.errors import HsmMslError, ResponseCode, UsageError
from hsm_msl.msl.entityauth.base import LocalEntity
from hsm_msl.msl.keyx.base import PendingKeyRequest
from hsm_msl.msl.message.error_header import ErrorHeader
from hsm_msl.msl.message.header import MessageHeader
from hsm_msl.msl.renewal import Ticket
from hsm_msl.msl.tokens.builder import ServiceTokenUpdate
from hsm_msl.msl.userauth.base import UserAuthData

UserAuthSource = Callable[[ResponseCode | None, bool], UserAuthData | None]
"""Gives user authentication data: (the response code that asks for new data or None, whether it is required)."""

KeyRequestSource = Callable[[], Sequence[PendingKeyRequest]]
"""Makes fresh key requests, one per scheme and mechanism to offer."""

EntitySource = Callable[[ResponseCode], LocalEntity | None]
"""Gives the entity to authenticate as after an error; None when there is no other data to offer."""


Payload = bytes | Callable[[], Iterable[bytes]]
"""Application data, or a function that opens it as pieces, anew for each attempt to send it."""


@dataclass(frozen=True, slots=True)
class Message:
    """One application message to send.

    Attributes:
        payload: the application data, or a function that opens it as pieces. It is opened anew for every repetition,
            so that a message of any length can be sent again after an error.
        user: local key of the user it is sent for, or None.
        user_auth: gives the user's authentication data when it is needed.
        encrypted: the payload must be encrypted.
        integrity: the payload must be integrity-protected.
        non_replayable: the receiver must accept the message once at most.
        request_tokens: obtain a master token (and a user ID token) with this message if there is none.
        service_tokens: changes the service tokens this message carries.

    Raises:
        UsageError: the payload is neither bytes nor a function.
    """

    payload: Payload
    user: str | None = None
    user_auth: UserAuthSource | None = None
    encrypted: bool = True
    integrity: bool = True
    non_replayable: bool = False
    request_tokens: bool = False
    service_tokens: ServiceTokenUpdate | None = None

    def __post_init__(self) -> None:
        """Refuse at once what could only fail in the middle of sending."""
        payload: object = self.payload
        if not isinstance(payload, bytes) and not callable(payload):
            kind = type(payload).__name__
            raise UsageError(f"a payload is bytes, or a function that opens it as pieces for each attempt; no {kind}")


@dataclass(frozen=True, slots=True)
class Response:
    """The reply to a message.

    Attributes:
        payload: the application data; empty where it was delivered in pieces.
        header: the reply's header.
        pairs: request and response pairs it took.
        requests: the header of each request sent, in order.
    """

    payload: bytes
    header: MessageHeader
    pairs: int
    requests: tuple[MessageHeader, ...]


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of a message for which no reply is read.

    Attributes:
        requests: the header of each request sent, in order; the last one carried the message.
    """

    requests: tuple[MessageHeader, ...]


@dataclass(frozen=True, slots=True)
class Send:
    """Deliver ``body`` to the server and send the whole answer into the conversation."""

    body: bytes


@dataclass(frozen=True, slots=True)
class Transmit:
    """Deliver the pieces to the server as one request; its answer is asked for by ``Receive`` steps."""

    pieces: Iterator[bytes]


@dataclass(frozen=True, slots=True)
class Receive:
    """Send the next bytes of the answer into the conversation, or empty bytes at its end."""


@dataclass(frozen=True, slots=True)
class Deliver:
    """Hand a piece of the reply to the application.

    Attributes:
        header: the reply's header.
        data: the piece.
    """

    header: MessageHeader
    data: bytes


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait until ``ticket`` is resolved, then go on; throw a timeout into the conversation when it takes too long."""

    ticket: Ticket


Conversation = Generator[Send | Wait, bytes | None, Response]
"""Whole bodies in both directions."""

SendConversation = Generator[Send | Wait, bytes | None, Sent]
"""As ``Conversation``; the answer to the last ``Send`` is not looked at."""

StreamConversation = Generator[Transmit | Receive | Deliver | Wait, bytes | None, Response]
"""Bodies in pieces in both directions; memory stays bounded for messages of any length."""


SendStreamConversation = Generator[Transmit | Receive | Wait, bytes | None, Sent]
"""As ``StreamConversation``; after the last ``Transmit`` nothing is received."""


class ErrorResponseError(HsmMslError):
    """The server answered with an error that sending again cannot cure.

    Attributes:
        error: the error as received.
    """

    def __init__(self, error: ErrorHeader) -> None:
        super().__init__(str(error))
        self.error = error
