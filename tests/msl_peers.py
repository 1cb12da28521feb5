"""Two peers on one connection, with every key at hand and a clock that stands still."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace

from hsm_msl.crypto.token_keys import TokenKeys
from hsm_msl.msl.client_state import ClientState
from hsm_msl.msl.context import MslContext
from hsm_msl.msl.conversation import Receive, Transmit
from hsm_msl.msl.message_stream import Received
from hsm_msl.msl.peer import PeerConnection, Steps
from hsm_msl.msl.peer_message import PeerMessage, PeerTokens
from hsm_msl.msl.renewal import RenewalLock
from hsm_msl.msl.tokens.issuer import TokenIssuer
from hsm_msl.msl.tokens.master_token import MasterTokens, TokenCache
from hsm_msl.msl.tokens.user_id_token import UserIdTokens
from hsm_msl.msl.userauth.email_password import EmailPasswordScheme
from hsm_msl.stores.client_memory import MemoryClientStore
from hsm_msl.stores.memory import MemoryRenewalStore, MemoryReplayStore
from msl_keys import Ring, symmetric_keys
from msl_messages import Observer, Opened
from msl_world import World, key_requests

Program = Generator[Steps, bytes | None, object]
Silent = Generator[Steps, bytes | None, None]


@dataclass
class Peer:
    """One peer: its context as an issuer, and the tokens the other one issued to it."""

    context: MslContext
    state: ClientState
    lock: RenewalLock

    def connect(
        self,
        expected_identity: str | None = None,
        held: PeerTokens | None = None,
        renew_after_messages: int = 0,
    ) -> PeerConnection:
        offers = key_requests(self.context, ["DIFFIE_HELLMAN"])
        return PeerConnection(
            self.context,
            self.state,
            offers,
            lock=self.lock,
            expected_identity=expected_identity,
            held=held,
            renew_after_messages=renew_after_messages,
        )


def peer(world: World, scheme: str, name: str) -> Peer:
    """Return a peer that authenticates by this scheme and has token keys of its own."""
    device = world.client(scheme, name, service_token_keys=world.service_token_keys)
    keys = TokenKeys(Ring(symmetric_keys(world.random)), name, world.random)
    master_tokens = MasterTokens(keys, world.vault, world.random, TokenCache(100))
    user_id_tokens = UserIdTokens(keys, TokenCache(100))
    issuer = TokenIssuer(
        master_tokens,
        user_id_tokens,
        world.policy,
        clock=world.clock,
        random=world.random,
        replays=MemoryReplayStore(),
        renewals=MemoryRenewalStore(),
        revocations=world.revocations,
    )
    # Peers know each other's pre-shared keys, unlike the clients of a trusted-services network.
    schemes = {**device.context.entity_schemes, "PSK": world.context.entity_schemes["PSK"]}
    context = replace(
        device.context,
        entity_schemes=schemes,
        user_schemes={"EMAIL_PASSWORD": EmailPasswordScheme(world.users, world.grants)},
        token_keys=keys,
        master_tokens=master_tokens,
        user_id_tokens=user_id_tokens,
        issuer=issuer,
        peer_to_peer=True,
    )
    return Peer(context, ClientState(context, MemoryClientStore()), RenewalLock())


@dataclass
class Line:
    """The connection: carries bytes both ways and keeps what passed.

    Attributes:
        passed: who sent what, in order.
        piece: how many bytes arrive at once.
        arriving: what each has not read yet.
    """

    first: Peer
    second: Peer
    piece: int = 1000
    passed: list[tuple[str, bytes]] = field(default_factory=list)
    arriving: dict[str, bytes] = field(default_factory=lambda: {"A": b"", "B": b""})

    def run(self, first: Program, second: Program) -> tuple[object, object]:
        """Run both ends until they are through; the connection closes when one of them is.

        Returns:
            What each returned.

        Raises:
            AssertionError: both wait for each other.
        """
        ends = [_End("A", first), _End("B", second)]
        while not all(end.done for end in ends):
            moved = False
            for end, other in (ends, ends[::-1]):
                moved |= self._advance(end, other)
            assert moved, "both peers wait for each other"
        return ends[0].result, ends[1].result

    def _advance(self, end: _End, other: _End) -> bool:
        moved = False
        while not end.done:
            data: bytes | None = None
            if isinstance(end.step, Transmit):
                sent = b"".join(end.step.pieces)
                self.passed.append((end.name, sent))
                self.arriving[other.name] += sent
            elif isinstance(end.step, Receive):
                inbox = self.arriving[end.name]
                if not inbox and not other.done:
                    return moved
                data, self.arriving[end.name] = inbox[: self.piece], inbox[self.piece :]
            moved = True
            end.resume(data)
        return moved

    def opened(self) -> list[tuple[str, Opened]]:
        """Return what passed, readable."""
        observer = Observer([self.first.context, self.second.context])
        return [(name, observer.open(body)) for name, body in self.passed]


class _End:
    def __init__(self, name: str, program: Program) -> None:
        self.name = name
        self.program = program
        self.result: object = None
        self.done = False
        self.step: Steps | None = None
        self.resume(None)

    def resume(self, data: bytes | None) -> None:
        try:
            self.step = next(self.program) if self.step is None else self.program.send(data)
        except StopIteration as done:
            self.result = done.value
            self.done = True


def answering(connection: PeerConnection, answer: Callable[[Received], PeerMessage], count: int = 1) -> Program:
    """Receive that many messages and answer each; return them."""
    received = []
    for _ in range(count):
        message = yield from connection.receive()
        if message is None:
            break
        received.append(message)
        yield from connection.respond(message, answer(message))
    return received
