"""Time and randomness, passed in so that an engine has none of its own."""

from __future__ import annotations

from collections.abc import Callable

Clock = Callable[[], float]
"""Seconds since the Unix epoch."""

RandomBytes = Callable[[int], bytes]
"""That many bytes from a cryptographic source."""
