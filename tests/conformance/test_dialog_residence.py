"""``residency = "token"``: session keys that are never in this process, with either kind of peer (section 10)."""

from __future__ import annotations

import dataclasses
import secrets

import msgspec
import pytest

from dialog_keys import SoftResidentKeys, certificate, digest, ec_key
from dialog_world import START, YEAR, Service, World
from hsm_msl.backend.software import SoftwareAesKey
from hsm_msl.dialog.binding import Binding
from hsm_msl.dialog.context import CacheSizes
from hsm_msl.dialog.errors import PacketError
from hsm_msl.dialog.headers import dsk_id, parse_dsk
from hsm_msl.dialog.names import Side, State
from hsm_msl.dialog.packet import assemble, parse
from hsm_msl.dialog.policy import Policy
from hsm_msl.dialog.proving import prove_residence, prove_suites
from hsm_msl.errors import ConfigurationError, DataRejectedError, MechanismUnsupportedError
from hsm_msl.ports import AesKey

INIT, TARGET = Side.INITIATOR, Side.TARGET
QUIET = Policy(on_peer_shift=False)


def resident(service: Service) -> None:
    """Let a service keep its session keys in its token."""
    service.local = dataclasses.replace(service.local, resident=SoftResidentKeys(service.random, service.token))
    service.restart()


def world_of(where: str, suite: int = 2, sizes: CacheSizes | None = None) -> World:
    """``tt``: both keep keys in the token; ``th``: the initiator only, to which the target sends them one by one."""
    world = World(suite=suite, policy=QUIET, sizes=sizes)
    for service, place in zip((world.a, world.b), where, strict=True):
        if place == "t":
            resident(service)
        else:
            service.bind(service.binding(world.other(service), QUIET, split_keys=True))
    return world


@pytest.mark.parametrize("sizes", [None, CacheSizes(0, 0, 0, 0)])
@pytest.mark.parametrize("suite", [1, 2, 3])
@pytest.mark.parametrize("where", ["tt", "th", "ht", "hh"])
def test_a_dialog_with_shifts_and_restarts(where: str, suite: int, sizes: CacheSizes | None) -> None:
    world = world_of(where, suite, sizes)
    dialog = world.open()
    for number in range(3):
        world.clock.advance(2)
        world.a.shift(dialog, INIT)
        world.b.shift(dialog, TARGET)
        world.a.send(dialog, INIT, b"%d" % number, b"x" * 70_000)
        world.b.send(dialog, TARGET, b"%d" % number)
        world.a.restart()
        world.settle()
        world.b.restart()
        assert world.b.bodies(dialog, TARGET) == [b"%d" % number, b"x" * 70_000]
        assert world.a.bodies(dialog, INIT) == [b"%d" % number]
    world.a.end(dialog, INIT)
    world.b.end(dialog, TARGET)
    world.settle()
    assert world.a.state(dialog, INIT).state == world.b.state(dialog, TARGET).state == State.CLOSED


def test_acknowledgements_before_the_first_own_key_use_the_peers() -> None:
    world = world_of("tt")
    dialog = world.a.begin(world.b)
    world.a.send(dialog, INIT, b"one")
    (reply,) = world.deliver(world.b, world.outgoing(world.a))
    assert parse(reply).core.generation == 0
    world.deliver(world.a, [reply])
    assert world.a.state(dialog, INIT).base_out == 2


def test_a_peer_that_sends_one_key_for_all_is_told_what_to_change() -> None:
    world = World(policy=QUIET)
    resident(world.b)
    dialog = world.a.begin(world.b)
    world.a.send(dialog, INIT, b"x")
    world.deliver(world.b, world.outgoing(world.a))
    assert any("split_keys = true" in event.detail for event in world.events)
    world.a.bind(world.a.binding(world.b, QUIET, split_keys=True))
    dialog = world.a.begin(world.b)
    world.a.send(dialog, INIT, b"y")
    world.settle()
    assert world.b.bodies(dialog, TARGET) == [b"y"]


def test_a_moved_header_opens_no_packet_of_another_dialog() -> None:
    """C10 without derivation: what tag and body authenticate names dialog, generation and the header's digest."""
    for where in ("tt", "ht"):
        world = world_of(where)
        first, second = world.a.begin(world.b), world.a.begin(world.b)
        world.a.send(first, INIT, b"one")
        world.a.send(second, INIT, b"two")
        packets = {parse(data).core.dialog: parse(data) for data in world.outgoing(world.a)}
        header = parse_dsk(packets[first].ext.dsk or b"")
        for change in ({"dialog": second}, {"dialog": second, "generation": 2}, {"dialog": second, "direction": 1}):
            moved = msgspec.structs.replace(header, **change).encode()
            core = msgspec.structs.replace(
                packets[first].core, dsk_id=dsk_id(moved), **{"generation": 1, "direction": 0, **change}
            )
            ext = msgspec.structs.replace(packets[first].ext, dsk=moved)
            data = assemble(core.encode(), ext.encode(), packets[first].body, packets[first].tag)
            assert not [reply for reply in world.deliver(world.b, [data]) if not parse(reply).bare]
        with world.b.store.reading() as tx:
            assert tx.endpoint(second, TARGET, lock=False) is None


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_broken_part_is_a_broken_key(position: int) -> None:
    for where in ("tt", "th"):
        world = world_of(where)
        dialog = world.a.begin(world.b)
        world.a.send(dialog, INIT, b"x")
        packet = parse(world.outgoing(world.a)[0])
        header = parse_dsk(packet.ext.dsk or b"")
        parts = list(header.wrapped)
        assert len(parts) == 3
        for broken in (bytes(len(parts[position])), parts[position][:-8]):  # type: ignore[arg-type]  # byte strings
            changed = tuple(broken if at == position else part for at, part in enumerate(parts))
            dsk = msgspec.structs.replace(header, wrapped=changed).encode()
            core = msgspec.structs.replace(packet.core, dsk_id=dsk_id(dsk)).encode()
            ext = msgspec.structs.replace(packet.ext, dsk=dsk).encode()
            world.deliver(world.b, [assemble(core, ext, packet.body, packet.tag)])
        with world.b.store.reading() as tx:
            assert tx.endpoint(dialog, TARGET, lock=False) is None
        assert set(world.names()) == {"key_unusable"}


def test_headers_with_another_number_of_parts_are_none() -> None:
    world = world_of("tt")
    dialog = world.a.begin(world.b)
    world.a.send(dialog, INIT, b"x")
    header = parse_dsk(parse(world.outgoing(world.a)[0]).ext.dsk or b"")
    for parts in ((), (b"x" * 40,) * 2, (b"x" * 40,) * 4):
        with pytest.raises(PacketError):
            parse_dsk(msgspec.structs.replace(header, wrapped=parts).encode())


def test_an_outage_while_a_packet_is_checked_is_no_verdict() -> None:
    world = world_of("tt")
    dialog = world.open()
    world.a.send(dialog, INIT, b"two")
    packets = world.outgoing(world.a)
    world.b.restart()
    world.b.token.up = False
    world.deliver(world.b, packets)
    world.b.token.up = True
    world.clock.advance(70)
    world.settle()
    assert world.b.bodies(dialog, TARGET) == [b"two"]


def test_keys_in_a_token_are_not_wrapped_anew() -> None:
    """A peer that dropped the key somebody encrypted to gets nothing until it is back, and loses nothing."""
    world = world_of("tt")
    dialog = world.a.begin(world.b)
    world.a.send(dialog, INIT, b"one")
    kept = dict(world.b.opening)
    world.b.opening.clear()
    world.b.encryption = ec_key("b open 2")
    world.b.encryption_cert = certificate(world.b.encryption, world.b.name, START - 86400, START + 2 * YEAR)
    world.b.opening[digest(world.b.encryption_cert)] = world.b.opener(world.b.encryption)
    world.b.local = dataclasses.replace(world.b.local, encryption_cert=digest(world.b.encryption_cert))
    world.b.restart()
    world.a.bind(world.a.binding(world.b, QUIET))
    world.deliver(world.a, world.deliver(world.b, world.outgoing(world.a)))
    assert world.a.engine.counted["rewraps_impossible"] == 1
    world.b.opening.update(kept)
    for _ in range(3):
        world.clock.advance(70)
        world.settle()
    assert world.b.bodies(dialog, TARGET) == [b"one"]


def test_suite_4_is_refused_in_words() -> None:
    world = World(suite=4)
    with pytest.raises(ConfigurationError, match="suite 4 seals bodies with CBC"):
        world.a.binding(world.b, split_keys=True).validate()
    resident(world.a)
    with pytest.raises(ConfigurationError, match="allow suites 1 to 3"):
        prove_residence(world.a.local, frozenset({1, 4}))


class OwnNonces(SoftwareAesKey):
    """A token that takes no nonce from its caller."""

    def encrypt_gcm(self, nonce: bytes, data: bytes, associated: bytes) -> bytes:
        return super().encrypt_gcm(secrets.token_bytes(12), data, associated)


class NoGcm(SoftwareAesKey):
    def encrypt_gcm(self, nonce: bytes, data: bytes, associated: bytes) -> bytes:
        raise MechanismUnsupportedError("the token has no AES-GCM")


class NoUnwrap(SoftwareAesKey):
    def encrypt_gcm(self, nonce: bytes, data: bytes, associated: bytes) -> bytes:
        raise DataRejectedError("refused")


@pytest.mark.parametrize(
    ("kind", "words"), [(OwnNonces, "nonces"), (NoGcm, "no AES-GCM"), (NoUnwrap, "refused")], ids=lambda it: str(it)
)
def test_what_a_token_lacks_is_found_at_the_start(kind: type[SoftwareAesKey], words: str) -> None:
    world = World()
    resident(world.a)
    prove_residence(world.a.local, frozenset({1, 2, 3}))

    class Storage:
        def __getattr__(self, name: str) -> object:
            return getattr(storage, name)

        def unwrap_aes(self, wrapped: bytes) -> AesKey:
            return kind(storage.unwrap(wrapped))

    storage = world.a.local.storage
    world.a.local = dataclasses.replace(world.a.local, storage=Storage())  # type: ignore[arg-type]  # by delegation
    with pytest.raises(ConfigurationError, match=words):
        prove_residence(world.a.local, frozenset({2}))


def test_host_residence_needs_no_proof() -> None:
    prove_residence(World().a.local, frozenset({4}))


def test_the_binding_keeps_what_it_says() -> None:
    world = World()
    binding = world.a.binding(world.b, split_keys=True)
    assert msgspec.json.decode(binding.row().document, type=Binding) == binding


@pytest.mark.parametrize("suite", [1, 2, 3, 4])
def test_suites_are_tried_at_the_start(suite: int) -> None:
    local = World(suite=suite).a.local
    prove_suites(local, {suite})
    wrong = {1: (2, "signing key"), 2: (1, "signing key"), 3: (4, "signing key"), 4: (2, "curve P-256")}[suite]
    with pytest.raises(ConfigurationError, match=f"suite {wrong[0]} cannot be used: .*{wrong[1]}"):
        prove_suites(local, {suite, wrong[0]})
    curve = World(suite=2).a.local
    with pytest.raises(ConfigurationError, match="suite 4 cannot be used: it needs an RSA encryption key"):
        prove_suites(curve, {4})
