"""msl-engine section 21, conformance cases 119 to 122: peer-to-peer."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hsm_msl.errors import ErrorCode, MslError, ResponseCode, UsageError
from hsm_msl.msl.client import MslClient
from hsm_msl.msl.conversation import ErrorResponseError, Receive, Transmit
from hsm_msl.msl.message_stream import Received
from hsm_msl.msl.peer import PeerConnection
from hsm_msl.msl.peer_message import PeerMessage
from hsm_msl.msl.server import MslServer
from hsm_msl.wire import codec
from msl_messages import Opened, Sender, seal_header
from msl_peers import Line, Peer, Program, Silent, answering, peer
from msl_world import ADA, LIFETIME, RENEWAL_WINDOW, Credentials, World


@pytest.fixture
def world() -> World:
    return World()


def plain(payload: bytes) -> PeerMessage:
    return PeerMessage(payload, encrypted=False, integrity=False)


def closed(payload: bytes, user: Credentials | None = None) -> PeerMessage:
    if user is None:
        return PeerMessage(payload)
    return PeerMessage(payload, user=user.email, user_auth=user)


def echoing(make: Callable[[bytes], PeerMessage]) -> Callable[[Received], PeerMessage]:
    return lambda received: make(b"re:" + received.payload)


def pair(world: World, first: str, second: str) -> tuple[Peer, Peer, Line]:
    one, other = peer(world, first, "peer-a"), peer(world, second, "peer-b")
    return one, other, Line(one, other)


def tokens(opened: Opened) -> tuple[int | None, bool, bool, bool]:
    """Return the header token's sequence number, and whether offers, keys and a peer token are there."""
    held = None if opened.master_token is None else opened.master_token.sequence_number
    return held, bool(opened.offers), "keyresponsedata" in opened.data, "peermastertoken" in opened.data


def test_case_119_three_messages_until_both_hold_a_master_token(world: World) -> None:
    one, other, line = pair(world, "PSK", "RSA")
    here, there = one.connect(), other.connect()

    def twice() -> Program:
        first = yield from here.request(plain(b"one"))
        second = yield from here.request(plain(b"two"))
        return first.payload, second.payload

    result, received = line.run(twice(), answering(there, echoing(plain), 2))
    assert result == (b"re:one", b"re:two")
    assert isinstance(received, list)
    assert [(message.payload, message.header.identity) for message in received] == [
        (b"one", "peer-a"),
        (b"two", "peer-a"),
    ]
    passed = line.opened()
    assert [name for name, _ in passed] == ["A", "B", "A", "A", "B"]
    assert [tokens(opened) for _, opened in passed] == [
        (None, True, False, False),
        (None, True, True, False),
        (0, False, True, False),
        (0, False, False, True),
        (0, False, False, True),
    ]
    ids = [opened.message_id for _, opened in passed]
    assert [ids[1] - ids[0], ids[2] - ids[0], ids[4] - ids[3]] == [1, 2, 1]
    assert one.state.newest() is not None
    assert other.state.newest() is not None
    later = [opened for _, opened in passed[3:]]
    issuers = [opened.master_token.identity for opened in later if opened.master_token is not None]
    assert issuers == ["peer-a", "peer-b"]
    # Each carries the other's token along: the same one the other then uses.
    assert later[0].data["peermastertoken"] == later[1].outer["mastertoken"]
    assert later[1].data["peermastertoken"] == later[0].outer["mastertoken"]
    assert not one.lock.held
    assert not other.lock.held


def test_case_119_the_second_peer_may_ask_next_on_a_new_connection(world: World) -> None:
    one, other, line = pair(world, "PSK", "RSA")
    there = other.connect()
    line.run(one.connect().request(plain(b"one")), answering(there, echoing(plain)))
    back = Line(other, one)
    again = other.connect(held=there.held)
    result, _ = back.run(again.request(closed(b"back")), answering(one.connect(), echoing(closed)))
    assert isinstance(result, Received)
    assert result.payload == b"re:back"
    assert [tokens(opened)[0] for _, opened in back.opened()] == [0, 0]


@pytest.mark.parametrize("piece", [1, 1000])
def test_a_peer_that_cannot_encrypt_yet_answers_with_a_handshake(world: World, piece: int) -> None:
    """Section 11, observed start: the second message is a handshake when its sender wants encryption."""
    one, other, line = pair(world, "PSK", "RSA")
    line.piece = piece
    result, _ = line.run(one.connect().request(closed(b"secret")), answering(other.connect(), echoing(closed)))
    assert isinstance(result, Received)
    assert result.payload == b"re:secret"
    passed = [opened for _, opened in line.opened()]
    assert [name for name, _ in line.passed] == ["A", "B", "A", "B"]
    assert passed[1].data["handshake"] is True
    assert not passed[1].chunks
    assert tokens(passed[2]) == (0, False, True, False)
    assert passed[2].payload == b""
    assert tokens(passed[3]) == (0, False, False, True)
    assert [opened.message_id - passed[0].message_id for opened in passed] == [0, 1, 2, 3]


def test_users_of_both_sides(world: World) -> None:
    """Sections 7.2 and 7.3: each issues user ID tokens for the other's users, and they come back."""
    one, other, line = pair(world, "PSK", "PSK")
    user = Credentials(ADA)
    here, there = one.connect(), other.connect()

    def ask() -> Silent:
        for payload in (b"one", b"two"):
            yield from here.request(closed(payload, user))

    _, received = line.run(ask(), answering(there, echoing(closed), 2))
    assert isinstance(received, list)
    assert [message.header.user for message in received] == [ADA, ADA]
    held = one.state.newest()
    assert held is not None
    assert one.state.user_id_token(ADA, held.master_token) is not None
    assert user.asked == [(None, True), (None, False)]
    last = line.opened()[-1][1]
    assert "peeruseridtoken" in last.data
    assert "useridtoken" not in last.data


def test_case_120_expired_master_token_without_offer(world: World) -> None:
    one, other, line = pair(world, "PSK", "RSA")
    line.run(one.connect().request(plain(b"one")), answering(other.connect(), echoing(plain)))
    held = one.state.newest()
    assert held is not None
    world.clock.advance(LIFETIME)
    header = {"messageid": 7, "renewable": True, "handshake": False}
    stale = seal_header(Sender({"mastertoken": held.master_token.to_wire()}, held.context), codec.encode(header))

    def send() -> Silent:

        yield Transmit(iter([stale]))
        while (yield Receive()):
            pass

    raised = Line(one, other)
    with pytest.raises(MslError) as caught:
        raised.run(send(), answering(other.connect(), echoing(plain)))
    assert caught.value.code is ErrorCode.MESSAGE_EXPIRED_NO_KEYREQUEST_DATA
    refusal = raised.opened()[-1][1]
    assert (refusal.code, refusal.response) == (caught.value.code, ResponseCode.EXPIRED)
    assert refusal.message_id == 8


def test_case_120_an_expired_token_is_renewed_on_the_way(world: World) -> None:
    one, other, line = pair(world, "PSK", "RSA")
    here, there = one.connect(), other.connect()
    for pause in (0, RENEWAL_WINDOW, LIFETIME):
        world.clock.advance(pause)
        line.run(here.request(closed(b"now")), answering(there, echoing(closed)))
    mine, theirs = one.state.newest(), other.state.newest()
    assert mine is not None
    assert theirs is not None
    assert (mine.master_token.sequence_number, theirs.master_token.sequence_number) == (2, 2)
    assert {tokens(opened)[0] for _, opened in line.opened()} == {None, 0, 1, 2}


def test_case_121_the_applications_answer_is_the_only_one(world: World) -> None:
    one, other, line = pair(world, "NONE", "RSA")
    user = Credentials(ADA)
    here, there = one.connect(), other.connect()

    def ask() -> Program:
        first = yield from here.request(closed(b"secret", user))
        second = yield from here.request(closed(b"again", user))
        return first.payload, second.payload

    result, received = line.run(ask(), answering(there, echoing(closed), 2))
    assert result == (b"re:secret", b"re:again")
    passed = line.opened()
    assert [name for name, _ in passed] == ["A", "B", "A", "B", "A", "B"]
    third = passed[2][1]
    assert third.data["renewable"] is True
    assert "userauthdata" in third.data
    assert third.payload == b"secret"
    ids = [opened.message_id - passed[0][1].message_id for _, opened in passed[:4]]
    assert ids == [0, 1, 2, 3]
    fourth = passed[3][1]
    assert fourth.payload == b"re:secret"
    assert "peeruseridtoken" in fourth.data
    assert isinstance(received, list)
    assert [message.header.user for message in received] == [ADA, ADA]


def test_case_122_networks_do_not_mix(world: World) -> None:
    one = peer(world, "PSK", "peer-a")
    with pytest.raises(UsageError):
        MslServer(one.context, lambda request: b"")
    with pytest.raises(UsageError):
        MslClient(one.context, one.state, list)
    device = world.client("PSK")
    for context in (device.context, world.context):
        with pytest.raises(UsageError):
            PeerConnection(context, device.state, list)


def test_a_wrong_password_is_told_and_mended(world: World) -> None:
    """Section 10.2 between peers: the same connection, the next message ID, new credentials."""
    one, other, line = pair(world, "PSK", "PSK")
    user = Credentials(ADA, password="guess")
    user.renewed_password = "correct-horse"
    here, there = one.connect(), other.connect()

    def serve() -> Program:
        with pytest.raises(MslError):
            yield from there.receive()
        return (yield from answering(there, echoing(closed)))

    result, received = line.run(here.request(closed(b"secret", user)), serve())
    assert isinstance(result, Received)
    assert result.payload == b"re:secret"
    assert isinstance(received, list)
    assert received[0].header.user == ADA
    ids = [opened.message_id - line.opened()[0][1].message_id for _, opened in line.opened()[:4]]
    assert ids == [0, 1, 2, 3]


def test_an_error_of_the_application(world: World) -> None:
    """Section 8, error, between peers."""
    one, other, line = pair(world, "PSK", "RSA")
    there = other.connect()

    def reject() -> Silent:
        message = yield from there.receive()
        assert message is not None
        yield from there.error(message, ErrorCode.USER_REJECTED_BY_APP)

    with pytest.raises(ErrorResponseError) as caught:
        line.run(one.connect().request(plain(b"one")), reject())
    assert caught.value.error.response is ResponseCode.USERDATA_REAUTH
    assert not one.lock.held


def test_another_peer_than_expected(world: World) -> None:
    """Section 9 step 2: among peers the identity of a master token counts as well."""
    one, other, line = pair(world, "PSK", "RSA")
    line.run(one.connect().request(plain(b"one")), answering(other.connect(), echoing(plain)))
    with pytest.raises(MslError) as caught:
        Line(one, other).run(
            one.connect(expected_identity="somebody").request(plain(b"one")),
            answering(other.connect(), echoing(plain)),
        )
    assert caught.value.code is ErrorCode.MESSAGE_SENDER_MISMATCH


def test_a_message_reflected_to_its_sender_is_refused(world: World) -> None:
    """Section 19 rule 22: a master token of the other's making is no proof here, although we use it ourselves."""
    one, other, line = pair(world, "PSK", "PSK")
    here = one.connect()
    line.run(here.request(plain(b"one")), answering(other.connect(), echoing(plain)))
    again = Line(one, other)
    again.run(one.connect().request(closed(b"two")), answering(other.connect(), echoing(closed)))
    mirrored = again.passed[0][1]

    def reflect() -> Silent:

        yield Transmit(iter([mirrored]))
        while (yield Receive()):
            pass

    with pytest.raises(MslError) as caught:
        Line(other, one).run(reflect(), answering(one.connect(), echoing(closed)))
    assert caught.value.code is ErrorCode.MASTERTOKEN_UNTRUSTED


def test_service_tokens_of_both_sides(world: World) -> None:
    """Section 13 between peers: primary tokens are ours, peer tokens the other's, each kept by its owner."""
    one, other, line = pair(world, "PSK", "PSK")
    here, there = one.connect(), other.connect()

    def answer(received: Received) -> PeerMessage:
        return PeerMessage(
            b"re", peer_service_tokens=lambda builder: void(builder.add("for-a", b"1", master_bound=True))
        )

    def ask() -> Silent:
        for _ in range(2):
            yield from here.request(closed(b"x"))

    _, received = line.run(ask(), answering(there, answer, 2))
    assert isinstance(received, list)
    assert [[token.data for token in message.header.service_tokens] for message in received] == [[], [b"1"]]


def void(value: object) -> None:
    """Do something for its effect."""


def test_a_closed_connection_is_no_message(world: World) -> None:
    one, other, line = pair(world, "PSK", "PSK")
    _, received = line.run(iter_nothing(), answering(other.connect(), echoing(plain)))
    assert received == []
    assert one.state.newest() is None


def iter_nothing() -> Silent:

    yield Transmit(iter([]))


def test_a_payload_kept_whole_is_held_to_a_limit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Section 19 rule 15: many chunks that each keep the inflate ratio do not make one payload that does."""
    monkeypatch.setattr("hsm_msl.msl.message.reader.MAX_INFLATED_BYTES", 100_000)
    one, other, line = pair(world, "PSK", "PSK")
    there = other.connect()
    inflating = world.random(2048) * 2000

    def refuse() -> Silent:
        with pytest.raises(MslError) as refused:
            yield from there.receive()
        assert refused.value.code is ErrorCode.UNCOMPRESSION_ERROR

    with pytest.raises(ErrorResponseError):
        line.run(one.connect().request(plain(inflating)), refuse())
    again = Line(one, other)
    with pytest.raises(MslError) as caught:
        again.run(one.connect().request(plain(b"x")), answering(other.connect(), lambda received: plain(inflating)))
    assert caught.value.code is ErrorCode.UNCOMPRESSION_ERROR
    assert not one.lock.held
