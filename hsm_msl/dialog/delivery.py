"""Hands messages to the application, in order, each once (dialog section 7)."""

from __future__ import annotations

from hsm_msl.dialog.context import Context
from hsm_msl.dialog.encoding import decode
from hsm_msl.dialog.errors import PacketError
from hsm_msl.dialog.inbound import InboundKeys
from hsm_msl.dialog.lifecycle import Lifecycle
from hsm_msl.dialog.names import KEPT_DIGESTS, Kind, Reason, State
from hsm_msl.dialog.packet import Ext, parse_core
from hsm_msl.dialog.sending import PLAIN
from hsm_msl.dialog.session import Message
from hsm_msl.dialog_records import DialogTransaction

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

    def take(self, tx: DialogTransaction, dialog: bytes, side: int, limit: int) -> list[Message]:
        """Take the next messages of one side out of the inbox, in the caller's transaction.

        When that transaction does not commit, the same messages come again.

        Args:
            tx: the transaction, possibly the application's own.
            dialog: id.
            side: which side of it.
            limit: most messages.

        Raises DialogNotFoundError, BackendError when a key gave no result, StoreError; PacketError, KeysNeededError
        or KeyUnusableError when what rests in the store cannot be opened any more.
        """
        state = self._lifecycle.load(tx, dialog, side)
        now = self._lifecycle.now(state)
        taken: list[Message] = []
        generation = 0
        while len(taken) < limit and state.taken + 1 < state.next_in:
            seq = state.taken + 1
            message, generation = self._open(tx, dialog, side, seq, now)
            taken.append(message)
            tx.empty(dialog, side, seq)
            state.taken = seq
            if seq % _TRIM_EVERY == 0:
                tx.trim(dialog, side, seq - KEPT_DIGESTS)
        if taken and generation - 1 > state.in_floor:
            state.in_floor = generation - 1
            tx.drop_inbound_dsks(dialog, side, generation)
        if len(taken) < limit and state.state == State.FAILED and not state.told and state.taken + 1 >= state.next_in:
            state.told = 1
            tx.drop_inbound_dsks(dialog, side, state.in_generation + 1)
            taken.append(Message(dialog, side, 0, Kind.ABORT, reason=Reason(state.reason)))
        if taken:
            tx.save_endpoint(state)
        return taken

    def _open(self, tx: DialogTransaction, dialog: bytes, side: int, seq: int, now: float) -> tuple[Message, int]:
        parts: list[bytes] = []
        kind, message_type, generation = Kind.APP, "", 0
        for row in tx.message(dialog, side, seq):
            core = parse_core(row.core)
            session = self._inbound.find(tx, core, Ext(), now)
            parts.append(session.keys.open(row.seq, row.frag, row.body, row.core))
            kind, message_type = Kind(core.kind), core.message_type or ""
            generation = core.generation
        plaintext = b"".join(parts)
        if plaintext[:1] != PLAIN:
            raise PacketError("message in an encoding that is not known here")
        body = plaintext[1:]
        error = None
        if kind is Kind.END_WITH_ERROR:
            item = decode(body)
            if not isinstance(item, list) or len(item) != 2:
                raise PacketError("malformed error")
            error, body = (int(item[0]), str(item[1])), b""
        return Message(dialog, side, seq, kind, message_type, body, error), generation
