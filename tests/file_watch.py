"""Every file that comes into being below some directories, however short it lives (inotify)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

_CREATE, _MOVED_TO, _CLOSE_WRITE, _IS_DIRECTORY = 0x100, 0x80, 0x08, 0x40000000
_EVENT = struct.Struct("iIII")


class FileWatch:
    """What was seen: ``created`` is complete, ``written`` holds what could still be read when it was closed."""

    def __init__(self) -> None:
        self.created: set[Path] = set()
        self.written: dict[Path, bytes] = {}
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        assert self._descriptor >= 0
        self._directories: dict[int, Path] = {}

    def add(self, directory: Path) -> None:
        """Watch a directory and what is below it."""
        number = self._libc.inotify_add_watch(
            self._descriptor, os.fsencode(directory), _CREATE | _MOVED_TO | _CLOSE_WRITE
        )
        assert number >= 0, directory
        self._directories[number] = directory
        for path in directory.iterdir():
            if path.is_dir() and not path.is_symlink():
                self.add(path)

    def take(self) -> None:
        """Take in what has happened since the last call."""
        while True:
            try:
                data = os.read(self._descriptor, 1 << 16)
            except BlockingIOError:
                return
            offset = 0
            while offset < len(data):
                number, mask, _, size = _EVENT.unpack_from(data, offset)
                name = data[offset + _EVENT.size : offset + _EVENT.size + size].rstrip(b"\0")
                offset += _EVENT.size + size
                self._note(self._directories[number] / os.fsdecode(name), mask)

    def close(self) -> None:
        os.close(self._descriptor)

    def _note(self, path: Path, mask: int) -> None:
        if mask & _IS_DIRECTORY:
            with contextlib.suppress(OSError):
                self.add(path)
                self.created.update(found for found in path.rglob("*") if found.is_file())
            return
        if mask & (_CREATE | _MOVED_TO):
            self.created.add(path)
        with contextlib.suppress(OSError):
            self.written[path] = path.read_bytes()


@contextlib.contextmanager
def watching(directories: Sequence[Path]) -> Iterator[FileWatch]:
    """Watch directories for the length of a ``with`` block."""
    watch = FileWatch()
    done = threading.Event()
    for directory in directories:
        watch.add(directory)

    def look() -> None:
        while not done.wait(0.002):
            watch.take()

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        yield watch
    finally:
        done.set()
        looking.join()
        watch.take()
        watch.close()
