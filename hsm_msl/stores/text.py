"""How names chosen by strangers are stored: any text is a valid key, none is an outage."""

from __future__ import annotations

import hashlib

from sqlalchemy import Dialect, String
from sqlalchemy.types import TypeDecorator

from hsm_msl.stores.limits import MAX_KEY_BYTES


class AnyText(TypeDecorator[str]):
    r"""A text column that takes what databases refuse in text, and gives it back unchanged.

    The zero character, lone surrogates and the backslash are written as ``\0``, ``\udXXX`` and ``\\``.
    """

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Return the stored form."""
        del dialect
        return None if value is None else _escaped(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        """Return the text."""
        del dialect
        return None if value is None else _read(value)


class NameText(AnyText):
    r"""A text column for keys, so that a strange identity is merely unknown.

    A name above ``MAX_KEY_BYTES`` is stored, and given back, as ``\#`` and its SHA-256 in hexadecimal.
    """

    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Return the stored form."""
        del dialect
        return None if value is None else _stored(value)


def long_name(name: str) -> str | None:
    """Return a name that a ``NameText`` column keeps only the digest of, to be kept beside it; None for others."""
    return None if as_read_back(name) == name else name


def as_read_back(name: str) -> str:
    """Return what a ``NameText`` column gives back for a name: itself, or the digest form of a long one."""
    return name if len(name) <= MAX_KEY_BYTES // 4 and name.isascii() else _read(_stored(name))


def _stored(name: str) -> str:
    text = _escaped(name)
    if len(text) <= MAX_KEY_BYTES // 4:
        return text
    data = text.encode("utf-8")
    return text if len(data) <= MAX_KEY_BYTES else "\\#" + hashlib.sha256(data).hexdigest()


def _escaped(text: str) -> str:
    if text.isascii() and "\0" not in text and "\\" not in text:
        return text
    text = text.replace("\\", "\\\\").replace("\0", "\\0")
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


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
