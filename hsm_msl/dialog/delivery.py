"""Hands messages to the application, in order, each once (dialog section 7)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hsm_msl.dialog.context import Context
from hsm_msl.dialog.errors import OpeningKeyGoneError, PacketError, RewrapNeededError
from hsm_msl.dialog.inbound import InboundKeys
from hsm_msl.dialog.lifecycle import Lifecycle
from hsm_msl.dialog.names import FINAL, KEPT_DIGESTS, PLAIN, Kind, Reason, State
from hsm_msl.dialog.packet import Ext, parse_core, parse_error
from hsm_msl.dialog.session import Message
from hsm_msl.ports.dialog_records import DialogTransaction, EndpointRecord, InboxRow

_TRIM_EVERY = 256


class Delivery:
    """The inbox as the application sees it.

    Args:
        context: the engine's parts.
        inbound: the peer's session keys; bodies rest encrypted until they are taken.
        lifecycle: loads dialogs.
    """

    def __init__(self, context: Context, inbound: InboundKeys, lifecycle: Lifecycle) -> None:
        self._context = context
        self._inbound = inbound
        self._lifecycle = lifecycle

    def look(self, tx: DialogTransaction, dialog: bytes, side: int, limit: int) -> list[Message]:
        """Return the next messages of one side and leave them in the inbox.

        Arguments and errors as ``take``.
        """
        state = self._lifecycle.load(tx, dialog, side)
        return self._next(tx, state, limit, self._lifecycle.now(state))[0]

    def take(self, tx: DialogTransaction, dialog: bytes, side: int, limit: int) -> list[Message]:
        """Take the next messages of one side out of the inbox, in the caller's transaction.

        When that transaction does not commit, the same messages come again.

        Args:
            tx: the transaction, possibly the application's own.
            dialog: id.
            side: which side of it.
            limit: most messages.

        Raises DialogNotFoundError, BackendError when a key gave no result, StoreError; OpeningKeyGoneError,
        PacketError, KeysNeededError or KeyUnusableError when what rests in the store cannot be opened any more.
        """
        state = self._lifecycle.load(tx, dialog, side)
        now = self._lifecycle.now(state)
        taken, generation = self._next(tx, state, limit, now)
        if not taken:
            return taken
        first, last = state.taken + 1, max(message.seq for message in taken)
        if last >= first:
            tx.empty(dialog, side, first, last)
            state.taken = last
            if first // _TRIM_EVERY != last // _TRIM_EVERY:
                tx.trim(dialog, side, last - KEPT_DIGESTS)
            if generation - 1 > state.in_floor:
                state.in_floor = generation - 1
                tx.drop_inbound_dsks(dialog, side, generation)
        if state.ack_on_commit and state.state not in FINAL:
            state.ack_due = 1
            state.attention_at = min(state.attention_at, now)
        if taken[-1].kind is Kind.ABORT:
            state.told = 1
            tx.drop_inbound_dsks(dialog, side, state.in_generation + 1)
        tx.save_endpoint(state)
        return taken

    def _next(
        self, tx: DialogTransaction, state: EndpointRecord, limit: int, now: float
    ) -> tuple[list[Message], int]:
        """Return the next messages and the generation of the last one."""
        found: list[Message] = []
        generation = 0
        first, last = state.taken + 1, min(state.taken + limit, state.next_in - 1)
        if first <= last:
            for rows in _by_message(tx.messages(state.dialog, state.side, first, last)):
                message, generation = self._open(tx, rows, now)
                found.append(message)
        if len(found) < limit and state.state == State.FAILED and not state.told and last + 1 >= state.next_in:
            found.append(Message(state.dialog, state.side, 0, Kind.ABORT, reason=Reason(state.reason)))
        return found, generation

    def _open(self, tx: DialogTransaction, rows: Sequence[InboxRow], now: float) -> tuple[Message, int]:
        core = parse_core(rows[0].core)
        try:
            session = self._inbound.find(tx, core, Ext(), now, received=True)
        except RewrapNeededError as cause:
            raise OpeningKeyGoneError(rows[0].seq) from cause
        plaintext = b"".join(session.keys.open(row.seq, row.frag, row.body, row.core) for row in rows)
        if plaintext[:1] != PLAIN:
            raise PacketError("message in an encoding that is not known here")
        body, error, kind = plaintext[1:], None, Kind(core.kind)
        if kind is Kind.END_WITH_ERROR:
            error, body = parse_error(body), b""
        side = 1 - core.direction
        message = Message(core.dialog, side, core.seq, kind, core.message_type or "", body, error)
        return message, core.generation


def _by_message(rows: Sequence[InboxRow]) -> Iterator[Sequence[InboxRow]]:
    start = 0
    while start < len(rows):
        end = start + rows[start].count
        yield rows[start:end]
        start = end
