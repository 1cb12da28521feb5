"""PKCS#11 URIs (RFC 7512): one string that names a module, a token and a key, in configurations, commands and logs.

A PIN never appears in what is printed. ``pin-value`` is refused when parsed: a PIN does not belong into a string that
ends up in configurations and process arguments.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from urllib.parse import quote_from_bytes, unquote_to_bytes

from hsm_msl.errors import ConfigurationError

SCHEME = "pkcs11:"
LONGEST = 4096

_CLASSES = frozenset(("cert", "data", "private", "public", "secret-key"))  # RFC 7512 section 2.3, "type"
_VERSION = re.compile(r"[0-9]+(\.[0-9]+)?")
_NUMBER = re.compile(r"[0-9]+")
_ESCAPES = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_PATH_SAFE = ":[]@!$'()*+,=&"  # RFC 7512 section 2.3: pk11-res-avail and "&"
_QUERY_SAFE = ":[]@!$'()*+,=/?|"  # "&" separates attributes there, "/", "?" and "|" do not


@dataclass(frozen=True, slots=True)
class Pkcs11Uri:
    """What a PKCS#11 URI says; None where it says nothing.

    Attributes:
        token: the token's label.
        manufacturer: its manufacturer.
        serial: its serial number.
        model: its model.
        object: CKA_LABEL of an object.
        id: CKA_ID of an object.
        type: ``private``, ``public``, ``secret-key``, ``cert`` or ``data``.
        library_manufacturer: of the module.
        library_description: of the module.
        library_version: of the module, as ``2.6``.
        slot_manufacturer: of the slot.
        slot_description: of the slot.
        slot_id: of the slot; slot numbers move, so a configuration should not rely on one.
        pin_source: where the PIN comes from, as ``pin.pin_source`` takes it.
        module_name: the module's alias.
        module_path: the module's absolute path.
    """

    token: str | None = None
    manufacturer: str | None = None
    serial: str | None = None
    model: str | None = None
    object: str | None = None
    id: bytes | None = None
    type: str | None = None
    library_manufacturer: str | None = None
    library_description: str | None = None
    library_version: str | None = None
    slot_manufacturer: str | None = None
    slot_description: str | None = None
    slot_id: int | None = None
    pin_source: str | None = None
    module_name: str | None = None
    module_path: str | None = None

    def __str__(self) -> str:
        """Print the URI in the order of the fields. The PIN source is left out: it may hold a command or a path."""
        parts: dict[str, list[str]] = {"path": [], "query": []}
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None or field.name == "pin_source":
                continue
            name, place = _NAMES[field.name]
            if field.name == "id":
                text = "".join(f"%{byte:02x}" for byte in value)  # RFC 7512 section 2.3: id is best wholly escaped
            else:
                text = quote_from_bytes(str(value).encode(), safe=_PATH_SAFE if place == "path" else _QUERY_SAFE)
            parts[place].append(f"{name}={text}")
        query = f"?{'&'.join(parts['query'])}" if parts["query"] else ""
        return f"{SCHEME}{';'.join(parts['path'])}{query}"

    def __repr__(self) -> str:
        return f"Pkcs11Uri({str(self)!r})"


_NAMES: Mapping[str, tuple[str, str]] = {
    "token": ("token", "path"),
    "manufacturer": ("manufacturer", "path"),
    "serial": ("serial", "path"),
    "model": ("model", "path"),
    "object": ("object", "path"),
    "id": ("id", "path"),
    "type": ("type", "path"),
    "library_manufacturer": ("library-manufacturer", "path"),
    "library_description": ("library-description", "path"),
    "library_version": ("library-version", "path"),
    "slot_manufacturer": ("slot-manufacturer", "path"),
    "slot_description": ("slot-description", "path"),
    "slot_id": ("slot-id", "path"),
    "pin_source": ("pin-source", "query"),
    "module_name": ("module-name", "query"),
    "module_path": ("module-path", "query"),
}
_FIELDS = {wire: (field, place) for field, (wire, place) in _NAMES.items()}


def parse_uri(text: str) -> Pkcs11Uri:
    """Parse a PKCS#11 URI.

    Args:
        text: as ``pkcs11:token=production;object=msl.token.mac.v1?module-name=softhsm``.

    Returns:
        What it says. An attribute this version does not know is an error and not passed over, because a selector that
        is dropped selects more than was meant (the RFC leaves the choice to the reader).

    Raises:
        ConfigurationError: it is no PKCS#11 URI, an attribute is unknown, comes twice or has an impossible value, or
            it holds a PIN. The text is not repeated.
    """
    if len(text) > LONGEST or not text.isascii() or not text.isprintable() or " " in text:
        raise ConfigurationError("a PKCS#11 URI is printable ASCII without spaces; write others as %XX")
    if text[: len(SCHEME)].lower() != SCHEME:
        raise ConfigurationError(f"a PKCS#11 URI starts with {SCHEME}")
    path, _, query = text[len(SCHEME) :].partition("?")
    found: dict[str, str | bytes | int] = {}
    for place, separator, part in (("path", ";", path), ("query", "&", query)):
        for attribute in part.split(separator) if part else ():
            _read(attribute, place, found)
    return Pkcs11Uri(**found)  # type: ignore[arg-type]  # _read gives each field its own type


def _read(attribute: str, place: str, found: dict[str, str | bytes | int]) -> None:
    name, equals, raw = attribute.partition("=")
    if name == "pin-value":
        raise ConfigurationError("a PKCS#11 URI must not hold the PIN itself; name a pin-source")
    field, expected = _FIELDS.get(name, ("", ""))
    if not equals or not field:
        raise ConfigurationError(f"a PKCS#11 URI knows no attribute {name[:40]!r}")
    if expected != place:
        raise ConfigurationError(f"the PKCS#11 URI attribute {name} belongs {_WHERE[expected]}")
    if field in found:
        raise ConfigurationError(f"a PKCS#11 URI gives {name} twice")
    escaped = raw.encode()
    if _ESCAPES.search(escaped):
        raise ConfigurationError(f"the PKCS#11 URI attribute {name} has a % that starts no escape")
    data = unquote_to_bytes(escaped)
    found[field] = data if field == "id" else _text(name, field, data)


def _text(name: str, field: str, data: bytes) -> str | int:
    try:
        value = data.decode()
    except UnicodeDecodeError:
        raise ConfigurationError(f"the PKCS#11 URI attribute {name} is not UTF-8") from None
    if "\0" in value:
        raise ConfigurationError(f"the PKCS#11 URI attribute {name} holds a zero byte")
    if field == "type" and value not in _CLASSES:
        raise ConfigurationError(f"the PKCS#11 URI type is one of {', '.join(sorted(_CLASSES))}")
    if field == "library_version" and not _VERSION.fullmatch(value):
        raise ConfigurationError("the PKCS#11 URI library-version is a number such as 2.6")
    if field == "slot_id":
        if not _NUMBER.fullmatch(value):
            raise ConfigurationError("the PKCS#11 URI slot-id is a number")
        return int(value)
    if field == "module_path" and not value.startswith("/"):
        raise ConfigurationError("the PKCS#11 URI module-path is absolute")
    return value


_WHERE = {"path": "before the question mark", "query": "after the question mark"}
