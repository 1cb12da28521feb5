"""Files only their owner may read, created exclusively or replaced in one step."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from hsm_msl.errors import ConfigurationError


def make_private_directory(path: Path) -> None:
    """Create a directory (and its parents) closed to others, unless it exists.

    Raises:
        ConfigurationError: it cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be created: {error.strerror}") from error


def create_private_file(path: Path, content: bytes) -> None:
    """Create a file with mode 0600 and write it to disk; an existing file is never overwritten.

    Raises:
        ConfigurationError: the file exists or cannot be written.
    """
    make_private_directory(path.parent)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be created: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            file.write(content)
            os.fsync(file.fileno())
            written = file.tell()
    except OSError as error:
        path.unlink(missing_ok=True)
        raise ConfigurationError(f"{path}: cannot be written: {error.strerror}") from error
    if written != len(content):
        path.unlink(missing_ok=True)
        raise ConfigurationError(f"{path}: cannot be written: the medium is full")


def replace_private_file(path: Path, content: bytes) -> None:
    """Write a file so that a reader or a crash sees either the old or the new content, never a part.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    create_private_file(temporary, content)
    try:
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigurationError(f"{path}: cannot be written: {error.strerror}") from error


def sync_directory(path: Path) -> None:
    """Write to disk which files a directory has. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
