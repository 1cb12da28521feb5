"""A stream that carries several messages back to back, as between peers or from a server that pushes."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from hsm_msl.errors import MslError
from hsm_msl.msl.context import MslContext
from hsm_msl.msl.conversation import Deliver, Receive
from hsm_msl.msl.keyx.base import PendingKeyRequest
from hsm_msl.msl.message.decode import SessionLookup
from hsm_msl.msl.message.error_header import ErrorHeader
from hsm_msl.msl.message.header import MessageHeader
from hsm_msl.msl.message.reader import MessageReader, check_whole
from hsm_msl.wire.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Received:
    """A message of the other side's.

    Attributes:
        header: its header; ``identity`` and ``user`` say whom it speaks for.
        payload: the application data; empty where it is read or delivered in pieces.
    """

    header: MessageHeader
    payload: bytes = b""


class _Objects(Tokenizer):
    """A tokenizer that can leave out the chunks nobody reads, and look ahead to the next header.

    A handshake's answer carries no data. Some peers send no chunk then, others an empty one, so that it cannot be
    waited for and has to be left out when the next header is looked for.
    """

    __slots__ = ("_ahead", "skipping")

    def __init__(self) -> None:
        super().__init__()
        self.skipping = False
        self._ahead: dict[str, Any] | None = None

    @property
    def failed(self) -> bool:
        """Whether nothing more can be read, because no object boundary is known any more."""
        return self._failure is not None

    def next_object(self) -> dict[str, Any] | None:
        value, self._ahead = self._ahead, None
        if value is None:
            value = super().next_object()
        while self.skipping and value is not None and "payload" in value:
            value = super().next_object()
        if value is not None:
            self.skipping = False
        return value

    def look_ahead(self) -> bool:
        """Tell whether the next object has arrived. Raises as ``next_object``."""
        self._ahead = self.next_object()
        return self._ahead is not None


class MessageStream:
    """What arrives on a connection, message by message (msl-engine section 12).

    A message may be left before its end: what remains of it is passed over on the way to the next header.

    Args:
        context: this entity.
        sessions: contexts of master tokens issued by others; an issuing entity gives none.
    """

    __slots__ = ("_context", "_ended", "_objects", "_reading", "_received", "_sessions")

    def __init__(self, context: MslContext, sessions: SessionLookup | None = None) -> None:
        self._context = context
        self._sessions = sessions
        self._objects = _Objects()
        self._ended = False
        self._reading: MessageReader | None = None
        self._received = 0

    @property
    def lost(self) -> bool:
        """Whether no further message can be read."""
        return self._ended or self._objects.failed

    @property
    def received(self) -> int:
        """Bytes received since the last header was looked for."""
        return self._received

    def reader(self, pending: Sequence[PendingKeyRequest] = ()) -> MessageReader:
        """Return what reads the next message.

        Args:
            pending: our outstanding key requests.
        """
        return MessageReader(self._context, self._sessions, pending, self._objects)

    def at_end(self) -> Generator[Receive, bytes | None, bool]:
        """Tell whether the other side has closed the stream between two messages."""
        self._leave()
        try:
            while not self._objects.look_ahead() and not self._ended:
                yield from self._more()
            return self._ended and not (self._objects.look_ahead() or self._objects.pending)
        except MslError:
            # Whoever reads the header gets to hear of it.
            return False

    def header(self, reader: MessageReader) -> Generator[Receive, bytes | None, MessageHeader | ErrorHeader]:
        """Read the header. Raises as ``MessageReader.header``."""
        self._leave()
        self._reading = reader
        self._received = 0
        while True:
            if self._ended:
                reader.end_input()
            header = reader.header()
            if header is not None:
                return header
            yield from self._more()

    def reads(self, reader: MessageReader) -> bool:
        """Tell whether this is the message being read, rather than one that was left."""
        return self._reading is reader

    def piece(self, reader: MessageReader) -> Generator[Receive, bytes | None, bytes]:
        """Read on in the payload; empty bytes at its end. Raises as ``MessageReader.chunk``."""
        while not reader.finished:
            if self._ended:
                reader.end_input()
            data = reader.chunk()
            if data:
                return data
            if data is None and not reader.finished:
                yield from self._more()
        return b""

    def payload(self, reader: MessageReader) -> Generator[Receive, bytes | None, bytes]:
        """Read the payload to its end. Raises as ``MessageReader.chunk`` and ``check_whole``."""
        whole = Whole(self)
        while piece := (yield from self.piece(reader)):
            whole.take(piece)
        return whole.data

    def deliver(
        self, reader: MessageReader, header: MessageHeader
    ) -> Generator[Receive | Deliver, bytes | None, None]:
        """Hand over the payload piece by piece. Raises as ``MessageReader.chunk``."""
        while piece := (yield from self.piece(reader)):
            yield Deliver(header, piece)

    def _leave(self) -> None:
        if self._reading is not None:
            self._objects.skipping = not self._reading.finished
            self._reading = None

    def _more(self) -> Generator[Receive, bytes | None, None]:
        data = yield Receive()
        if data:
            self._received += len(data)
            self._objects.feed(data)
        else:
            self._ended = True


class Whole:
    """Collects a payload that is kept in memory as a whole.

    Args:
        stream: where it comes from.
    """

    __slots__ = ("_parts", "_size", "_stream")

    def __init__(self, stream: MessageStream) -> None:
        self._stream = stream
        self._parts: list[bytes] = []
        self._size = 0

    @property
    def data(self) -> bytes:
        """What was collected."""
        return b"".join(self._parts)

    def take(self, piece: bytes) -> None:
        """Add a piece. Raises as ``check_whole``."""
        self._size += len(piece)
        check_whole(self._size, self._stream.received)
        self._parts.append(piece)
