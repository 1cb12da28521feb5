"""Turns cores and bodies into authenticated packets: transmissions and system packets (dialog sections 4 and 7)."""

from __future__ import annotations

import msgspec

from hsm_msl.dialog.context import Context
from hsm_msl.dialog.errors import DialogError
from hsm_msl.dialog.inbound import InboundKeys
from hsm_msl.dialog.names import ID_SIZE, Kind
from hsm_msl.dialog.outbound import OutboundKeys
from hsm_msl.dialog.packet import NO_TAG, Core, Ext, assemble, tag_input
from hsm_msl.dialog.sequence import acknowledgement
from hsm_msl.dialog.session import SessionKey
from hsm_msl.ports.dialog_records import DialogTransaction, EndpointRecord, OutboxRow


class Sealer:
    """Seals packets of this side.

    Args:
        context: the engine's parts.
        inbound: the peer's session keys, whose system key serves as long as this side has no own one.
        outbound: own session keys.
    """

    def __init__(self, context: Context, inbound: InboundKeys, outbound: OutboundKeys) -> None:
        self._context = context
        self._inbound = inbound
        self._outbound = outbound

    def transmission(
        self,
        session: SessionKey,
        state: EndpointRecord,
        row: OutboxRow,
        ranges: tuple[tuple[int, int], ...],
        now: float,
    ) -> bytes:
        """Return the packet of a stored fragment, core and body as they are.

        Args:
            session: the own session key of the fragment's generation.
            state: this side.
            row: the fragment.
            ranges: what arrived beyond the next expected message.
            now: seconds since the Unix epoch.
        """
        headers = row.generation > state.headers_known
        ext = Ext(
            pair=session.pair_header if headers else None,
            kek=session.kek_header if headers else None,
            dsk=session.header if headers else None,
            rewrap=session.rewrap if headers else None,
            ack=acknowledgement(state, ranges),
            sent_at=int(now * 1000),
            attempt=row.attempts + 1,
            shift_ack=state.in_generation or None,
            base=state.base_out,
        ).encode()
        return assemble(row.core, ext, row.body, session.keys.tag(tag_input(row.core, ext, row.body)))

    def system(
        self,
        tx: DialogTransaction,
        state: EndpointRecord,
        kind: Kind,
        ranges: tuple[tuple[int, int], ...],
        now: float,
        *,
        reason: int | None = None,
        notice: bytes | None = None,
        newest: SessionKey | None = None,
    ) -> bytes | None:
        """Return an unsequenced packet, or None when this side has no key to authenticate it with.

        With an own session key that key authenticates it, and carries its headers as long as the peer may not have
        them; without one the system key derived from the peer's newest session key does.

        Args:
            tx: where keys are kept.
            state: this side.
            kind: one of the unsequenced kinds.
            ranges: what arrived beyond the next expected message.
            now: seconds since the Unix epoch.
            reason: why the dialog fails, for an abort.
            notice: signed statement, for a request to rewrap.
            newest: the peer's newest session key where it is at hand.

        Raises as ``OutboundKeys.load`` and ``InboundKeys.find``.
        """
        ext = Ext(
            ack=acknowledgement(state, ranges),
            shift_ack=state.in_generation or None,
            reason=reason,
            notice=notice,
        )
        if state.out_generation:
            own = self._outbound.load(tx, state, state.out_generation, now)
            if own is None:
                return None
            if own.generation > state.headers_known:
                ext = msgspec.structs.replace(
                    ext, pair=own.pair_header, kek=own.kek_header, dsk=own.header, rewrap=own.rewrap
                )
            core = self._core(state, kind, own.generation, own.dsk_id, own.suite)
            ext_bytes = ext.encode()
            return assemble(core, ext_bytes, b"", own.keys.tag(tag_input(core, ext_bytes, b"")))
        peer = newest if newest is not None and newest.direction != state.side else None
        if peer is None:
            peer = self._newest_inbound(tx, state, now)
        if peer is None:
            return None
        core = self._core(state, kind, 0, peer.dsk_id, peer.suite)
        ext_bytes = ext.encode()
        return assemble(core, ext_bytes, b"", peer.keys.system_tag(tag_input(core, ext_bytes, b"")))

    def bare(self, answered: Core, kind: Kind, notice: bytes | None = None) -> bytes:
        """Return a hint without authentication in answer to a packet."""
        core = Core(
            dialog=answered.dialog,
            direction=1 - answered.direction,
            kind=kind,
            seq=0,
            generation=0,
            dsk_id=bytes(ID_SIZE),
            suite=answered.suite,
            expiry=answered.expiry,
        ).encode()
        return assemble(core, Ext(notice=notice).encode(), b"", NO_TAG)

    def _core(self, state: EndpointRecord, kind: Kind, generation: int, key: bytes, suite: int) -> bytes:
        return Core(
            dialog=state.dialog,
            direction=state.side,
            kind=kind,
            seq=0,
            generation=generation,
            dsk_id=key,
            suite=suite,
            expiry=state.expires_at,
        ).encode()

    def _newest_inbound(self, tx: DialogTransaction, state: EndpointRecord, now: float) -> SessionKey | None:
        rows = tx.inbound_dsks(state.dialog, state.side)
        if not rows:
            return None
        binding = self._context.binding(tx, state.remote, now)
        if binding is None:
            return None
        for suite in binding.suites:
            try:
                return self._inbound.stored(tx, rows[-1], suite, now)
            except DialogError:
                continue
        return None
