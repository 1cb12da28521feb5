"""Parts of the dialog engine by themselves: key schedule, window, time, bindings (dialog sections 2, 6, 7, 9)."""

from __future__ import annotations

import pytest

from dialog_keys import certificate, digest, ec_key
from dialog_world import START, Clock
from hsm_msl.dialog.binding import Binding, PinnedCertificate, read_binding
from hsm_msl.dialog.clock import SteadyClock
from hsm_msl.dialog.errors import PacketError
from hsm_msl.dialog.names import Kind
from hsm_msl.dialog.sequence import Placed, ReceiveWindow
from hsm_msl.dialog.sessionkeys import DirectionKeys, KeyBinding
from hsm_msl.dialog.suites import SUITES
from hsm_msl.errors import ConfigurationError
from hsm_msl.ports.dialog_records import EndpointRecord, ParkedSlot


def binding(**changes: object) -> KeyBinding:
    fields: dict[str, object] = {
        "dialog": bytes(16),
        "initiator": "a",
        "target": "b",
        "direction": 0,
        "generation": 1,
        "kek_id": bytes(16),
        "suite": SUITES[1],
    }
    return KeyBinding(**{**fields, **changes})  # type: ignore[arg-type]  # field names are the test's own


@pytest.mark.parametrize(
    "change",
    [
        {"dialog": b"x" * 16},
        {"initiator": "c"},
        {"target": "c"},
        {"direction": 1},
        {"generation": 2},
        {"kek_id": b"x" * 16},
        {"suite": SUITES[2]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_part_of_the_binding_changes_every_key(change: dict[str, object]) -> None:
    """Section 2: a session key header that is moved anywhere yields useless keys."""
    secret = bytes(range(32))
    one, other = DirectionKeys(secret, binding()), DirectionKeys(secret, binding(**change))
    assert one.fingerprint != other.fingerprint
    assert one.tag(b"x") != other.tag(b"x")
    assert one.system_tag(b"x") != other.system_tag(b"x")
    with pytest.raises(PacketError):
        other.open(1, 0, one.seal(1, 0, b"text", b"core"), b"core")


@pytest.mark.parametrize("suite", sorted(SUITES))
def test_bodies_open_only_where_they_were_sealed(suite: int) -> None:
    keys = DirectionKeys(bytes(32), binding(suite=SUITES[suite]))
    sealed = keys.seal(7, 3, b"text", b"core")
    assert keys.open(7, 3, sealed, b"core") == b"text"
    for seq, frag, body, core in (
        (8, 3, sealed, b"core"),
        (7, 4, sealed, b"core"),
        (7, 3, sealed, b"other"),
        (7, 3, sealed[:-1], b"core"),
        (7, 3, b"", b"core"),
        (7, 3, bytes([sealed[0] ^ 1]) + sealed[1:], b"core"),
    ):
        with pytest.raises(PacketError):
            keys.open(seq, frag, body, core)
    assert len({keys.seal(seq, frag, bytes(16), b"") for seq in range(4) for frag in range(4)}) == 16


def test_the_same_secret_makes_other_keys_in_each_direction() -> None:
    """Even a faulty peer that reuses our session key shares no key with us; system keys are a third kind."""
    forth, back = DirectionKeys(bytes(32), binding()), DirectionKeys(bytes(32), binding(direction=1))
    tags = {forth.tag(b"x"), back.tag(b"x"), forth.system_tag(b"x"), back.system_tag(b"x")}
    assert len(tags) == 4
    with pytest.raises(PacketError):
        DirectionKeys(bytes(31), binding())


def state(**changes: object) -> EndpointRecord:
    made = EndpointRecord(
        dialog=bytes(16), side=1, local="l", remote="r", contract="", state="CO",
        created_at=0.0, expires_at=1, attention_at=0.0, clock_mark=0.0,
    )  # fmt: skip
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def slot(seq: int, generation: int = 1, frag: int = 0, count: int = 1, size: int = 10) -> ParkedSlot:
    return ParkedSlot(seq, frag, count, Kind.APP, generation, bytes([seq]), size)


def test_the_generation_of_delivered_messages_never_falls() -> None:
    window = ReceiveWindow(state(), list)
    window.place(slot(2, generation=1))
    window.place(slot(1, generation=2))
    with pytest.raises(PacketError):
        window.advance()


def test_nothing_follows_the_end() -> None:
    window = ReceiveWindow(state(end_in=1, next_in=2), list)
    window.place(slot(2))
    with pytest.raises(PacketError):
        window.advance()


def test_fragments_must_belong_together() -> None:
    window = ReceiveWindow(state(), list)
    window.place(slot(1, frag=0, count=3))
    for other in (slot(1, frag=1, count=2), slot(1, frag=1, count=3, generation=2)):
        with pytest.raises(PacketError):
            window.place(other)


def test_a_full_window_still_takes_what_comes_next() -> None:
    """16 MiB are parked at most, but a message larger than that arrives fragment by fragment."""
    window = ReceiveWindow(state(), list)
    large = 6 * 1024 * 1024
    assert [window.place(slot(seq, size=large)) for seq in (2, 3)] == [Placed.NEW, Placed.NEW]
    assert window.place(slot(4, size=large)) is Placed.BEYOND
    assert window.place(slot(1, frag=0, count=2, size=large)) is Placed.NEW
    assert window.place(slot(1, frag=1, count=2, size=large)) is Placed.NEW
    assert [found.seq for found in window.advance()] == [1, 2, 3]


def test_steady_time() -> None:
    wall = Clock()
    clock = SteadyClock(wall, wall.monotonic)
    wall.advance(10)
    assert clock() == START + 10
    wall.now -= 1000
    assert clock() == START + 10
    wall.advance(5)
    assert clock() == START + 15
    wall.now += 3000
    assert clock() == START + 2015
    wall.advance(1)
    assert clock() == START + 2016


def pinned(name: str, not_after: int, *, enabled: bool = True) -> PinnedCertificate:
    return PinnedCertificate(certificate(ec_key(name), name, START - 10, not_after), enabled=enabled)


def test_the_certificate_that_is_valid_longest_is_used() -> None:
    short, long, off = pinned("1", START + 100), pinned("2", START + 200), pinned("3", START + 300, enabled=False)
    bound = Binding(local="a", remote="b", encryption=(short, long, off), suites=(2,))
    facts = [bound.recipient(START + at) for at in (0, 150, 250)]
    assert [fact and fact.digest for fact in facts] == [digest(long.der), digest(long.der), None]
    assert bound.signer(digest(short.der), START) is None, "a certificate for encryption signs nothing"


def test_binding_documents() -> None:
    bound = Binding(local="a", remote="b", signing=(pinned("1", START + 100),), suites=(2, 4))
    assert read_binding(bound.row().document) == bound
    for document in (b"{", b"{}", b'{"local":"a","remote":"b","suites":[9]}', b'{"local":"","remote":"b"}'):
        with pytest.raises(ConfigurationError):
            read_binding(document)
