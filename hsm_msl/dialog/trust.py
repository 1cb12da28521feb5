"""Which certificates of a remote service hold now: pinned ones, and those of trusted issuers (dialog section 9)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import msgspec

from hsm_msl.dialog.binding import Binding, CertificateFacts, certificate_facts
from hsm_msl.dialog.cache import Cache
from hsm_msl.dialog.encoding import encode
from hsm_msl.dialog.errors import CertificateRefusedError
from hsm_msl.dialog.issuers import IssuerTrust, Use, build_chain
from hsm_msl.dialog.revocation import check_revocation
from hsm_msl.ports.dialog import Evidence, RevocationEvidence

Presented = Sequence[bytes]
"""A certificate as its owner shows it, with those that lie between it and its issuer; DER."""


class NoEvidence:
    """No list and no response: certificates trusted by issuer then need ``revocation`` other than ``required``."""

    def current(self) -> Evidence:
        """Return nothing."""
        return Evidence()


class Trust:
    """Judges certificates; only favourable judgements are remembered, until something they rest on runs out.

    Args:
        evidence: revocation lists and OCSP responses at hand.
        size: most judgements remembered; 0 judges every time.
    """

    def __init__(self, evidence: RevocationEvidence, size: int) -> None:
        self._evidence = evidence
        self._judged: Cache[bytes, CertificateFacts] = Cache(size)

    def signer(
        self, binding: Binding, name: str, digest: bytes, presented: Presented, now: float
    ) -> CertificateFacts:
        """Return the signing certificate with that SHA-256 when it is trusted now.

        Args:
            binding: the agreement with the remote service.
            name: its name; a binding may stand for several.
            digest: which certificate.
            presented: the certificate as it was shown, if it was.
            now: seconds since the Unix epoch.

        Raises CertificateRefusedError with the reason.
        """
        pinned = binding.signer(digest, now)
        if pinned is not None:
            return pinned
        if binding.trust is None:
            raise CertificateRefusedError("signing certificate not trusted now: it is not pinned, enabled and valid")
        if not presented or hashlib.sha256(presented[0]).digest() != digest:
            raise CertificateRefusedError("the certificate was not presented, so its issuer is not known")
        return self._judge(binding.trust, presented, name, Use.SIGNING, now)

    def recipient(
        self, binding: Binding, name: str, learned: Iterable[Presented], now: float, digest: bytes | None = None
    ) -> CertificateFacts | None:
        """Return the encryption certificate to use: the named one, else the one that is valid longest, or None.

        Args:
            binding: the agreement with the remote service.
            name: its name.
            learned: certificates it has presented.
            now: seconds since the Unix epoch.
            digest: which one.
        """
        found = [facts for facts in (binding.recipient(now, digest),) if facts is not None]
        for presented in (*binding.certificates, *learned) if binding.trust is not None else ():
            try:
                facts = self.encryption(binding, name, presented, now)
            except CertificateRefusedError:
                continue
            if digest in (None, facts.digest):
                found.append(facts)
        return max(found, key=lambda facts: facts.not_after, default=None)

    def encryption(self, binding: Binding, name: str, presented: Presented, now: float) -> CertificateFacts:
        """Return a presented encryption certificate when its issuer is trusted.

        Raises CertificateRefusedError with the reason.
        """
        if binding.trust is None:
            raise CertificateRefusedError("the binding trusts no issuer")
        return self._judge(binding.trust, presented, name, Use.ENCRYPTION, now)

    def _judge(self, trust: IssuerTrust, presented: Presented, name: str, use: Use, now: float) -> CertificateFacts:
        evidence = self._evidence.current()
        asked = encode([msgspec.json.encode(trust), list(presented), name, use.value, evidence.version])
        key = hashlib.sha256(asked).digest()
        known = self._judged.get(key, now)
        if known is not None:
            return known
        chain = build_chain(trust, presented, name, use, now)
        until = check_revocation(chain, evidence, trust.revocation, now)
        facts = certificate_facts(presented[0])
        self._judged.put(key, facts, until)
        return facts
