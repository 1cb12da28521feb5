"""Whose certificates count: the CAs of X509 entity authentication (msl-schemes section 2.4).

One level is checked when an entity comes: validity, and a stored CA that signed it. The path of a CA is checked once,
when it is stored. Nothing asks for revocation lists; the hooks know who is revoked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hsm_msl.errors import ConfigurationError, ErrorCode, MslError
from hsm_msl.msl.entityauth.certificate import UNLIMITED, Certificate
from hsm_msl.ports import Clock


class TrustStore:
    """The CAs this entity trusts, filled once when it is built.

    Args:
        clock: local time.
    """

    __slots__ = ("_authorities", "_clock")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._authorities: dict[str, list[Certificate]] = {}

    def check(self, certificate: Certificate) -> None:
        """Accept an entity's certificate or refuse it; the leaf's usage and constraints are not looked at.

        Raises:
            MslError: X509CERT_NOT_YET_VALID, X509CERT_EXPIRED, X509CERT_VERIFICATION_FAILED.
        """
        now = self._clock()
        if now < certificate.not_before:
            raise MslError(ErrorCode.X509CERT_NOT_YET_VALID)
        if now > certificate.not_after:
            raise MslError(ErrorCode.X509CERT_EXPIRED)
        if self._issuer(certificate) is None:
            raise MslError(ErrorCode.X509CERT_VERIFICATION_FAILED)

    def add(self, authority: Certificate) -> None:
        """Trust a CA: a self-signed one, or one below CAs that are trusted already.

        Raises:
            ConfigurationError: it is outside its validity, no CA, not signed by its issuer, without a trusted
                issuer, or deeper or wider than the path lengths above it allow.
        """
        now = self._clock()
        if not authority.not_before <= now <= authority.not_after:
            raise ConfigurationError(f"CA certificate of {authority.subject!r} is outside its validity")
        limit = authority.path_length()
        if limit is None:
            raise ConfigurationError(f"certificate of {authority.subject!r} is not a CA's")
        if authority.self_issued:
            if not authority.signed_by(authority):
                raise ConfigurationError(f"CA certificate of {authority.subject!r} is not signed by its own key")
        elif limit > self._allowance(authority):
            raise ConfigurationError(f"CA certificate of {authority.subject!r} exceeds a path length above it")
        stored = self._authorities.setdefault(authority.subject, [])
        if authority not in stored:
            stored.append(authority)

    def add_chain(self, chain: Iterable[Certificate]) -> None:
        """Trust a chain of CAs, root first.

        Raises:
            ConfigurationError: the first is not self-signed, one is not signed by its predecessor, or as ``add``;
                the CAs before the failing one stay trusted.
        """
        previous: Certificate | None = None
        for authority in chain:
            if previous is None and not authority.self_issued:
                raise ConfigurationError(f"chain begins with {authority.subject!r}, which is not self-signed")
            if previous is not None and not (authority.issuer == previous.subject and authority.signed_by(previous)):
                raise ConfigurationError(f"{authority.subject!r} is not signed by the CA before it in the chain")
            self.add(authority)
            previous = authority

    def _issuer(self, certificate: Certificate) -> Certificate | None:
        candidates = self._authorities.get(certificate.issuer, ())
        return next((candidate for candidate in candidates if certificate.signed_by(candidate)), None)

    def _path(self, certificate: Certificate) -> Iterator[Certificate]:
        """Give the issuers of a certificate, nearest first, up to the root."""
        while True:
            issuer = self._issuer(certificate)
            if issuer is None:
                raise ConfigurationError(f"issuer {certificate.issuer!r} of {certificate.subject!r} is not trusted")
            yield issuer
            if issuer.self_issued:
                return
            certificate = issuer

    def _allowance(self, authority: Certificate) -> int:
        """Return the longest path length a new CA may state, walking its issuers from the root down."""
        allowed = UNLIMITED
        for issuer in reversed(list(self._path(authority))):
            limit = issuer.path_length()
            if limit is None or limit > allowed or limit == 0:
                raise ConfigurationError(f"{issuer.subject!r} may not have CAs below it")
            allowed = limit
        return allowed
