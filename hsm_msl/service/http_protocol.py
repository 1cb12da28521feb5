"""HTTP/1.1 as clients of all kinds speak it, with an end to the patience for those who never finish.

Clients that would rather speak HTTP/2 say so in their first request, as the Java platform's own does by default, and
take an answer in HTTP/1.1 (RFC 9110 section 7.8). The parser takes such an offer for accepted: it reads no body.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

KEEP_ALIVE_SECONDS = 75
"""How long an idle connection stays: longer than proxies and clients keep theirs, so that none is cut off while it
sends the next request."""

HEAD_SECONDS = 60.0
"""How long a client may take until the head of its request is complete."""

_FRAMING = (b"content-length", b"transfer-encoding")


class HttpProtocol(HttpToolsProtocol):
    """One connection: answers who offers another protocol or stops sending, gives up who never says what he wants."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.parser = _Parser(self)  # type: ignore[assignment]  # has what is asked of one
        self._in_head = False
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as the base class
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Parse what came, and watch the time while it is not a whole head."""
        super().data_received(data)
        self._watch()

    def eof_received(self) -> bool:  # type: ignore[override]  # true leaves the other direction open
        """Keep the connection for the answer to a client that has said all it will."""
        cycle = self.cycle
        owed = cycle is not None and not cycle.response_complete and not cycle.more_body and self.scheme == "http"
        if owed:
            cycle.keep_alive = False
        return owed

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the connection."""
        super().connection_lost(exc)
        self._calm()

    def on_message_begin(self) -> None:
        """Hear of a new request."""
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Hear of its head."""
        self._in_head = False
        super().on_headers_complete()

    def _watch(self) -> None:
        if not self._in_head and self.cycle is not None and not self.cycle.response_complete:
            self._calm()
        elif self._late is None:
            self._late = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _give_up(self) -> None:
        self._late = None
        if self.cycle is not None and not self.cycle.response_complete:
            self._watch()  # an answer is still on its way, with the next request half said behind it
        else:
            self.timeout_keep_alive_handler()

    def _calm(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class _Parser:
    """Parses the requests of a connection; what follows the head of one with an offer is its body.

    Args:
        protocol: hears what is parsed; knows the header fields of the request in work.
    """

    def __init__(self, protocol: HttpToolsProtocol) -> None:
        self._protocol = protocol
        self._resuming = False
        self.on_message_begin = self._of_head(protocol.on_message_begin)
        self.on_url = self._of_head(protocol.on_url)
        self.on_header = self._of_head(protocol.on_header)
        self.on_headers_complete = self._of_head(protocol.on_headers_complete)
        self.on_body = protocol.on_body
        self._parser = _fresh(self)

    def feed_data(self, data: bytes) -> None:
        """Parse bytes. Raises HttpParserError."""
        rest: bytes | memoryview = data
        while True:
            try:
                self._parser.feed_data(rest)
            except httptools.HttpParserUpgrade as offer:
                self._resume()
                rest = memoryview(rest)[offer.args[0] :]
            else:
                return

    def on_message_complete(self) -> None:
        """Tell of a request's end, unless its body was left out."""
        if not self._parser.should_upgrade():
            self._protocol.on_message_complete()

    def get_http_version(self) -> str:
        """Return the version of the request in work."""
        return self._parser.get_http_version()

    def get_method(self) -> bytes:
        """Return its method."""
        return self._parser.get_method()

    def should_keep_alive(self) -> bool:
        """Tell whether another may follow."""
        return self._parser.should_keep_alive()

    def should_upgrade(self) -> bool:
        """Tell that protocols are never changed."""
        return False

    def _resume(self) -> None:
        """Go on with a parser that heard the same framing and no offer."""
        head = b"".join(b"%s: %s\r\n" % field for field in self._protocol.headers if field[0] in _FRAMING)
        self._parser = _fresh(self)
        self._resuming = True
        self._parser.feed_data(b"POST / HTTP/1.1\r\n%s\r\n" % head)
        self._resuming = False

    def _of_head(self, tell: Callable[..., None]) -> Callable[..., None]:
        def told(*parsed: bytes) -> None:
            if not self._resuming:
                tell(*parsed)

        return told


def _fresh(hears: _Parser) -> httptools.HttpRequestParser:
    parser = httptools.HttpRequestParser(hears)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser
