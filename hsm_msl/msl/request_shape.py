"""What a request has to be to carry its message: a handshake or not, asking for keys or not (msl-engine 4.3)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hsm_msl.msl.conversation import KeyRequestSource, Message, Payload
from hsm_msl.msl.keyx.base import PendingKeyRequest
from hsm_msl.msl.token_choice import Choice, Plan, TokenChooser
from hsm_msl.msl.tokens.user_id_token import UserIdToken
from hsm_msl.msl.userauth.base import UserAuthData


@dataclass(frozen=True, slots=True)
class RequestShape:
    """What was decided about a request.

    Attributes:
        encrypts: its keys encrypt.
        protects_integrity: its keys protect integrity.
        handshake: it only asks for keys, and carries neither data nor user authentication data.
        user_auth: user authentication data it carries.
        pending: key requests it offers, with their private halves.
    """

    encrypts: bool
    protects_integrity: bool
    handshake: bool
    user_auth: UserAuthData | None
    pending: tuple[PendingKeyRequest, ...]


def shape_of(
    message: Message,
    plan: Plan,
    choice: Choice,
    user_id_token: UserIdToken | None,
    *,
    chooser: TokenChooser,
    key_requests: KeyRequestSource,
    ask_first: bool,
) -> RequestShape:
    """Decide what a request is.

    Args:
        message: what it is for.
        plan: how it is made.
        choice: the tokens it may use.
        user_id_token: the one it carries.
        chooser: knows when tokens may be renewed.
        key_requests: makes key requests.
        ask_first: make it a handshake, whatever it could carry.

    Raises:
        BackendError: no key request could be made.
    """
    token = choice.master_token
    encrypts = token is not None or plan.local.encrypts
    protects = token is not None or plan.local.protects_integrity
    user_auth: UserAuthData | None = None
    if message.user is not None and message.user_auth is not None:
        user_auth = message.user_auth(None, user_id_token is None)
    delayed = user_auth is not None and not (encrypts and protects)
    handshake = (
        ask_first
        or delayed
        or (message.encrypted and not encrypts)
        or (message.integrity and not protects)
        or (message.non_replayable and token is None)
    )
    # An error that asks for new keys is believed although the token looks fresh: this clock may be wrong.
    asks = choice.owned and (
        token is None or message.non_replayable or plan.asks_for_keys(token) or chooser.renewable(token)
    )
    return RequestShape(
        encrypts, protects, handshake, None if delayed else user_auth, tuple(key_requests()) if asks else ()
    )


class PayloadSource:
    """Opens a message's payload for each attempt, and tells whether there was anything in it.

    Args:
        payload: bytes, or the function that opens it.

    Attributes:
        empty: whether nothing came the last time it was opened.
    """

    def __init__(self, payload: Payload) -> None:
        self._payload = payload
        self.empty = True

    def pieces(self) -> Iterator[bytes]:
        """Yield the payload, from its beginning."""
        self.empty = True
        opened = self._payload if isinstance(self._payload, bytes) else self._payload()
        # A function that gives all at once is taken at its word, rather than for one that gives numbers.
        for piece in (opened,) if isinstance(opened, bytes) else opened:
            if piece:
                self.empty = False
            yield piece
