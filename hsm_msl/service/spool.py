"""Holds the pieces of one message until they are wanted, in bounded memory and never in the clear on a disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from hsm_msl.ports import RandomBytes

HELD_BYTES = 1 << 20
"""What is held in memory; more goes to a file."""

_READ_BYTES = 1 << 16
_BLOCK = 16


class Spool:
    """A message that can be written once and read any number of times.

    What does not fit in memory goes to a temporary file without a name, encrypted under a key that only this object
    has: whoever gets hold of the disk later reads nothing.

    Args:
        random: source of that key.

    Raises:
        OSError: the temporary file cannot be written, on ``write``.
    """

    def __init__(self, random: RandomBytes) -> None:
        # Small pieces stay in the file object's memory; only the encrypted form ever reaches it.
        self._file = tempfile.SpooledTemporaryFile(max_size=HELD_BYTES)  # noqa: SIM115 - lives as long as the spool
        self._cipher = Cipher(AES(random(32)), CTR(bytes(_BLOCK)))
        self._encryptor = self._cipher.encryptor()
        self.length = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def fill(self, pieces: Iterable[bytes]) -> Self:
        """Write every piece. Raises OSError."""
        for piece in pieces:
            self.write(piece)
        return self

    def write(self, piece: bytes) -> None:
        """Append a piece. Raises OSError."""
        self._file.write(self._encryptor.update(piece))
        self.length += len(piece)

    def pieces(self) -> Iterator[bytes]:
        """Yield what was written, from its beginning; one reader at a time. Raises OSError."""
        self._file.seek(0)
        decryptor = self._cipher.decryptor()
        while data := self._file.read(_READ_BYTES):
            yield decryptor.update(data)

    def close(self) -> None:
        """Drop everything."""
        self._file.close()
