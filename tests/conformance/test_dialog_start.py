"""Conformance cases C01-C15: full security, headers, suites, trust (dialog section 13)."""

from __future__ import annotations

import hashlib

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from dialog_keys import certificate, digest, ec_key, rsa_key
from dialog_world import EC_OPENED, START, YEAR, Service, World
from hsm_msl.dialog import signatures
from hsm_msl.dialog.binding import PinnedCertificate
from hsm_msl.dialog.errors import PeerRejectedError
from hsm_msl.dialog.exchange import verify_pair
from hsm_msl.dialog.headers import dsk_id, kek_id, parse_dsk, parse_kek, parse_pair, sign1
from hsm_msl.dialog.names import Side
from hsm_msl.dialog.packet import Ext, Packet, assemble, parse
from hsm_msl.dialog.suites import SUITES
from hsm_msl.dialog.trust import NoEvidence, Trust
from hsm_msl.errors import ConfigurationError

INIT, TARGET = Side.INITIATOR, Side.TARGET
PINNED = Trust(NoEvidence(), 0)


def rebuilt(data: bytes, **changes: object) -> bytes:
    """A packet with other extensions, its tag as it was."""
    packet = parse(data)
    ext = msgspec.structs.replace(packet.ext, **changes)
    return assemble(packet.core_bytes, ext.encode(), packet.body, packet.tag)


def first_packet(world: World) -> bytes:
    dialog = world.a.begin(world.b)
    world.a.send(dialog, INIT, b"first")
    (packet,) = world.outgoing(world.a)
    return packet


def sent(world: World, service: Service) -> list[Packet]:
    return [parse(data) for name, data in world.log if name != service.name]


@pytest.mark.parametrize("suite", sorted(SUITES))
def test_c01_c05_both_directions_have_their_own_keys_in_each_suite(suite: int) -> None:
    world = World(suite=suite)
    dialog = world.open()
    forth = [packet for packet in sent(world, world.a) if packet.ext.dsk]
    back = [packet for packet in sent(world, world.b) if packet.ext.dsk]
    assert forth[0].core.dsk_id != back[0].core.dsk_id
    assert parse_dsk(forth[0].ext.dsk or b"").kek_id != parse_dsk(back[0].ext.dsk or b"").kek_id
    with world.a.store.reading() as tx:
        state = world.a.state(dialog, INIT)
        own = world.a.engine._outbound.load(tx, state, 1, world.clock())
        peer = world.a.engine.context.caches.session_keys.get(back[0].core.dsk_id, world.clock())
    assert own is not None
    assert peer is not None
    assert own.keys.fingerprint != peer.keys.fingerprint
    world.a.send(dialog, INIT, b"x" * 100_000)
    world.settle()
    assert world.b.bodies(dialog, TARGET) == [b"x" * 100_000]


def test_c02_headers_ride_until_acknowledged_then_never() -> None:
    world = World()
    dialog = world.open()
    for number in range(3):
        world.a.send(dialog, INIT, b"%d" % number)
        world.settle()
    mine = [packet for packet in sent(world, world.a) if packet.core.kind == 1]
    assert all((mine[0].ext.pair, mine[0].ext.kek, mine[0].ext.dsk))
    assert [packet.ext.dsk for packet in mine[1:]] == [None] * 3
    assert [packet.ext.pair for packet in mine[1:]] == [None] * 3


def test_c03_headers_again_after_a_lost_ack_and_nothing_opened_twice() -> None:
    world = World()
    data = first_packet(world)
    assert world.deliver(world.b, [data])  # the acknowledgement is lost
    before = world.b.token.done.copy()
    world.clock.advance(10)
    (again,) = world.outgoing(world.a)
    assert parse(again).ext.kek
    assert (parse(again).core_bytes, parse(again).body) == (parse(data).core_bytes, parse(data).body)
    world.deliver(world.b, [again])
    assert world.b.token.done == before


def test_c04_suite_3_uses_a_128_bit_kek() -> None:
    world = World(suite=3)
    packet = parse(first_packet(world))
    assert parse_kek(packet.ext.kek or b"").size == 16
    assert len(parse_dsk(packet.ext.dsk or b"").wrapped) == 40


def test_c06_c07_kek_is_unique_to_the_ordered_pair() -> None:
    world = World()
    one, two = first_packet(world), first_packet(world)
    third = Service("urn:test:c", 2, world.clock)
    world.a.bind(world.a.binding(third))
    other = world.a.begin(third)
    world.a.send(other, INIT, b"x")
    away = next(packet for packet in map(parse, world.outgoing(world.a)) if packet.core.dialog == other)
    first, second = parse(one), parse(two)
    assert first.ext.kek == second.ext.kek
    assert first.ext.kek != away.ext.kek
    assert kek_id(first.ext.kek or b"") != kek_id(away.ext.kek or b"")
    assert parse_kek(away.ext.kek or b"").receiver == third.name


def test_c08_pair_signature_by_another_key_costs_no_token_operation() -> None:
    world = World()
    packet = parse(first_packet(world))
    stranger = Service("urn:test:stranger", 2, world.clock)
    pair = parse_pair(packet.ext.pair or b"")
    forged = signatures.sign(stranger.local.signing_key, pair.signed(), SUITES[2])
    data = rebuilt(
        assemble(packet.core_bytes, packet.ext_bytes, packet.body, packet.tag),
        pair=sign1(pair.protected, pair.payload, forged),
    )
    assert world.deliver(world.b, [data]) == []
    assert world.b.token.done["private"] == 0
    assert "rejected" in world.names()


def test_c09_kek_header_swapped_under_a_valid_pair_header() -> None:
    world = World()
    packet = first_packet(world)
    with world.a.store.transaction() as tx:
        world.a.engine.rotate_kek(tx, world.b.name)
    other = parse(first_packet(world))
    assert world.deliver(world.b, [rebuilt(packet, kek=other.ext.kek)]) != [packet]
    assert world.b.token.done["private"] == 0
    assert world.b.engine.counted["session_keys_unwrapped"] == 0


def test_c09_the_signature_covers_the_wrapped_key_itself() -> None:
    world = World()
    packet = parse(first_packet(world))
    header = parse_kek(packet.ext.kek or b"")
    swapped = msgspec.structs.replace(header, wrapped=bytes(len(header.wrapped))).encode()
    with pytest.raises(PeerRejectedError, match="vouches for another"):
        verify_pair(world.b.name, packet.ext.pair or b"", swapped, world.b.binding(world.a), world.clock(), PINNED)


def test_c10_session_key_header_moved_to_another_dialog() -> None:
    world = World()
    one, two = first_packet(world), parse(first_packet(world))
    assert world.deliver(world.b, [rebuilt(one, dsk=two.ext.dsk)]) == []
    moved = msgspec.structs.replace(parse(one).core, dsk_id=dsk_id(two.ext.dsk or b""))
    ext = msgspec.structs.replace(parse(one).ext, dsk=two.ext.dsk)
    assert world.deliver(world.b, [assemble(moved.encode(), ext.encode(), parse(one).body, parse(one).tag)]) == []
    assert world.names().count("dropped") == 2
    claimed = msgspec.structs.replace(parse(one).core, dsk_id=bytes(16))
    world.deliver(world.b, [assemble(claimed.encode(), parse(one).ext_bytes, parse(one).body, parse(one).tag)])
    assert bytes(16) not in world.b.engine.context.caches.session_keys._entries


@pytest.mark.parametrize("suite", [1, 2])
def test_c11_rewrap_after_the_receivers_key_was_rotated_away(suite: int) -> None:
    world = World(suite=suite)
    dialog = world.open()
    world.a.send(dialog, INIT, b"sealed before")
    world.clock.advance(2)
    world.a.shift(dialog, INIT)
    world.a.send(dialog, INIT, b"sealed under the next key")
    renewed = Service("urn:test:b", suite, world.clock, store=world.b.store, seed="2")
    renewed.encryption = ec_key("new") if suite in EC_OPENED else rsa_key("new")
    renewed.encryption_cert = certificate(renewed.encryption, "new", START - 1, START + YEAR)
    renewed.opening = {digest(renewed.encryption_cert): renewed.opener(renewed.encryption)}
    renewed.local = renewed.identity()
    renewed.restart()
    world.b = renewed
    world.a.bind(world.a.binding(renewed))
    with world.b.store.transaction() as tx:  # nothing of the old key is of use any more
        tx.drop_inbound_dsks(dialog, TARGET, 99)
    sealed = {row.seq: (row.core, row.body) for row in _outbox(world.a)}
    for _ in range(12):
        world.clock.advance(10)
        world.settle()
    assert world.b.bodies(dialog, TARGET) == [b"sealed before", b"sealed under the next key"]
    assert "rewrapped" in world.names()
    arrived = {p.core.seq: (p.core_bytes, p.body) for p in sent(world, world.a) if p.core.kind == 1}
    assert all(arrived[seq] == content for seq, content in sealed.items())


def _outbox(service: Service) -> list:  # type: ignore[type-arg]  # rows as the store gives them
    with service.store.transaction() as tx:
        return list(tx.due(service.name, service.clock() + 1e6, service.clock() + 2e6, 100))


@pytest.mark.parametrize(
    "what", ["expired", "not yet valid", "disabled", "unbound", "binding disabled", "binding over"]
)
def test_c12_certificate_or_binding_out_of_force(what: str) -> None:
    world = World()
    dates = {"expired": (START - 200, START - 100), "not yet valid": (START + 100, START + 200)}
    pin = PinnedCertificate(world.a.signing_cert, enabled=what != "disabled")
    if what in dates:
        world.a.signing_cert = certificate(world.a.signing, "a", *dates[what])
        world.a.local = world.a.identity()
        world.a.restart()
        pin = PinnedCertificate(world.a.signing_cert)
    changes: dict[str, object] = {"signing": () if what == "unbound" else (pin,)}
    if what == "binding disabled":
        changes["enabled"] = False
    if what == "binding over":
        changes["not_after"] = float(START - 1)
    world.b.bind(world.b.binding(world.a, **changes))  # type: ignore[arg-type]  # fields by case
    data = first_packet(world)
    assert world.deliver(world.b, [data]) == []
    assert "rejected" in world.names()
    assert world.b.token.done["private"] == 0


def test_c12_revocation_takes_effect_on_the_next_packet_in_spite_of_caches() -> None:
    world = World()
    dialog = world.open()
    world.b.bind(world.b.binding(world.a, signing=(PinnedCertificate(world.a.signing_cert, enabled=False),)))
    world.a.send(dialog, INIT, b"too late")
    assert world.deliver(world.b, world.outgoing(world.a)) == []
    assert world.b.bodies(dialog, TARGET) == []


def test_c13_without_a_binding_messages_wait_and_then_arrive() -> None:
    world = World(bound=False)
    dialog = world.a.begin(world.b)
    assert world.a.send(dialog, INIT, b"early", b"early too") == 0
    world.settle()
    assert world.log == []
    world.a.bind(world.a.binding(world.b))
    for _ in range(3):
        world.clock.advance(5)
        for packet in world.outgoing(world.a):
            assert world.deliver(world.b, [packet]) == []  # the receiver has no binding yet
    world.b.bind(world.b.binding(world.a))
    world.a.send(dialog, INIT, b"late")
    world.clock.advance(200)
    world.settle()
    assert world.b.bodies(dialog, TARGET) == [b"early", b"early too", b"late"]


def test_c14_anonymous_dialogs_are_refused() -> None:
    """The anonymous variant is out (section 15): a packet without a pair header opens nothing."""
    world = World()
    data = first_packet(world)
    (reply,) = world.deliver(world.b, [rebuilt(data, pair=None)])
    assert parse(reply).bare
    assert world.b.token.done["private"] == 0


def _suite_3() -> tuple[World, bytes, bytes]:
    world = World(suite=3)
    packet = parse(first_packet(world))
    return world, packet.ext.pair or b"", packet.ext.kek or b""


def test_c15_recovery_accepts_the_digest_and_nothing_else() -> None:
    world, pair, kek = _suite_3()
    binding = world.b.binding(world.a)
    verify_pair(world.b.name, pair, kek, binding, world.clock(), PINNED)
    parsed = parse_pair(pair)
    altered = bytearray(parsed.signature)
    altered[10] ^= 1
    with pytest.raises(PeerRejectedError, match="signature"):
        verify_pair(
            world.b.name, sign1(parsed.protected, parsed.payload, bytes(altered)), kek, binding, world.clock(), PINNED
        )
    key = world.a.signing
    assert isinstance(key, rsa.RSAPrivateKey)
    for algorithm in (hashes.SHA1(), hashes.SHA512()):
        wrong_prefix = key.sign(parsed.signed(), padding.PKCS1v15(), algorithm)
        with pytest.raises(PeerRejectedError, match="signature"):
            verify_pair(
                world.b.name,
                sign1(parsed.protected, parsed.payload, wrong_prefix),
                kek,
                binding,
                world.clock(),
                PINNED,
            )


def test_c15_the_right_digest_behind_a_wrong_prefix() -> None:
    """The whole digest block is compared, not its end."""
    world, pair, kek = _suite_3()
    parsed = parse_pair(pair)
    key = world.a.signing
    assert isinstance(key, rsa.RSAPrivateKey)
    numbers = key.private_numbers()
    size = key.key_size // 8
    for prefix in (b"", bytes.fromhex("3031300d060960864801650304020205000420")):
        block = prefix + hashlib.sha256(parsed.signed()).digest()
        padded = b"\0\1" + b"\xff" * (size - 3 - len(block)) + b"\0" + block
        signature = pow(int.from_bytes(padded), numbers.d, numbers.public_numbers.n).to_bytes(size)
        forged = sign1(parsed.protected, parsed.payload, signature)
        with pytest.raises(PeerRejectedError, match="signature"):
            verify_pair(world.b.name, forged, kek, world.b.binding(world.a), world.clock(), PINNED)


def test_c15_recovery_is_the_private_key_undone_with_the_public_key() -> None:
    world, pair, _ = _suite_3()
    parsed = parse_pair(pair)
    key = world.a.signing.public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    block = key.recover_data_from_signature(parsed.signature, padding.PKCS1v15(), hashes.SHA256())
    assert block == hashlib.sha256(parsed.signed()).digest()


def test_claims_of_the_pair_header_are_bound_to_both_names() -> None:
    """T2: headers captured on the way to one service are worth nothing at another."""
    world = World()
    packet = parse(first_packet(world))
    third = Service("urn:test:c", 2, world.clock)
    with pytest.raises(PeerRejectedError, match="another pair"):
        verify_pair(
            third.name, packet.ext.pair or b"", packet.ext.kek or b"", third.binding(world.a), world.clock(), PINNED
        )
    assert packet.ext != Ext()


def test_one_certificate_for_both_uses_needs_permission() -> None:
    """Section 2: separate certificates unless the binding allows dual use."""
    world = World()
    pins = (PinnedCertificate(world.b.signing_cert),)
    with pytest.raises(ConfigurationError, match="dual_use"):
        world.a.binding(world.b, signing=pins, encryption=pins).validate()
    world.a.binding(world.b, signing=pins, encryption=pins, allow_dual_use=True).validate()
