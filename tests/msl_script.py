"""Servers that answer as a test says, and assertions about what a real one answered."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from hsm_msl.errors import ErrorCode, ResponseCode
from hsm_msl.msl.context import MslContext
from hsm_msl.msl.keyx.base import KeyResponse, Requester, parse_key_request, respond
from hsm_msl.msl.server import MslServer
from hsm_msl.msl.tokens.issuer import next_long
from hsm_msl.wire import codec
from msl_messages import MESSAGE_ID, Observer, Opened, Sender, entity, error_message, seal_chunk, seal_header
from msl_world import Device, World

Step = Callable[[bytes, Opened], bytes]
"""Answers one request, given as it came and opened."""


class Script:
    """Answers the first request with the first step and so on; the last step answers all that follow.

    Attributes:
        requests: the requests so far, opened.
    """

    def __init__(self, world: World, devices: Iterable[Device], *steps: Step) -> None:
        self._observer = Observer([world.server_context()], [*devices])
        self._steps = list(steps)
        self.requests: list[Opened] = []

    def __call__(self, body: bytes) -> bytes:
        opened = self._observer.open(body)
        self.requests.append(opened)
        step = self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]
        return step(body, opened)


def real(server: MslServer) -> Step:
    """Let a real server answer."""
    return lambda body, opened: server.handle(body)


def refuse(world: World, response: ResponseCode | int, *, offset: int = 1, sender: Sender | None = None) -> Step:
    """Answer with an error whose ID is the request's plus ``offset``."""
    source = entity(world.context) if sender is None else sender

    def step(body: bytes, opened: Opened) -> bytes:
        return error_message(source, opened.message_id + offset, response, timestamp=int(world.clock()))

    return step


def accept(world: World, payload: bytes = b"reply", *, offset: int = 1, **fields: Any) -> Step:
    """Answer with a message under the request's master token, or the server's entity authentication data.

    Args:
        world: whose server answers.
        payload: the application data.
        offset: distance of the answer's ID from the request's.
        fields: members of the header data.
    """

    def step(body: bytes, opened: Opened) -> bytes:
        sender = entity(world.context)
        if opened.master_token is not None:
            sender = Sender({"mastertoken": opened.master_token.to_wire()}, opened.context)
        message_id = opened.message_id + offset
        header = {"messageid": message_id, "renewable": False, "timestamp": int(world.clock()), **fields}
        head = seal_header(sender, codec.encode(header))
        return head + seal_chunk(sender.context, message_id, 1, payload, endofmsg=True)

    return step


def exchange_keys(context: MslContext, request: Opened) -> KeyResponse:
    """Answer a request's key requests, and renew its master token if it has one, as a server does."""
    requests = [parse_key_request(obj, context.key_exchanges) for obj in request.data["keyrequestdata"]]
    identity = "" if request.master_token is None else request.master_token.identity or ""
    if request.master_token is None:
        scheme = context.entity_schemes[request.outer["entityauthdata"]["scheme"]]
        identity = scheme.parse(request.outer["entityauthdata"]["authdata"]).identity
    if context.issuer is None:
        raise TypeError("not an issuer")
    requester = Requester(identity, request.master_token)
    return respond(context.key_exchanges, requests, requester, context.issuer, context.authorization)


def answer(world: World, body: bytes, *devices: Device, server: MslServer | None = None) -> Opened:
    """Return what a real server answers, opened."""
    reply = (world.server() if server is None else server).handle(body)
    return Observer([world.server_context()], devices).open(reply)


def assert_refused(
    answered: Opened, code: ErrorCode, response: ResponseCode, *, mid: bool = True, request_id: int = MESSAGE_ID
) -> None:
    """Check an error's codes and whether its ID follows the request's."""
    assert answered.is_error, f"not an error: {answered.data}"
    assert (answered.code, answered.response) == (code, response)
    assert (answered.message_id == next_long(request_id)) is mid
