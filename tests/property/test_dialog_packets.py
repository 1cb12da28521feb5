"""Any bytes at all are a packet or a PacketError, and a packet has one encoding (dialog section 3, T19)."""

from __future__ import annotations

import contextlib

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from dialog_world import World
from hsm_msl.dialog.encoding import decode, encode
from hsm_msl.dialog.errors import PacketError
from hsm_msl.dialog.headers import parse_dsk, parse_kek, parse_notice, parse_pair
from hsm_msl.dialog.names import MAX_SEQ, Kind
from hsm_msl.dialog.packet import Ack, Core, Ext, assemble, parse
from hsm_msl.dialog.sequence import Placed, ReceiveWindow
from hsm_msl.ports.dialog_records import EndpointRecord, ParkedSlot

NUMBERS = st.integers(0, MAX_SEQ)
NAMES = st.one_of(st.none(), st.text(st.characters(codec="utf-8"), min_size=1, max_size=60))
IDS = st.binary(min_size=16, max_size=16)
HEADERS = st.one_of(st.none(), st.binary(min_size=1, max_size=200))


def ranges(points: list[int], expected: int) -> tuple[tuple[int, int], ...]:
    ordered = sorted({point for point in points if point > expected})
    return tuple(zip(ordered[::2], ordered[1::2], strict=False))[:8]


@st.composite
def cores(draw: st.DrawFn) -> Core:
    kind = draw(st.sampled_from(list(Kind)))
    count = draw(st.integers(1, 1024)) if kind is Kind.APP else 1
    return Core(
        dialog=draw(IDS),
        direction=draw(st.integers(0, 1)),
        kind=kind,
        seq=draw(st.integers(1, MAX_SEQ)) if kind <= Kind.END_WITH_ERROR else 0,
        frag=draw(st.integers(0, count - 1)),
        count=count,
        message_type=draw(st.text(st.characters(codec="utf-8"), min_size=1, max_size=60))
        if kind is Kind.APP
        else None,
        generation=draw(st.integers(1, MAX_SEQ)),
        dsk_id=draw(IDS),
        suite=draw(st.integers(0, 9)),
        sender=draw(NAMES),
        receiver=draw(NAMES),
        expiry=draw(NUMBERS),
        contract=draw(NAMES),
    )


@st.composite
def extensions(draw: st.DrawFn) -> Ext:
    expected = draw(st.integers(1, 100))
    points = draw(st.lists(st.integers(1, 500), max_size=20))
    return Ext(
        pair=draw(HEADERS),
        kek=draw(HEADERS),
        dsk=draw(HEADERS),
        ack=draw(st.sampled_from([None, Ack(expected, ranges(points, expected))])),
        sent_at=draw(st.one_of(st.none(), NUMBERS)),
        shift_ack=draw(st.one_of(st.none(), NUMBERS)),
        rewrap=draw(st.sampled_from([None, (bytes(16), bytes(40))])),
        reason=draw(st.sampled_from([None, 1, 7])),
        base=draw(st.one_of(st.none(), NUMBERS)),
    )


@given(cores(), extensions(), st.binary(min_size=1, max_size=300), st.binary(min_size=16, max_size=16))
def test_packets_come_back_as_they_were(core: Core, ext: Ext, body: bytes, tag: bytes) -> None:
    body = body if core.kind <= Kind.END_WITH_ERROR else b""
    data = assemble(core.encode(), ext.encode(), body, tag)
    packet = parse(data)
    assert (packet.core, packet.ext, packet.body, packet.tag) == (core, ext, body, tag)
    assert assemble(packet.core_bytes, packet.ext_bytes, packet.body, packet.tag) == data


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_by_name(data: bytes) -> None:
    for read in (parse, parse_pair, parse_kek, parse_dsk, parse_notice, decode):
        with contextlib.suppress(PacketError):
            read(data)


WORLD = World()
_DIALOG = WORLD.a.begin(WORLD.b)
WORLD.a.send(_DIALOG, 0, b"body")
(FIRST,) = WORLD.outgoing(WORLD.a)
PARTS = (FIRST, parse(FIRST).core_bytes, parse(FIRST).ext.pair, parse(FIRST).ext.kek, parse(FIRST).ext.dsk)


@settings(max_examples=400)
@given(
    st.sampled_from([part for part in PARTS if part]),
    st.lists(st.tuples(st.integers(0, 5000), st.binary(max_size=4)), min_size=1, max_size=5),
)
def test_damaged_headers_are_refused_by_name(data: bytes, damages: list[tuple[int, bytes]]) -> None:
    damaged = bytearray(data)
    for position, piece in damages:
        damaged[position % len(damaged) : position % len(damaged) + len(piece)] = piece
    for read in (parse, parse_pair, parse_kek, parse_dsk, decode):
        try:
            read(bytes(damaged))
        except PacketError:
            continue
    WORLD.b.engine.receive([bytes(damaged)])


@given(
    st.recursive(st.one_of(NUMBERS, st.binary(), st.none()), lambda inner: st.lists(inner, max_size=4), max_leaves=9)
)
def test_one_value_has_one_encoding(item: object) -> None:
    try:
        assert decode(encode(item)) == item
    except PacketError:
        with pytest.raises(PacketError):
            decode(encode(item))


@given(st.permutations([(seq, frag) for seq in range(1, 9) for frag in range(1 + seq % 3)]), st.data())
def test_the_window_delivers_every_order_in_order(arrivals: list[tuple[int, int]], data: st.DataObject) -> None:
    state = EndpointRecord(
        dialog=bytes(16), side=1, local="l", remote="r", contract="", state="CO",
        created_at=0.0, expires_at=1, attention_at=0.0, clock_mark=0.0,
    )  # fmt: skip
    kept: list[ParkedSlot] = []
    delivered: list[int] = []
    for seq, frag in arrivals:
        # A new window per arrival: what counts is in the state and in the store.
        window = ReceiveWindow(state, lambda: [slot for slot in kept if slot.seq >= state.next_in])
        slot = ParkedSlot(seq, frag, 1 + seq % 3, Kind.APP, 1, bytes([seq, frag]), 10)
        assert window.place(slot) is Placed.NEW
        if data.draw(st.booleans()):
            assert window.place(slot) is Placed.DUPLICATE
        kept.append(slot)
        delivered += [message.seq for message in window.advance()]
        for low, high in window.ranges():
            assert state.next_in < low <= high
    assert delivered == list(range(1, 9))
    assert (state.parked, state.parked_bytes, state.next_in) == (0, 0, 9)
