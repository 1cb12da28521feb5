"""Connections of our HTTP clients: how long they are kept, and how long the answer on one may take to come in."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import httpcore
import httpx

# Many servers close an idle connection after 5 s, the expiry of httpx too: a client that sends every 5 s would send
# into connections that are being closed, and a message whose delivery is unknown cannot simply be sent again.
LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=2.0)


class PatientTransport(httpx.BaseTransport):
    """HTTP/1.1 whose read timeout is for an answer as a whole; that of httpx begins anew with every byte.

    It counts from the end of the request, for headers and body together unless ``limit`` says otherwise in between.
    """

    def __init__(self) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context(trust_env=False),
            max_connections=LIMITS.max_connections,
            max_keepalive_connections=LIMITS.max_keepalive_connections,
            keepalive_expiry=LIMITS.keepalive_expiry,
            network_backend=_Backend(),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and read the headers of its answer. Raises TransportError of httpx."""
        url = request.url
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        with _renamed():
            answer = self._pool.handle_request(
                httpcore.Request(
                    request.method,
                    target,
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        return httpx.Response(
            answer.status, headers=answer.headers, stream=_Body(answer), extensions=answer.extensions
        )

    def close(self) -> None:
        """Close every connection."""
        self._pool.close()


def limit(answer: httpx.Response, seconds: float | None) -> None:
    """Say how long the rest of an answer may take.

    Args:
        answer: what a client with a ``PatientTransport`` is reading.
        seconds: from now to its end; None for any time, while something comes within each read timeout.
    """
    stream = answer.extensions.get("network_stream")
    if isinstance(stream, _Stream):
        stream.limit(seconds)


class _Body(httpx.SyncByteStream):
    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        with _renamed():
            yield from self._answer.iter_stream()

    def close(self) -> None:
        self._answer.close()


class _Backend(httpcore.SyncBackend):
    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        return _Stream(super().connect_tcp(host, port, timeout, local_address, socket_options))


class _Stream(httpcore.NetworkStream):
    """A connection whose reads after a request share one timeout."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream
        self._asked = False
        self._end: float | None = None

    def limit(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._asked:
            self._asked = False
            self.limit(timeout)
        if self._end is not None:
            timeout = self._end - time.monotonic()
            if timeout <= 0:
                raise httpcore.ReadTimeout("timed out")
        return self._stream.read(max_bytes, timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._asked = True
        self._stream.write(buffer, timeout)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


@contextmanager
def _renamed() -> Iterator[None]:
    """Raise the errors of httpcore as those of httpx, which have the same names."""
    try:
        yield
    except (
        httpcore.TimeoutException,
        httpcore.NetworkError,
        httpcore.ProtocolError,
        httpcore.UnsupportedProtocol,
    ) as error:
        kind = getattr(httpx, type(error).__name__, httpx.TransportError)
        raise kind(str(error)) from error
