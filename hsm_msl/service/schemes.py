"""The schemes this program has, by name: one line each says how a scheme is made from what a composition holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hsm_msl.errors import UsageError
from hsm_msl.msl.entityauth.base import EntityAuthScheme
from hsm_msl.msl.entityauth.ecc import EccScheme
from hsm_msl.msl.entityauth.none_suffixed import NoneSuffixedScheme
from hsm_msl.msl.entityauth.psk import PskScheme
from hsm_msl.msl.entityauth.psk_profile import PskProfileScheme
from hsm_msl.msl.entityauth.rsa import RsaScheme
from hsm_msl.msl.entityauth.unauthenticated import NoneScheme
from hsm_msl.msl.keyx.asymmetric_wrapped import AsymmetricWrapped
from hsm_msl.msl.keyx.base import KeyExchange
from hsm_msl.msl.keyx.dh_group import DhGroup
from hsm_msl.msl.keyx.diffie_hellman import DiffieHellman
from hsm_msl.msl.keyx.jwe_ladder import jwe_ladder
from hsm_msl.msl.keyx.jwk_ladder import jwk_ladder
from hsm_msl.msl.keyx.ladder import IssuerSide, RequesterSide
from hsm_msl.msl.keyx.symmetric_wrapped import SymmetricWrapped
from hsm_msl.msl.keyx.wrap_repository import LocalWrapRepository
from hsm_msl.msl.userauth.base import UserAuthScheme
from hsm_msl.msl.userauth.email_password import EmailPasswordScheme
from hsm_msl.ports import (
    Authorization,
    EphemeralKeys,
    PresharedKeys,
    PublicKeys,
    RandomBytes,
    SessionVault,
    SigningKey,
    TokenKeyRing,
    Users,
    WrappingKey,
)


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
class Materials:
    """What schemes are made of.

    Attributes:
        authorization: the hooks of every scheme.
        random: cryptographic randomness.
        preshared: keys shared with entities.
        rsa: RSA key pairs.
        ecc: EC key pairs.
        vault: makes and packs session keys.
        ephemeral: makes one-time keys.
        groups: Diffie-Hellman groups by parameters ID.
        ring: the token keys, of an issuer.
        users: checks credentials, of a server.
        own_wrapping: the wrapping key this entity shares with the issuer, of a client.
    """

    authorization: Authorization
    random: RandomBytes
    preshared: PresharedKeys
    rsa: KeyPairs
    ecc: KeyPairs
    vault: SessionVault
    ephemeral: EphemeralKeys
    groups: Mapping[str, DhGroup]
    ring: TokenKeyRing | None = None
    users: Users | None = None
    own_wrapping: WrappingKey | None = None

    @property
    def psk(self) -> PskScheme:
        """The PSK scheme, which the anchored key exchanges share."""
        return PskScheme(self.preshared, self.authorization, self.random)

    @property
    def issuer_side(self) -> IssuerSide | None:
        """What answering a key ladder takes."""
        return None if self.ring is None else IssuerSide(self.ring, self.psk)

    @property
    def requester_side(self) -> RequesterSide | None:
        """What asking for a step of a key ladder takes."""
        return RequesterSide(LocalWrapRepository(), self.own_wrapping) if self.ring is None else None


def _email_password(made: Materials) -> UserAuthScheme:
    if made.users is None:
        raise UsageError("EMAIL_PASSWORD needs users")
    return EmailPasswordScheme(made.users, made.authorization)


ENTITY_SCHEMES: Mapping[str, Callable[[Materials], EntityAuthScheme]] = {
    "PSK": lambda made: made.psk,
    "PSK_PROFILE": lambda made: PskProfileScheme(made.preshared, made.authorization, made.random),
    "RSA": lambda made: RsaScheme(
        made.rsa.public_keys,
        made.authorization,
        made.rsa.local_key_id,
        made.rsa.signing,
        made.rsa.bound_identities,
    ),
    "ECC": lambda made: EccScheme(
        made.ecc.public_keys,
        made.authorization,
        made.ecc.local_key_id,
        made.ecc.signing,
        made.ecc.bound_identities,
    ),
    "NONE": lambda made: NoneScheme(made.authorization),
    "NONE_SUFFIXED": lambda made: NoneSuffixedScheme(made.authorization),
}

USER_SCHEMES: Mapping[str, Callable[[Materials], UserAuthScheme]] = {
    "EMAIL_PASSWORD": _email_password,
}

KEY_EXCHANGES: Mapping[str, Callable[[Materials], KeyExchange]] = {
    "ASYMMETRIC_WRAPPED": lambda made: AsymmetricWrapped(made.ephemeral, made.vault, made.random),
    "DIFFIE_HELLMAN": lambda made: DiffieHellman(made.groups, made.ephemeral, made.vault),
    "SYMMETRIC_WRAPPED": lambda made: SymmetricWrapped(made.vault, made.psk, made.own_wrapping),
    "JWK_LADDER": lambda made: jwk_ladder(
        made.vault, made.random, issuer=made.issuer_side, requester=made.requester_side
    ),
    "JWE_LADDER": lambda made: jwe_ladder(
        made.vault, made.random, issuer=made.issuer_side, requester=made.requester_side
    ),
}
