"""User authentication by a service outside this network: the example of a scheme of one's own (section 3.1).

Scheme names are open. A scheme of one's own is a file with a ``parse`` that reads its object and an ``authenticate``
that proves the user. Where credentials are a few strings that somebody else judges, no file is needed either: give
``ExternalScheme`` a name, the names of the strings, and a ``UserService``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hsm_msl.errors import ErrorCode, MslError, UsageError
from hsm_msl.msl.userauth.base import UserAuthData, check_entity_for_users, check_user
from hsm_msl.ports import Authorization
from hsm_msl.ports.schemes import UserService
from hsm_msl.wire import fields


@dataclass(frozen=True, slots=True)
class ExternalScheme:
    """A scheme whose credentials are strings that a user service judges.

    Attributes:
        name: the scheme's name on the wire, for instance one that a private application registered.
        mandatory: names of the strings every client sends.
        service: judges the credentials.
        authorization: the hooks.
        optional: names of strings a client may send.
    """

    name: str
    mandatory: tuple[str, ...]
    service: UserService
    authorization: Authorization
    optional: tuple[str, ...] = ()

    def data(self, credentials: Mapping[str, str]) -> UserAuthData:
        """Return the data with which a client presents credentials. Raises MslError MSL_PARSE_ERROR as ``parse``."""
        return self.parse(credentials)

    def parse(self, authdata: Mapping[str, Any]) -> UserAuthData:
        """Read the strings; members the scheme does not know are dropped. Raises MslError MSL_PARSE_ERROR."""
        credentials = {name: fields.string(authdata, name) for name in self.mandatory}
        for name in self.optional:
            value = fields.optional_string(authdata, name)
            if value is not None:
                credentials[name] = value
        return UserAuthData(self.name, authdata, credentials)

    def authenticate(self, data: UserAuthData, identity: str) -> str:
        """Check permission, then ask the service.

        Returns:
            The user's identity text.

        Raises:
            MslError: USERAUTH_ENTITY_INCORRECT_DATA, USERAUTH_VERIFICATION_FAILED when the service refuses the
                credentials, USERAUTH_ENTITYUSER_INCORRECT_DATA.
            StoreError: the service gives no answer; the client is told to try again later.
        """
        check_entity_for_users(self.authorization, identity, self.name)
        if not isinstance(data.parsed, dict):
            raise UsageError(f"not {self.name} data")
        user = self.service.identify(self.name, identity, data.parsed)
        if not user:
            raise MslError(ErrorCode.USERAUTH_VERIFICATION_FAILED)
        check_user(self.authorization, identity, user, self.name)
        return user
