"""Two peers through random schedules on connections that break: both recover, and neither believes a stranger."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hsm_msl.errors import MslError
from hsm_msl.msl.conversation import Transmit
from hsm_msl.msl.message_stream import Received
from hsm_msl.msl.peer import PeerConnection
from hsm_msl.msl.peer_message import PeerMessage
from msl_peers import Line, Program, answering, peer
from msl_world import ADA, BOB, LIFETIME, RENEWAL_WINDOW, Credentials, World

SCHEMES = st.tuples(st.sampled_from(["PSK", "RSA", "NONE"]), st.sampled_from(["PSK", "RSA", "NONE"]))
ACTIONS = st.tuples(
    st.sampled_from(["ask", "ask", "ask", "jump", "break", "revoke", "reconnect"]), st.integers(0, 11), st.booleans()
)


class BrokenError(Exception):
    """The connection broke."""


def message(payload: bytes, how: int) -> PeerMessage:
    """Return a message of one of several kinds: plain or protected, for a user or not, once only or not."""
    user = (None, ADA, BOB)[how % 3]
    credentials = None if user is None else Credentials(user)
    protected = user is not None or how % 2 == 0
    return PeerMessage(
        payload,
        user=user,
        user_auth=credentials,
        encrypted=protected,
        integrity=protected,
        non_replayable=how % 4 == 3,
    )


class Network:
    def __init__(self, first: str, second: str) -> None:
        self.world = World()
        self.peers = peer(self.world, first, "peer-a"), peer(self.world, second, "peer-b")
        self.sent = 0
        self.reconnect(0, False)

    def reconnect(self, _: int, __: bool) -> None:
        one, other = self.peers
        self.connections = {
            False: (Line(one, other), one.connect("peer-b"), other.connect("peer-a")),
            True: (Line(other, one), other.connect("peer-a"), one.connect("peer-b")),
        }

    def ask(self, how: int, back: bool) -> None:
        """Let one peer ask the other, on the connection that goes this way."""
        self._exchange(how, back, None)

    def jump(self, how: int, _: bool) -> None:
        self.world.clock.advance((1, RENEWAL_WINDOW, LIFETIME, 10 * LIFETIME)[how % 4])

    def revoke(self, how: int, back: bool) -> None:
        owner = self.peers[back]
        held = owner.state.newest()
        if held is None:
            return
        user = owner.state.user_id_token(ADA, held.master_token)
        if how % 2 and user is not None:
            self.world.revocations.user_id_tokens.add(user.serial_number)
        else:
            self.world.revocations.master_tokens.add(held.master_token.serial_number)

    def break_(self, how: int, back: bool) -> None:
        """Lose everything after some messages of an exchange."""
        self._exchange(how, back, how % 5)
        self.reconnect(0, False)

    def _exchange(self, how: int, back: bool, breaks_after: int | None) -> None:
        line, asking, answering_ = self.connections[back]
        self.sent += 1
        payload = b"%d" % self.sent
        asked = message(payload, how)
        reply = message(b"re:" + payload, 0 if how % 2 else 1)
        ask: Program = asking.request(asked)
        answer: Program = tolerant(answering_, reply)
        try:
            if breaks_after is not None:
                ask, answer = breaking(ask, breaks_after), breaking(answer, breaks_after)
            result, received = line.run(ask, answer)
        except BrokenError:
            ask.close()
            answer.close()
        else:
            assert isinstance(result, Received)
            assert result.payload == b"re:" + payload
            assert isinstance(received, list)
            (seen,) = received
            assert seen.payload == payload
            assert seen.header.user == asked.user
            assert seen.header.identity == ("peer-b" if back else "peer-a")
            assert result.header.identity in (None, "peer-a" if back else "peer-b")
        assert not any(one.lock.held for one in self.peers), "a leaked renewal lock"


def tolerant(connection: PeerConnection, reply: PeerMessage) -> Program:
    """Answer the first message that is not refused; refusals were told to the other end, which tries again."""
    for _ in range(6):
        try:
            return (yield from answering(connection, lambda received: reply))
        except MslError:
            continue
    return []


def breaking(program: Program, after: int) -> Program:
    """Break the connection after that many messages of this end."""
    step = next(program)
    sent = 0
    try:
        while True:
            if isinstance(step, Transmit):
                sent += 1
                if sent > after:
                    raise BrokenError
            data = yield step
            step = program.send(data)
    except StopIteration as done:
        return done.value
    finally:
        program.close()


def run(schemes: tuple[str, str], schedule: list[tuple[str, int, bool]]) -> None:
    net = Network(*schemes)
    for name, how, back in schedule:
        getattr(net, "break_" if name == "break" else name)(how, back)
    net.reconnect(0, False)
    for back in (False, True):
        for how in (0, 1, 2, 3):
            net.ask(how, back)


@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow], database=None)
@given(SCHEMES, st.lists(ACTIONS, max_size=20))
def test_any_schedule_of_two_peers(schemes: tuple[str, str], schedule: list[tuple[str, int, bool]]) -> None:
    run(schemes, schedule)
