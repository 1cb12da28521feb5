"""What every part of the engine shares: the service, its store, time, randomness, caches and counters."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hsm_msl.dialog.binding import Binding, CertificateFacts, read_binding
from hsm_msl.dialog.cache import Cache, RateLimit
from hsm_msl.dialog.errors import CertificateRefusedError
from hsm_msl.dialog.exchange import VerifiedPair
from hsm_msl.dialog.headers import Certificates
from hsm_msl.dialog.identity import LocalService
from hsm_msl.dialog.names import LEARNED_CERTIFICATES
from hsm_msl.dialog.session import SessionKey
from hsm_msl.dialog.trust import Trust
from hsm_msl.ports import Clock, RandomBytes, WrappingKey
from hsm_msl.ports.dialog_records import DialogStore, DialogTransaction, PeerCertificateRow


@dataclass(frozen=True, slots=True)
class KekEntry:
    """A key exchange key of a peer, opened and vouched for."""

    handle: WrappingKey
    verified: VerifiedPair
    pair_header: bytes
    kek_header: bytes


@dataclass(frozen=True, slots=True)
class CacheSizes:
    """Most entries per cache; all may be 0 (dialog section 5)."""

    keks: int = 4096
    session_keys: int = 65536
    failures: int = 1024
    certificates: int = 1024


@dataclass(frozen=True, slots=True)
class Caches:
    """The caches; their keys are content digests, so that no forged header displaces a good one.

    Own and peers' session keys are apart: a packet that comes back to its sender finds no key.
    """

    inbound_keks: Cache[bytes, KekEntry]
    outbound_keks: Cache[bytes, WrappingKey]
    session_keys: Cache[bytes, SessionKey]
    own_keys: Cache[bytes, SessionKey]
    failures: Cache[bytes, bool]

    @classmethod
    def of(cls, sizes: CacheSizes) -> Caches:
        """Make empty caches."""
        keks, keys = sizes.keks, sizes.session_keys
        return cls(Cache(keks), Cache(keks), Cache(keys), Cache(keys), Cache(sizes.failures))


KEK_SECONDS = 86400.0
SESSION_KEY_SECONDS = 900.0
FAILURE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Context:
    """The parts.

    Args:
        local: the service with its key handles.
        store: where dialogs live.
        clock: seconds since the Unix epoch, see SteadyClock.
        random: cryptographic bytes; ids, session keys, jitter.
        caches: may be empty at any time.
        trust: judges certificates.
        counted: what happened, for metrics.
        bare_answers: limits answers to packets nobody authenticated, per dialog.
    """

    local: LocalService
    store: DialogStore
    clock: Clock
    random: RandomBytes
    caches: Caches
    trust: Trust
    counted: Counter[str] = field(default_factory=Counter)
    bare_answers: RateLimit = field(default_factory=lambda: RateLimit(4, 4.0))

    def binding(self, tx: DialogTransaction, remote: str, now: float) -> Binding | None:
        """Return the binding in force for a remote service, or None.

        Raises StoreError, and ConfigurationError when the stored document is not a binding.
        """
        row = tx.find_binding(self.local.name, remote)
        if row is None:
            return None
        binding = read_binding(row.document)
        return binding if binding.active(now) else None

    def recipient(
        self, tx: DialogTransaction, binding: Binding, remote: str, now: float, digest: bytes | None = None
    ) -> CertificateFacts | None:
        """Return the encryption certificate of a remote service to use now, or None. Raises StoreError."""
        learned: tuple[tuple[bytes, ...], ...] = ()
        if binding.trust is not None:
            learned = tuple(row.chain for row in tx.peer_certificates(self.local.name, remote))
        return self.trust.recipient(binding, remote, learned, now, digest)

    def learn(
        self, tx: DialogTransaction, binding: Binding, remote: str, presented: Certificates, now: float
    ) -> None:
        """Keep the encryption certificate a service presents, when its issuer is trusted. Raises StoreError."""
        chain = presented.encryption
        if binding.trust is None or not chain:
            return
        try:
            facts = self.trust.encryption(binding, remote, chain, now)
        except CertificateRefusedError:
            self.counted["certificates_refused"] += 1
            return
        row = PeerCertificateRow(self.local.name, remote, facts.digest, int(facts.not_after), chain)
        tx.put_peer_certificate(row, LEARNED_CERTIFICATES)
