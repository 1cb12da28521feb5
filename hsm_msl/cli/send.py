"""``hsm-msl send``: one message to a server and its reply, to standard output or a file."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

from hsm_msl.cli.failures import PROTOCOL, UNAVAILABLE, USAGE, CommandError
from hsm_msl.msl.conversation import ErrorResponseError, Response
from hsm_msl.service.compose.client import compose_client
from hsm_msl.service.config import read_client_config
from hsm_msl.service.http_client import HttpClient, TransportError


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
    """Send a message and write its reply.

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
    payload = _payload(data, file)
    with closing(compose_client(config)) as client:
        try:
            with HttpClient(client.msl, url, timeout=config.document.server.timeout) as http:
                for _ in range(repeat):
                    response = http.request(client.message(payload))
                    if explain:
                        _explain(response)
        except TransportError as error:
            raise CommandError(f"{error}; is the server running there?", UNAVAILABLE) from None
        except ErrorResponseError as error:
            raise CommandError(f"the server refused the message: {error}", PROTOCOL) from None
    if explain:
        sys.stderr.writelines(f"{purpose}: {place}\n" for purpose, place in client.places)
    _deliver(response.payload, output)


def _payload(data: str | None, file: Path | None) -> bytes:
    if data is not None and file is not None:
        raise CommandError("say what to send either as DATA or with --file, not both", USAGE)
    if data is not None:
        return data.encode("utf-8", "surrogateescape")
    if file is None:
        return sys.stdin.buffer.read()
    try:
        return file.read_bytes()
    except OSError as error:
        raise CommandError(f"{file}: cannot be read: {error.strerror}") from None


def _deliver(reply: bytes, output: Path | None) -> None:
    if output is None:
        sys.stdout.buffer.write(reply)
        if sys.stdout.isatty() and not reply.endswith(b"\n"):
            sys.stdout.buffer.write(b"\n")
        sys.stdout.buffer.flush()
        return
    try:
        output.write_bytes(reply)
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
