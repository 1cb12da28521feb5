"""What a user authentication scheme is, and how its data is read (msl-schemes section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.msl.tokens.master_token import MasterToken
from hsm_msl.ports import Authorization
from hsm_msl.wire import fields

KNOWN_SCHEMES = frozenset({"EMAIL_PASSWORD", "USER_ID_TOKEN"})


@dataclass(frozen=True, slots=True)
class UserAuthData:
    """User authentication data of one scheme; its contents are credentials and stay out of representations."""

    scheme: str
    authdata: Mapping[str, object] = field(repr=False)
    parsed: object = field(default=None, repr=False)

    def to_wire(self) -> dict[str, object]:
        """Return the container object of a header."""
        return {"scheme": self.scheme, "authdata": self.authdata}


class UserAuthScheme(Protocol):
    """One user authentication scheme with its store and hooks."""

    @property
    def name(self) -> str:
        """The scheme's name on the wire."""

    def parse(self, authdata: Mapping[str, Any], master_token: MasterToken | None = None) -> UserAuthData:
        """Read the scheme's own object.

        Args:
            authdata: the object.
            master_token: the message's master token, that of its key response rather than that of its header; a user
                ID token inside the data may have to be bound to it.

        Raises:
            MslError: the data is refused.
            BackendError: a token key operation did not happen.
        """

    def authenticate(self, data: UserAuthData, identity: str) -> str:
        """Return the user that ``data`` proves, for the authenticated entity ``identity``.

        Raises:
            MslError: the codes of msl-schemes section 3.
            BackendError, StoreError: no answer, which is no verdict about the user.
        """


UserAuthSchemes = Mapping[str, UserAuthScheme]


def parse_user_auth(
    obj: Mapping[str, Any], schemes: UserAuthSchemes, master_token: MasterToken | None = None
) -> UserAuthData:
    """Read a ``userauthdata`` container.

    Args:
        obj: the container.
        schemes: the schemes this entity accepts.
        master_token: the message's master token, as for ``UserAuthScheme.parse``.

    Raises:
        MslError: UNIDENTIFIED_USERAUTH_SCHEME, USERAUTH_FACTORY_NOT_FOUND (before ``authdata`` is looked at), or what
            the scheme raises.
    """
    name = fields.string(obj, "scheme")
    scheme = schemes.get(name)
    if scheme is None:
        known = name in KNOWN_SCHEMES
        raise MslError(ErrorCode.USERAUTH_FACTORY_NOT_FOUND if known else ErrorCode.UNIDENTIFIED_USERAUTH_SCHEME)
    return scheme.parse(fields.mapping(obj, "authdata"), master_token)


def check_entity_for_users(authorization: Authorization, identity: str, scheme: str) -> None:
    """Refuse a scheme the entity may not use. Raises MslError USERAUTH_ENTITY_INCORRECT_DATA; StoreError."""
    if not authorization.user_scheme_permitted(identity, None, scheme):
        raise MslError(ErrorCode.USERAUTH_ENTITY_INCORRECT_DATA)


def check_user(authorization: Authorization, identity: str, user: str, scheme: str) -> None:
    """Refuse a scheme this user may not use there. Raises MslError USERAUTH_ENTITYUSER_INCORRECT_DATA; StoreError."""
    if not authorization.user_scheme_permitted(identity, user, scheme):
        raise MslError(ErrorCode.USERAUTH_ENTITYUSER_INCORRECT_DATA)
