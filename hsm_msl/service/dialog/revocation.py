"""Revocation lists and OCSP responses in files, read again when they change (``RevocationEvidence``)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509 import ocsp

from hsm_msl.ports.dialog import Evidence

_LOG = logging.getLogger("hsm_msl.dialog")
_LOOK = 1.0
_Stamp = tuple[int, int, int] | None


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    read: Callable[[bytes], bytes]


class FileEvidence:
    """Knows what an operator puts into files; a change is seen within a second, without a restart.

    A file that is not there or cannot be read counts as absent, which refuses certificates rather than trusting them,
    and is complained of once.

    Args:
        lists: files of revocation lists, PEM or DER.
        responses: files of OCSP responses, DER.
        monotonic: seconds since any fixed moment.
    """

    def __init__(self, lists: Sequence[Path], responses: Sequence[Path], monotonic: Callable[[], float]) -> None:
        self._lists = tuple(_File(path, _list) for path in lists)
        self._responses = tuple(_File(path, _response) for path in responses)
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._stamps: tuple[_Stamp, ...] | None = None
        self._looked = 0.0
        self._evidence = Evidence()

    def current(self) -> Evidence:
        """Return what the files say now."""
        with self._lock:
            now = self._monotonic()
            if self._stamps is None or now - self._looked >= _LOOK:
                self._looked = now
                stamps = tuple(_stamp(file.path) for file in (*self._lists, *self._responses))
                if stamps != self._stamps:
                    self._stamps = stamps
                    self._evidence = Evidence(
                        self._evidence.version + 1, _contents(self._lists), _contents(self._responses)
                    )
            return self._evidence


def _stamp(path: Path) -> _Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _contents(files: Sequence[_File]) -> tuple[bytes, ...]:
    found: list[bytes] = []
    for file in files:
        try:
            found.append(file.read(file.path.read_bytes()))
        except OSError as error:
            _LOG.warning("%s: cannot be read: %s; certificates may be refused", file.path, error.strerror)
        except ValueError:
            _LOG.warning("%s: no revocation list or OCSP response; certificates may be refused", file.path)
    return tuple(found)


def _list(data: bytes) -> bytes:
    load = x509.load_pem_x509_crl if b"-----BEGIN" in data else x509.load_der_x509_crl
    return load(data).public_bytes(serialization.Encoding.DER)


def _response(data: bytes) -> bytes:
    return ocsp.load_der_ocsp_response(data).public_bytes(serialization.Encoding.DER)
