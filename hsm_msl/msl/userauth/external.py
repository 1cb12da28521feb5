"""User authentication by a service outside this network: the example of a scheme of one's own (section 3.1).

Scheme names are open. A scheme of one's own is a file with a ``parse`` that reads its object and an ``authenticate``
that proves the user. Where credentials are a few strings that somebody else judges, no file is needed either: give
``ExternalScheme`` a name, the names of the strings, and a ``UserService``. Clients go from one user to another by
such a scheme too: the data then carries the user ID token they have, beside the name of whom they want to be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hsm_msl.errors import ErrorCode, MslError, UsageError
from hsm_msl.msl.tokens.master_token import MasterToken
from hsm_msl.msl.tokens.user_id_token import UserIdToken, UserIdTokens
from hsm_msl.msl.userauth.base import UserAuthData, check_entity_for_users, check_user
from hsm_msl.msl.userauth.user_id_token import check_carried, parse_carried, user_of
from hsm_msl.ports import Authorization
from hsm_msl.ports.schemes import UserService
from hsm_msl.wire import fields


@dataclass(frozen=True, slots=True)
class CarriedUser:
    """A user ID token of the same session among the credentials of a scheme.

    Attributes:
        member: the member that holds it.
        tokens: opens it.
        check: refuses a revoked one; ``TokenIssuer.check_user_id_token``.
    """

    member: str
    tokens: UserIdTokens
    check: Callable[[UserIdToken], None]


@dataclass(frozen=True, slots=True)
class ExternalScheme:
    """A scheme whose credentials are strings that a user service judges.

    Attributes:
        name: the scheme's name on the wire, for instance one that a private application registered.
        mandatory: names of the strings every client sends.
        service: judges the credentials.
        authorization: the hooks.
        optional: names of strings a client may send.
        carried: the user ID token among them, if the scheme has one; the service is told its user in its place.
    """

    name: str
    mandatory: tuple[str, ...]
    service: UserService
    authorization: Authorization
    optional: tuple[str, ...] = ()
    carried: CarriedUser | None = None

    def data(self, credentials: Mapping[str, object], master_token: MasterToken | None = None) -> UserAuthData:
        """Return the data with which a client presents credentials. Raises MslError as ``parse``."""
        return self.parse(credentials, master_token)

    def parse(self, authdata: Mapping[str, Any], master_token: MasterToken | None = None) -> UserAuthData:
        """Read the strings, and the user ID token; members the scheme does not know are dropped.

        Raises:
            MslError: MSL_PARSE_ERROR; USERAUTH_MASTERTOKEN_MISSING for a user ID token in a message without master
                token, USERAUTH_USERIDTOKEN_INVALID for one that is malformed or bound to another.
            BackendError: a token key operation did not happen.
        """
        credentials = {name: fields.string(authdata, name) for name in self.mandatory}
        for name in self.optional:
            value = fields.optional_string(authdata, name)
            if value is not None:
                credentials[name] = value
        token: UserIdToken | None = None
        if self.carried is not None:
            obj = fields.mapping(authdata, self.carried.member)
            if master_token is None:
                raise MslError(ErrorCode.USERAUTH_MASTERTOKEN_MISSING)
            token = parse_carried(self.carried.tokens, obj, master_token)
        return UserAuthData(self.name, authdata, (credentials, token))

    def authenticate(self, data: UserAuthData, identity: str) -> str:
        """Check permission and the user ID token, then ask the service.

        Returns:
            The user's identity text.

        Raises:
            MslError: USERAUTH_ENTITY_INCORRECT_DATA; USERAUTH_USERIDTOKEN_NOT_DECRYPTED and the codes of
                ``check_carried`` for a user ID token; USERAUTH_VERIFICATION_FAILED when the service refuses the
                credentials; USERAUTH_ENTITYUSER_INCORRECT_DATA.
            StoreError: the service gives no answer; the client is told to try again later.
        """
        check_entity_for_users(self.authorization, identity, self.name)
        if data.scheme != self.name or not isinstance(data.parsed, tuple):
            raise UsageError(f"not {self.name} data")
        credentials, token = data.parsed
        if self.carried is not None and token is not None:
            credentials = {**credentials, self.carried.member: user_of(token)}
            check_carried(self.carried.check, token)
        user = self.service.identify(self.name, identity, credentials)
        if not user:
            raise MslError(ErrorCode.USERAUTH_VERIFICATION_FAILED)
        check_user(self.authorization, identity, user, self.name)
        return user
