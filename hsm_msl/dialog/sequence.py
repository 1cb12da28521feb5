"""Which received fragments complete which message, in order (dialog section 7)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum

from hsm_msl.dialog.errors import PacketError
from hsm_msl.dialog.names import MAX_RANGES, WINDOW_BYTES, WINDOW_MESSAGES
from hsm_msl.dialog.packet import Ack
from hsm_msl.ports.dialog_records import EndpointRecord, ParkedSlot


def acknowledgement(state: EndpointRecord, ranges: tuple[tuple[int, int], ...]) -> Ack | None:
    """Return what the peer may be told has arrived for good; None before its first message.

    With ``ack_on_commit`` that is what the application has taken in a committed transaction: the peer keeps the rest,
    so that neither a crash nor a restored database here loses it.

    Args:
        state: this side.
        ranges: what arrived beyond the next expected message.
    """
    if not state.in_generation:
        return None
    if state.ack_on_commit:
        return Ack(max(state.taken + 1, state.ack_least))
    return Ack(state.next_in, ranges)


class Placed(Enum):
    """What became of an arriving fragment."""

    NEW = "new"
    DUPLICATE = "duplicate"
    BEYOND = "beyond the window"


class ReceiveWindow:
    """The fragments beyond the next expected message, of one direction, within one transaction.

    Args:
        state: this side; ``next_in`` and the parked counters advance.
        load: reads the parked fragments, called only when there are some.
    """

    def __init__(self, state: EndpointRecord, load: Callable[[], Iterable[ParkedSlot]]) -> None:
        self._state = state
        self._load = load
        self._slots: dict[int, dict[int, ParkedSlot]] | None = None

    def _parked(self) -> dict[int, dict[int, ParkedSlot]]:
        if self._slots is None:
            self._slots = {}
            if self._state.parked:
                for slot in self._load():
                    self._slots.setdefault(slot.seq, {})[slot.frag] = slot
        return self._slots

    def place(self, slot: ParkedSlot) -> Placed:
        """Park a fragment that is not below ``next_in``.

        Raises PacketError when the same fragment arrived with other contents, or the message changed its shape: with
        authentic packets that means nonce reuse, and the dialog must fail.
        """
        state = self._state
        if slot.seq >= state.next_in + WINDOW_MESSAGES:
            return Placed.BEYOND
        slots = self._parked().setdefault(slot.seq, {})
        earlier = slots.get(slot.frag)
        if earlier is not None:
            if earlier.digest != slot.digest:
                raise PacketError("same sequence number, other contents")
            return Placed.DUPLICATE
        if state.parked_bytes + slot.size > WINDOW_BYTES and not (
            slot.seq == state.next_in and slot.frag == len(slots)
        ):
            return Placed.BEYOND
        for other in slots.values():
            if (other.count, other.kind, other.generation) != (slot.count, slot.kind, slot.generation):
                raise PacketError("fragments of one message do not belong together")
        slots[slot.frag] = slot
        state.parked += 1
        state.parked_bytes += slot.size
        state.in_max_seq = max(state.in_max_seq, slot.seq)
        return Placed.NEW

    def advance(self) -> list[ParkedSlot]:
        """Move ``next_in`` over every message that is complete now and return the first fragment of each, in order.

        Raises PacketError when a message comes under an older generation than the one before it, or after the end.
        """
        state, slots = self._state, self._parked()
        done: list[ParkedSlot] = []
        while True:
            message = slots.get(state.next_in)
            if not message:
                return done
            first = next(iter(message.values()))
            if len(message) < first.count:
                return done
            if first.generation < state.in_delivered:
                raise PacketError("generation of an older key in later message")
            if state.end_in:
                raise PacketError("message after the end of the dialog")
            del slots[state.next_in]
            state.parked -= len(message)
            state.parked_bytes -= sum(slot.size for slot in message.values())
            state.in_delivered = first.generation
            state.next_in += 1
            done.append(first)

    def ranges(self) -> tuple[tuple[int, int], ...]:
        """Return the complete messages beyond ``next_in`` as inclusive ranges, at most eight."""
        if not self._state.parked:
            return ()
        found: list[tuple[int, int]] = []
        for seq in sorted(self._parked()):
            message = self._parked()[seq]
            if not message or len(message) < next(iter(message.values())).count:
                continue
            if found and found[-1][1] == seq - 1:
                found[-1] = (found[-1][0], seq)
            elif len(found) == MAX_RANGES:
                break
            else:
                found.append((seq, seq))
        return tuple(found)

    def forget(self, from_seq: int) -> None:
        """Drop every parked fragment from a sequence number on."""
        slots = self._parked()
        for seq in [seq for seq in slots if seq >= from_seq]:
            message = slots.pop(seq)
            self._state.parked -= len(message)
            self._state.parked_bytes -= sum(slot.size for slot in message.values())
