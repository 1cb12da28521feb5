"""Read TOML into declared structures, with errors a person can act on: which key, and what is allowed there."""

from __future__ import annotations

import difflib
import functools
import operator
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import inspect as shape

from hsm_msl.errors import ConfigurationError

Document = TypeVar("Document", bound=msgspec.Struct)

_WHERE = re.compile(r" - at `(?P<path>[^`]*)`$")
_UNKNOWN = re.compile(r"unknown field `(?P<name>[^`]*)`")
_MISSING = re.compile(r"missing required field `(?P<name>[^`]*)`")
_SCALARS: dict[type[shape.Type], Any] = {shape.StrType: str, shape.IntType: int}
_STEP = re.compile(r"\.(?P<name>[A-Za-z0-9_-]+)|\[(?P<index>\d+)\]|(?P<any>\[\.\.\.\])")


def read_document(path: Path, kind: type[Document]) -> Document:
    """Read one TOML file as ``kind``.

    Args:
        path: the file.
        kind: a msgspec structure that forbids unknown fields.

    Returns:
        The decoded structure.

    Raises:
        ConfigurationError: the file cannot be read, is not TOML, or does not fit; the text names the file, the key
            and what is allowed there.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: cannot be read: not UTF-8 at byte {error.start}") from None
    return parse_document(text, kind, origin=str(path))


def parse_document(text: str, kind: type[Document], *, origin: str) -> Document:
    """Decode TOML text as ``kind``; ``origin`` names it in errors.

    Raises:
        ConfigurationError: the text is not TOML or does not fit ``kind``.
    """
    if text.startswith("\ufeff"):
        raise ConfigurationError(f"{origin}: not valid TOML: it begins with a byte order mark; save it without one")
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{origin}: not valid TOML: {error}") from None
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        # No chain: the library's own text may quote the value it refuses.
        raise ConfigurationError(f"{origin}: {_explain(str(error), kind, data)}") from None


def suggestion(name: str, allowed: Iterable[str]) -> str:
    """Return ``what is allowed`` for a name that is not, led by the closest match.

    Args:
        name: what was written.
        allowed: what may be written there.
    """
    names = sorted(allowed)
    close = difflib.get_close_matches(name, names, 1)
    listed = f"allowed here: {', '.join(names) or 'nothing'}"
    return f"did you mean {close[0]!r}? {listed}" if close else listed


def _explain(message: str, kind: type[msgspec.Struct], data: object) -> str:
    """Turn a conversion error into `key: what is wrong; what is allowed`."""
    where = _WHERE.search(message)
    problem = message[: where.start()] if where else message
    location, target = _locate(where["path"] if where else "$", shape.type_info(kind), data)
    unknown = _UNKNOWN.search(problem)
    if unknown:
        name = unknown["name"]
        allowed = (field.encode_name for field in _fields(target))
        return f"{_join(location, name)}: unknown key; {suggestion(name, allowed)}"
    missing = _MISSING.search(problem)
    if missing:
        return f"{_join(location, missing['name'])}: this key is required"
    choices = _choices(target)
    hint = f"; allowed: {', '.join(choices)}" if choices else ""
    return f"{location or 'document'}: {problem[:1].lower()}{problem[1:]}{hint}"


def _join(location: str, name: str) -> str:
    return f"{location}.{name}" if location else name


def _locate(path: str, node: shape.Type, data: Any) -> tuple[str, shape.Type]:
    """Follow an error path through declared shape and data; return its text with table names filled in."""
    location = ""
    for step in _STEP.finditer(path):
        node = _plain(node, data)
        if step["name"] is not None:
            name = step["name"]
            location = _join(location, name)
            node = next((field.type for field in _fields(node) if field.encode_name == name), node)
            data = data.get(name) if isinstance(data, dict) else None
        elif step["index"] is not None:
            index = int(step["index"])
            location += f"[{index}]"
            if isinstance(node, shape.ListType | shape.VarTupleType):
                node = node.item_type
            data = data[index] if isinstance(data, list) and index < len(data) else None
        else:
            item = node.value_type if isinstance(node, shape.DictType) else node
            name, data = _first_unfit(item, data)
            location += f'."{name}"' if name else "[...]"
            node = item
    return location, _plain(node, data)


def _first_unfit(item: shape.Type, data: Any) -> tuple[str, Any]:
    """Return the entry of a table that does not fit; the library's path does not tell which one it was."""
    for name, value in data.items() if isinstance(data, dict) else ():
        try:
            msgspec.convert(value, _class_of(item, value))
        except msgspec.ValidationError:
            return name, value
    return "", None


def _class_of(item: shape.Type, value: Any) -> Any:
    plain = _plain(item, value)
    members = [_plain(member, value) for member in (plain.types if isinstance(plain, shape.UnionType) else (plain,))]
    classes = [
        member.cls if isinstance(member, shape.StructType) else _SCALARS.get(type(member)) for member in members
    ]
    return Any if None in classes else functools.reduce(operator.or_, classes)


def _plain(node: shape.Type, data: object) -> shape.Type:
    """Drop None and metadata wrappers, and choose the member of a tagged union that the data names."""
    if isinstance(node, shape.Metadata):
        return _plain(node.type, data)
    if isinstance(node, shape.UnionType):
        concrete = [member for member in node.types if not isinstance(member, shape.NoneType)]
        if len(concrete) == 1:
            return _plain(concrete[0], data)
        structs = [member for member in concrete if isinstance(member, shape.StructType)]
        if isinstance(data, dict):
            for member in structs:
                if member.tag is None or data.get(member.tag_field or "") == member.tag:
                    return member
    return node


def _fields(node: shape.Type) -> tuple[shape.Field, ...]:
    return node.fields if isinstance(node, shape.StructType) else ()


def _choices(node: shape.Type) -> list[str]:
    if isinstance(node, shape.LiteralType):
        return [str(value) for value in node.values]
    if isinstance(node, shape.UnionType):
        return [str(member.tag) for member in node.types if isinstance(member, shape.StructType) and member.tag]
    return []
