"""What an entity authentication scheme is, and how its data is read (msl-schemes section 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from hsm_msl.crypto.context import CryptoContext
from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.ports import Authorization
from hsm_msl.wire import fields

KNOWN_SCHEMES = frozenset(
    {"PSK", "PSK_PROFILE", "X509", "RSA", "ECC", "NONE", "NONE_SUFFIXED", "MT_PROTECTED", "PROVISIONED", "MIGRATION"}
)


@dataclass(frozen=True, slots=True)
class EntityAuthData:
    """Entity authentication data of one scheme.

    Attributes:
        scheme: the scheme's name.
        identity: the identity it claims; proved only by the context of the scheme.
        authdata: the scheme's own object, as it travels.
        parsed: what the scheme keeps from parsing, for its own use.
    """

    scheme: str
    identity: str
    authdata: Mapping[str, object]
    parsed: object = None

    def to_wire(self) -> dict[str, object]:
        """Return the container object of a header."""
        return {"scheme": self.scheme, "authdata": self.authdata}


@dataclass(frozen=True, slots=True)
class LocalEntity:
    """How this entity authenticates itself: what it sends, and the context that protects it.

    The hooks of the schemes are for others; nobody asks them about this entity.
    """

    data: EntityAuthData
    context: CryptoContext
    encrypts: bool
    protects_integrity: bool


class EntityAuthScheme(Protocol):
    """One entity authentication scheme with its keys and hooks."""

    @property
    def name(self) -> str:
        """The scheme's name on the wire."""

    @property
    def encrypts(self) -> bool:
        """Whether a header under this scheme counts as encrypted."""

    @property
    def protects_integrity(self) -> bool:
        """Whether a header under this scheme counts as integrity-protected."""

    def parse(self, authdata: Mapping[str, Any]) -> EntityAuthData:
        """Read the scheme's own object. Raises MslError."""

    def context(self, data: EntityAuthData) -> CryptoContext:
        """Return the context that authenticates the entity: revocation, permission, then keys.

        Raises:
            MslError: the codes of msl-schemes section 2.3.
            BackendError: a key store or token gave no answer.
        """


@runtime_checkable
class AssigningScheme(Protocol):
    """A scheme whose entities are given an identity when they are authenticated."""

    def assign(self, data: EntityAuthData) -> EntityAuthData:
        """Return the data with the identity given now; ask once per message. Raises StoreError."""


EntityAuthSchemes = Mapping[str, EntityAuthScheme]


def parse_entity_auth(obj: Mapping[str, Any], schemes: EntityAuthSchemes) -> EntityAuthData:
    """Read an ``entityauthdata`` container.

    Raises:
        MslError: UNIDENTIFIED_ENTITYAUTH_SCHEME, ENTITYAUTH_FACTORY_NOT_FOUND, or what the scheme raises.
    """
    name = fields.string(obj, "scheme")
    if name not in KNOWN_SCHEMES and name not in schemes:
        raise MslError(ErrorCode.UNIDENTIFIED_ENTITYAUTH_SCHEME)
    authdata = fields.mapping(obj, "authdata")
    scheme = schemes.get(name)
    if scheme is None:
        raise MslError(ErrorCode.ENTITYAUTH_FACTORY_NOT_FOUND)
    return scheme.parse(authdata)


def authenticate_entity(
    data: EntityAuthData, schemes: EntityAuthSchemes
) -> tuple[EntityAuthScheme, EntityAuthData, CryptoContext]:
    """Return the scheme, the data with the identity it stands for, and the context that proves it.

    Raises:
        MslError: what the scheme's ``context`` raises.
        BackendError, StoreError: no answer.
    """
    scheme = schemes[data.scheme]
    if isinstance(scheme, AssigningScheme):
        data = scheme.assign(data)
    return scheme, data, scheme.context(data)


def check_entity(authorization: Authorization, identity: str, scheme: str) -> None:
    """Ask the two hooks that come before any key look-up.

    Raises:
        MslError: ENTITY_REVOKED, INCORRECT_ENTITYAUTH_DATA.
        StoreError: the hooks cannot answer.
    """
    if authorization.entity_revoked(identity):
        raise MslError(ErrorCode.ENTITY_REVOKED)
    if not authorization.entity_scheme_permitted(identity, scheme):
        raise MslError(ErrorCode.INCORRECT_ENTITYAUTH_DATA)
