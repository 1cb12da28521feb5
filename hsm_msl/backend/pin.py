"""Where a token's PIN comes from, and the wrapper that keeps it out of logs, reprs and tracebacks.

A configuration names a *source*, never the PIN. The source is read when a login needs it, so a rotated PIN is picked
up, and the value lives only as long as the login call.
"""

from __future__ import annotations

import contextlib
import getpass
import hmac
import os
import re
import shlex
import stat
import subprocess
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

from hsm_msl.errors import BackendConfigurationError

MAX_PIN_BYTES = 1024
"""Far above any token's limit; keeps a wrongly named source (a log file, a device) from being swallowed whole."""

EXEC_SECONDS = 30.0
"""How long a PIN program may take; a token opener that prompts a person is not meant to hang a service start."""

GRAMMAR = "file:/path, fd:NUMBER, cred:NAME, exec:/path [ARGUMENT...], prompt or env:NAME"


class Pin:
    """A PIN in memory: compares in constant time, shows nothing, cannot be pickled or copied into a log by accident.

    Args:
        value: the PIN as the token expects it, UTF-8 bytes.
    """

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        """Return the PIN itself; the one place that may call this is the call into the token."""
        return self._value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pin) and hmac.compare_digest(self._value, other._value)

    __hash__ = None  # type: ignore[assignment]  # a PIN is no dictionary key; object.__hash__ would leak identity

    def __repr__(self) -> str:
        return "Pin(...)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a PIN is not serialised")


class PinSource(Protocol):
    """Gives the PIN when a login needs it."""

    def read(self) -> Pin:
        """Return the PIN. Raises BackendConfigurationError, naming the source, when it cannot."""


@dataclass(frozen=True, slots=True)
class FilePin:
    """The first line of a file that only its owner may read.

    Args:
        path: absolute path of the file.
    """

    path: Path

    def __str__(self) -> str:
        return f"file {self.path}"

    def read(self) -> Pin:
        """Return the first line. Raises BackendConfigurationError for a missing, empty or readable-by-all file."""
        try:
            # Without O_NONBLOCK a named pipe would hold the start until somebody writes to it.
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise BackendConfigurationError(f"PIN file {self.path}: {error.strerror}") from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise BackendConfigurationError(f"PIN file {self.path} is not a regular file")
            if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise BackendConfigurationError(
                    f"PIN file {self.path} is open to others (mode {stat.S_IMODE(status.st_mode):04o}); "
                    f"run: chmod 600 {self.path}"
                )
            return _first_line(os.read(descriptor, MAX_PIN_BYTES + 1), f"PIN file {self.path}")
        finally:
            os.close(descriptor)


class DescriptorPin:
    """The first line of an inherited file descriptor, such as a pipe from a supervisor.

    A pipe can be read once, so the PIN is kept for later logins of the same process.

    Args:
        descriptor: the number of an open, readable descriptor.
    """

    __slots__ = ("_descriptor", "_pin")

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pin: Pin | None = None

    def __str__(self) -> str:
        return f"file descriptor {self._descriptor}"

    def read(self) -> Pin:
        """Return the first line. Raises BackendConfigurationError for a descriptor that is closed or empty."""
        if self._pin is None:
            try:
                with os.fdopen(self._descriptor, "rb", buffering=0) as file:
                    data = b""
                    while len(data) <= MAX_PIN_BYTES and b"\n" not in data:
                        chunk = file.read(MAX_PIN_BYTES)
                        if not chunk:
                            break
                        data += chunk
            except OSError as error:
                raise BackendConfigurationError(f"PIN descriptor {self._descriptor}: {error.strerror}") from None
            self._pin = _first_line(data, f"PIN descriptor {self._descriptor}")
        return self._pin

    def __repr__(self) -> str:
        return f"DescriptorPin({self._descriptor})"


@dataclass(frozen=True, slots=True)
class CredentialPin:
    """A systemd credential (``LoadCredential=``): a file in the directory named by CREDENTIALS_DIRECTORY.

    Args:
        name: the credential's name.
        environment: looks up an environment variable.
    """

    name: str
    environment: Callable[[str], str | None] = os.environ.get

    def __str__(self) -> str:
        return f"credential {self.name}"

    def read(self) -> Pin:
        """Return the credential's first line. Raises BackendConfigurationError when there is none."""
        directory = self.environment("CREDENTIALS_DIRECTORY")
        if not directory:
            raise BackendConfigurationError(
                f"PIN credential {self.name}: CREDENTIALS_DIRECTORY is not set; is LoadCredential= in the unit file?"
            )
        try:
            # systemd itself keeps the directory closed to others and may present the file as 0440.
            with Path(directory, self.name).open("rb") as file:
                data = file.read(MAX_PIN_BYTES + 1)
        except OSError as error:
            raise BackendConfigurationError(f"PIN credential {self.name}: {error.strerror}") from None
        return _first_line(data, f"PIN credential {self.name}")


@dataclass(frozen=True, slots=True)
class ExecPin:
    """The first output line of a program, run without a shell.

    Args:
        command: absolute program path and its arguments.
    """

    command: tuple[str, ...]

    def __str__(self) -> str:
        return f"program {self.command[0]}"

    def read(self) -> Pin:
        """Return the first line printed. Raises BackendConfigurationError when the program fails or is late."""
        name = self.command[0]
        try:
            done = subprocess.run(  # noqa: S603  # the operator's own program, absolute path, no shell
                self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=EXEC_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise BackendConfigurationError(f"PIN program {name} gave no answer in {EXEC_SECONDS:.0f} s") from None
        except OSError as error:
            raise BackendConfigurationError(f"PIN program {name}: {error.strerror}") from None
        if done.returncode != 0:
            raise BackendConfigurationError(f"PIN program {name} failed with exit code {done.returncode}")
        return _first_line(done.stdout, f"PIN program {name}")


class PromptPin:
    """Asks on the controlling terminal, once per process, without echo.

    Args:
        prompt: what is asked.
        ask: reads a line without echo.
    """

    __slots__ = ("_ask", "_pin", "_prompt")

    def __init__(self, prompt: str = "Token PIN: ", ask: Callable[[str], str] = getpass.getpass) -> None:
        self._prompt = prompt
        self._ask = ask
        self._pin: Pin | None = None

    def __str__(self) -> str:
        return "the prompt"

    def read(self) -> Pin:
        """Return what was typed. Raises BackendConfigurationError without a terminal or an answer."""
        if self._pin is None:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error", getpass.GetPassWarning)  # it would echo the PIN
                    answer = self._ask(self._prompt)
            except EOFError:
                raise BackendConfigurationError("PIN prompt: nothing was typed") from None
            except (OSError, getpass.GetPassWarning):
                raise BackendConfigurationError(
                    "PIN prompt: no terminal to ask on; name another PIN source"
                ) from None
            self._pin = _first_line(os.fsencode(answer), "PIN prompt")
        return self._pin

    def __repr__(self) -> str:
        return "PromptPin()"


@dataclass(frozen=True, slots=True)
class EnvironmentPin:
    """An environment variable. Children, core dumps and /proc show it, so every read warns.

    Args:
        name: the variable's name.
        environment: looks up an environment variable.
        warn: told once per read that this is the weakest source.
    """

    name: str
    environment: Callable[[str], str | None] = os.environ.get
    warn: Callable[[str], None] = warnings.warn

    def __str__(self) -> str:
        return f"environment variable {self.name}"

    def read(self) -> Pin:
        """Return the variable's value. Raises BackendConfigurationError when it is not set."""
        value = self.environment(self.name)
        if not value:
            raise BackendConfigurationError(f"PIN variable {self.name} is not set")
        self.warn(f"the PIN is read from the environment variable {self.name}; prefer file:, fd: or cred:")
        return _first_line(os.fsencode(value), f"PIN variable {self.name}")


def pin_source(text: str) -> PinSource:
    """Parse the way a configuration names a PIN source.

    Args:
        text: ``file:/path``, ``fd:3``, ``cred:NAME``, ``exec:/path arguments``, ``prompt`` or ``env:NAME``.

    Returns:
        The source; nothing is read yet.

    Raises:
        BackendConfigurationError: the text is none of these. It is not repeated, as it may be a PIN.
    """
    kind, _, rest = text.partition(":")
    if "\0" in rest:
        kind = ""
    match kind:
        case "file" if rest.startswith("/"):
            return FilePin(Path(rest))
        case "fd" if re.fullmatch(r"[0-9]{1,5}", rest):
            return DescriptorPin(int(rest))
        case "cred" if re.fullmatch(r"[A-Za-z0-9_.@-]+", rest) and rest not in (".", ".."):
            return CredentialPin(rest)
        case "exec" if rest.startswith("/"):
            with contextlib.suppress(ValueError):  # a quotation without an end
                return ExecPin(tuple(shlex.split(rest)))
        case "prompt" if not rest:
            return PromptPin()
        case "env" if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", rest):
            return EnvironmentPin(rest)
    raise BackendConfigurationError(f"PIN source not understood; write {GRAMMAR}")


def _first_line(data: bytes, source: str) -> Pin:
    line, _, _ = data.partition(b"\n")
    line = line.removesuffix(b"\r")
    if not line:
        raise BackendConfigurationError(f"{source} is empty")
    if len(line) > MAX_PIN_BYTES:
        raise BackendConfigurationError(f"{source} holds more than {MAX_PIN_BYTES} bytes; that is no PIN")
    return Pin(line)
