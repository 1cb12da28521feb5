"""Time, randomness and locks, passed in so that an engine has none of its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

Clock = Callable[[], float]
"""Seconds since the Unix epoch."""

RandomBytes = Callable[[int], bytes]
"""That many bytes from a cryptographic source."""

Mutex = AbstractContextManager[object]
"""Guards a few statements; the service passes a lock where several threads share what it guards."""
