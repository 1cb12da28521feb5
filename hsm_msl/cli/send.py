"""``hsm-msl send``: one message to a server and its reply, to standard output or a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from hsm_msl.cli.failures import PROTOCOL, UNAVAILABLE, USAGE, CommandError
from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.msl.conversation import ErrorResponseError, Payload, Response
from hsm_msl.service.compose.client import compose_client
from hsm_msl.service.config import read_client_config
from hsm_msl.service.http_client import TransportError, UrlError
from hsm_msl.service.http_stream import HttpStreamClient
from hsm_msl.service.spool import HELD_BYTES, Spool

_READ_BYTES = 1 << 16

_KEY_ADVICE = "entities[].key_id: no entry names the key that the server authenticates with"
_ADVICE = {
    ErrorCode.MESSAGE_SENDER_MISMATCH: "server.identity: change it if this is the right server",
    ErrorCode.RSA_PUBLICKEY_NOT_FOUND: _KEY_ADVICE,
    ErrorCode.ECC_PUBLICKEY_NOT_FOUND: _KEY_ADVICE,
}
"""Where the client's file may be wrong, by the refusal of the answer."""


def send(
    path: Path,
    url: str,
    data: str | None,
    *,
    file: Path | None,
    output: Path | None,
    repeat: int,
    explain: bool,
) -> None:
    """Send a message of any length and write its reply.

    Args:
        path: the client's configuration file.
        url: where the server listens.
        data: what to send, UTF-8; without it and ``file``, standard input is sent.
        file: a file to send.
        output: where the reply goes; standard output when None.
        repeat: how many times to send it, in one session; the last reply is written.
        explain: tell on standard error what was exchanged.

    Raises:
        CommandError: the data cannot be read, the server cannot be reached, or it answered with an error.
        ConfigurationError, BackendError, StoreError: something the configuration names cannot be used.
        MslError, TruncatedMessageError: the answer is refused.
    """
    config = read_client_config(path)
    with ExitStack() as closing:
        payload = _payload(data, file, closing)
        client = compose_client(config)
        closing.callback(client.close)
        try:
            http = closing.enter_context(HttpStreamClient(client.msl, url, timeout=config.document.server.timeout))
            for _ in range(repeat):
                # Held till it is complete: an answer that breaks off is no answer.
                reply = closing.enter_context(Spool(os.urandom))
                response = http.request(client.message(payload), reply.write)
                if explain:
                    _explain(response)
        except UrlError as error:
            raise CommandError(str(error), USAGE) from None
        except TransportError as error:
            raise CommandError(f"{error}; is the server running there?", UNAVAILABLE) from None
        except ErrorResponseError as error:
            raise CommandError(f"the server refused the message: {error}", PROTOCOL) from None
        except MslError as error:
            advice = _ADVICE.get(error.code)
            raise CommandError(f"{error}; {path}: {advice}", PROTOCOL) if advice else error from None
        if explain:
            sys.stderr.writelines(f"{purpose}: {place}\n" for purpose, place in client.places)
        _deliver(reply.pieces(), output)


def _payload(data: str | None, file: Path | None, closing: ExitStack) -> Payload:
    if data is not None and file is not None:
        raise CommandError("say what to send either as DATA or with --file, not both", USAGE)
    if data is not None:
        return data.encode("utf-8", "surrogateescape")
    if file is not None and file.is_file() and file.stat().st_size > HELD_BYTES:
        next(_read(file))
        return partial(_read, file)
    # What is small, or cannot be opened a second time, is kept: an error may ask for it again.
    pieces = iter(lambda: sys.stdin.buffer.read(_READ_BYTES), b"") if file is None else _read(file)
    spool = closing.enter_context(Spool(os.urandom).fill(pieces))
    return b"".join(spool.pieces()) if spool.length <= HELD_BYTES else spool.pieces


def _read(file: Path) -> Iterator[bytes]:
    try:
        with file.open("rb") as opened:
            while piece := opened.read(_READ_BYTES):
                yield piece
    except OSError as error:
        raise CommandError(f"{file}: cannot be read: {error.strerror}") from None


def _deliver(reply: Iterator[bytes], output: Path | None) -> None:
    if output is None:
        last = b""
        for last in reply:
            sys.stdout.buffer.write(last)
        if sys.stdout.isatty() and not last.endswith(b"\n"):
            sys.stdout.buffer.write(b"\n")
        sys.stdout.buffer.flush()
        return
    try:
        with output.open("wb") as opened:
            opened.writelines(reply)
    except OSError as error:
        raise CommandError(f"{output}: cannot be written: {error.strerror}") from None


def _explain(response: Response) -> None:
    """Write how many pairs a message took and what travelled in them."""
    lines = [f"{response.pairs} request/response pair{'s' if response.pairs > 1 else ''}"]
    for number, request in enumerate(response.requests, 1):
        token = request.master_token
        if token is None:
            scheme = request.entity_auth.scheme if request.entity_auth is not None else "?"
            under = f"entity authentication {scheme}"
        else:
            under = f"master token {token.serial_number}, sequence number {token.sequence_number}"
        carried = [
            ", ".join(key.scheme for key in request.key_requests) and "key request",
            "user authentication " + request.user_auth.scheme if request.user_auth is not None else "",
            "user ID token" if request.user_id_token is not None else "",
            "handshake, no data" if request.handshake else "application data",
        ]
        lines.append(f"  request {number} under {under}: {'; '.join(filter(None, carried))}")
    reply = response.header
    if reply.key_response is not None:
        token = reply.key_response.master_token
        lines.append(f"  answer: key exchange {reply.key_response.scheme}, new master token {token.serial_number}")
    if reply.user_id_token is not None:
        lines.append("  answer: user ID token")
    sys.stderr.write("\n".join(lines) + "\n")
