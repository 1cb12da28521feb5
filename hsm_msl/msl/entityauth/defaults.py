"""The entity authentication schemes there are: one line each says how a scheme is made from its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from hsm_msl.crypto.context import CryptoContext
from hsm_msl.errors import ConfigurationError
from hsm_msl.msl.entityauth import (
    ecc,
    mt_protected,
    none_suffixed,
    provisioned,
    psk,
    psk_profile,
    rsa,
    unauthenticated,
    x509,
)
from hsm_msl.msl.entityauth.base import EntityAuthScheme, EntityAuthSchemes
from hsm_msl.msl.entityauth.trust_store import TrustStore
from hsm_msl.msl.required import required
from hsm_msl.msl.tokens.master_token import MasterToken, MasterTokens
from hsm_msl.ports import Authorization, PresharedKeys, PublicKeys, RandomBytes, SigningKey
from hsm_msl.ports.schemes import IdentityService


@dataclass(frozen=True, slots=True)
class KeyPairs:
    """Key pairs of one kind.

    Attributes:
        public_keys: trusted keys by ID.
        local_key_id: ID of this entity's own pair, if it has one of this kind.
        signing: its private key.
        bound_identities: identity each key ID may speak for; absent ones are not bound.
    """

    public_keys: PublicKeys
    local_key_id: str | None = None
    signing: SigningKey | None = None
    bound_identities: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EntityParts:
    """What entity authentication schemes are made of; a part that is None rules out the schemes that need it.

    Attributes:
        authorization: the hooks.
        random: cryptographic randomness.
        preshared: keys shared with entities.
        rsa: RSA key pairs.
        ecc: EC key pairs.
        trust: CAs of certificates.
        certificate_keys: private keys of local certificates by the subject's name.
        identities: names entities that have no identity.
        master_tokens: opens master tokens.
        sessions: finds the context of a master token this entity uses but did not issue.
    """

    authorization: Authorization
    random: RandomBytes
    preshared: PresharedKeys | None = None
    rsa: KeyPairs | None = None
    ecc: KeyPairs | None = None
    trust: TrustStore | None = None
    certificate_keys: Mapping[str, SigningKey] = field(default_factory=dict)
    identities: IdentityService | None = None
    master_tokens: MasterTokens | None = None
    sessions: Callable[[MasterToken], CryptoContext | None] | None = None


def _key_pairs(
    make: Callable[..., EntityAuthScheme], parts: EntityParts, pairs: KeyPairs | None, name: str
) -> EntityAuthScheme:
    found = required(pairs, name, "trusted public keys")
    return make(found.public_keys, parts.authorization, found.local_key_id, found.signing, found.bound_identities)


_Maker = Callable[[EntityParts, EntityAuthSchemes], EntityAuthScheme]

SCHEMES: Mapping[str, _Maker] = {
    psk.NAME: lambda parts, _: psk.PskScheme(
        required(parts.preshared, psk.NAME, "pre-shared keys"), parts.authorization, parts.random
    ),
    psk_profile.NAME: lambda parts, _: psk_profile.PskProfileScheme(
        required(parts.preshared, psk_profile.NAME, "pre-shared keys"), parts.authorization, parts.random
    ),
    x509.NAME: lambda parts, _: x509.X509Scheme(
        required(parts.trust, x509.NAME, "CA certificates"), parts.authorization, parts.certificate_keys
    ),
    rsa.NAME: lambda parts, _: _key_pairs(rsa.RsaScheme, parts, parts.rsa, rsa.NAME),
    ecc.NAME: lambda parts, _: _key_pairs(ecc.EccScheme, parts, parts.ecc, ecc.NAME),
    unauthenticated.NAME: lambda parts, _: unauthenticated.NoneScheme(parts.authorization),
    none_suffixed.NAME: lambda parts, _: none_suffixed.NoneSuffixedScheme(parts.authorization),
    mt_protected.NAME: lambda parts, schemes: mt_protected.MtProtectedScheme(
        schemes, required(parts.master_tokens, mt_protected.NAME, "master tokens"), parts.sessions
    ),
    provisioned.NAME: lambda parts, _: provisioned.ProvisionedScheme(
        required(parts.identities, provisioned.NAME, "a service that assigns identities")
    ),
}
"""How each scheme is made; the second argument is the mapping the scheme will be in."""


def entity_auth_schemes(names: Iterable[str], parts: EntityParts) -> EntityAuthSchemes:
    """Make the schemes named.

    Args:
        names: names of ``SCHEMES``.
        parts: what they are made of.

    Raises:
        ConfigurationError: there is no such scheme, or a part it needs is missing.
    """
    made: dict[str, EntityAuthScheme] = {}
    view = MappingProxyType(made)
    for name in names:
        if name not in SCHEMES:
            raise ConfigurationError(f"there is no entity authentication scheme {name!r}")
        made[name] = SCHEMES[name](parts, view)
    return view
