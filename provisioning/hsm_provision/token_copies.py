"""Copies of a SoftHSMv2 token's files, kept with the records of its ceremonies.

Each login rewrites a file of such a token in place, and processes killed in that moment have left it empty: the token
was gone. Only ceremonies make keys, so the copy made at the end of the last one holds them all.
"""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from hsm_msl.errors import ConfigurationError
from hsm_msl.private_files import make_private_directory, replace_private_file
from hsm_provision.manifest import ManifestBody

_TOKEN_FILE = "token.object"  # noqa: S105 - a file's name
_TRIES = 40
_PAUSE = 0.05


def softhsm_directory(serial: str, environment: Mapping[str, str] = os.environ) -> Path:
    """Return the directory in which SoftHSMv2 keeps a token.

    Args:
        serial: the token's serial number, which is the end of the directory's name.
        environment: says where SoftHSMv2's configuration is, as for its library.

    Raises:
        ConfigurationError: the configuration or the directory cannot be found.
    """
    named = environment.get("SOFTHSM2_CONF")
    own = Path(environment.get("HOME", "/")) / ".config/softhsm2/softhsm2.conf"
    file = Path(named) if named else own if own.exists() else Path("/etc/softhsm/softhsm2.conf")
    try:
        lines = [line.partition("#")[0].partition("=") for line in file.read_text().splitlines()]
        settings = {name.strip(): value.strip() for name, _, value in lines}
        tokens = Path(settings.get("directories.tokendir", ""))
        found = [path for path in tokens.iterdir() if path.name.replace("-", "").endswith(serial.lower())]
    except OSError as error:
        raise ConfigurationError(f"{error.filename}: cannot be read: {error.strerror}") from None
    if len(found) != 1:
        raise ConfigurationError(f"{tokens}: no directory of token {serial}")
    return found[0]


@dataclass(frozen=True, slots=True)
class TokenCopies:
    """The copies of one token.

    Args:
        directory: where they are kept.
        keep: how many; none is made with 0.
    """

    directory: Path
    keep: int

    def take(self, source: Path, body: ManifestBody) -> None:
        """Copy a token's directory, unless this manifest's state was copied before; drop copies that are too many.

        A copy from before a key was destroyed holds that key, so it is dropped as well.

        Args:
            source: the token's directory.
            body: what the token holds now.

        Raises:
            ConfigurationError: a file cannot be read or written, or does not come to rest.
        """
        if not self.keep:
            return
        path = self.directory / f"{body.token.serial}-{body.sequence:06}.tar"
        if not path.exists():
            make_private_directory(self.directory)
            replace_private_file(path, _archive(source))
        former = sorted(self.directory.glob(f"{body.token.serial}-*.tar"))
        ends = [key.changed for key in body.keys if key.state == "destroyed" and key.changed is not None]
        destroyed = max((datetime.fromisoformat(end).timestamp() for end in ends), default=0.0)
        for index, copy in enumerate(former, start=1):
            before = copy.stat().st_mtime < destroyed + 1  # of that moment only the second is known
            if copy != path and (before or index <= len(former) - self.keep):
                copy.unlink()


def _archive(source: Path) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in _at_rest(source).items():
            entry = tarfile.TarInfo(f"{source.name}/{name}")
            entry.size, entry.mode = len(content), 0o600
            archive.addfile(entry, io.BytesIO(content))
    return target.getvalue()


def _at_rest(source: Path) -> dict[str, bytes]:
    """Return the content of every file, read twice alike: a login elsewhere may be rewriting one."""
    try:
        before = _read(source)
        for _ in range(_TRIES):
            time.sleep(_PAUSE)
            now = _read(source)
            if now == before and now.get(_TOKEN_FILE):
                return now
            before = now
    except OSError as error:
        raise ConfigurationError(f"{error.filename}: cannot be read: {error.strerror}") from None
    raise ConfigurationError(f"{source}: its files do not come to rest, or the token's own is empty")


def _read(source: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(source.iterdir()) if path.is_file()}
