"""What a server did, as log lines: codes and names for entities, never contents, keys or credentials.

Identities are personal data where they stand for a device or its owner. So a line names an entity by a pseudonym,
unless the configuration says otherwise: under one key, the same entity has the same pseudonym on every server, and
whoever has the key can find an entity's lines; nobody else can turn a pseudonym back by trying identities.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Callable, Sequence
from typing import Final, Literal

from hsm_msl.errors import BackendError, HsmMslError, MslError, StoreError
from hsm_msl.msl.message.header import MessageHeader
from hsm_msl.msl.server_exchange import ServerEvents
from hsm_msl.service.watch.request_trace import current

_LOG = logging.getLogger("hsm_msl.messages")
_LONGEST_NAME: Final = 80
_PSEUDONYM_BYTES: Final = 8

Naming = Literal["pseudonym", "plain", "none"]


def pseudonyms(key: bytes) -> Callable[[str], str]:
    """Return the function from an identity to its pseudonym, 16 hexadecimal digits of HMAC-SHA-256.

    Args:
        key: the same on all servers whose lines are to be compared.
    """

    def name(identity: str) -> str:
        tag = hmac.digest(key, identity.encode("utf-8", "surrogatepass"), hashlib.sha256)
        return tag[:_PSEUDONYM_BYTES].hex()

    return name


class EventLog:
    """Notes on the request in work what became of it; without one, writes a line for each refusal and failure.

    Args:
        naming: how entities are named.
        key: for pseudonyms.
    """

    def __init__(self, naming: Naming = "plain", key: bytes = b"") -> None:
        self._plain = naming == "plain"
        names: dict[Naming, Callable[[str], str | None]] = {
            "pseudonym": pseudonyms(key),
            "plain": _bounded,
            "none": lambda identity: None,  # noqa: ARG005 - nobody is named
        }
        self._name = names[naming]

    def answered(self, request: MessageHeader, response: MessageHeader) -> None:
        """Note an answer."""
        trace = current()
        if trace is not None:
            trace.fields.update(outcome="answered", **self._who(request))
            if response.key_response is not None:
                trace.fields["keys"] = response.key_response.scheme

    def refused(self, error: MslError, request: MessageHeader | None) -> None:
        """Note a refusal. Its details may quote the peer, so they are for those who may see identities."""
        fields = {"code": error.code.name, "response": error.code.response.name, **self._who(request)}
        if self._plain and error.detail:
            fields["detail"] = _bounded(error.detail)
        trace = current()
        if trace is None:
            _LOG.info("refused", extra={"fields": fields})
        else:
            trace.fields.update(outcome="refused", **fields)

    def failed(self, error: Exception, request: MessageHeader | None) -> None:
        """Log an outage as one line, a defect with its trace."""
        expected = isinstance(error, HsmMslError)
        outcome = "outage" if isinstance(error, BackendError | StoreError) else "defect"
        who = self._who(request)
        trace = current()
        if trace is not None:
            trace.fields.update(outcome=outcome, error=type(error).__name__, **who)
        text = f"{type(error).__name__}: {error}"
        _LOG.error("no answer: %s", text, exc_info=not expected, extra={"fields": who})

    def _who(self, header: MessageHeader | None) -> dict[str, object]:
        if header is None:
            return {}
        scheme = "master token" if header.entity_auth is None else header.entity_auth.scheme
        who: dict[str, object] = {"by": scheme, "user": header.user is not None}
        name = None if header.identity is None else self._name(header.identity)
        return who if name is None else {"entity": name, **who}


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


def _bounded(text: str) -> str:
    # Identities and quotes are chosen by strangers: their repr cannot break a line, and its length is bounded.
    return repr(text)[:_LONGEST_NAME]
