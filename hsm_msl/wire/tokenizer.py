"""Cuts a byte stream into the objects that stand in it back to back (msl-wire section 3)."""

from __future__ import annotations

import re
from typing import Any

from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.wire import codec
from hsm_msl.wire.limits import MAX_NESTING, MAX_OBJECT_BYTES, QUICK_BOUNDARY_TRIES

_OPENING_BRACE = 0x7B
_QUOTE = 0x22
_NOT_SPACE = re.compile(rb"[^ \t\r\n]")
_STRUCTURE = re.compile(rb'["{}\[\]]')
_AFTER_OBJECT = b"{ \t\r\n"


class Tokenizer:
    """Holds the part of a stream that is not yet read as objects.

    Feed bytes as they come, in any split, and take objects until there is none: memory then stays below the largest
    object plus what was fed last. Time is linear in the bytes fed, however they are split. After an error the stream
    has no known object boundary any more, and every further call raises the same error.

    Args:
        max_object: largest object in bytes, at most ``MAX_OBJECT_BYTES``.
    """

    __slots__ = ("_buffer", "_depth", "_failure", "_in_string", "_max_object", "_read_any", "_scanned", "_start")

    def __init__(self, max_object: int = MAX_OBJECT_BYTES) -> None:
        self._max_object = max_object
        self._buffer: bytes | bytearray = b""
        self._start = 0  # where the next object begins
        self._scanned = -1  # how far the scan for its end has come; -1 before it began
        self._depth = 0
        self._in_string = False
        self._read_any = False
        self._failure: MslError | None = None

    @property
    def pending(self) -> bool:
        """Whether anything but white space is buffered."""
        return self._start < len(self._buffer) and _NOT_SPACE.search(self._buffer, self._start) is not None

    def feed(self, data: bytes) -> None:
        """Append the next bytes of the stream; nothing is read yet, so this raises nothing."""
        if self._start == len(self._buffer):
            # A whole body arrives at once as a rule: it is kept as it is, without a copy.
            self._buffer = data
            self._start = 0
            return
        if isinstance(self._buffer, bytes):
            self._buffer = bytearray(memoryview(self._buffer)[self._start :])
        else:
            del self._buffer[: self._start]
        if self._scanned >= 0:
            self._scanned -= self._start
        self._start = 0
        self._buffer += data

    def next_object(self) -> dict[str, Any] | None:
        """Return the next object, strictly decoded, or None when its end has not arrived.

        Nothing behind its closing brace is looked at, so another message may follow on the same stream.

        Raises:
            MslError: MSL_PARSE_ERROR for a malformed, too large or too deeply nested object, for anything but white
                space between objects, and for white space before the first one.
        """
        if self._failure is not None:
            raise MslError(self._failure.code, self._failure.detail)
        try:
            return self._next_object()
        except MslError as failure:
            self._failure = failure
            self._buffer = b""
            self._start = 0
            raise

    def _next_object(self) -> dict[str, Any] | None:
        buffer, start = self._buffer, self._start
        if self._scanned < 0:
            if start == len(buffer):
                return None
            if buffer[start] != _OPENING_BRACE:
                start = self._skip_space()
                if start == len(buffer):
                    return None
            end = self._guess_end(start)
            if end and end - start <= self._max_object:
                try:
                    value = codec.decode(bytes(buffer[start:end]))
                except MslError:
                    pass  # A brace inside a string looked like the end; the scan below decides.
                else:
                    self._start = end
                    self._read_any = True
                    return value
            self._scanned = start
        end = self._scan_end()
        if (end or len(buffer)) - start > self._max_object:
            raise MslError(ErrorCode.MSL_PARSE_ERROR, "object too large")
        if not end:
            return None
        self._scanned = -1
        self._start = end
        self._read_any = True
        return codec.decode(bytes(buffer[start:end]))

    def _skip_space(self) -> int:
        """Move to the next byte that is not white space, and require that it opens an object."""
        found = _NOT_SPACE.search(self._buffer, self._start) if self._read_any else None
        if not self._read_any or (found and found[0] != b"{"):
            raise MslError(ErrorCode.MSL_PARSE_ERROR, "not a JSON object")
        self._start = found.start() if found else len(self._buffer)
        return self._start

    def _guess_end(self, start: int) -> int:
        """Return the first place where an object may well end, or 0.

        Interior values are Base64 as a rule, so braces are rare, and one that a brace, white space or the end of the
        buffer follows is nearly always the object's last. Searching one byte is many times faster than scanning.
        """
        buffer = self._buffer
        place = start
        for _ in range(QUICK_BOUNDARY_TRIES):
            place = buffer.find(b"}", place) + 1
            if not place or place == len(buffer) or buffer[place] in _AFTER_OBJECT:
                return place
        return 0

    def _scan_end(self) -> int:
        """Continue the scan for the end of the current object; return the end or 0 when it has not arrived."""
        buffer = self._buffer
        place = self._scanned
        while True:
            if self._in_string:
                quote = buffer.find(b'"', place)
                if quote < 0:
                    self._scanned = len(buffer)
                    return 0
                place = quote + 1
                if _escaped(buffer, quote):
                    continue
                self._in_string = False
            found = _STRUCTURE.search(buffer, place)
            if found is None:
                self._scanned = len(buffer)
                return 0
            place = found.end()
            mark = buffer[place - 1]
            if mark == _QUOTE:
                self._in_string = True
            elif mark in b"{[":
                self._depth += 1
                if self._depth > MAX_NESTING:
                    raise MslError(ErrorCode.MSL_PARSE_ERROR, "nested too deeply")
            else:
                self._depth -= 1
                if self._depth == 0:
                    return place


def read_all(body: bytes, max_object: int = MAX_OBJECT_BYTES) -> list[dict[str, Any]]:
    """Read a body that holds whole objects and nothing else.

    Args:
        body: the complete body; an empty one holds no object.
        max_object: largest object in bytes, at most ``MAX_OBJECT_BYTES``.

    Returns:
        The objects in order.

    Raises:
        MslError: MSL_PARSE_ERROR as ``Tokenizer.next_object``, and when the body ends inside an object.
    """
    tokenizer = Tokenizer(max_object)
    tokenizer.feed(body)
    objects = []
    while (value := tokenizer.next_object()) is not None:
        objects.append(value)
    if tokenizer.pending:
        raise MslError(ErrorCode.MSL_PARSE_ERROR, "body ends inside an object")
    return objects


def _escaped(buffer: bytes | bytearray, quote: int) -> bool:
    """Tell whether an odd number of backslashes stands before the quote."""
    size = 16
    while True:
        low = max(quote - size, 0)
        tail = buffer[low:quote]
        run = len(tail) - len(tail.rstrip(b"\\"))
        if run < len(tail) or low == 0:
            return run % 2 == 1
        size *= 4
