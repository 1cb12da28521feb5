"""Which PIN a token refused last, so that nobody spends another try on it: not this process, and no later one.

Tokens count wrong PINs and lock. A supervisor that starts a service again and again would use up every try on one
wrong PIN, so it is remembered on disk, as a salted slow hash: PINs are short, and a refused PIN is often nearly
right, or right for another token.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hsm_msl.backend.pin import Pin
from hsm_msl.errors import BackendConfigurationError, ConfigurationError
from hsm_msl.private_files import make_private_directory, replace_private_file

_LOG = logging.getLogger("hsm_msl.backend")

_SALT_BYTES = 16
_COST = {"n": 1 << 14, "r": 8, "p": 1}
"""Of scrypt: some 30 ms and 16 MiB. It is paid when there is something remembered, and when a PIN is refused."""

TURN_SECONDS = 30.0
"""How long a process waits for another one that is trying its PIN."""


class PinMemory:
    """Remembers in this process, for one token.

    Args:
        token: label and serial number, which the hash is bound to; another token under the name is another matter.
    """

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        self._refused: tuple[bytes, bytes] | None = None

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Keep other processes from trying a PIN on the token for the length of a block."""
        yield

    def refusal(self, pin: Pin) -> str | None:
        """Tell whether this PIN was refused before.

        Args:
            pin: what is to be tried.

        Returns:
            What an operator may do about it besides changing the PIN's source; None when the PIN may be tried.

        Raises:
            BackendConfigurationError: what was remembered cannot be read, so nothing may be tried.
        """
        known = self.recall()
        if known is None or not hmac.compare_digest(self._digest(known[0], pin), known[1]):
            return None
        return self.remedy

    def remember(self, pin: Pin, source: str) -> None:
        """Note that the token refused a PIN.

        Args:
            pin: the PIN.
            source: where it came from, for people.
        """
        salt = os.urandom(_SALT_BYTES)
        self.note(salt, self._digest(salt, pin), source)

    def forget(self) -> None:
        """Note that the token took a PIN."""
        self._refused = None

    @property
    def remedy(self) -> str:
        """What an operator may do when it was the token's PIN that changed."""
        return "or start the service again"

    def recall(self) -> tuple[bytes, bytes] | None:
        """Return salt and hash of the refused PIN, if there is one. Raises as ``refusal``."""
        return self._refused

    def note(self, salt: bytes, digest: bytes, source: str) -> None:  # noqa: ARG002 - for those who write it down
        """Keep salt and hash of a refused PIN."""
        self._refused = salt, digest

    def _digest(self, salt: bytes, pin: Pin) -> bytes:
        return hashlib.scrypt(pin.reveal(), salt=salt + self._token, dklen=32, **_COST)


class FilePinMemory(PinMemory):
    """Remembers in a file as well, for the processes that come after this one and those beside it.

    Args:
        directory: where the file is; made when it is missing.
        token: as for ``PinMemory``.
        clock: seconds since the epoch.
    """

    def __init__(self, directory: Path, token: str, clock: Callable[[], float] = time.time) -> None:
        super().__init__(token)
        self.path = directory / f"refused-pin.{re.sub('[^A-Za-z0-9=.-]+', '_', token)}.json"
        self._name = token
        self._clock = clock

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Take turns with the processes that share the file; without a place to lock, go on alone."""
        descriptor = None
        try:
            with contextlib.suppress(OSError, ConfigurationError):
                make_private_directory(self.path.parent)
                descriptor = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                deadline = time.monotonic() + TURN_SECONDS
                while time.monotonic() < deadline:
                    with contextlib.suppress(BlockingIOError):
                        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        break
                    time.sleep(0.005)
            yield
        finally:
            if descriptor is not None:
                os.close(descriptor)

    @property
    def remedy(self) -> str:
        """Name the file to remove."""
        return f"or, when it is the token's PIN that was changed, remove {self.path}"

    def recall(self) -> tuple[bytes, bytes] | None:
        """Return what the file holds, or this process remembers. Raises BackendConfigurationError: it is damaged."""
        try:
            found = json.loads(self.path.read_bytes())
            return bytes.fromhex(found["salt"]), bytes.fromhex(found["scrypt"])
        except FileNotFoundError:
            return super().recall()
        except (OSError, ValueError, KeyError, TypeError):
            raise BackendConfigurationError(
                f"{self.path} cannot be read; it says which PIN the token refused. Remove it to try a PIN again"
            ) from None

    def note(self, salt: bytes, digest: bytes, source: str) -> None:
        """Keep it in the file; where that cannot be written, in this process only, and say so."""
        super().note(salt, digest, source)
        record = {
            "token": self._name,
            "source": source,
            "time": round(self._clock()),
            "salt": salt.hex(),
            "scrypt": digest.hex(),
        }
        try:
            replace_private_file(self.path, json.dumps(record, indent=1).encode() + b"\n")
        except ConfigurationError as error:
            _LOG.warning("%s; a process started after this one will try the refused PIN again", error)

    def forget(self) -> None:
        """Remove the file."""
        super().forget()
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
