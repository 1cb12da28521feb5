"""What people see of dialogs: states, and every header of a packet, readable; no contents and no keys."""

from __future__ import annotations

import datetime
from collections.abc import Iterator

import msgspec

from hsm_msl.dialog.headers import parse_dsk, parse_kek, parse_notice, parse_pair
from hsm_msl.dialog.names import Cause, Kind, Reason, Side, State
from hsm_msl.dialog.packet import Packet
from hsm_msl.ports.dialog_records import DialogTransaction, EndpointRecord
from hsm_msl.printable import printable

Lines = Iterator[tuple[str, str]]
"""Names and values, in order; a name that ends with a colon begins a part."""

_TIMES = frozenset({"not_before", "not_after", "epoch", "issued_at", "expiry", "expires_at"})


def show_packet(packet: Packet) -> Lines:
    """Yield the fields of a packet and of the headers it carries. Raises PacketError for a malformed header."""
    core, ext = packet.core, packet.ext
    yield "core:", ""
    yield "kind", Kind(core.kind).name.lower()
    yield from _fields(core, skip=("kind",))
    yield "extensions:", ""
    if ext.ack is not None:
        ranges = ", ".join(f"{low}-{high}" for low, high in ext.ack.ranges)
        yield "acknowledges", f"all before {ext.ack.expected}" + (f", and {ranges}" if ranges else "")
    for name in ("sent_at", "attempt", "shift_ack", "base"):
        if getattr(ext, name) is not None:
            yield name, str(getattr(ext, name))
    if ext.reason is not None:
        yield "reason", Reason(ext.reason).text
    if ext.rewrap is not None:
        yield "rewrapped under", ext.rewrap[0].hex()
    yield from show_headers(ext.pair, ext.kek, ext.dsk)
    if ext.notice is not None:
        yield "notice:", ""
        yield from _fields(parse_notice(ext.notice).notice)
    yield "body:", f"{len(packet.body)} bytes, sealed"
    yield "tag:", "none: a hint" if packet.bare else packet.tag.hex()


def show_headers(pair: bytes | None, kek: bytes | None, dsk: bytes | None) -> Lines:
    """Yield the fields of the three headers that are there. Raises PacketError for a malformed one."""
    if pair is not None:
        yield "pair header:", ""
        yield from _fields(parse_pair(pair).authentication, skip=("nonce",))
    if kek is not None:
        yield "key exchange key header:", ""
        yield from _fields(parse_kek(kek), skip=("wrapped", "ephemeral"))
    if dsk is not None:
        yield "session key header:", ""
        header = parse_dsk(dsk)
        yield from _fields(header, skip=("wrapped", "cause"))
        yield "cause", Cause(header.cause).name.lower()


def state_text(state: EndpointRecord) -> str:
    """Return the state of one side in words."""
    word = State(state.state).name.lower().replace("_", "-")
    return word + (f" ({Reason(state.reason).text})" if state.reason else "")


def show_endpoint(tx: DialogTransaction, state: EndpointRecord) -> Lines:
    """Yield where one side of a dialog stands, and the headers of its live keys. Raises StoreError."""
    yield "dialog", state.dialog.hex()
    yield "side", Side(state.side).name.lower()
    yield "with", printable(state.remote)
    yield "state", state_text(state)
    if state.contract:
        yield "contract", printable(state.contract)
    yield "expires", _time(state.expires_at)
    yield "sending:", ""
    yield "next message", str(state.next_out)
    yield "acknowledged before", str(state.base_out)
    yield "generation", str(state.out_generation)
    if state.out_generation:
        yield "key since", _time(state.out_since)
        yield "sealed under it", f"{state.out_messages} messages, {state.out_bytes} bytes"
    if state.pending_cause:
        yield "shift pending", Cause(state.pending_cause).name.lower()
    if state.queued:
        yield "waiting to be sealed", str(state.queued)
    yield "receiving:", ""
    yield "next message", str(state.next_in)
    yield "taken up to", str(state.taken) + (", acknowledged only then" if state.ack_on_commit else "")
    yield "parked fragments", str(state.parked)
    yield "generation", str(state.in_generation)
    shifts = tx.shifts(state.dialog, state.side)
    if shifts:
        text = ", ".join(f"{event.generation} {Cause(event.cause).name.lower()}" for event in shifts)
        yield "shifts of the peer", text
    for own in tx.outbound_dsks(state.dialog, state.side):
        yield f"own key {own.generation}:", ""
        kek = tx.outbound_kek(own.rewrap_kek_id or own.kek_id)
        yield from (
            show_headers(None, None, own.header)
            if kek is None
            else show_headers(kek.pair_header, kek.kek_header, own.header)
        )
    for row in tx.inbound_dsks(state.dialog, state.side):
        yield f"peer's key {row.generation}:", ""
        received = tx.inbound_kek(row.kek_id)
        yield from (
            show_headers(None, None, row.header)
            if received is None
            else show_headers(received.pair_header, received.kek_header, row.header)
        )


def _fields(struct: msgspec.Struct, skip: tuple[str, ...] = ()) -> Lines:
    for name in struct.__struct_fields__:
        value = getattr(struct, name)
        if name in skip or value is None:
            continue
        if isinstance(value, bytes):
            value = value.hex()
        elif name in _TIMES:
            value = _time(value)
        yield name, printable(str(value))


def _time(seconds: float) -> str:
    try:
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:.0f} seconds after 1970"
