"""The key exchanges there are: one line each says how a scheme is made from its parts, and where it can be served."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from hsm_msl.errors import ConfigurationError
from hsm_msl.msl.entityauth.psk import PskScheme
from hsm_msl.msl.keyx import asymmetric_wrapped, diffie_hellman, jwe_ladder, jwk_ladder, symmetric_wrapped
from hsm_msl.msl.keyx.base import KeyExchange, KeyExchanges
from hsm_msl.msl.keyx.dh_group import DhGroup
from hsm_msl.msl.keyx.ladder import IssuerSide, RequesterSide
from hsm_msl.msl.keyx.wrap_repository import LocalWrapRepository
from hsm_msl.msl.required import required
from hsm_msl.ports import EphemeralKeys, RandomBytes, SessionVault, TokenKeyRing, WrappingKey
from hsm_msl.ports.schemes import WrapRepository

PREFERENCE = (
    jwk_ladder.NAME,
    jwe_ladder.NAME,
    diffie_hellman.NAME,
    symmetric_wrapped.NAME,
    asymmetric_wrapped.NAME,
)
"""The reference's order: the schemes that renew their own wrapping key first (msl-schemes section 4.2)."""


class Residency(Enum):
    """Where session keys are while they are in use."""

    HOST = "host"
    TOKEN = "token"  # noqa: S105 - a place, not a secret


SERVED_IN_TOKEN = (symmetric_wrapped.NAME, asymmetric_wrapped.NAME)
"""Exchanges whose answer can be made without seeing the session keys."""

MECHANISMS_IN_TOKEN = ("RSA",)
"""Mechanisms of ASYMMETRIC_WRAPPED that carry the key itself and not a text made from it."""


@dataclass(frozen=True, slots=True)
class ExchangeParts:
    """What key exchanges are made of; a part that is None rules out the schemes that need it.

    Attributes:
        vault: makes and packs session keys.
        random: cryptographic randomness.
        ephemeral: makes one-time keys.
        groups: agreed Diffie-Hellman groups by parameters ID.
        admits: tells whether a group that a requester sent may be used; None admits none.
        mechanisms: mechanisms of ASYMMETRIC_WRAPPED to serve; None for all that the residency allows.
        psk: finds pre-shared keys, of an issuer.
        ring: the token keys, of an issuer.
        own: the wrapping key this entity shares with an issuer, of a requester.
        repository: makes the memory of one ladder, of a requester; None keeps it for the life of the process.
        residency: where session keys live.
    """

    vault: SessionVault
    random: RandomBytes
    ephemeral: EphemeralKeys | None = None
    groups: Mapping[str, DhGroup] = field(default_factory=dict)
    admits: Callable[[DhGroup], bool] | None = None
    mechanisms: tuple[str, ...] | None = None
    psk: PskScheme | None = None
    ring: TokenKeyRing | None = None
    own: WrappingKey | None = None
    repository: Callable[[str], WrapRepository] | None = None
    residency: Residency = Residency.HOST

    def issuer_side(self) -> IssuerSide | None:
        """Return what answering a ladder takes, or None for an entity that issues nothing."""
        return None if self.ring is None else IssuerSide(self.ring, self.psk)

    def requester_side(self, ladder: str) -> RequesterSide:
        """Return what asking for the next step of this ladder takes."""
        repository = LocalWrapRepository() if self.repository is None else self.repository(ladder)
        return RequesterSide(repository, self.own)


def _asymmetric_wrapped(parts: ExchangeParts) -> KeyExchange:
    in_token = parts.residency is Residency.TOKEN
    served = MECHANISMS_IN_TOKEN if in_token else tuple(asymmetric_wrapped.MECHANISMS)
    chosen = served if parts.mechanisms is None else parts.mechanisms
    for name in chosen:
        if name not in asymmetric_wrapped.MECHANISMS:
            raise ConfigurationError(f"ASYMMETRIC_WRAPPED has no mechanism {name!r}")
        if name not in served:
            raise ConfigurationError(_refusal(f"mechanism {name}"))
    return asymmetric_wrapped.AsymmetricWrapped(
        required(parts.ephemeral, asymmetric_wrapped.NAME, "one-time keys"), parts.vault, parts.random, chosen
    )


SCHEMES: Mapping[str, Callable[[ExchangeParts], KeyExchange]] = {
    asymmetric_wrapped.NAME: _asymmetric_wrapped,
    diffie_hellman.NAME: lambda parts: diffie_hellman.DiffieHellman(
        parts.groups, required(parts.ephemeral, diffie_hellman.NAME, "one-time keys"), parts.vault, parts.admits
    ),
    symmetric_wrapped.NAME: lambda parts: symmetric_wrapped.SymmetricWrapped(parts.vault, parts.psk, parts.own),
    jwk_ladder.NAME: lambda parts: jwk_ladder.jwk_ladder(
        parts.vault,
        parts.random,
        issuer=parts.issuer_side(),
        requester=parts.requester_side(jwk_ladder.NAME),
    ),
    jwe_ladder.NAME: lambda parts: jwe_ladder.jwe_ladder(
        parts.vault,
        parts.random,
        issuer=parts.issuer_side(),
        requester=parts.requester_side(jwe_ladder.NAME),
    ),
}
"""How each scheme is made."""


def key_exchanges(names: Iterable[str], parts: ExchangeParts) -> KeyExchanges:
    """Make the schemes named, in this order of preference.

    Args:
        names: names of ``SCHEMES``, preferred first.
        parts: what they are made of.

    Raises:
        ConfigurationError: there is no such scheme, a part it needs is missing, or it would need to see session keys
            that stay in the token.
    """
    made: dict[str, KeyExchange] = {}
    for name in names:
        if name not in SCHEMES:
            raise ConfigurationError(f"there is no key exchange scheme {name!r}")
        if parts.residency is Residency.TOKEN and name not in SERVED_IN_TOKEN:
            raise ConfigurationError(_refusal(name))
        made[name] = SCHEMES[name](parts)
    return made


def _refusal(what: str) -> str:
    return (
        f"{what} needs the bytes of session keys, which stay in the token here: leave it out, "
        f"or keep session keys on the host"
    )
