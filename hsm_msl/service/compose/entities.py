"""Entities for a composition: how this one authenticates itself, and the keys of those it knows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hsm_msl.crypto.asymmetric import SignatureContext
from hsm_msl.crypto.null import NullContext
from hsm_msl.crypto.public_key import PublicKey
from hsm_msl.crypto.symmetric import SymmetricContext
from hsm_msl.msl.entityauth.base import LocalEntity
from hsm_msl.msl.entityauth.ecc import ecc_data
from hsm_msl.msl.entityauth.psk import psk_data
from hsm_msl.msl.entityauth.rsa import rsa_data
from hsm_msl.msl.entityauth.unauthenticated import none_data
from hsm_msl.ports import RandomBytes, SignatureScheme, SigningKey, SymmetricKeys, VerifyingKey
from hsm_msl.service.compose.keys import KeySources, KnownKeys, TrustedKeys
from hsm_msl.service.schemes import KeyPairs
from hsm_msl.service.sections import (
    EccIdentity,
    EccPublicKey,
    KeyPairIdentity,
    KnownEntity,
    LocalIdentity,
    PskIdentity,
    RsaIdentity,
    RsaPublicKey,
)


@dataclass(frozen=True, slots=True)
class Own:
    """This entity: how it authenticates itself, and the handles behind that."""

    entity: LocalEntity
    preshared: SymmetricKeys | None = None
    signing: SigningKey | None = None


@dataclass(frozen=True, slots=True)
class KnownEntities:
    """The keys of every entity a configuration knows."""

    preshared: KnownKeys
    rsa: KeyPairs
    ecc: KeyPairs


def local_entity(sources: KeySources, section: LocalIdentity, random: RandomBytes) -> Own:
    """Return how an entity authenticates itself. Raises ConfigurationError, BackendError as ``KeySources``."""
    if isinstance(section, PskIdentity):
        keys = sources.preshared("entity", section)
        context = SymmetricContext(keys, section.identity, random)
        return Own(
            LocalEntity(psk_data(section.identity), context, encrypts=True, protects_integrity=True), preshared=keys
        )
    if isinstance(section, KeyPairIdentity):
        signing = sources.signing(section)
        rsa = isinstance(section, RsaIdentity)
        scheme = SignatureScheme.RSA_PKCS1_SHA256 if rsa else SignatureScheme.ECDSA_SHA256
        data = (rsa_data if rsa else ecc_data)(section.identity, section.key_id)
        signer = SignatureContext(scheme, signing=signing, verifying=PublicKey(signing.public_key))
        return Own(LocalEntity(data, signer, encrypts=False, protects_integrity=True), signing=signing)
    return Own(LocalEntity(none_data(section.identity), NullContext(), encrypts=False, protects_integrity=False))


def known_entities(
    sources: KeySources, sections: Iterable[KnownEntity], local: LocalIdentity, own: Own
) -> KnownEntities:
    """Return the keys of the entities a configuration lists, and of this entity itself.

    Raises:
        ConfigurationError, BackendError: as ``KeySources``.
    """
    preshared: dict[str, SymmetricKeys] = {}
    rsa: dict[str, VerifyingKey] = {}
    ecc: dict[str, VerifyingKey] = {}
    bound: dict[str, str] = {}
    for index, section in enumerate(sections):
        where = f"entities[{index}]"
        if isinstance(section, PskIdentity):
            preshared[section.identity] = sources.preshared(where, section)
            continue
        (ecc if isinstance(section, EccPublicKey) else rsa)[section.key_id] = sources.public(where, section)
        if section.identity is not None:
            bound[section.key_id] = section.identity
    if own.preshared is not None:
        preshared.setdefault(local.identity, own.preshared)

    def pairs(keys: dict[str, VerifyingKey], kind: type[RsaIdentity] | type[EccIdentity]) -> KeyPairs:
        mine = isinstance(local, kind)
        return KeyPairs(
            TrustedKeys(keys),
            local.key_id if isinstance(local, kind) else None,
            own.signing if mine else None,
            bound,
        )

    return KnownEntities(KnownKeys(preshared), pairs(rsa, RsaIdentity), pairs(ecc, EccIdentity))


def schemes_of(sections: Iterable[KnownEntity], local: LocalIdentity) -> frozenset[str]:
    """Return the entity authentication schemes by which a client's peers, and it itself, can be known."""
    names = {RsaPublicKey: "RSA", EccPublicKey: "ECC", PskIdentity: "PSK"}
    own = {PskIdentity: "PSK", RsaIdentity: "RSA", EccIdentity: "ECC"}.get(type(local), "NONE")
    return frozenset({own, *(names[type(section)] for section in sections)})
