"""Distinguished names as the text Java prints for them, which is the identity of an X509 entity.

RFC 2253 leaves a printer choices, and this is how one printer makes them: measured on its output, kept for its own
sake, because two entities that spell the same name differently would be two entities (msl-schemes section 2.4).
"""

from __future__ import annotations

from collections.abc import Iterator

from asn1crypto import parser
from asn1crypto.core import ObjectIdentifier

KEYWORDS = {
    "2.5.4.3": "CN",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.9": "STREET",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "0.9.2342.19200300.100.1.25": "DC",
    "0.9.2342.19200300.100.1.1": "UID",
}
"""Attribute types that are printed by keyword; all others are printed as object identifier and encoded value."""

_TEXT_TAGS = frozenset((0x0C, 0x13, 0x14, 0x16, 0x1B, 0x1E))  # UTF8, Printable, T61, IA5, General, BMP
_SEQUENCE = 0x30
_SET = 0x31
_OBJECT_IDENTIFIER = 0x06
_ESCAPED = frozenset(',=+<>#;"\\')
_EDGE = " \r"


def x500_text(name: bytes) -> str:
    """Print a distinguished name.

    Args:
        name: the DER of the Name.

    Returns:
        The relative names in reverse order, joined by commas; of a multi-valued one the attributes as encoded,
        joined by plus signs.

    Raises:
        ValueError: the bytes are no Name.

    Source: msl-schemes section 2.4; escapes of ``#`` beyond the first position, of carriage returns and of NUL, and
    string types read as UTF-8 whatever they are, from the reference's output.
    """
    elements = list(_elements(name))
    if len(elements) != 1 or elements[0][0] != _SEQUENCE:
        raise ValueError("not a Name")
    relative = [_relative(tag, content) for tag, content, _ in _elements(elements[0][1])]
    return ",".join(reversed(relative))


def _elements(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Give tag byte, contents and whole encoding of each element in turn."""
    offset = 0
    while offset < len(data):
        _, _, _, header, content, trailer = parser.parse(data[offset:])
        whole = bytes(header) + bytes(content) + bytes(trailer)
        yield whole[0], bytes(content), whole
        offset += len(whole)


def _relative(tag: int, content: bytes) -> str:
    if tag != _SET:
        raise ValueError("not a relative name")
    attributes = []
    for attribute_tag, attribute, _ in _elements(content):
        parts = list(_elements(attribute))
        if attribute_tag != _SEQUENCE or len(parts) != 2 or parts[0][0] != _OBJECT_IDENTIFIER:
            raise ValueError("not an attribute of a name")
        (_, _, oid), (value_tag, text, whole) = parts
        attributes.append(_attribute(str(ObjectIdentifier.load(oid).dotted), value_tag, text, whole))
    return "+".join(attributes)


def _attribute(oid: str, tag: int, text: bytes, whole: bytes) -> str:
    keyword = KEYWORDS.get(oid)
    if keyword is None or tag not in _TEXT_TAGS:
        return f"{keyword or oid}=#{whole.hex()}"
    return f"{keyword}={_escaped(text.decode('utf-8', 'replace'))}"


def _escaped(text: str) -> str:
    first = len(text) - len(text.lstrip(_EDGE))
    last = len(text.rstrip(_EDGE))
    return "".join(
        "\\00"
        if character == "\0"
        else f"\\{character}"
        if character in _ESCAPED or not first <= position < last
        else character
        for position, character in enumerate(text)
    )
