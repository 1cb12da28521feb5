"""Remembers the newest key manifest of each token across restarts, so that an older one is not believed again."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from hsm_msl.errors import ConfigurationError
from hsm_msl.private_files import replace_private_file


class SeenManifest(msgspec.Struct, frozen=True):
    """One manifest: its number, its SHA-256 and that of the public key that signed it, in hexadecimal."""

    sequence: int
    sha256: str
    signer: str


class ManifestMemory:
    """A file with the newest manifest of each token, by serial number; several processes may share it.

    Args:
        path: the file, created when missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def admit(self, token: str, manifest: SeenManifest, signers: frozenset[str]) -> None:
        """Remember a manifest, unless it is older than the one remembered.

        Args:
            token: the token's serial number.
            manifest: what is to be remembered.
            signers: the keys by which it is trusted: its signer, and those that handed over to it.

        Raises:
            ConfigurationError: it is older, another one under the same number, or signed by a key that had handed
                over before; or the file cannot be used.
        """
        with self._held():
            seen = self._read()
            before = seen.get(token)
            if before == manifest:
                return
            if before is not None:
                problem = _problem(before, manifest, signers)
                if problem is not None:
                    raise ConfigurationError(
                        f"{problem}; if the records were restored from a backup on purpose, remove {self._path}"
                    )
            replace_private_file(self._path, msgspec.json.encode({**seen, token: manifest}, order="sorted") + b"\n")

    def _read(self) -> dict[str, SeenManifest]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, SeenManifest])
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise ConfigurationError(f"{self._path}: cannot be read: {error.strerror}") from error
        except (msgspec.DecodeError, UnicodeDecodeError):
            # Not taken for an empty one: whoever can damage it could bring an old manifest back.
            raise ConfigurationError(
                f"{self._path}: does not say which manifests were seen; compare the manifest with the operators' "
                "records, then remove the file"
            ) from None

    @contextmanager
    def _held(self) -> Iterator[None]:
        lock = self._path.with_name(f".{self._path.name}.lock")
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(f"{self._path}: cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _problem(before: SeenManifest, manifest: SeenManifest, signers: frozenset[str]) -> str | None:
    if manifest.sequence < before.sequence:
        return f"number {manifest.sequence} is older than {before.sequence}, which was in use here before"
    if before.signer not in signers:
        return f"number {manifest.sequence} is signed by another key than number {before.sequence}, seen here before"
    if manifest.sequence == before.sequence:
        return f"number {manifest.sequence} is another manifest than the one seen here before under that number"
    return None
