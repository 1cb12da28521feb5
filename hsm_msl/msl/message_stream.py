"""A stream that carries several messages back to back, as between peers or from a server that pushes."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from hsm_msl.msl.context import MslContext
from hsm_msl.msl.conversation import Receive
from hsm_msl.msl.keyx.base import PendingKeyRequest
from hsm_msl.msl.message.decode import SessionLookup
from hsm_msl.msl.message.error_header import ErrorHeader
from hsm_msl.msl.message.header import MessageHeader
from hsm_msl.msl.message.reader import MessageReader
from hsm_msl.wire.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Received:
    """A message of the other side's.

    Attributes:
        header: its header; ``identity`` and ``user`` say whom it speaks for.
        payload: the application data.
    """

    header: MessageHeader
    payload: bytes = b""


class _Objects(Tokenizer):
    """A tokenizer that can leave out chunks nobody waits for.

    A handshake's answer carries no data. Some peers send no chunk then, others an empty one, so that it cannot be
    waited for and has to be left out when the next header is looked for.
    """

    __slots__ = ("skipping",)

    def __init__(self) -> None:
        super().__init__()
        self.skipping = False

    def next_object(self) -> dict[str, Any] | None:
        value = super().next_object()
        while self.skipping and value is not None and "payload" in value:
            value = super().next_object()
        if value is not None:
            self.skipping = False
        return value


class MessageStream:
    """What arrives on a connection, message by message (msl-engine section 12).

    Args:
        context: this entity.
        sessions: contexts of master tokens issued by others; an issuing entity gives none.
    """

    __slots__ = ("_context", "_ended", "_objects", "_sessions")

    def __init__(self, context: MslContext, sessions: SessionLookup | None = None) -> None:
        self._context = context
        self._sessions = sessions
        self._objects = _Objects()
        self._ended = False

    def reader(self, pending: Sequence[PendingKeyRequest] = ()) -> MessageReader:
        """Return what reads the next message.

        Args:
            pending: our outstanding key requests.
        """
        return MessageReader(self._context, self._sessions, pending, self._objects)

    def at_end(self) -> Generator[Receive, bytes | None, bool]:
        """Tell whether the other side has closed the stream between two messages."""
        while not self._objects.pending and not self._ended:
            yield from self._more()
        return self._ended and not self._objects.pending

    def header(self, reader: MessageReader) -> Generator[Receive, bytes | None, MessageHeader | ErrorHeader]:
        """Read the header. Raises as ``MessageReader.header``."""
        while True:
            if self._ended:
                reader.end_input()
            header = reader.header()
            if header is not None:
                return header
            yield from self._more()

    def payload(self, reader: MessageReader) -> Generator[Receive, bytes | None, bytes]:
        """Read the payload to its end. Raises as ``MessageReader.chunk``."""
        parts = []
        while not reader.finished:
            if self._ended:
                reader.end_input()
            data = reader.chunk()
            if data is not None:
                parts.append(data)
            elif not reader.finished:
                yield from self._more()
        return b"".join(parts)

    def skip_payload(self) -> None:
        """Leave the chunks of the message read last where they are, if there are any."""
        self._objects.skipping = True

    def _more(self) -> Generator[Receive, bytes | None, None]:
        data = yield Receive()
        if data:
            self._objects.feed(data)
        else:
            self._ended = True
