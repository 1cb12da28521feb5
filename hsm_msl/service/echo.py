"""The built-in application: every message is answered with its own payload."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator

from hsm_msl.msl.application import Reply, Request
from hsm_msl.msl.streaming import StreamReply
from hsm_msl.service.spool import Spool


def echo(request: Request) -> Reply:
    """Return the payload unchanged."""
    return Reply(request.payload, text=_is_text(request.payload))


def echo_stream(request: Request, pieces: Iterator[bytes]) -> StreamReply:
    """Return a payload of any length unchanged, once it is there as a whole.

    Clients over HTTP send a request to its end before they read the reply, so an answer that began earlier would
    leave both sides waiting for each other.
    """
    del request
    text = _Text()
    spool = Spool(os.urandom)
    for piece in pieces:
        text.take(piece)
        spool.write(piece)
    return StreamReply(_emptied(spool), text=text.complete())


def _emptied(spool: Spool) -> Iterator[bytes]:
    with spool:
        yield from spool.pieces()


def _is_text(payload: bytes) -> bool:
    # Clients that decode each chunk on its own need whole characters in it (deployed ones do).
    text = _Text()
    text.take(payload)
    return text.complete()


class _Text:
    """Finds out whether pieces are UTF-8 together."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._valid = True

    def take(self, piece: bytes, *, final: bool = False) -> None:
        if self._valid:
            try:
                self._decoder.decode(piece, final)
            except UnicodeDecodeError:
                self._valid = False

    def complete(self) -> bool:
        self.take(b"", final=True)
        return self._valid
