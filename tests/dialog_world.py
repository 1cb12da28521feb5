"""Two services, a clock under control and a network that does what the test says."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from dialog_keys import (
    SoftAgreementKey,
    SoftExchangeKeys,
    SoftSigningKey,
    SoftUnwrappingKey,
    SoftWrappingKey,
    TokenSwitch,
    certificate,
    digest,
    ec_key,
    rsa_key,
)
from hsm_msl.dialog import signatures
from hsm_msl.dialog.binding import Binding, PinnedCertificate
from hsm_msl.dialog.clock import SteadyClock
from hsm_msl.dialog.context import CacheSizes
from hsm_msl.dialog.engine import DialogEngine
from hsm_msl.dialog.headers import dsk_id, kek_id, parse_dsk, parse_kek, parse_pair, sign1, signed_bytes
from hsm_msl.dialog.identity import LocalService
from hsm_msl.dialog.names import Side
from hsm_msl.dialog.packet import assemble, parse
from hsm_msl.dialog.policy import Policy
from hsm_msl.dialog.session import Event, Message, Outcome
from hsm_msl.dialog.suites import SUITES
from hsm_msl.ports.dialog_records import DialogStore, EndpointRecord
from hsm_msl.stores.dialog_memory import MemoryDialogStore

START = 1_800_000_000
YEAR = 365 * 86400
EC_SIGNED = (2, 4)
EC_OPENED = (2,)


class Clock:
    """The wall clock of the machine; ``now`` may be set, ``advance`` is time that really passes."""

    def __init__(self) -> None:
        self.now = float(START)
        self.uptime = 0.0

    def __call__(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.uptime

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.uptime += seconds


class Randomness:
    """Reproducible bytes, so that a failing case fails again."""

    def __init__(self, seed: str) -> None:
        self._state = hashlib.sha256(seed.encode()).digest()

    def __call__(self, size: int) -> bytes:
        out = b""
        while len(out) < size:
            self._state = hashlib.sha256(self._state).digest()
            out += hashlib.sha256(self._state + b"out").digest()
        return out[:size]


class Service:
    """One service: token, keys, store, engine; ``restart`` loses what is in memory."""

    def __init__(
        self,
        name: str,
        suite: int,
        clock: Clock,
        *,
        store: DialogStore | None = None,
        sizes: CacheSizes | None = None,
        seed: str = "",
    ) -> None:
        self.name = name
        self.suite = suite
        self.clock = clock
        self.sizes = sizes
        self.token = TokenSwitch()
        self.random = Randomness(name + seed)
        self.store: DialogStore = store if store is not None else MemoryDialogStore()
        self.signing = ec_key(name + " sign") if suite in EC_SIGNED else rsa_key(name + " sign")
        self.encryption = ec_key(name + " open") if suite in EC_OPENED else rsa_key(name + " open")
        self.signing_cert = certificate(self.signing, name, START - 86400, START + YEAR)
        self.encryption_cert = certificate(self.encryption, name, START - 86400, START + YEAR)
        self.opening = {digest(self.encryption_cert): self.opener(self.encryption)}
        self.local = self.identity()
        self.engine = self.new_engine()

    def opener(self, key: object) -> SoftAgreementKey | SoftUnwrappingKey:
        if self.suite in EC_OPENED:
            return SoftAgreementKey(key, self.token)  # type: ignore[arg-type]  # the suite says which
        return SoftUnwrappingKey(key, self.token)  # type: ignore[arg-type]  # the suite says which

    def identity(self) -> LocalService:
        return LocalService(
            name=self.name,
            instance=hashlib.sha256(self.name.encode()).digest()[:16],
            signing_key=SoftSigningKey(self.signing, self.token),
            signing_cert=digest(self.signing_cert),
            encryption_keys=self.opening,
            encryption_cert=digest(self.encryption_cert),
            exchange=SoftExchangeKeys(self.random, self.token),
            storage=SoftWrappingKey(hashlib.sha256(b"storage" + self.name.encode()).digest(), self.token, "storage"),
        )

    def new_engine(self) -> DialogEngine:
        clock = SteadyClock(self.clock, self.clock.monotonic)
        return DialogEngine(self.local, self.store, clock, self.random, self.sizes)

    def restart(self) -> None:
        self.engine = self.new_engine()

    def binding(self, peer: Service, policy: Policy | None = None, **changes: object) -> Binding:
        fields: dict[str, object] = {
            "local": self.name,
            "remote": peer.name,
            "signing": (PinnedCertificate(peer.signing_cert),),
            "encryption": (PinnedCertificate(peer.encryption_cert),),
            "suites": (self.suite,),
            "policy": policy if policy is not None else Policy(on_peer_shift=False),
        }
        return Binding(**{**fields, **changes})  # type: ignore[arg-type]  # field names are the tests' own

    def bind(self, binding: Binding) -> None:
        binding.validate()
        with self.store.transaction() as tx:
            tx.put_binding(binding.row())

    def begin(self, peer: Service, lifetime: int = 86400) -> bytes:
        with self.store.transaction() as tx:
            return self.engine.begin(tx, peer.name, lifetime).dialog

    def send(self, dialog: bytes, side: int, *bodies: bytes) -> int:
        with self.store.transaction() as tx:
            return self.engine.send(tx, dialog, side, [("test", body) for body in bodies])

    def end(self, dialog: bytes, side: int, error: tuple[int, str] | None = None) -> None:
        with self.store.transaction() as tx:
            self.engine.end(tx, dialog, side, error)

    def shift(self, dialog: bytes, side: int) -> Outcome:
        outcome = Outcome()
        with self.store.transaction() as tx:
            self.engine.shift(tx, dialog, side, outcome)
        return outcome

    def fail(self, dialog: bytes, side: int) -> Outcome:
        outcome = Outcome()
        with self.store.transaction() as tx:
            self.engine.fail(tx, dialog, side, outcome)
        return outcome

    def take(self, dialog: bytes, side: int, limit: int = 1000) -> list[Message]:
        with self.store.transaction() as tx:
            return self.engine.take(tx, dialog, side, limit)

    def bodies(self, dialog: bytes, side: int) -> list[bytes]:
        return [message.body for message in self.take(dialog, side)]

    def state(self, dialog: bytes, side: int) -> EndpointRecord:
        with self.store.reading() as tx:
            found = tx.endpoint(dialog, side, lock=False)
        assert found is not None
        return found


@dataclass
class World:
    """An initiator and a target, and the packets between them."""

    suite: int = 2
    sizes: CacheSizes | None = None
    policy: Policy | None = None
    target_policy: Policy | None = None
    initiator_store: DialogStore | None = None
    target_store: DialogStore | None = None
    seed: str = ""
    bound: bool = True
    clock: Clock = field(default_factory=Clock)
    events: list[Event] = field(default_factory=list)
    log: list[tuple[str, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.a = Service(
            "urn:test:a", self.suite, self.clock, store=self.initiator_store, sizes=self.sizes, seed=self.seed
        )
        self.b = Service(
            "urn:test:b", self.suite, self.clock, store=self.target_store, sizes=self.sizes, seed=self.seed
        )
        if self.bound:
            self.bind()

    def bind(self) -> None:
        self.a.bind(self.a.binding(self.b, self.policy))
        self.b.bind(self.b.binding(self.a, self.target_policy or self.policy))

    def service(self, name: str) -> Service:
        return self.a if name == self.a.name else self.b

    def other(self, service: Service) -> Service:
        return self.b if service is self.a else self.a

    def outgoing(self, service: Service, limit: int = 64) -> list[bytes]:
        """Packets a service wants on the network now."""
        outcome = service.engine.tick()
        self.events += outcome.events
        packets = [out.packet for out in outcome.outgoing]
        return packets + [out.packet for out in service.engine.transmit(limit)]

    def deliver(self, service: Service, packets: list[bytes]) -> list[bytes]:
        """Give packets to a service and return what it answers."""
        if not packets:
            return []
        self.log += [(service.name, packet) for packet in packets]
        outcome = service.engine.receive(packets)
        self.events += outcome.events
        return outcome.replies + [out.packet for out in outcome.outgoing]

    def settle(self, rounds: int = 40, lose: Callable[[str, bytes], bool] = lambda name, packet: False) -> None:
        """Run the network until it is quiet."""
        waiting: dict[str, list[bytes]] = {self.a.name: [], self.b.name: []}
        for _ in range(rounds):
            for service in (self.a, self.b):
                waiting[self.other(service).name] += self.outgoing(service)
            if not any(waiting.values()):
                return
            for service in (self.a, self.b):
                packets = [packet for packet in waiting[service.name] if not lose(service.name, packet)]
                waiting[service.name] = []
                waiting[self.other(service).name] += self.deliver(service, packets)
        raise AssertionError("the network does not come to rest")

    def open(self, lifetime: int = 86400) -> bytes:
        """Begin a dialog over which one message each way has passed."""
        dialog = self.a.begin(self.b, lifetime)
        self.a.send(dialog, Side.INITIATOR, b"hello")
        self.settle()
        self.b.send(dialog, Side.TARGET, b"welcome")
        self.settle()
        assert self.b.bodies(dialog, Side.TARGET) == [b"hello"]
        assert self.a.bodies(dialog, Side.INITIATOR) == [b"welcome"]
        return dialog

    def names(self) -> list[str]:
        return [event.name for event in self.events]


def broken_kek(world: World, data: bytes, end: bytes = b"\1") -> bytes:
    """A first packet whose KEK header cannot be opened although its sender signed for it."""
    packet = parse(data)
    header = parse_kek(packet.ext.kek or b"")
    broken = msgspec.structs.replace(header, wrapped=bytes(len(header.wrapped) - 1) + end).encode()
    pair = parse_pair(packet.ext.pair or b"")
    claim = msgspec.structs.replace(pair.authentication, kek_digest=hashlib.sha256(broken).digest())
    payload = claim.encode()
    signature = signatures.sign(world.a.local.signing_key, signed_bytes(pair.protected, payload), SUITES[world.suite])
    dsk = msgspec.structs.replace(parse_dsk(packet.ext.dsk or b""), kek_id=kek_id(broken)).encode()
    core = msgspec.structs.replace(packet.core, dsk_id=dsk_id(dsk))
    ext = msgspec.structs.replace(packet.ext, kek=broken, pair=sign1(pair.protected, payload, signature), dsk=dsk)
    return assemble(core.encode(), ext.encode(), packet.body, packet.tag)
