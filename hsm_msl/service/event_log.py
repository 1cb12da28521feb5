"""What a server did, as log lines: codes, identities and message IDs, never contents, keys or credentials."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from hsm_msl.errors import HsmMslError, MslError
from hsm_msl.msl.message.header import MessageHeader
from hsm_msl.msl.server_exchange import ServerEvents

_LOG = logging.getLogger("hsm_msl.messages")
_NOBODY = "an entity not known yet"
_LONGEST_NAME = 80


class EventLog:
    """Writes one line for each message that was refused or failed; answered ones only at level DEBUG."""

    def answered(self, request: MessageHeader, response: MessageHeader) -> None:
        """Log an answer."""
        if _LOG.isEnabledFor(logging.DEBUG):
            _LOG.debug("answered %s, keys exchanged: %s", _who(request), response.key_response is not None)

    def refused(self, error: MslError, request: MessageHeader | None) -> None:
        """Log a refusal."""
        _LOG.info("refused %s: %s", _who(request), error)

    def failed(self, error: Exception, request: MessageHeader | None) -> None:
        """Log an outage as one line, a defect with its trace."""
        expected = isinstance(error, HsmMslError)
        _LOG.error("could not answer %s: %s: %s", _who(request), type(error).__name__, error, exc_info=not expected)


class Listeners:
    """Tells several what a server did (``ServerEvents``).

    Args:
        listeners: each hears of everything.
    """

    def __init__(self, listeners: Sequence[ServerEvents]) -> None:
        self._listeners = tuple(listeners)

    def answered(self, request: MessageHeader, response: MessageHeader) -> None:
        """Tell of an answer."""
        for listener in self._listeners:
            listener.answered(request, response)

    def refused(self, error: MslError, request: MessageHeader | None) -> None:
        """Tell of a refusal."""
        for listener in self._listeners:
            listener.refused(error, request)

    def failed(self, error: Exception, request: MessageHeader | None) -> None:
        """Tell of an outage or a defect."""
        for listener in self._listeners:
            listener.failed(error, request)


def _who(header: MessageHeader | None) -> str:
    if header is None:
        return _NOBODY
    # Identities are chosen by strangers: their repr cannot break a line, and its length is bounded.
    name = repr(header.identity or "")
    return f"{name[:_LONGEST_NAME]} message {header.message_id}"
