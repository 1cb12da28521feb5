"""What a third service can do that has a binding with both sides and sees what passes between them: nothing."""

from __future__ import annotations

import dataclasses
import hashlib

import msgspec

from dialog_authority import Authority
from dialog_keys import digest
from dialog_world import START, Service, World
from hsm_msl.dialog import signatures
from hsm_msl.dialog.binding import Binding
from hsm_msl.dialog.exchange import MadeKek, make_kek
from hsm_msl.dialog.headers import (
    Certificates,
    DskHeader,
    dsk_id,
    kek_id,
    parse_dsk,
    parse_kek,
    parse_pair,
    sign1,
    signed_bytes,
)
from hsm_msl.dialog.issuers import IssuerTrust
from hsm_msl.dialog.names import Kind, Side, State
from hsm_msl.dialog.packet import Core, Ext, assemble, parse, tag_input
from hsm_msl.dialog.policy import Policy
from hsm_msl.dialog.sessionkeys import DirectionKeys, KeyBinding
from hsm_msl.dialog.suites import SUITES

INIT, TARGET = Side.INITIATOR, Side.TARGET
ROOT = Authority("root", START)


class Third(Service):
    """A service with a binding of its own with ``victim``."""

    def __init__(self, world: World, victim: Service) -> None:
        super().__init__("urn:test:c", world.suite, world.clock)
        self.victim = victim
        victim.bind(victim.binding(self))
        self.bind(self.binding(victim))

    def kek(self) -> MadeKek:
        with self.store.transaction() as tx:
            context, now = self.engine.context, self.clock()
            binding = context.binding(tx, self.victim.name, now)
            assert binding is not None
            recipient = context.recipient(tx, binding, self.victim.name, now)
        assert recipient is not None
        return make_kek(
            self.local, self.victim.name, recipient, SUITES[self.suite],
            epoch=1, not_before=START - 10, not_after=START + 86400, random=self.random,
        )  # fmt: skip

    def usurping(self, captured: bytes) -> bytes:
        """A packet under a captured session key header, "wrapped anew" as a key this service has chosen."""
        packet, made, secret = parse(captured), self.kek(), b"C" * 32
        header, suite = parse_dsk(packet.ext.dsk or b""), SUITES[self.suite]
        purpose = KeyBinding(
            header.dialog, self.name, self.victim.name, header.direction, header.generation, header.kek_id, suite
        )
        self.keys = DirectionKeys(secret, purpose)
        core = msgspec.structs.replace(
            packet.core, kind=Kind.ACK, seq=0, message_type=None, sender=None, receiver=None
        ).encode()
        rewrap = (kek_id(made.kek_header), made.key.wrap(secret))
        ext = Ext(pair=made.pair_header, kek=made.kek_header, dsk=packet.ext.dsk, rewrap=rewrap).encode()
        return assemble(core, ext, b"", self.keys.tag(tag_input(core, ext, b"")))

    def useless(self, dialog: bytes, expiry: int) -> bytes:
        """A packet of somebody else's dialog under a key exchange key that cannot be opened, well signed."""
        made = self.kek()
        broken = msgspec.structs.replace(parse_kek(made.kek_header), wrapped=bytes(40)).encode()
        pair = parse_pair(made.pair_header)
        payload = msgspec.structs.replace(pair.authentication, kek_digest=hashlib.sha256(broken).digest()).encode()
        signed = signed_bytes(pair.protected, payload)
        signature = signatures.sign(self.local.signing_key, signed, SUITES[self.suite])
        dsk = DskHeader(
            kek_id=kek_id(broken), dialog=dialog, direction=0, generation=9, first_seq=1, cause=2, wrapped=bytes(40)
        ).encode()
        core = Core(
            dialog=dialog, direction=0, kind=Kind.ACK, seq=0, generation=9, dsk_id=dsk_id(dsk), suite=self.suite,
            expiry=expiry,
        )  # fmt: skip
        ext = Ext(pair=sign1(pair.protected, payload, signature), kek=broken, dsk=dsk)
        return assemble(core.encode(), ext.encode(), b"", b"x" * 16)


def started() -> tuple[World, bytes, bytes]:
    world = World()
    dialog = world.a.begin(world.b)
    world.a.send(dialog, INIT, b"hello")
    [first] = world.outgoing(world.a)
    world.deliver(world.a, world.deliver(world.b, [first]))
    world.clock.advance(901)  # nothing is cached any more
    return world, dialog, first


def test_a_third_service_cannot_put_its_key_in_the_place_of_ones_own() -> None:
    world, dialog, first = started()
    third = Third(world, world.a)
    world.deliver(world.a, [third.usurping(first)])
    world.a.send(dialog, INIT, b"for b only")
    world.settle()
    assert world.b.bodies(dialog, TARGET) == [b"hello", b"for b only"]


def test_a_third_service_cannot_put_its_key_in_the_place_of_the_peers() -> None:
    world, dialog, first = started()
    third = Third(world, world.b)
    world.deliver(world.b, [third.usurping(first)])
    world.a.send(dialog, INIT, b"second")
    world.settle()
    assert world.b.bodies(dialog, TARGET) == [b"hello", b"second"]


def test_a_third_service_cannot_fail_a_dialog_with_useless_keys() -> None:
    world = World()
    dialog = world.open()
    third = Third(world, world.b)
    for _ in range(3):
        world.deliver(world.b, [third.useless(dialog, world.b.state(dialog, TARGET).expires_at)])
    assert world.b.state(dialog, TARGET).state == State.CONVERSING


def issued(*, prefix: bool) -> World:
    """Both services trust what one authority issues; with ``prefix`` for every name, their own among them."""
    world = World(bound=False)
    for service in (world.a, world.b):
        service.signing_cert = ROOT.issue(service.name, service.signing, "digital_signature")
        service.encryption_cert = ROOT.issue(service.name, service.encryption, "key_agreement")
        service.opening = {digest(service.encryption_cert): service.opener(service.encryption)}
        presented = Certificates((service.signing_cert,), (service.encryption_cert,))
        service.local = dataclasses.replace(service.identity(), presented=presented)
        service.restart()
    for service, other in ((world.a, world.b), (world.b, world.a)):
        service.bind(
            Binding(
                local=service.name,
                remote="urn:test:" if prefix else other.name,
                prefix=prefix,
                suites=(2,),
                policy=Policy(on_peer_shift=False),
                trust=IssuerTrust(issuers=(ROOT.der,), revocation="off"),
                certificates=((other.encryption_cert,),) if service is world.a else (),
            )
        )
    return world


def test_a_packet_that_comes_back_to_its_sender_begins_nothing() -> None:
    world = issued(prefix=True)
    dialog = world.a.begin(world.b)
    world.a.send(dialog, INIT, b"first", b"second")
    _, second = world.outgoing(world.a)
    answers = world.deliver(world.a, [second])
    world.deliver(world.a, answers)
    world.clock.advance(100)
    world.settle()
    assert world.b.bodies(dialog, TARGET) == [b"first", b"second"]
    assert answers == []


def test_certificates_of_an_altered_packet_are_not_remembered() -> None:
    world = issued(prefix=False)
    dialog = world.a.begin(world.b)
    world.a.send(dialog, INIT, b"hello")
    [first] = world.outgoing(world.a)
    packet = parse(first)
    pair = parse_pair(packet.ext.pair or b"")
    stripped = sign1(pair.protected, pair.payload, pair.signature, Certificates(pair.certificates.signing))
    ext = msgspec.structs.replace(packet.ext, pair=stripped).encode()
    world.deliver(world.b, [assemble(packet.core_bytes, ext, packet.body, packet.tag)])
    world.deliver(world.a, world.deliver(world.b, [first]))
    world.b.send(dialog, TARGET, b"answer")
    world.settle()
    assert world.a.bodies(dialog, INIT) == [b"answer"]
