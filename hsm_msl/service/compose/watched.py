"""What people see of a composed server: metrics, checks of its keys and store, and what its audit log says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hsm_msl.backend.key_manifest import KeyManifest
from hsm_msl.msl.tokens.master_token import TokenCache
from hsm_msl.service.circuit_breaker import CircuitBreaker
from hsm_msl.service.compose.keys import KeySources
from hsm_msl.service.compose.rings import Rings
from hsm_msl.service.compose.state import ServerState
from hsm_msl.service.key_drift import AnyKey
from hsm_msl.service.key_sections import ManifestSection
from hsm_msl.service.load import Load
from hsm_msl.service.repeated import Repeated
from hsm_msl.service.watch.drift import DriftWatch
from hsm_msl.service.watch.health import Check
from hsm_msl.service.watch.health_checks import drift_checks, key_checks, store_check
from hsm_msl.service.watch.message_counts import MessageCounts
from hsm_msl.service.watch.metric_sources import message_source, token_source, validity_source
from hsm_msl.service.watch.metrics import Metrics
from hsm_msl.service.watch.pin_flags import PinFlags
from hsm_msl.service.watch.transitions import (
    BreakerTransitions,
    Record,
    RevocationChanges,
    SelfChecks,
    TokenTransitions,
)
from hsm_msl.stores.revocation_cache import CachedRevocations


@dataclass(frozen=True, kw_only=True, slots=True)
class Watched:
    """The parts of one server that people look at.

    Attributes:
        sources: tokens and keys.
        rings: the key versions.
        manifest: the key manifest; None without one.
        section: how the manifest is used.
        state: stores and rules.
        identity: the server's.
        load: the messages in work.
        caches: verified tokens, by what they are.
        breakers: those of user services, by scheme.
        record: writes to the audit log.
    """

    sources: KeySources
    rings: Rings
    manifest: KeyManifest | None
    section: ManifestSection | None
    state: ServerState
    identity: str
    load: Load
    caches: Mapping[str, TokenCache]
    breakers: Mapping[str, CircuitBreaker]
    record: Record

    def metrics(self, counts: MessageCounts) -> Metrics:
        """Return what this process exports."""
        flags = PinFlags(self.sources.opened)
        ends = validity_source(lambda: {} if self.manifest is None else self.manifest.ends())
        messages = message_source(counts, self.load, self.caches)
        return Metrics((token_source(self.sources.opened), messages, flags.samples, ends))

    def deep(self) -> Callable[[], Iterable[Check]]:
        """Return what yields checks that use every key and the store."""
        self_checks = SelfChecks(self.record)

        def checks() -> Iterator[Check]:
            yield from self_checks.recorded(key_checks(self._keys))
            yield store_check(self.state.renewals, self.identity)

        return checks

    def drift(self) -> Iterable[Check]:
        """Return checks that compare the keys with the key manifest."""
        return () if self.manifest is None else drift_checks(self._keys, self.manifest.check)

    def followers(self) -> Iterator[Repeated]:
        """Yield what compares the keys with the manifest, if there is one; not yet started."""
        if self.section is not None and self.manifest is not None:
            every = float(self.section.compare_every)
            yield DriftWatch(self._keys, self.manifest.check, self.sources.drift, every)

    def facts(self) -> Mapping[str, str]:
        """Return what the audit log says about the server that comes into service."""
        manifest = self.rings.reading
        read = {} if manifest is None else {"manifest": str(manifest.sequence), "manifest sha256": manifest.sha256}
        opened = self.sources.opened()
        tokens = {f"token {name}": token.status().identity or token.name for name, token in opened.items()}
        return {"identity": self.identity, **tokens, **read}

    def looks(self) -> Sequence[Callable[[], None]]:
        """Return what the audit log looks at every second."""
        looks = [TokenTransitions(self.sources.opened, self.record).look]
        looks += [
            BreakerTransitions(f"user service of {scheme}", breaker, self.record).look
            for scheme, breaker in self.breakers.items()
        ]
        if isinstance(self.state.revocations, CachedRevocations):
            looks.append(RevocationChanges(self.state.revocations.seen, self.record).look)
        return looks

    def _keys(self) -> Iterator[tuple[str, AnyKey]]:
        yield from self.rings.keys()
        yield from self.sources.lasting.items()
