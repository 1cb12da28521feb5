"""Read TOML into declared structures, with errors a person can act on: which key, and what is allowed there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import inspect as shape

from hsm_msl.errors import ConfigurationError

Document = TypeVar("Document", bound=msgspec.Struct)

_WHERE = re.compile(r" - at `(?P<path>[^`]*)`$")
_UNKNOWN = re.compile(r"unknown field `(?P<name>[^`]*)`")
_MISSING = re.compile(r"missing required field `(?P<name>[^`]*)`")
_STEP = re.compile(r"\.([A-Za-z0-9_-]+)|\[(?:\d+|\.\.\.)\]")


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
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: cannot be read: {error}") from error
    return parse_document(text, kind, origin=str(path))


def parse_document(text: str, kind: type[Document], *, origin: str) -> Document:
    """Decode TOML text as ``kind``; ``origin`` names it in errors.

    Raises:
        ConfigurationError: the text is not TOML or does not fit ``kind``.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{origin}: not valid TOML: {error}") from error
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{origin}: {_explain(str(error), kind)}") from error


def _explain(message: str, kind: type[msgspec.Struct]) -> str:
    """Turn a conversion error into `key: what is wrong; what is allowed`."""
    where = _WHERE.search(message)
    path = where["path"] if where else "$"
    problem = message[: where.start()] if where else message
    steps = [step or "[]" for step in _STEP.findall(path)]
    target = _resolve(shape.type_info(kind), steps)
    location = path.removeprefix("$").removeprefix(".")
    unknown = _UNKNOWN.search(problem)
    if unknown:
        allowed = ", ".join(sorted(field.encode_name for field in _fields(target)))
        return f"{_join(location, unknown['name'])}: unknown key; allowed here: {allowed}"
    missing = _MISSING.search(problem)
    if missing:
        return f"{_join(location, missing['name'])}: this key is required"
    choices = _choices(target)
    hint = f"; allowed: {', '.join(choices)}" if choices else ""
    return f"{location or 'document'}: {problem[:1].lower()}{problem[1:]}{hint}"


def _join(location: str, name: str) -> str:
    return f"{location}.{name}" if location else name


def _resolve(node: shape.Type, steps: list[str]) -> shape.Type:
    """Follow an error path through the declared shape as far as it goes."""
    for step in steps:
        node = _plain(node)
        if step == "[]":
            if isinstance(node, shape.ListType | shape.VarTupleType):
                node = node.item_type
            continue
        match = [field for field in _fields(node) if field.encode_name == step]
        if not match:
            return node
        node = match[0].type
    return _plain(node)


def _plain(node: shape.Type) -> shape.Type:
    """Drop None and scalars from a union that holds one structure, and metadata wrappers."""
    if isinstance(node, shape.Metadata):
        return _plain(node.type)
    if isinstance(node, shape.UnionType):
        concrete = [member for member in node.types if not isinstance(member, shape.NoneType)]
        if len(concrete) == 1:
            return _plain(concrete[0])
    return node


def _fields(node: shape.Type) -> tuple[shape.Field, ...]:
    return node.fields if isinstance(node, shape.StructType) else ()


def _choices(node: shape.Type) -> list[str]:
    if isinstance(node, shape.LiteralType):
        return [str(value) for value in node.values]
    return []
