"""One session key in use, and what the engine reports while it works."""

from __future__ import annotations

from dataclasses import dataclass, field

from hsm_msl.dialog.headers import Certificates
from hsm_msl.dialog.names import ID_SIZE, Cause, Kind, Reason
from hsm_msl.dialog.sessionkeys import PacketKeys


@dataclass(frozen=True, slots=True)
class SessionKey:
    """The keys of one generation with the headers that carry it.

    ``kek_id`` is the key exchange key the session key was made for; ``rewrap`` names a later one, if any, and
    ``pair_header`` and ``kek_header`` are those of the KEK it travels under now. Digests are SHA-256.
    """

    keys: PacketKeys
    suite: int
    dialog: bytes
    direction: int
    generation: int
    dsk_id: bytes
    sender: str
    first_seq: int
    cause: Cause
    kek_id: bytes
    signing_cert: bytes
    presented: Certificates
    header: bytes
    rewrap: tuple[bytes, bytes] | None
    pair_header: bytes
    kek_header: bytes
    kek_not_after: int


@dataclass(frozen=True, slots=True)
class Event:
    """Something an operator, an audit trail or a metric wants to know; never holds contents or keys."""

    name: str
    dialog: bytes = bytes(ID_SIZE)
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A sealed packet for a remote service."""

    remote: str
    packet: bytes


@dataclass(slots=True)
class Outcome:
    """What came of a call: packets to send now that the transaction is committed, and events.

    ``more`` says that a pass came to its limit, and the next one has something to do at once.
    """

    replies: list[bytes] = field(default_factory=list)
    outgoing: list[Outgoing] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    delivered: int = 0
    more: bool = False

    def note(self, name: str, dialog: bytes = bytes(ID_SIZE), detail: str = "") -> None:
        """Add an event."""
        self.events.append(Event(name, dialog, detail))


@dataclass(frozen=True, slots=True)
class Message:
    """What the application takes: a message, the peer's end, its error, or the failure of the dialog.

    Args:
        dialog: id of the dialog.
        side: which side this is.
        seq: number of the message in its direction, with ``dialog`` a stable idempotency key; 0 for a failure.
        kind: APP, END, END_WITH_ERROR, or ABORT for a failed dialog.
        message_type: the sender's name for what this is.
        body: the bytes sent.
        error: code and text of the peer's error.
        reason: why the dialog failed.
    """

    dialog: bytes
    side: int
    seq: int
    kind: Kind
    message_type: str = ""
    body: bytes = field(default=b"", repr=False)
    error: tuple[int, str] | None = None
    reason: Reason | None = None
