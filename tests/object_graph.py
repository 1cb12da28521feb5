"""Everything reachable from live objects, with the path that leads there."""

from __future__ import annotations

import base64
import gc
from collections.abc import Iterator
from types import BuiltinFunctionType, FrameType, FunctionType, ModuleType
from typing import Any

_CODE = (ModuleType, type, FrameType, BuiltinFunctionType)


def walk(*roots: object) -> Iterator[tuple[object, tuple[object, ...]]]:
    """Yield each reachable object once, with the chain of objects from a root to it.

    Modules, classes and the globals of functions are left out: they lead to the whole interpreter. What a function
    encloses is followed.
    """
    seen: set[int] = set()
    pending: list[tuple[object, tuple[object, ...]]] = [(root, ()) for root in roots]
    while pending:
        item, path = pending.pop()
        if id(item) in seen or isinstance(item, _CODE):
            continue
        seen.add(id(item))
        yield item, path
        for referent in _referents(item):
            pending.append((referent, (*path, item)))


def _referents(item: object) -> list[Any]:
    if isinstance(item, FunctionType):
        cells = [cell.cell_contents for cell in item.__closure__ or ()]
        return [*cells, item.__defaults__, item.__kwdefaults__]
    return gc.get_referents(item)


def contains(item: object, secret: bytes) -> bool:
    """Tell whether an object shows a secret: raw, in hex or in Base64, alone or inside other data."""
    if isinstance(item, bytes | bytearray | memoryview):
        data = bytes(item)
        return any(form in data for form in _forms(secret))
    if isinstance(item, str):
        return any(form in item.encode("utf-8", "surrogatepass") for form in _forms(secret)[1:])
    if isinstance(item, int) and not isinstance(item, bool):
        return item == int.from_bytes(secret)
    return False


def _forms(secret: bytes) -> list[bytes]:
    return [secret, secret.hex().encode(), secret.hex().upper().encode(), base64.b64encode(secret)]
