"""How names chosen by strangers are stored: any text is a valid key, none is an outage."""

from __future__ import annotations

import hashlib

from sqlalchemy import Dialect, String
from sqlalchemy.types import TypeDecorator

MAX_KEY_BYTES = 1024
"""UTF-8 bytes stored as they are; PostgreSQL refuses index rows above 2704 bytes."""


class NameText(TypeDecorator[str]):
    r"""A text column that takes what databases refuse in text, so that a strange identity is merely unknown.

    The zero character, lone surrogates and the backslash are written as ``\0``, ``\udXXX`` and ``\\``. A name
    above ``MAX_KEY_BYTES`` is stored, and given back, as ``\#`` and its SHA-256 in hexadecimal.
    """

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Return the stored form."""
        del dialect
        return None if value is None else _stored(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        """Return the name, or the digest form of a long one."""
        del dialect
        return None if value is None else _read(value)


def as_read_back(name: str) -> str:
    """Return what a ``NameText`` column gives back for a name: itself, or the digest form of a long one."""
    return name if len(name) <= MAX_KEY_BYTES // 4 and name.isascii() else _read(_stored(name))


def _stored(name: str) -> str:
    if len(name) <= MAX_KEY_BYTES // 4 and name.isascii() and "\0" not in name and "\\" not in name:
        return name
    text = name.replace("\\", "\\\\").replace("\0", "\\0")
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    data = text.encode("utf-8")
    return text if len(data) <= MAX_KEY_BYTES else "\\#" + hashlib.sha256(data).hexdigest()


def _read(stored: str) -> str:
    if "\\" not in stored or stored.startswith("\\#"):
        return stored
    parts = stored.split("\\\\")
    plain = []
    for part in parts:
        pieces = part.split("\\")
        text = pieces[0]
        for piece in pieces[1:]:
            text += "\0" + piece[1:] if piece.startswith("0") else chr(int(piece[1:5], 16)) + piece[5:]
        plain.append(text)
    return "\\".join(plain)
