"""The sections of configuration files, declared: names, types and bounds of every key (values only).

Paths are relative to the directory of the file they stand in. PINs and passwords are never written here: a key that
needs one names its source (``file:``, ``fd:``, ``cred:``, ``exec:``, ``prompt`` or ``env:``).
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from hsm_msl.wire.limits import DEFAULT_CHUNK_BYTES, MAX_CHUNK_BYTES

Name = Annotated[str, msgspec.Meta(min_length=1)]
Seconds = Annotated[int, msgspec.Meta(ge=1)]
Version = Annotated[int, msgspec.Meta(ge=1)]
Count = Annotated[int, msgspec.Meta(ge=0)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of a configuration file; a key it does not declare is refused."""


class ListenSection(Section, frozen=True, kw_only=True):
    """``[server]``: where and how the service listens.

    Attributes:
        host: address to listen on.
        port: TCP port; 0 takes a free one, which is printed.
        workers: processes; each logs in to the token on its own.
        threads: threads per process that run the engine; 0 runs it on the event loop, the fastest choice while no
            message needs a slow token.
        health: path prefix of the health pages ``live`` and ``ready``, answered to GET only.
        grace: seconds that requests in progress may take when the service stops.
    """

    host: Name = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8080
    workers: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    threads: Annotated[int, msgspec.Meta(ge=0, le=256)] = 4
    health: Annotated[str, msgspec.Meta(pattern="^/[^?#]*[^/?#]$")] = "/health"
    grace: Seconds = 10


class TokenSection(Section, frozen=True, kw_only=True):
    """``[tokens.NAME]``: one PKCS#11 token.

    Attributes:
        module: absolute path of the PKCS#11 module, or a known alias such as ``softhsm``.
        label: the token's label.
        serial: its serial number, where labels are not unique.
        pin: source of the user PIN.
        sessions: the most sessions open at once.
        vendor: name of the vendor profile; chosen by what the token says of itself when absent.
    """

    module: Name
    label: Name | None = None
    serial: Name | None = None
    pin: Name
    sessions: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 8
    vendor: Name | None = None


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


class KeyFiles(Section, frozen=True, kw_only=True):
    """Symmetric keys in files, one hexadecimal line each, for a client without a token.

    Attributes:
        encryption: the AES key.
        mac: the HMAC-SHA256 key.
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


class NoneIdentity(Section, frozen=True, kw_only=True, tag_field="scheme", tag="NONE"):
    """``scheme = "NONE"``: an identity without keys."""

    identity: Name


LocalIdentity = PskIdentity | RsaIdentity | EccIdentity | NoneIdentity


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


class RuleSection(Section, frozen=True, kw_only=True):
    """Schemes that some entities may use. A list that is left out leaves its question to the next rule that fits.

    Attributes:
        entity: entity authentication schemes.
        user: user authentication schemes.
        key_exchange: key exchange schemes.
        users: identities of users who may come by these entities, with ``*`` and ``?`` as wildcards.
    """

    entity: tuple[Name, ...] | None = None
    user: tuple[Name, ...] | None = None
    key_exchange: tuple[Name, ...] | None = None
    users: tuple[Name, ...] | None = None


class EntityRuleSection(RuleSection, frozen=True, kw_only=True):
    """``[[schemes.rule]]``: the schemes of some entities.

    Rules that name an entity come first, then patterns with more fixed characters before those with fewer.

    Attributes:
        entities: identities, with ``*`` and ``?`` as wildcards.
    """

    entities: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)]


class SchemesSection(Section, frozen=True, kw_only=True):
    """``[schemes]``: what this network speaks, and who may use what.

    Attributes:
        key_exchange: key exchanges in order of preference.
        default: asked last, for every entity; what it leaves open is not permitted.
        rule: schemes of entities by name or pattern.
    """

    key_exchange: tuple[Name, ...] = ("DIFFIE_HELLMAN", "ASYMMETRIC_WRAPPED")
    default: RuleSection = RuleSection()
    rule: tuple[EntityRuleSection, ...] = ()


class RenewalRuleSection(Section, frozen=True, kw_only=True):
    """``[[token_policy.rule]]``: entities whose tokens are never renewed inside their window."""

    entities: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)]
    renew: Literal["never", "in-window"]


class TokenPolicySection(Section, frozen=True, kw_only=True):
    """``[token_policy]``: lifetimes of issued tokens, in seconds.

    Attributes:
        renewal_window: age from which a token is renewed.
        lifetime: age at which it expires.
        unanswered_limit: renewals in a row whose answer the client seems to have lost.
        rule: entities by pattern; the first rule that fits counts.
    """

    renewal_window: Seconds = 3600
    lifetime: Seconds = 86400
    unanswered_limit: Annotated[int, msgspec.Meta(ge=1)] = 5
    rule: tuple[RenewalRuleSection, ...] = ()


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


class UsersSection(Section, frozen=True, kw_only=True):
    """``[users]``: the database with users and their passwords (as argon2id)."""

    database: Name


class StoreSection(Section, frozen=True, kw_only=True):
    """``[store]``: where renewal, replay and revocation state is kept; ``memory`` forgets it at every restart."""

    database: Name = "memory"


class LimitsSection(Section, frozen=True, kw_only=True):
    """``[limits]``: sizes in bytes.

    Attributes:
        request: the largest request body.
        chunk: application bytes per payload chunk written.
    """

    request: Annotated[int, msgspec.Meta(ge=1024, le=1024 * 1024 * 1024)] = 16 * 1024 * 1024
    chunk: Annotated[int, msgspec.Meta(ge=1, le=MAX_CHUNK_BYTES)] = DEFAULT_CHUNK_BYTES


class CapabilitiesSection(Section, frozen=True, kw_only=True):
    """``[capabilities]``: what this side can read, best first."""

    compression: tuple[Literal["GZIP", "LZW"], ...] = ("GZIP", "LZW")
    languages: tuple[Name, ...] = ()


class CacheSection(Section, frozen=True, kw_only=True):
    """``[cache]``: how many verified tokens of each kind a process remembers."""

    tokens: Count = 10_000
    service_tokens: Count = 10_000


class SessionKeysSection(Section, frozen=True, kw_only=True):
    """``[session_keys]``: where the keys of sessions live and come from.

    Attributes:
        residency: ``host`` keeps them in this process while in use.
        source: ``system`` or the name of the token whose generator makes them.
    """

    residency: Literal["host"] = "host"
    source: Name = "system"


class UserSection(Section, frozen=True, kw_only=True):
    """``[user]`` of a client: for whom it speaks."""

    email: Name
    password: Name


class KeyExchangeOffer(Section, frozen=True, kw_only=True):
    """``[key_exchange]`` of a client: what it offers.

    Attributes:
        schemes: key exchanges to offer, all at once; the server chooses.
        dh_group: parameters ID for DIFFIE_HELLMAN, one of ``[dh_groups]``.
        rsa_mechanism: mechanism for ASYMMETRIC_WRAPPED.
    """

    schemes: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)] = ("DIFFIE_HELLMAN",)
    dh_group: Name = "1"
    rsa_mechanism: Name = "JWK_RSA"


class MessageSection(Section, frozen=True, kw_only=True):
    """``[message]`` of a client: how its messages are protected."""

    encrypted: bool = True
    integrity: bool = True
    non_replayable: bool = False


class RemoteSection(Section, frozen=True, kw_only=True):
    """``[server]`` of a client.

    Attributes:
        identity: identity the server must authenticate as; any trusted one when left out.
        timeout: seconds to wait for each answer.
    """

    identity: Name | None = None
    timeout: Annotated[float, msgspec.Meta(gt=0)] = 30.0
