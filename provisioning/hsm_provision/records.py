"""Where a ceremony keeps its records, and how they are written: manifest, audit log, agreed plans."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from hsm_msl.audit.hand_over import hand_over_signer
from hsm_msl.audit.log import AuditLog
from hsm_msl.errors import ConfigurationError
from hsm_msl.ports import Clock
from hsm_msl.private_files import make_private_directory, replace_private_file, sync_directory
from hsm_provision import __version__
from hsm_provision.manifest import (
    Manifest,
    ManifestBody,
    ManifestKey,
    ManifestToken,
    empty_manifest,
    read_manifest,
    write_manifest,
)
from hsm_provision.plan import Plan
from hsm_provision.record_signing import (
    current_signer,
    demand_log_holds,
    log_signer,
    signed_here,
    token_signer,
)
from hsm_provision.token.objects import TokenSession

WITNESSES = "witnesses"
"""The detail of an audit record that names who was present."""


PlanStatus = Literal["started", "completed", "abandoned"]


class PlanJournal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A plan that was started, and how far it is known to have come.

    It is abandoned once another version of its ceremony file was applied.
    """

    plan: Plan
    status: PlanStatus


@dataclass(frozen=True, slots=True)
class Records:
    """The records of one token.

    Args:
        directory: where they are.
        clock: seconds since the epoch.
        actor: who acts, as recorded in the audit log.
        witnesses: who is present, likewise.
    """

    directory: Path
    clock: Clock
    actor: str
    witnesses: tuple[str, ...] = ()

    @property
    def manifest_path(self) -> Path:
        """The manifest file."""
        return self.directory / "manifest.json"

    @property
    def audit_path(self) -> Path:
        """The audit log."""
        return self.directory / "audit.jsonl"

    def now(self) -> str:
        """Return the current time, UTC ISO 8601 with seconds."""
        return datetime.fromtimestamp(self.clock(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def audit(self) -> AuditLog:
        """Return the audit log, ready to append."""
        return AuditLog(self.audit_path, now=self.now, actor=self.actor)

    def witnessed(self, details: Mapping[str, str]) -> dict[str, str]:
        """Return the details of an event that people come together for, with who was there."""
        return {**details, **({WITNESSES: "; ".join(self.witnesses)} if self.witnesses else {})}

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep other runs of this tool away from these records for the length of a ``with`` block.

        Raises:
            ConfigurationError: another run holds them, or the directory cannot be made.
        """
        make_private_directory(self.directory)
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ConfigurationError(f"{self.directory}: another hsm-provision is at work here") from None
            yield
        finally:
            os.close(descriptor)

    def manifest(self) -> Manifest | None:
        """Return the stored manifest, or None. Raises ConfigurationError when it is damaged."""
        return read_manifest(self.manifest_path)

    def manifest_for(self, session: TokenSession, signing_key: str | None) -> ManifestBody:
        """Return the manifest of this token, empty when nothing was recorded yet.

        Args:
            session: the token.
            signing_key: label of the key that signs manifests; once it is on the token, only its signature counts.

        Raises:
            ConfigurationError: the manifest is damaged, describes another token or is not signed by this one, or
                the audit log was cut or written anew: what is signed next would vouch for that.
            BackendError: the token fails.
        """
        token = session.identity
        here = ManifestToken(token.label, token.serial, token.manufacturer, token.model)
        stored = self.manifest()
        if stored is None:
            return empty_manifest(here, written=self.now(), tool=__version__)
        if stored.body.token.serial != here.serial:
            raise ConfigurationError(
                f"{self.manifest_path}: describes token {stored.body.token.serial}, not {here.serial}; "
                "keep the records of each token in a directory of its own"
            )
        if not signed_here(session, stored, signing_key):
            raise ConfigurationError(
                f"{self.manifest_path}: not signed by {signing_key}: the manifest was changed by other means"
            )
        demand_log_holds(self.audit_path, stored.body.audit)
        return stored.body

    def store(
        self, session: TokenSession, body: ManifestBody, changed: Iterable[ManifestKey], signing_key: str | None
    ) -> ManifestBody:
        """Write the next manifest, signed by the token when a signing key exists, and return it.

        Where another version of the signing key becomes primary, the one before hands over to it, in the audit log
        and in the manifest.

        Raises:
            ConfigurationError: a file cannot be written.
            BackendError: the token does not sign.
        """
        following = body.with_keys(changed, written=self.now(), tool=__version__)
        key = current_signer(following, signing_key)
        if key is None:
            write_manifest(self.manifest_path, following, None)
            return following
        signer = token_signer(session, key)
        # The log may be ahead of the manifest, where a run was interrupted between the two.
        before = log_signer(self.audit_path)
        if before is not None and before != key:
            self.audit().hand_over(token_signer(session, before), signer)
        stored = self.manifest()
        hand_overs = () if stored is None else stored.hand_overs
        if stored is not None and stored.signature is not None and stored.signature.key != key:
            hand_overs += (hand_over_signer(token_signer(session, stored.signature.key), signer),)
        following = msgspec.structs.replace(following, audit=self.audit().checkpoint(signer).head)
        write_manifest(self.manifest_path, following, signer, hand_overs)
        return following

    def seal(self, session: TokenSession, signing_key: str | None) -> None:
        """Sign what the log tells since the last manifest, so that a cut end shows; ends every step with a session.

        Steps without one (``approve``, a request) are signed by the next step that has one.

        Raises:
            ConfigurationError: a file cannot be written, or the log was cut before.
            BackendError: the token does not sign.
        """
        stored = self.manifest()
        if stored is None or current_signer(stored.body, signing_key) is None:
            return
        last = self.audit().last()
        if last is not None and last.head != stored.body.audit:
            self.store(session, self.manifest_for(session, signing_key), [], signing_key)

    def approvals_path(self, digest: str) -> Path:
        """Return the file that collects the approvals of a plan or request."""
        return self.directory / "approvals" / f"{digest}.json"

    def request_path(self, digest: str) -> Path:
        """Return the file that holds a request for approval."""
        return self.directory / "requests" / f"{digest}.json"

    def bundle_path(self, digest: str) -> Path:
        """Return the file that holds a backup bundle."""
        return self.directory / "backups" / f"{digest}.json"

    def remove_bundle(self, digest: str) -> None:
        """Remove a backup bundle, if it is there. Raises ConfigurationError."""
        path = self.bundle_path(digest)
        try:
            path.unlink(missing_ok=True)
            if path.parent.exists():
                sync_directory(path.parent)
        except OSError as error:
            raise ConfigurationError(f"{path}: cannot be removed: {error.strerror}") from error

    @property
    def usage_directory(self) -> Path:
        """Where servers leave their key usage reports."""
        return self.directory / "usage"

    def journal_path(self, plan_hash: str) -> Path:
        """Return the file that holds an agreed plan."""
        return self.directory / "plans" / f"{plan_hash}.json"

    def journal(self, plan_hash: str) -> PlanJournal | None:
        """Return what is known of an agreed plan, or None.

        Raises:
            ConfigurationError: the file is damaged or not the plan its name says.
        """
        path = self.journal_path(plan_hash)
        try:
            stored = msgspec.json.decode(path.read_bytes(), type=PlanJournal)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise ConfigurationError(f"{path}: not a plan: {error}") from error
        if stored.plan.hash != plan_hash:
            raise ConfigurationError(f"{path}: is not the plan with that hash")
        return stored

    def plans(self, ceremony: str, *statuses: PlanStatus) -> tuple[Plan, ...]:
        """Return the plans of a ceremony, by its name, that stand as one of these. Raises ConfigurationError."""
        found = []
        for path in sorted((self.directory / "plans").glob("*.json")):
            journal = self.journal(path.stem)
            if journal is not None and journal.status in statuses and journal.plan.ceremony == ceremony:
                found.append(journal.plan)
        return tuple(found)

    def write_journal(self, plan: Plan, status: PlanStatus) -> None:
        """Record how far a plan has come. Raises ConfigurationError."""
        encoded = msgspec.json.encode(PlanJournal(plan, status), order="sorted")
        replace_private_file(self.journal_path(plan.hash), msgspec.json.format(encoded, indent=2) + b"\n")


def not_after(created: float, validity_days: int) -> str | None:
    """Return the end of use of a key, UTC ISO 8601, or None for one without end."""
    if validity_days == 0:
        return None
    return datetime.fromtimestamp(created + validity_days * 86400, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


Progress = Callable[[str], None]
"""Told in a short sentence what happens now."""
