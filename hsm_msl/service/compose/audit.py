"""Opens the audit log of a configuration and says what begins and ends in it."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsm_msl.audit.chain import AuditSigner
from hsm_msl.audit.log import AuditLog
from hsm_msl.backend.any_token import AnyToken
from hsm_msl.errors import ConfigurationError, HsmMslError, KeyNotFoundError, KeyPolicyError, PinRefusedError
from hsm_msl.ports import Clock, SignatureScheme
from hsm_msl.service.audit_section import AuditSection
from hsm_msl.service.watch.audit import CheckpointRule, ServerAudit

_LOG = logging.getLogger("hsm_msl.audit")

Occasion = Literal["serve", "check", "look"]
"""Why everything is opened: to serve, to be tried, or to be looked at by an operator, which leaves no record."""

_BEGUN = {"serve": "server started", "check": "configuration checked"}
_REFUSED = {"serve": "start refused", "check": "configuration refused"}
_ENDED = "server stopped"


class Configured(Protocol):
    """What the configurations of both services have."""

    @property
    def path(self) -> Path:
        """The file."""

    def resolve(self, text: str) -> Path:
        """Return a path of the document, made absolute."""

    def error(self, key: str, problem: str) -> ConfigurationError:
        """Return the error that names a key."""


@dataclass(frozen=True, slots=True)
class Journal:
    """What is written about the life of one process; nothing where no audit log is configured.

    Made by ``open_journal``.
    """

    config: Configured
    section: AuditSection | None
    audit: ServerAudit | None
    occasion: Occasion

    def record(self, event: str, details: Mapping[str, str]) -> None:
        """Write an event and its details."""
        if self.audit is not None:
            self.audit.record(event, details)

    def refused(self, error: HsmMslError) -> None:
        """Write that the process does not come into service."""
        if isinstance(error, PinRefusedError):
            self.record("PIN refused", {"reason": str(error)})
        if self.audit is not None:
            self.record(_REFUSED[self.occasion], {**self._about(), "reason": str(error)})

    def begin(
        self,
        closing: ExitStack,
        token: Callable[[str, str | None], AnyToken],
        details: Callable[[], Mapping[str, str]],
        looks: Iterable[Callable[[], None]],
    ) -> None:
        """Write that the process is in service, and go on until ``closing`` ends, which must be before tokens close.

        Args:
            closing: takes what has to be closed.
            token: returns a token by the key that asks and its name.
            details: about the service.
            looks: what to look at every second.

        Raises:
            ConfigurationError: the signing key cannot be used, or the log cannot be written; names the key.
            BackendError: a token gives no answer.
        """
        section, audit = self.section, self.audit
        if section is None or audit is None:
            return
        holder = token("audit.token", section.token)
        try:
            audit.sign_with(_signer(holder, section.signing_key), lambda label: _signer(holder, label))
        except (KeyNotFoundError, KeyPolicyError) as error:
            raise self.config.error(
                "audit.signing_key", f"{error}; make one with the profile audit-signing"
            ) from None
        except ConfigurationError as error:
            self._stand(str(error))
        audit.record(_BEGUN[self.occasion], {**self._about(), **details()})
        if audit.problem is not None:
            self._stand(audit.problem)
        for look in looks:
            audit.watch(look)
        closing.callback(audit.close)
        if self.occasion == "serve":
            audit.start(_ENDED)

    def check(self) -> None:
        """Raise ConfigurationError while the log cannot be written and must be."""
        section, audit = self.section, self.audit
        if section is not None and audit is not None and audit.problem is not None and section.on_failure == "refuse":
            raise self.config.error("audit.file", audit.problem)

    def _stand(self, problem: str) -> None:
        """Refuse to start without the log, or say loudly that this server does."""
        if self.section is None or self.section.on_failure == "refuse":
            raise self.config.error("audit.file", problem)
        _LOG.critical("SERVING WITHOUT A SOUND AUDIT LOG: %s", problem)

    def _about(self) -> dict[str, str]:
        try:
            digest = hashlib.sha256(self.config.path.read_bytes()).hexdigest()
        except OSError as error:
            digest = f"cannot be read: {error.strerror}"
        return {"configuration": str(self.config.path), "sha256": digest}


def open_journal(
    config: Configured, section: AuditSection | None, clock: Clock, occasion: Occasion = "serve"
) -> Journal:
    """Open the audit log of a configuration, if it has one.

    Args:
        config: where the section stands.
        section: the section.
        clock: local time.
        occasion: what the process is started for.

    Raises:
        ConfigurationError: the log was cut, or cannot be read; names the key.
    """
    if section is None or occasion == "look":
        return Journal(config, None, None, occasion)
    audit = server_audit(config, section, clock, actor=f"{socket.gethostname()} pid {os.getpid()}")
    journal = Journal(config, section, audit, occasion)
    try:
        audit.check()
    except ConfigurationError as error:
        journal._stand(str(error))
        audit.record("log found cut or unreadable", {"reason": str(error)})
    return journal


def server_audit(config: Configured, section: AuditSection, clock: Clock, *, actor: str) -> ServerAudit:
    """Return the audit log of a configuration, not looked at yet.

    Args:
        config: where the section stands.
        section: the section.
        clock: local time.
        actor: who writes, as recorded.
    """

    def now() -> str:
        return datetime.fromtimestamp(clock(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    return ServerAudit(
        AuditLog(config.resolve(section.file), now=now, actor=actor, rotate_bytes=section.rotate_bytes),
        config.resolve(section.checkpoint or f"{section.file}.checkpoint"),
        now=now,
        rule=CheckpointRule(section.records, float(section.seconds)),
        monotonic=time.monotonic,
    )


def _signer(token: AnyToken, label: str) -> AuditSigner:
    key = token.signing_key(label)
    curve = isinstance(load_der_public_key(key.public_key), ec.EllipticCurvePublicKey)
    scheme = SignatureScheme.ECDSA_SHA256 if curve else SignatureScheme.RSA_PKCS1_SHA256
    return AuditSigner(label, key.public_key, lambda data: key.sign(data, scheme))
