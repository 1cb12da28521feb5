"""Remote service bindings: whom this service talks to, by which certificates and rules (dialog section 9)."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import Literal

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from hsm_msl.dialog.issuers import IssuerTrust, too_small
from hsm_msl.dialog.names import MAX_NAME
from hsm_msl.dialog.policy import Policy
from hsm_msl.dialog.suites import SUITES, BodyCipher
from hsm_msl.errors import ConfigurationError
from hsm_msl.ports.dialog_records import BindingRow

AckMode = Literal["on_enqueue", "on_commit"]


class PinnedCertificate(msgspec.Struct, frozen=True):
    """A certificate of the remote service, trusted because it is written here.

    Args:
        der: the certificate.
        enabled: whether new packets may rest on it; the operator's way to revoke.
    """

    der: bytes
    enabled: bool = True


class CertificateFacts(msgspec.Struct, frozen=True):
    """What the protocol needs of a certificate; times are Unix seconds."""

    digest: bytes
    public_key: bytes
    not_before: float
    not_after: float


@functools.lru_cache(maxsize=1024)
def certificate_facts(der: bytes) -> CertificateFacts:
    """Return the facts of a certificate. Raises ConfigurationError when it cannot be read or its key is too small."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        key = certificate.public_key()
        public_key = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    except ValueError as error:
        raise ConfigurationError("a certificate of a binding cannot be read") from error
    problem = too_small(key)
    if problem:
        raise ConfigurationError(f"a certificate of a binding has {problem}")
    return CertificateFacts(
        hashlib.sha256(der).digest(),
        public_key,
        certificate.not_valid_before_utc.timestamp(),
        certificate.not_valid_after_utc.timestamp(),
    )


class Binding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything one service agreed about another.

    Args:
        local: name of the service here.
        remote: name of the service there, or the start of its name.
        prefix: whether ``remote`` is the start of a name.
        signing: certificates of the remote pair signatures.
        encryption: certificates that key exchange keys for the remote side are encrypted to.
        suites: numbers of the allowed suites, the first one is used for sending.
        policy: the shift rules.
        max_body: largest message in bytes, either way.
        ack_mode: when a received message is acknowledged: ``on_enqueue``, as soon as it is safe in this service's
            store, or ``on_commit``, when the transaction in which the application took it has committed.
        url: where packets for the remote service go; empty when it is found otherwise.
        principal: who the remote service is to the application.
        enabled: whether anything may be exchanged.
        not_after: end of the binding in Unix seconds, or None.
        trust: issuers whose certificates for the remote service's name are trusted beside the pinned ones.
        certificates: encryption certificates of such issuers known before the peer presents any, each followed by
            those between it and its issuer.
        split_keys: whether own session keys travel one by one, because the remote service keeps them in its token.
        allow_dual_use: whether one certificate may serve for signing and for encryption.
    """

    local: str
    remote: str
    prefix: bool = False
    signing: tuple[PinnedCertificate, ...] = ()
    encryption: tuple[PinnedCertificate, ...] = ()
    suites: tuple[int, ...] = (1,)
    policy: Policy = Policy()
    max_body: int = 16 * 1024 * 1024
    ack_mode: AckMode = "on_enqueue"
    url: str = ""
    principal: str = ""
    enabled: bool = True
    not_after: float | None = None
    trust: IssuerTrust | None = None
    certificates: tuple[tuple[bytes, ...], ...] = ()
    split_keys: bool = False
    allow_dual_use: bool = False

    def validate(self) -> None:
        """Raise ConfigurationError for a binding that could never work or that the protocol forbids."""
        for name in (self.local, self.remote):
            if not 0 < len(name.encode()) <= MAX_NAME:
                raise ConfigurationError("a service name is 1 to 255 bytes")
        if not self.suites or not set(self.suites) <= set(SUITES):
            raise ConfigurationError("unknown suite in a binding")
        if self.split_keys and any(SUITES[suite].body is BodyCipher.A256CBC_HS512 for suite in self.suites):
            raise ConfigurationError(
                "split_keys: suite 4 seals bodies with CBC, for which no token keeps keys; use 1 to 3"
            )
        self.policy.validate()
        if self.trust is not None:
            self.trust.validate()
        elif self.certificates:
            raise ConfigurationError("certificates of an issuer need that issuer")
        signing = {certificate_facts(pin.der).digest for pin in self.signing}
        encryption = {certificate_facts(pin.der).digest for pin in self.encryption}
        if signing & encryption and not self.allow_dual_use:
            raise ConfigurationError("one certificate for signing and encryption needs allow_dual_use")

    def active(self, now: float) -> bool:
        """Tell whether the binding is in force."""
        return self.enabled and (self.not_after is None or now <= self.not_after)

    def signer(self, digest: bytes, now: float) -> CertificateFacts | None:
        """Return the signing certificate with that SHA-256 when it is pinned, enabled and valid now."""
        return next((facts for facts in _usable(self.signing, now) if facts.digest == digest), None)

    def recipient(self, now: float, digest: bytes | None = None) -> CertificateFacts | None:
        """Return the encryption certificate to use: the named one, else the one that is valid longest."""
        usable = [facts for facts in _usable(self.encryption, now) if digest in (None, facts.digest)]
        return max(usable, key=lambda facts: facts.not_after, default=None)

    def row(self) -> BindingRow:
        """Return the binding as it is stored."""
        return BindingRow(self.local, self.remote, self.prefix, msgspec.json.encode(self))


def _usable(pins: Sequence[PinnedCertificate], now: float) -> list[CertificateFacts]:
    facts = [certificate_facts(pin.der) for pin in pins if pin.enabled]
    return [fact for fact in facts if fact.not_before <= now <= fact.not_after]


@functools.lru_cache(maxsize=1024)
def read_binding(document: bytes) -> Binding:
    """Return the binding of a stored document.

    Raises ConfigurationError when the document is malformed or breaks a rule.
    """
    try:
        binding = msgspec.json.decode(document, type=Binding)
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"a binding cannot be read: {error}") from error
    binding.validate()
    return binding
