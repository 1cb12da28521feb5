"""Looks for byte strings in the whole memory of another process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

CHUNK = 1 << 22


def find_in_memory(pid: int, wanted: Mapping[str, bytes]) -> set[str]:
    """Return the names of the byte strings that are anywhere in the memory of a process.

    Args:
        pid: a child of this process, or any process when run as root.
        wanted: byte strings by name.
    """
    longest = max(map(len, wanted.values()))
    found: set[str] = set()
    with Path(f"/proc/{pid}/maps").open() as maps, Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in maps:
            span, permissions, *_ = line.split()
            if not permissions.startswith("r") or "[vvar" in line or "[vsyscall]" in line:
                continue
            start, end = (int(part, 16) for part in span.split("-"))
            tail = b""
            while start < end:
                try:
                    memory.seek(start)
                    part = memory.read(min(CHUNK, end - start))
                except OSError:  # a page that went away meanwhile, or a device
                    break
                if not part:
                    break
                text = tail + part
                found |= {name for name, value in wanted.items() if value in text}
                tail = text[-longest:]
                start += len(part)
    return found


def forms_of(name: str, value: bytes) -> dict[str, bytes]:
    """Return a value as it may lie in memory: as bytes, as a number with the low byte first, and as text."""
    return {name: value, f"{name} reversed": value[::-1], f"{name} hex": value.hex().encode()}
