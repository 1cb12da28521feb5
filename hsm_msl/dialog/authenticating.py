"""Takes a received packet to the point where its sender is certain; no state changes (section 5, steps 1-6)."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from hsm_msl.dialog.context import Context
from hsm_msl.dialog.errors import PacketError, StalePacketError
from hsm_msl.dialog.inbound import InboundKeys
from hsm_msl.dialog.names import CLOCK_SKEW, FINAL, MAX_LIFETIME, SEQUENCED, Kind
from hsm_msl.dialog.outbound import OutboundKeys
from hsm_msl.dialog.packet import Packet, readable
from hsm_msl.dialog.session import SessionKey
from hsm_msl.ports.dialog_records import DialogTransaction, EndpointRecord


@dataclass(frozen=True, slots=True)
class Authentic:
    """A packet and what is known about it.

    Args:
        packet: the packet.
        session: the peer's session key; None for what was authenticated in another way.
        known: whether it is byte for byte a message received before, so that only an acknowledgement is due.
        hint: whether nothing authenticates it.
        unreadable: whether its contents are in no form that is known here.
    """

    packet: Packet
    session: SessionKey | None = None
    known: bool = False
    hint: bool = False
    unreadable: bool = False


class BuriedError(PacketError):
    """The packet belongs to a dialog that has closed or failed."""


class Authenticator:
    """Checks packets.

    Args:
        context: the engine's parts.
        inbound: the peer's session keys.
        outbound: own session keys, for system packets of a peer that has none yet.
    """

    def __init__(self, context: Context, inbound: InboundKeys, outbound: OutboundKeys) -> None:
        self._context = context
        self._inbound = inbound
        self._outbound = outbound

    def check(self, packet: Packet, now: float) -> Authentic:
        """Return the packet with what vouches for it.

        Args:
            packet: as parsed.
            now: seconds since the Unix epoch.

        Raises PacketError when it is not authentic, not for this service or past its dates; BuriedError and
        StalePacketError for packets out of their time; KeysNeededError, PeerRejectedError, RewrapNeededError,
        KeyUnusableError as the headers deserve; BackendError and StoreError when there was no answer.
        """
        core = packet.core
        if core.receiver is not None and core.receiver != self._context.local.name:
            raise PacketError("packet is for another service")
        if not now - CLOCK_SKEW <= core.expiry <= now + MAX_LIFETIME + CLOCK_SKEW:
            raise PacketError("dialog is out of its dates")
        if core.kind in SEQUENCED and core.seq == 1 and None in (core.sender, core.receiver):
            raise PacketError("the first packet of a direction names both services")
        if packet.bare:
            if core.kind != Kind.NEED_KEYS:
                raise PacketError("packet is not authentic")
            return Authentic(packet, hint=True)
        if core.generation == 0:
            return self._system(packet, now)
        session = self._inbound.cached(core, now)
        fresh = session is None
        if session is None:
            with self._context.store.reading() as tx:
                known = self._known(tx, packet)
                if known is not None:
                    return known
                session = self._inbound.find(tx, core, packet.ext, now)
        else:
            self._context.counted["session_key_hits"] += 1
        if core.sender is not None and core.sender != session.sender:
            raise PacketError("sender is not the one who signed")
        session.keys.check(packet.covered(), packet.tag)
        unreadable = False
        if core.kind in SEQUENCED:
            plaintext = session.keys.open(core.seq, core.frag, packet.body, packet.core_bytes)
            unreadable = core.frag == 0 and not readable(core.kind, plaintext)
        if fresh and session.rewrap is None:
            self._inbound.keep(session, now)
        return Authentic(packet, session, unreadable=unreadable)

    def _system(self, packet: Packet, now: float) -> Authentic:
        core = packet.core
        with self._context.store.reading() as tx:
            state = tx.endpoint(core.dialog, 1 - core.direction, lock=False)
            if state is None:
                raise PacketError("no such dialog here")
            if state.state in FINAL:
                raise BuriedError("the dialog is over")
            own = self._outbound.by_id(tx, state, core.dsk_id, now)
        if own is None:
            raise StalePacketError("tagged with a key that is gone")
        own.keys.check_system(packet.covered(), packet.tag)
        return Authentic(packet)

    def _known(self, tx: DialogTransaction, packet: Packet) -> Authentic | None:
        """Recognise what needs no key: an exact duplicate, a dialog that is over, a generation that is done."""
        core = packet.core
        side = 1 - core.direction
        state: EndpointRecord | None = tx.endpoint(core.dialog, side, lock=False)
        if state is None:
            if tx.tombstone(core.dialog, side) is not None:
                raise BuriedError("the dialog is over")
            if core.direction == 1:
                raise PacketError("no such dialog here")
            return None
        if state.state in FINAL:
            raise BuriedError("the dialog is over")
        if core.kind in SEQUENCED and core.seq < state.next_in:
            stored = tx.digest(core.dialog, side, core.seq, core.frag)
            if stored is not None and hmac.compare_digest(stored, packet.digest()):
                return Authentic(packet, known=True)
        if core.generation <= state.in_floor:
            raise StalePacketError("generation is done")
        return None
