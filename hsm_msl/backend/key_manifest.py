"""The signed key manifest as a server reads it: which version of each purpose makes, and which still open.

The provisioning writes the manifest in one step; a server looks at it now and then and takes a rotation up without a
restart. Only versions and check values are read here; the rest of the file is the operators'.
"""

from __future__ import annotations

import base64
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsm_msl.errors import ConfigurationError

FORMAT = "hsm-provision manifest 1"
_LABEL = re.compile(r"^(?P<purpose>.+)\.(?P<role>[a-z][a-z0-9-]*)\.v(?P<version>[1-9][0-9]*)$")
_OPENING = frozenset({"pre-active", "active"})
_GONE = frozenset({"retired", "destroyed"})


@dataclass(frozen=True, slots=True)
class PurposeVersions:
    """The versions of one purpose.

    Attributes:
        primary: makes whatever is made now.
        active: further versions that open; staged ones are among them before anything is made with them. A version of
            which one key is retired is not among them.
    """

    primary: int
    active: tuple[int, ...]


class KeyCheck(msgspec.Struct, frozen=True):
    """A check value: how it was made, and its hexadecimal digits."""

    method: str
    value: str


class _Entry(msgspec.Struct, frozen=True):
    label: str
    state: str
    check: KeyCheck | None = None


class _Body(msgspec.Struct, frozen=True):
    format: str
    sequence: int
    keys: tuple[_Entry, ...]


class _Signature(msgspec.Struct, frozen=True):
    spki: str
    signature: str


class _File(msgspec.Struct, frozen=True):
    body: msgspec.Raw
    signature: _Signature | None = None


class KeyManifest:
    """One manifest file, read when it changed.

    Args:
        path: the file.
        trusted: the public key that must have signed it, SubjectPublicKeyInfo DER; None accepts an unsigned one.
    """

    def __init__(self, path: Path, trusted: bytes | None) -> None:
        self._path = path
        self._trusted = trusted
        self._seen: tuple[int, int, int] | None = None
        self._sequence = -1
        self._checks: Mapping[str, KeyCheck] = {}

    def poll(self) -> Mapping[str, PurposeVersions] | None:
        """Return the versions by purpose when the file changed since the last good reading, else None.

        Raises:
            ConfigurationError: the file cannot be read, is not signed by the trusted key, is older than the last one,
                or a purpose has no single primary version. What was read before stays valid.
        """
        try:
            status = self._path.stat()
            mark = (status.st_mtime_ns, status.st_size, status.st_ino)
            if mark == self._seen:
                return None
            raw = self._path.read_bytes()
        except OSError as error:
            raise ConfigurationError(f"{self._path}: cannot be read: {error.strerror}") from error
        body = self._checked(raw)
        if body.sequence < self._sequence:
            raise ConfigurationError(
                f"{self._path}: number {body.sequence} is older than {self._sequence}, which was read before"
            )
        versions = self._versions(body)
        self._seen, self._sequence = mark, body.sequence
        self._checks = {entry.label: entry.check for entry in body.keys if entry.check is not None}
        return versions

    def check(self, label: str) -> KeyCheck | None:
        """Return the check value of a key as of the last good reading, or None when the manifest does not know it."""
        return self._checks.get(label)

    def _checked(self, raw: bytes) -> _Body:
        try:
            file = msgspec.json.decode(raw, type=_File)
            body = msgspec.json.decode(file.body, type=_Body)
            if self._trusted is not None and not self._signed(file, self._trusted):
                raise ConfigurationError(f"{self._path}: not signed by the trusted key")
        except (msgspec.DecodeError, ValueError) as error:
            raise ConfigurationError(f"{self._path}: not a key manifest: {error}") from error
        if body.format != FORMAT:
            raise ConfigurationError(f"{self._path}: format {body.format!r} is not known; expected {FORMAT!r}")
        return body

    @staticmethod
    def _signed(file: _File, trusted: bytes) -> bool:
        if file.signature is None:
            return False
        # What is signed is the body as JSON with sorted keys and no white space, whatever the file's layout.
        signed = msgspec.json.encode(msgspec.json.decode(file.body), order="sorted")
        signature = base64.b64decode(file.signature.signature, validate=True)
        key = load_der_public_key(trusted)
        try:
            if isinstance(key, ec.EllipticCurvePublicKey):
                key.verify(signature, signed, ec.ECDSA(hashes.SHA256()))
            elif isinstance(key, rsa.RSAPublicKey):
                key.verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())
            else:
                return False
        except InvalidSignature:
            return False
        return True

    def _versions(self, body: _Body) -> Mapping[str, PurposeVersions]:
        primary: dict[str, set[int]] = defaultdict(set)
        opening: dict[str, set[int]] = defaultdict(set)
        gone: dict[str, set[int]] = defaultdict(set)
        for entry in body.keys:
            match = _LABEL.match(entry.label)
            if match is None:
                continue
            if entry.state == "primary":
                primary[match["purpose"]].add(int(match["version"]))
            elif entry.state in _OPENING:
                opening[match["purpose"]].add(int(match["version"]))
            elif entry.state in _GONE:
                gone[match["purpose"]].add(int(match["version"]))
        for purpose, found in primary.items():
            if len(found) > 1:
                raise ConfigurationError(f"{self._path}: {purpose}: its keys have different primary versions")
        # Keys are retired one by one, but what a version made is opened by all of its keys or by none.
        return {
            purpose: PurposeVersions(
                min(found), tuple(sorted(opening[purpose] - gone[purpose] - found, reverse=True))
            )
            for purpose, found in primary.items()
        }
