"""The command in a terminal of its own, answered as a person would: what is asked is awaited, then typed."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

SECONDS = 90.0
CTRL_C = "\x03"
CTRL_D = "\x04"


class Terminal:
    """One process whose standard streams are a terminal it controls.

    ``screen`` is everything that was shown so far, colour sequences included.
    """

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self._process = process
        self._descriptor = descriptor
        self.screen = ""

    def expect(self, text: str) -> None:
        """Wait until ``text`` has been shown; a process that ends or stays silent before fails the test."""
        deadline = time.monotonic() + SECONDS
        while text not in self.screen:
            assert time.monotonic() < deadline, f"{text!r} was not shown:\n{self.screen}"
            assert self._read(1.0), f"the process ended before {text!r}:\n{self.screen}"

    def type(self, text: str) -> None:
        """Type ``text`` and, unless it is a key like Ctrl-C, press Enter."""
        os.write(self._descriptor, text.encode() + (b"" if text in (CTRL_C, CTRL_D) else b"\n"))

    def press_ctrl_c(self) -> None:
        """Press Ctrl-C: the kernel sends SIGINT to whatever runs in this terminal."""
        self.type(CTRL_C)

    def finish(self) -> int:
        """Wait for the end and return the exit code."""
        deadline = time.monotonic() + SECONDS
        while self._read(1.0):
            assert time.monotonic() < deadline, self.screen
        return self._process.wait(SECONDS)

    def _read(self, seconds: float) -> bool:
        """Take in what is shown within a moment; False after the end."""
        ready, _, _ = select.select([self._descriptor], [], [], seconds)
        if not ready:
            return True
        try:
            data = os.read(self._descriptor, 65536)
        except OSError:
            # Linux reports the end of a terminal as an error.
            return False
        self.screen += data.decode(errors="replace").replace("\r\n", "\n")
        return bool(data)


@contextlib.contextmanager
def terminal(command: Sequence[str], environment: Mapping[str, str], directory: Path) -> Iterator[Terminal]:
    """Start a command in a terminal for the length of a ``with`` block.

    Args:
        command: program and arguments.
        environment: its whole environment.
        directory: where it starts.
    """
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            ["setsid", "--ctty", *command],
            env={**environment, "TERM": "xterm"},
            cwd=directory,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        try:
            yield Terminal(process, ours)
        finally:
            process.kill()
            process.wait()
    finally:
        os.close(ours)
