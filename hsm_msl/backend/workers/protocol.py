"""What goes between a service and the process that holds its token: frames of msgpack over a socket pair.

A call names its key by a *recipe*, from which any worker can get the handle: a name on the token, or what another
recipe unwraps or derives. So workers keep no state that matters, and any of them may answer any call. Only what was
made in one worker's session (``made``) belongs to that worker.
"""

from __future__ import annotations

import socket
import struct
from typing import TypeAlias

import msgspec

from hsm_msl.errors import (
    BackendConfigurationError,
    BackendError,
    BackendUnavailableError,
    ConfigurationError,
    DataRejectedError,
    HsmMslError,
    KeyNotFoundError,
    KeyPolicyError,
    MechanismUnsupportedError,
    PinRefusedError,
    TokenAbsentError,
    UsageError,
)

LARGEST_FRAME = 1 << 26
_LENGTH = struct.Struct("!I")

Value: TypeAlias = object
"""Bytes, text, numbers, truth values, lists of text or nothing, as msgpack has them; checked where they are used."""


class WorkerSpec(msgspec.Struct, frozen=True):
    """How a worker opens its token.

    Attributes:
        module: path or alias of the PKCS#11 module.
        label: the token's label, or None.
        serial: its serial number, or None.
        manufacturer: its manufacturer, or None.
        model: its model, or None.
        pin: the PIN source as text; the worker reads it itself.
        profile: name of the vendor profile; None lets the worker choose by what the token says of itself.
        reserved: the module's parameter string, or None.
        recycle_after: after how many keys unwrapped or made the worker reports itself worn; 0 for never, None for
            the profile's number.
        pin_memory: directory in which a refused PIN is remembered, or None.
    """

    module: str
    label: str | None = None
    serial: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    pin: str | None = None
    profile: str | None = None
    reserved: str | None = None
    recycle_after: int | None = None
    pin_memory: str | None = None


class Hello(msgspec.Struct, frozen=True, array_like=True):
    """The first frame: which worker it is, what it opens, and at what share of ``recycle_after`` it is worn."""

    number: int
    spec: WorkerSpec
    share: float = 1.0


class OnToken(msgspec.Struct, frozen=True, tag="token"):
    """A key on the token, by role (a method of ``Token``), name and what else that method takes.

    ``fingerprint`` is what the first worker saw under the name: no other worker may take another key for it.
    """

    role: str
    label: str | None = None
    id: bytes | None = None
    algorithm: str | None = None
    by_blocks: bool = False
    fingerprint: bytes | None = None


class Remade(msgspec.Struct, frozen=True, tag="remade"):
    """A session key that the parent unwraps or derives, and can again: one of ``REMAKES`` and its arguments."""

    parent: Recipe
    verb: str
    arguments: tuple[Value, ...]


class Made(msgspec.Struct, frozen=True, tag="made"):
    """Something that one worker made in a session and that is gone with it."""

    worker: int
    number: int


class TokenItself(msgspec.Struct, frozen=True, tag="itself"):
    """The token, for calls that need no key."""


Recipe: TypeAlias = OnToken | Remade | Made | TokenItself

REMAKES = frozenset(
    (
        "unwrap_aes",
        "unwrap_mac",
        "unwrap_wrapping",
        "unwrap_exchange",
        "derive_aes",
        "derive_mac",
        "derive_wrapping",
    )
)
"""Calls whose result is a key again, the same one each time."""

MAKES = frozenset(
    ("generate_aes", "generate_mac", "generate_exchange", "agreed_wrapping", "ephemeral_dh", "ephemeral_ecdh")
)
"""Calls whose result stays with the worker that made it."""


class Call(msgspec.Struct, frozen=True, array_like=True):
    """One call: the key, the verb of its port, the arguments: keys first, then values, then values by name."""

    recipe: Recipe
    verb: str
    arguments: list[Value] = []
    named: dict[str, Value] = {}
    keys: list[Recipe] = []


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """The result, or the name and text of one of our exceptions; whether the worker wants to be replaced; and why its
    token is out of service, while it is."""

    value: Value = None
    error: str | None = None
    text: str = ""
    worn: bool = False
    down: str | None = None


_ERRORS: dict[str, type[HsmMslError]] = {
    kind.__name__: kind
    for kind in (
        BackendConfigurationError,
        BackendUnavailableError,
        ConfigurationError,
        DataRejectedError,
        KeyNotFoundError,
        KeyPolicyError,
        MechanismUnsupportedError,
        PinRefusedError,
        TokenAbsentError,
        UsageError,
    )
}


def refusal(error: HsmMslError) -> Answer:
    """Return the answer that carries one of our exceptions; a kind that is not listed becomes an outage.

    Args:
        error: the exception; its text holds no secrets.
    """
    name = type(error).__name__
    return Answer(error=name if name in _ERRORS else BackendUnavailableError.__name__, text=str(error))


def result_of(answer: Answer) -> Value:
    """Return an answer's value or raise its exception.

    Args:
        answer: from a worker.

    Raises:
        HsmMslError: the one the worker raised.
        BackendError: the worker named none of ours.
    """
    if answer.error is None:
        return answer.value
    raise _ERRORS.get(answer.error, BackendError)(answer.text)


def send(channel: socket.socket, message: msgspec.Struct) -> None:
    """Write one frame. Raises OSError (TimeoutError when the channel's timeout is over).

    Args:
        channel: one end of the pair.
        message: what to send.
    """
    channel.sendall(frame(message))


def frame(message: msgspec.Struct) -> bytes:
    """Return one frame. Raises MechanismUnsupportedError: it is larger than the other end takes.

    Args:
        message: what to send.
    """
    body = msgspec.msgpack.encode(message)
    if len(body) > LARGEST_FRAME:
        raise MechanismUnsupportedError(
            f"{len(body)} bytes at once, of which a token in a worker process takes {LARGEST_FRAME}"
        )
    return _LENGTH.pack(len(body)) + body


def receive(channel: socket.socket) -> bytes:
    """Read one frame.

    Args:
        channel: one end of the pair.

    Raises:
        EOFError: the other end is gone.
        OSError: TimeoutError when the channel's timeout is over, and others.
    """
    (size,) = _LENGTH.unpack(_exactly(channel, _LENGTH.size))
    if size > LARGEST_FRAME:
        raise EOFError("a frame too large to be one")
    return _exactly(channel, size)


def _exactly(channel: socket.socket, size: int) -> bytes:
    parts = []
    while size:
        part = channel.recv(min(size, 1 << 18))
        if not part:
            raise EOFError("the other end is gone")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
