"""Text of strangers as it may be written to a terminal or a log."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return text on one line, with what a terminal would obey written as an escape."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
