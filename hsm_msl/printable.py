"""Text of strangers, for a log or a terminal: nothing that either would obey is left in it."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Return a text in which line ends, control characters and lone surrogates are written as escapes, ``\n``.

    Args:
        text: any.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
