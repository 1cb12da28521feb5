"""Entities for a composition: how this one authenticates itself, and the keys of those it knows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hsm_msl.crypto.asymmetric import SignatureContext
from hsm_msl.crypto.null import NullContext
from hsm_msl.crypto.public_key import PublicKey
from hsm_msl.crypto.symmetric import SymmetricContext
from hsm_msl.errors import ConfigurationError, MslError
from hsm_msl.msl.entityauth.base import EntityAuthData, LocalEntity
from hsm_msl.msl.entityauth.certificate import Certificate, parse_certificate
from hsm_msl.msl.entityauth.defaults import KeyPairs
from hsm_msl.msl.entityauth.ecc import ecc_data
from hsm_msl.msl.entityauth.none_suffixed import none_suffixed_data
from hsm_msl.msl.entityauth.provisioned import provisioned_data
from hsm_msl.msl.entityauth.psk import psk_data
from hsm_msl.msl.entityauth.psk_profile import psk_profile_data
from hsm_msl.msl.entityauth.rsa import rsa_data
from hsm_msl.msl.entityauth.trust_store import TrustStore
from hsm_msl.msl.entityauth.unauthenticated import none_data
from hsm_msl.msl.entityauth.x509 import x509_data
from hsm_msl.ports import (
    Clock,
    PresharedKeys,
    RandomBytes,
    SignatureScheme,
    SigningKey,
    SymmetricKeys,
    VerifyingKey,
)
from hsm_msl.service.compose.keys import KeySources, TrustedKeys
from hsm_msl.service.documents import AnyConfiguration
from hsm_msl.service.key_sections import (
    EccIdentity,
    EccPublicKey,
    KnownEntity,
    LocalIdentity,
    NoneIdentity,
    NoneSuffixedIdentity,
    PskIdentity,
    PskProfileIdentity,
    RsaIdentity,
    RsaPublicKey,
    X509Identity,
    X509Section,
)

_PROVES_NOTHING = frozenset({"NONE", "NONE_SUFFIXED"})


@dataclass(frozen=True, slots=True)
class Own:
    """This entity: how it authenticates itself, and the handles behind that."""

    entity: LocalEntity
    preshared: SymmetricKeys | None = None
    signing: SigningKey | None = None


@dataclass(frozen=True, slots=True)
class SeveralKeys:
    """Pre-shared keys from several places, asked in order (``PresharedKeys``)."""

    places: Sequence[PresharedKeys]

    def find(self, identity: str) -> SymmetricKeys | None:
        """Return the entity's handles, or None when no place knows it. Raises BackendError, StoreError."""
        for place in self.places:
            keys = place.find(identity)
            if keys is not None:
                return keys
        return None


@dataclass(frozen=True, slots=True)
class KnownEntities:
    """The keys of every entity a configuration lists.

    Attributes:
        preshared: keys by identity.
        rsa: RSA key pairs.
        ecc: EC key pairs.
        certificate_keys: this entity's private key by its certificate's subject.
    """

    preshared: Mapping[str, SymmetricKeys]
    rsa: KeyPairs
    ecc: KeyPairs
    certificate_keys: Mapping[str, SigningKey] = field(default_factory=dict)


def local_entity(config: AnyConfiguration, sources: KeySources, section: LocalIdentity, random: RandomBytes) -> Own:
    """Return how an entity authenticates itself. Raises ConfigurationError, BackendError as ``KeySources``."""
    match section:
        case PskIdentity():
            keys = sources.preshared("entity", section)
            if isinstance(section, PskProfileIdentity):
                data = psk_profile_data(section.identity, section.profile)
            else:
                data = psk_data(section.identity)
            context = SymmetricContext(keys, data.identity, random)
            return Own(LocalEntity(data, context, encrypts=True, protects_integrity=True), preshared=keys)
        case RsaIdentity():
            return _signer(sources, section, rsa_data(section.identity, section.key_id))
        case EccIdentity():
            return _signer(sources, section, ecc_data(section.identity, section.key_id))
        case X509Identity():
            path = config.resolve(section.certificate)
            certificates = _certificates(config, "entity.certificate", path)
            own = _signer(sources, section, x509_data(certificates[0]))
            if own.signing is not None and own.signing.public_key != certificates[0].public_key:
                raise config.error("entity.certificate", f"{path} is not of the private key configured here")
            return own
        case NoneIdentity():
            return _unprotected(none_data(section.identity))
        case NoneSuffixedIdentity():
            return _unprotected(none_suffixed_data(section.root, section.suffix))
        case _:
            return _unprotected(provisioned_data())


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
        key, wants_rsa = sources.public(where, section), not isinstance(section, EccPublicKey)
        if key.is_rsa is not wants_rsa:
            raise sources.error(f"{where}.public_key", f"not {_kind(rsa=wants_rsa)} public key")
        (rsa if wants_rsa else ecc)[section.key_id] = key
        if section.identity is not None:
            bound[section.key_id] = section.identity
    if own.preshared is not None and isinstance(local, PskIdentity):
        preshared.setdefault(local.identity, own.preshared)

    def pairs(keys: dict[str, VerifyingKey], mine: str | None) -> KeyPairs:
        return KeyPairs(TrustedKeys(keys), mine, None if mine is None else own.signing, bound)

    signing = own.signing
    return KnownEntities(
        preshared,
        pairs(rsa, local.key_id if isinstance(local, RsaIdentity) else None),
        pairs(ecc, local.key_id if isinstance(local, EccIdentity) else None),
        {own.entity.data.identity: signing} if isinstance(local, X509Identity) and signing is not None else {},
    )


def trust_store(config: AnyConfiguration, section: X509Section | None, clock: Clock) -> TrustStore:
    """Return the CAs whose certificates count; none without the section.

    Raises:
        ConfigurationError: a file cannot be read or its certificate is not to be trusted; names the key.
    """
    store = TrustStore(clock)
    for index, file in enumerate(() if section is None else section.authorities):
        where = f"x509.authorities[{index}]"
        for certificate in _certificates(config, where, config.resolve(file)):
            try:
                store.add(certificate)
            except ConfigurationError as error:
                raise config.error(where, str(error)) from None
    return store


def schemes_of(sections: Iterable[KnownEntity], local: LocalIdentity, *, x509_trusted: bool) -> frozenset[str]:
    """Return the entity authentication schemes by which a client's peers, and it itself, can be known.

    A client that proves nothing itself takes its own scheme from others only where it was told of nobody who can
    prove more: else whoever merely claims the name of its server would be taken for it.
    """
    names: dict[type[object], str] = {RsaPublicKey: "RSA", EccPublicKey: "ECC"}
    known = {names.get(type(section), "PSK") for section in sections} | ({"X509"} if x509_trusted else set())
    own = str(local.__struct_config__.tag)
    if own == "PROVISIONED" or (known and own in _PROVES_NOTHING):
        return frozenset(known)
    return frozenset({own, *known})


def _signer(sources: KeySources, section: RsaIdentity | EccIdentity | X509Identity, data: EntityAuthData) -> Own:
    signing = sources.signing(section)
    ecc = isinstance(section, EccIdentity)
    scheme = SignatureScheme.ECDSA_SHA256 if ecc else SignatureScheme.RSA_PKCS1_SHA256
    verifying = PublicKey(signing.public_key)
    if verifying.is_rsa is ecc:
        # Found out here, since nothing could be signed with it: not even an error.
        where = "entity.label" if section.file is None else "entity.file"
        raise sources.error(where, f"names a key that is not {_kind(rsa=not ecc)} key, which this scheme signs with")
    context = SignatureContext(scheme, signing=signing, verifying=verifying)
    return Own(LocalEntity(data, context, encrypts=False, protects_integrity=True), signing=signing)


def _kind(*, rsa: bool) -> str:
    return "an RSA" if rsa else "an EC"


def _unprotected(data: EntityAuthData) -> Own:
    return Own(LocalEntity(data, NullContext(), encrypts=False, protects_integrity=False))


def _certificates(config: AnyConfiguration, where: str, path: Path) -> list[Certificate]:
    """Return the certificates of a file, PEM (any number) or DER (one), in its order."""
    try:
        data = path.read_bytes()
        parsed = x509.load_pem_x509_certificates(data) if b"-----BEGIN" in data else None
        ders = [data] if parsed is None else [certificate.public_bytes(Encoding.DER) for certificate in parsed]
        return [parse_certificate(der) for der in ders]
    except OSError as error:
        raise config.error(where, f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, MslError):
        raise config.error(where, f"{path}: no certificate in PEM or DER") from None
