"""The signed key manifest as a server reads it: which version of each purpose makes, and which still open.

The provisioning writes the manifest in one step; a server looks at it now and then and takes a rotation up without a
restart. Only versions and check values are read here; the rest of the file is the operators'.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

from hsm_msl.audit.hand_over import SignerHandOver, signers_after
from hsm_msl.audit.signatures import signature_fits
from hsm_msl.backend.manifest_memory import ManifestMemory, SeenManifest
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
    not_after: datetime | None = None


class _Token(msgspec.Struct, frozen=True):
    serial: str


class _Body(msgspec.Struct, frozen=True):
    format: str
    sequence: int
    keys: tuple[_Entry, ...]
    token: _Token = _Token("")


class _Signature(msgspec.Struct, frozen=True):
    spki: str
    signature: str


class _File(msgspec.Struct, frozen=True):
    body: msgspec.Raw
    signature: _Signature | None = None
    hand_overs: tuple[SignerHandOver, ...] = ()


@dataclass(frozen=True, slots=True)
class ManifestReading:
    """What was read last, for logs.

    Attributes:
        sequence: the manifest's number.
        sha256: of what is signed, in hexadecimal.
        hand_overs: how many keys after the trusted one its signer is.
    """

    sequence: int
    sha256: str
    hand_overs: int


class KeyManifest:
    """One manifest file, read when it changed.

    Args:
        path: the file.
        trusted: the public key that must have signed it, or handed over to the one that did, SubjectPublicKeyInfo
            DER; None accepts an unsigned one.
        memory: remembers across restarts what was read; without one, only this object does.

    Attributes:
        reading: what was read last; None before that.
    """

    def __init__(self, path: Path, trusted: bytes | None, memory: ManifestMemory | None = None) -> None:
        self._path = path
        self._trusted = trusted
        self._memory = memory
        self._seen: tuple[int, int, int] | None = None
        self._checks: Mapping[str, KeyCheck] = {}
        self._ends: Mapping[str, float] = {}
        self.reading: ManifestReading | None = None

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
        body, digest, signers = self._checked(raw)
        if self.reading is not None and body.sequence < self.reading.sequence:
            raise ConfigurationError(
                f"{self._path}: number {body.sequence} is older than {self.reading.sequence}, which was read before"
            )
        versions = self._versions(body)
        if self._memory is not None and signers:
            fingerprints = [hashlib.sha256(key).hexdigest() for key in signers]
            try:
                seen = SeenManifest(body.sequence, digest, fingerprints[-1])
                self._memory.admit(body.token.serial, seen, frozenset(fingerprints))
            except ConfigurationError as error:
                raise ConfigurationError(f"{self._path}: {error}") from error
        self._seen = mark
        self.reading = ManifestReading(body.sequence, digest, max(0, len(signers) - 1))
        self._ends = {
            entry.label: entry.not_after.timestamp()
            for entry in body.keys
            if entry.not_after is not None and entry.state not in _GONE
        }
        self._checks = {
            entry.label: entry.check for entry in body.keys if entry.check is not None and entry.state != "destroyed"
        }
        return versions

    def check(self, label: str) -> KeyCheck | None:
        """Return the check value of a key as of the last good reading, or None when the manifest does not know it."""
        return self._checks.get(label)

    def ends(self) -> Mapping[str, float]:
        """Return when the use of keys ends, seconds since the epoch by label; those without an end are left out."""
        return self._ends

    def _checked(self, raw: bytes) -> tuple[_Body, str, tuple[bytes, ...]]:
        """Return the body, its SHA-256, and the keys from the trusted one to its signer."""
        try:
            file = msgspec.json.decode(raw, type=_File)
            body = msgspec.json.decode(file.body, type=_Body)
            # What is signed is the body as JSON with sorted keys and no white space, whatever the file's layout.
            signed = msgspec.json.encode(msgspec.json.decode(file.body), order="sorted")
            signers = () if self._trusted is None else self._signers(file, self._trusted, signed)
        except (msgspec.DecodeError, ValueError) as error:
            raise ConfigurationError(f"{self._path}: not a key manifest: {error}") from error
        if body.format != FORMAT:
            raise ConfigurationError(f"{self._path}: format {body.format!r} is not known; expected {FORMAT!r}")
        return body, hashlib.sha256(signed).hexdigest(), signers

    def _signers(self, file: _File, trusted: bytes, signed: bytes) -> tuple[bytes, ...]:
        if file.signature is not None:
            signature = base64.b64decode(file.signature.signature, validate=True)
            keys = signers_after(trusted, file.hand_overs)
            for count in range(len(keys), 0, -1):
                if signature_fits(keys[count - 1], signed, signature):
                    return keys[:count]
        raise ConfigurationError(f"{self._path}: not signed by the trusted key")

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
