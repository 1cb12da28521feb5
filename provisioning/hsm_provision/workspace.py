"""A ceremony opened for work: its file, profiles, token module and records, put together in one place."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hsm_msl.backend.pin import PinSource
from hsm_msl.backend.pkcs11.module import Module, load
from hsm_msl.backend.pkcs11.vendors import SOFTHSM
from hsm_msl.errors import ConfigurationError
from hsm_msl.ports import Clock
from hsm_msl.private_files import create_private_file
from hsm_provision.apply import Applied, apply_plan, demand_agreed
from hsm_provision.approvals import demand_approvals, read_approvals
from hsm_provision.attestation import EvidenceShelf
from hsm_provision.ceremony import ApproverSection, Authority, CeremonyFile, read_ceremony
from hsm_provision.desired_keys import DesiredKey, desired_keys
from hsm_provision.lifecycle import KeyOffice, create_first
from hsm_provision.manifest import Manifest, ManifestBody
from hsm_provision.plan import CREATING, Plan, demand_applicable, make_plan
from hsm_provision.profiles import KeyProfile, read_profiles
from hsm_provision.records import Progress, Records
from hsm_provision.token.access import initialise_token, token_ready
from hsm_provision.token.objects import TokenSession, list_keys, token_session
from hsm_provision.token.probing import token_check_value
from hsm_provision.token_copies import TokenCopies, softhsm_directory
from hsm_provision.token_verification import TokenVerdict, verify_token
from hsm_provision.typed_secrets import read_new, secret_source
from hsm_provision.user_import import OpenUsers, PlannedUser, plan_users, users_exist, users_url

_LOG = logging.getLogger("hsm_provision")
_HASH_NEEDED = (
    "a ceremony for production, or one that needs approvals, is applied with the hash of its plan: run "
    "`hsm-provision plan`, review it, then `apply --plan-hash HASH`"
)
PIN_BYTES = 12
"""Entropy of a PIN invented for a development token; 16 characters of URL-safe Base64."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """Everything a command needs about one ceremony.

    Made by ``open_workspace``.
    """

    file: CeremonyFile
    profiles: Mapping[str, KeyProfile]
    wanted: tuple[DesiredKey, ...]
    records: Records
    open_users: OpenUsers
    user_pin: PinSource

    def module(self) -> Module:
        """Load the token's module.

        Raises:
            BackendConfigurationError: there is no such module.
            BackendUnavailableError: it does not start.
        """
        token = self.file.document.token
        return load(token.module, reserved=token.parameters)

    @contextlib.contextmanager
    def session(self) -> Iterator[TokenSession]:
        """Log in on the ceremony's token for the length of a ``with`` block. Raises as ``token_session``."""
        token = self.file.document.token
        # A plan makes no directory; once there is one, a PIN that was refused is not spent on again by the next run.
        refused = self.records.directory if self.records.directory.is_dir() else None
        with token_session(
            self.module(),
            token.label,
            token.serial,
            self.user_pin,
            refused,
            vendor=token.vendor,
            traits=token.traits,
        ) as session:
            yield session

    @contextlib.contextmanager
    def office(self) -> Iterator[KeyOffice]:
        """Log in for a step of a key's life. Raises as ``session``."""
        document = self.file.document
        with self.records.held():
            with self.session() as session:
                before = self._sequence()
                yield KeyOffice(session, self.records, self.profiles, document.ceremony, document.records.signing_key)
                changed = self._sequence() != before
                self.records.seal(session, document.records.signing_key)
            if changed:
                self._keep_copy(session)

    def seal(self) -> None:
        """Sign the end of the log after a step that opens the token by itself. Raises as ``Records.seal``."""
        signing_key = self.file.document.records.signing_key
        if signing_key is not None:
            with self.session() as session:
                self.records.seal(session, signing_key)

    def required_manifest(self) -> Manifest:
        """Return the stored manifest. Raises ConfigurationError when there is none or it is damaged."""
        manifest = self.records.manifest()
        if manifest is None:
            raise ConfigurationError(f"{self.records.manifest_path}: there is no manifest yet; run `apply` first")
        return manifest

    def signed_manifest(self, session: TokenSession) -> ManifestBody:
        """Return the stored manifest once the token's signing key vouches for it. Raises ConfigurationError."""
        self.required_manifest()
        return self._recorded(session)

    @property
    def evidence(self) -> EvidenceShelf:
        """Where the vendor's evidence about keys is kept."""
        section = self.file.document.attestation
        roots = None if section is None else self.file.working_path(section.trust)
        return EvidenceShelf(self.records.directory / "attestations", roots)

    def verdict(
        self,
        session: TokenSession,
        manifest: Manifest,
        trusted: bytes | None = None,
        progress: Progress | None = None,
    ) -> TokenVerdict:
        """Prove the whole token and the evidence about its keys. Arguments and errors as ``verify_token``."""
        verdict = verify_token(
            session,
            manifest,
            self.profiles,
            trusted,
            progress,
            signing_key=self.file.document.records.signing_key,
        )
        return dataclasses.replace(verdict, problems=(*verdict.problems, *self.evidence.problems(manifest.body)))

    def token_absent(self) -> bool:
        """Tell whether the token is missing, or still has no user PIN, and the ceremony may initialise it."""
        token = self.file.document.token
        return token.initialise is not None and not token_ready(self.module(), token.label)

    def plan(self) -> Plan:
        """Read the token and say what ``apply`` would do. Changes nothing.

        Raises:
            ConfigurationError: a file cannot be read or does not fit.
            BackendError: the token cannot be read.
            StoreError: the users database gives no answer.
        """
        if self.token_absent():
            return self._plan(None)
        with self.session() as session:
            return self._plan(session)

    def apply(self, agreed: str | None, progress: Progress) -> Applied:
        """Carry the ceremony out. Arguments and errors as ``apply_plan``.

        Args:
            agreed: hash of the plan people agreed to.
            progress: told what happens.
        """
        if agreed is None and self.file.document.environment == "production":
            raise ConfigurationError(_HASH_NEEDED)
        approved = self._approved(self.file.document.authority, agreed)
        with self.records.held():
            return self._apply(agreed, approved, progress)

    def _approved(self, authority: Authority, agreed: str | None) -> tuple[ApproverSection, ...]:
        """Return who approved of the agreed plan. Raises ApprovalError when they are too few."""
        if not authority.apply_approvals:
            return ()
        if agreed is None:
            raise ConfigurationError(_HASH_NEEDED)
        return demand_approvals(
            read_approvals(self.records.approvals_path(agreed)),
            approvers=authority.approvers,
            step="apply",
            digest=agreed,
            needed=authority.apply_approvals,
        )

    def _apply(self, agreed: str | None, approved: Sequence[ApproverSection], progress: Progress) -> Applied:
        started = self.records.plans(self.file.document.ceremony, "started")
        interrupted = any(plan.ceremony_sha256 == self.file.digest for plan in started)
        begun: Plan | None = None
        if self.token_absent():
            # Initialising cannot be part of a session; the plan made before it is the one that was agreed to.
            begun = self._plan(None)
            demand_applicable(begun)
            demand_agreed(begun, self.records, agreed)
            self.records.write_journal(begun, "started")
            self.ensure_token(progress)
        with self.session() as session:
            # Under the policy that was in force so far, whatever this file says of approvers.
            former = self._approved(self._recorded(session).approving, agreed)
            plan = self._plan(session)
            if begun is None:
                demand_agreed(plan, self.records, agreed)
            applied = apply_plan(
                self.file,
                plan,
                self.wanted,
                session,
                self.records,
                open_users=self.open_users,
                progress=progress,
                begun=begun or plan,
                resumed=interrupted,
                approved=tuple(dict.fromkeys((*approved, *former))),
            )
            self.records.seal(session, self.file.document.records.signing_key)
        self._keep_copy(session)
        return applied

    def _keep_copy(self, session: TokenSession) -> None:
        """Keep a copy of a SoftHSMv2 token's files. What was done is done, so a failure is only told."""
        manifest = self.records.manifest()
        if session.vendor is not SOFTHSM or manifest is None:
            return
        copies = TokenCopies(self.records.directory / "token-copies", self.file.document.records.token_copies)
        try:
            copies.take(softhsm_directory(session.identity.serial), manifest.body)
        except ConfigurationError as error:
            _LOG.warning("hsm-provision: no copy of the token's files is kept: %s", error)

    def ensure_token(self, progress: Progress) -> None:
        """Initialise the token if it is missing and the ceremony may.

        Raises:
            BackendConfigurationError: there is no empty token, or a PIN is refused.
            BackendUnavailableError: the token fails.
        """
        if self.token_absent():
            progress(f"initialise token {self.file.document.token.label!r}")
            self._initialise()

    def make_signing_key(self, office: KeyOffice, progress: Progress) -> None:
        """Create the ceremony's signing key unless it is recorded, so that what follows is signed.

        Raises:
            VerificationError: the key did not prove itself.
            BackendError: the token fails.
        """
        label = self.file.document.records.signing_key
        wanted = [key for key in self.wanted if key.name.label == label]
        if wanted and office.manifest().key(str(label)) is None:
            create_first(office, wanted[0], progress)

    def _sequence(self) -> int:
        manifest = self.records.manifest()
        return 0 if manifest is None else manifest.body.sequence

    def _recorded(self, session: TokenSession) -> ManifestBody:
        return self.records.manifest_for(session, self.file.document.records.signing_key)

    def _plan(self, session: TokenSession | None) -> Plan:
        recorded = None
        if session is not None and self.records.manifest() is not None:
            recorded = self._recorded(session)
        return make_plan(
            self.file,
            self.wanted,
            listing=list_keys(session) if session else None,
            serial=session.identity.serial if session else None,
            mechanisms=session.mechanisms() if session else frozenset(),
            manifest=recorded,
            users=self._planned_users(),
            interrupted=frozenset(
                key.label
                for begun in self.records.plans(self.file.document.ceremony, "started", "abandoned")
                for key in begun.keys
                if key.action in CREATING
            ),
            token_check=lambda key: token_check_value(_required(session), key.profile, key.name.label),
        )

    def _planned_users(self) -> tuple[PlannedUser, ...]:
        if not users_exist(self.file):
            return plan_users(self.file, None)
        with self.open_users(users_url(self.file)) as users:
            return plan_users(self.file, users)

    def _initialise(self) -> None:
        token = self.file.document.token
        initialise = token.initialise
        if initialise is None:
            raise ConfigurationError("token.initialise: this key is required to initialise a token")
        if initialise.create_missing_pin_files:
            for source in (initialise.so_pin, token.user_pin):
                path = Path(anchored(self.file, source).removeprefix("file:"))
                if source.startswith("file:") and not path.exists():
                    create_private_file(path, (secrets.token_urlsafe(PIN_BYTES) + "\n").encode())
        officer = secret_source(anchored(self.file, initialise.so_pin), f"security officer PIN of {token.label!r}")
        initialise_token(self.module(), token.label, read_new(officer), read_new(self.user_pin))


def anchored(file: CeremonyFile, source: str) -> str:
    """Anchor a relative ``file:`` PIN source at the ceremony's working directory."""
    kind, _, path = source.partition(":")
    if kind == "file" and path:
        return f"file:{file.working_path(path)}"
    return source


def open_workspace(
    ceremony: Path,
    directory: Path | None,
    *,
    clock: Clock,
    actor: str,
    witnesses: Sequence[str] = (),
    open_users: OpenUsers,
) -> Workspace:
    """Read a ceremony with its profiles; touches no token.

    Args:
        ceremony: the ceremony file.
        directory: what working paths are relative to; the file's directory when None.
        clock: seconds since the epoch.
        actor: who acts, for the audit log.
        witnesses: who is present, likewise.
        open_users: opens a users database.

    Raises:
        ConfigurationError: a file cannot be read or does not fit.
        BackendConfigurationError: the PIN source is not understood.
    """
    file = read_ceremony(ceremony, directory)
    profiles = read_profiles(file.profiles_directory)
    wanted = desired_keys(file, profiles)
    signing_key = file.document.records.signing_key
    if signing_key is not None:
        known = {
            key.name.label for key in wanted if "sign" in key.profile.usage and key.profile.type in ("rsa", "ec")
        }
        if signing_key not in known:
            raise ConfigurationError(
                f"{ceremony}: records.signing_key: {signing_key!r} is no signing key pair of this ceremony; "
                f"allowed: {', '.join(sorted(known)) or 'none is defined'}"
            )
    token = file.document.token
    pin = secret_source(anchored(file, token.user_pin), f"user PIN of {token.label!r}")
    # The signing key is made first, so that every manifest there ever is carries its signature.
    wanted = tuple(sorted(wanted, key=lambda key: key.name.label != signing_key))
    records = Records(file.records_directory, clock, actor, tuple(witnesses))
    return Workspace(file, profiles, wanted, records, open_users, pin)


def _required(session: TokenSession | None) -> TokenSession:
    if session is None:
        raise ConfigurationError("the token does not exist yet")
    return session
