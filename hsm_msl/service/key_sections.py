"""Sections that say which keys and entities there are, and where (values only)."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from hsm_msl.service.sections import Name, Seconds, Section, Version


class TokenSection(Section, frozen=True, kw_only=True):
    """``[tokens.NAME]``: one PKCS#11 token.

    Attributes:
        module: absolute path of the PKCS#11 module, or a known alias such as ``softhsm``; may stand in ``uri``.
        label: the token's label.
        serial: its serial number, where labels are not unique.
        uri: an RFC 7512 URI instead of module, label, serial and, when it has a pin-source, pin.
        pin: source of the user PIN; without one the token is expected to have its own pad.
        sessions: the most sessions open at once.
        vendor: name of the vendor profile; chosen by what the token says of itself when absent.
        parameters: the string some libraries take at their initialisation (NSS, YubiHSM).
        pin_memory: directory in which a PIN that the token refused is remembered, as a salted hash, so that a service
            that starts again and again does not lock the token; systemd's STATE_DIRECTORY when left out, or else the
            directory of this file.
        workers: processes that hold the token for this one, so that a call that hangs is given up and no key is in
            this process; 0 opens the token here.
        deadline_seconds: with workers, how long a call may take, 5 when left out; a worker that takes longer is
            replaced.
        recycle_after: with workers, after how many keys unwrapped or made a worker is replaced, because its library
            keeps memory of each; 0 for never, the vendor profile's number when left out.
    """

    module: Name | None = None
    label: Name | None = None
    serial: Name | None = None
    uri: Name | None = None
    pin: Name | None = None
    sessions: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 8
    vendor: Name | None = None
    parameters: Name | None = None
    pin_memory: Name | None = None
    workers: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0
    deadline_seconds: Annotated[float, msgspec.Meta(gt=0, le=600)] | None = None
    recycle_after: Annotated[int, msgspec.Meta(ge=0)] | None = None


class TokenSetSection(Section, frozen=True, kw_only=True):
    """``[token_sets.NAME]``: several tokens that hold the same keys, used under one name wherever a token is named.

    That the keys are the same is checked when they are found, by their check values. A token that gives no answer is
    passed over until it does again. The service also starts without it; worker processes find it when it is back, a
    service that opens it itself only when its library lists it without being started anew.

    Attributes:
        tokens: names of the tokens.
        mode: ``failover`` asks the first one that answers, in this order; ``spread`` asks them in turn.
    """

    tokens: Annotated[tuple[Name, ...], msgspec.Meta(min_length=2)]
    mode: Literal["failover", "spread"] = "failover"


class KeysSection(Section, frozen=True, kw_only=True):
    """``[keys."PURPOSE"]``: the versions of the keys that serve one purpose.

    Attributes:
        token: name of the token that holds them; may be left out where there is one token only.
        primary: the version that makes what is made now.
        active: further versions that still open what they made.
        label: how the token objects are called.
    """

    token: Name | None = None
    primary: Version = 1
    active: tuple[Version, ...] = ()
    label: Annotated[str, msgspec.Meta(pattern=r"\{role\}")] = "{purpose}.{role}.v{version}"

    def named(self, purpose: str, role: str, version: int) -> str:
        """Return the label of one key."""
        named = self.label.replace("{purpose}", purpose).replace("{role}", role)
        return named.replace("{version}", str(version))


class ManifestSection(Section, frozen=True, kw_only=True):
    """``[key_manifest]``: the manifest hsm-provision writes, from which versions come while the server runs.

    For every purpose of ``[keys]`` that it knows, it replaces ``primary`` and ``active``.

    Attributes:
        file: the manifest.
        signed_by: a PEM or DER file with the public key that must have signed it, or handed over to the one that did.
        memory: a file in which this server remembers the newest manifest it used, so that an older one is refused
            after a restart too. Remove it when the records were restored from a backup.
        every: seconds between two looks at it.
        usage: directory of the usage reports that ``hsm-provision retire`` reads, by custom ``records/usage``; each
            process leaves one file there. Nothing is counted when left out.
        report_every: seconds between two reports.
        compare_every: seconds between two comparisons of the keys in use with the manifest.
    """

    file: Name
    signed_by: Name
    memory: Name = "manifest.seen"
    every: Seconds = 5
    usage: Name | None = None
    report_every: Seconds = 60
    compare_every: Seconds = 3600


class KeyFiles(Section, frozen=True, kw_only=True):
    """Symmetric keys in files, one hexadecimal line each, for a client without a token.

    Attributes:
        encryption: the AES key.
        mac: the HMAC-SHA256 key, 16 bytes or more.
        wrap: the key-encrypting key, needed for SYMMETRIC_WRAPPED and the key ladders only.
    """

    encryption: Name
    mac: Name
    wrap: Name | None = None


class PskIdentity(Section, frozen=True, kw_only=True, tag_field="scheme", tag="PSK"):
    """``scheme = "PSK"``: an entity with pre-shared keys, in a token or (clients) in files.

    Attributes:
        identity: the entity's identity.
        token: name of the token that holds the keys, as for ``[keys]``.
        version: version of the keys.
        label: how the token objects are called.
        files: the keys in files instead.
    """

    identity: Name
    token: Name | None = None
    version: Version = 1
    label: Annotated[str, msgspec.Meta(pattern=r"\{role\}")] = "psk.{identity}.{role}.v{version}"
    files: KeyFiles | None = None


class KeyPairIdentity(Section, frozen=True, kw_only=True):
    """An entity with a key pair, its private half in a token or (clients) in a file.

    Attributes:
        identity: the entity's identity.
        key_id: the name under which others know the public key (``pubkeyid``).
        token: name of the token that holds the private key, as for ``[keys]``.
        label: the private key's label.
        file: a PEM or DER file with the private key instead.
    """

    identity: Name
    key_id: Name
    token: Name | None = None
    label: Name | None = None
    file: Name | None = None


class RsaIdentity(KeyPairIdentity, frozen=True, kw_only=True, tag_field="scheme", tag="RSA"):
    """``scheme = "RSA"``: this entity's RSA key pair; its label is ``identity.rsa.v1`` unless another is given."""


class EccIdentity(KeyPairIdentity, frozen=True, kw_only=True, tag_field="scheme", tag="ECC"):
    """``scheme = "ECC"``: this entity's EC key pair; its label is ``identity.ec.v1`` unless another is given."""


class X509Identity(Section, frozen=True, kw_only=True, tag_field="scheme", tag="X509"):
    """``scheme = "X509"``: a certificate names this entity, and its RSA key is in a token or (clients) in a file.

    Attributes:
        certificate: a PEM or DER file; its subject is the identity.
        token: name of the token that holds the private key, as for ``[keys]``.
        label: the private key's label; ``identity.rsa.v1`` unless another is given.
        file: a PEM or DER file with the private key instead.
    """

    certificate: Name
    token: Name | None = None
    label: Name | None = None
    file: Name | None = None


class PskProfileIdentity(PskIdentity, frozen=True, kw_only=True, tag_field="scheme", tag="PSK_PROFILE"):
    """``scheme = "PSK_PROFILE"``: as PSK, with ``identity`` naming the key set, used under a profile."""

    profile: Name


class NoneIdentity(Section, frozen=True, kw_only=True, tag_field="scheme", tag="NONE"):
    """``scheme = "NONE"``: an identity without keys."""

    identity: Name


class NoneSuffixedIdentity(Section, frozen=True, kw_only=True, tag_field="scheme", tag="NONE_SUFFIXED"):
    """``scheme = "NONE_SUFFIXED"``: an identity without keys, in two parts."""

    root: Name
    suffix: Name


class ProvisionedIdentity(Section, frozen=True, kw_only=True, tag_field="scheme", tag="PROVISIONED"):
    """``scheme = "PROVISIONED"``: a client that the server gives an identity."""


LocalIdentity = (
    PskIdentity
    | PskProfileIdentity
    | RsaIdentity
    | EccIdentity
    | X509Identity
    | NoneIdentity
    | NoneSuffixedIdentity
    | ProvisionedIdentity
)
PrivateKeyIdentity = RsaIdentity | EccIdentity | X509Identity


class PublicKeySection(Section, frozen=True, kw_only=True):
    """A trusted public key.

    Attributes:
        key_id: the name under which peers refer to it.
        public_key: a PEM or DER file.
        identity: the one identity it may speak for. The scheme itself lets the holder of a trusted key claim any.
    """

    key_id: Name
    public_key: Name
    identity: Name | None = None


class RsaPublicKey(PublicKeySection, frozen=True, kw_only=True, tag_field="scheme", tag="RSA"):
    """``scheme = "RSA"`` of ``[[entities]]``: a trusted RSA key."""


class EccPublicKey(PublicKeySection, frozen=True, kw_only=True, tag_field="scheme", tag="ECC"):
    """``scheme = "ECC"`` of ``[[entities]]``: a trusted EC key."""


KnownEntity = PskIdentity | RsaPublicKey | EccPublicKey


class DhNumbers(Section, frozen=True, kw_only=True):
    """A Diffie-Hellman group by its numbers, in hexadecimal."""

    p: Annotated[str, msgspec.Meta(pattern="^[0-9A-Fa-f]{64,}$")]
    g: Annotated[str, msgspec.Meta(pattern="^[0-9A-Fa-f]+$")] = "2"


DhGroupSection = str | DhNumbers
"""A group by its name (``modp-2048``) or by its numbers."""


class ServiceTokenKeysSection(Section, frozen=True, kw_only=True):
    """``[[service_token_keys]]``: which keys protect service tokens of a name; an empty name is for all others."""

    name: str = ""
    keys: Name


class FleetSection(Section, frozen=True, kw_only=True):
    """``[fleet]``: pre-shared keys of any number of entities, wrapped in a database, unwrapped into a token on use.

    Attributes:
        database: where they are; the store's database when left out.
        token: name of the token that unwraps them, as for ``[keys]``.
        wrapping_keys: labels of the keys they are wrapped under.
        capacity: how many entities' keys to keep in the token at once.
    """

    database: Name | None = None
    token: Name | None = None
    wrapping_keys: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)] = ("fleet.storage.v1",)
    capacity: Annotated[int, msgspec.Meta(ge=1)] = 4096


class DerivedKeysSection(Section, frozen=True, kw_only=True):
    """``[derived_keys]``: pre-shared keys that a token derives from a master key and the identity.

    Attributes:
        token: name of the token, as for ``[keys]``.
        label: the master key's label.
        entities: identities that belong to the fleet, with ``*`` and ``?`` as wildcards.
        capacity: how many entities' keys to keep in the token at once.
    """

    token: Name | None = None
    label: Name
    entities: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)]
    capacity: Annotated[int, msgspec.Meta(ge=1)] = 4096


class X509Section(Section, frozen=True, kw_only=True):
    """``[x509]``: whose certificates count.

    Attributes:
        authorities: files with CA certificates, PEM or DER, a CA before those it signed.
    """

    authorities: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)]
