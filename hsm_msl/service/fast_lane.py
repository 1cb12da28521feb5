"""Which messages may run on the event loop: those of sessions whose last message took next to no time.

Changing threads costs about as much as a steady message. A message that checks a password, makes keys or waits for
a token must never hold up the loop, and nothing in its clear part tells. So a session earns the loop by a quick
message, and loses it by a slow one.
"""

from __future__ import annotations

from collections import OrderedDict

_BEFORE = b'"mastertoken":{"tokendata":"'
_ENOUGH = 64
"""The end of the token data tells tokens apart; the whole would only cost memory."""


class FastLane:
    """Remembers sessions whose messages are quick. For one event loop.

    Args:
        seconds: what counts as quick.
        capacity: sessions to remember; the least recently used leave first.
    """

    __slots__ = ("_capacity", "_quick", "_seconds")

    def __init__(self, seconds: float = 0.005, capacity: int = 10_000) -> None:
        self._seconds = seconds
        self._capacity = capacity
        self._quick: OrderedDict[bytes, None] = OrderedDict()

    def session(self, body: bytes) -> bytes | None:
        """Return what names the session of a message, or None where the clear part does not show one."""
        start = body.find(_BEFORE)
        if start < 0:
            return None
        start += len(_BEFORE)
        end = body.find(b'"', start)
        return None if end < 0 else body[max(start, end - _ENOUGH) : end]

    def admits(self, session: bytes | None) -> bool:
        """Tell whether the session's next message may run on the loop."""
        if session is None or session not in self._quick:
            return False
        self._quick.move_to_end(session)
        return True

    def took(self, session: bytes | None, seconds: float) -> None:
        """Take note of how long a message of the session took."""
        if session is None:
            return
        if seconds > self._seconds:
            self._quick.pop(session, None)
            return
        self._quick[session] = None
        if len(self._quick) > self._capacity:
            self._quick.popitem(last=False)
