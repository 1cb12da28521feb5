"""EMAIL_PASSWORD: an email address and a password prove the user (msl-schemes section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hsm_msl.errors import ErrorCode, MslError, UsageError
from hsm_msl.msl.tokens.master_token import MasterToken
from hsm_msl.msl.userauth.attempts import FailedAttempts
from hsm_msl.msl.userauth.base import UserAuthData, check_entity_for_users, check_user
from hsm_msl.ports import Authorization, Users
from hsm_msl.wire import fields

NAME = "EMAIL_PASSWORD"


def email_password_data(email: str, password: str) -> UserAuthData:
    """Return the data with which a client authenticates a user."""
    return UserAuthData(NAME, {"password": password, "email": email}, (email, password))


@dataclass(frozen=True, slots=True)
class EmailPasswordScheme:
    """The EMAIL_PASSWORD scheme over a store of users; ``attempts`` limits guessing where it is given."""

    users: Users
    authorization: Authorization
    attempts: FailedAttempts | None = None
    name: str = NAME

    def parse(
        self,
        authdata: Mapping[str, Any],
        master_token: MasterToken | None = None,  # noqa: ARG002 - whose session it is does not matter
    ) -> UserAuthData:
        """Read both strings. Raises MslError MSL_PARSE_ERROR."""
        return email_password_data(fields.string(authdata, "email"), fields.string(authdata, "password"))

    def authenticate(self, data: UserAuthData, identity: str) -> str:
        """Check permission, blankness of the trimmed values, then the store.

        Returns:
            The user's identity text.

        Raises:
            MslError: USERAUTH_ENTITY_INCORRECT_DATA, EMAILPASSWORD_BLANK, EMAILPASSWORD_INCORRECT,
                USERAUTH_ENTITYUSER_INCORRECT_DATA; INTERNAL_EXCEPTION after too many failures.
            StoreError: the users cannot be reached.
        """
        check_entity_for_users(self.authorization, identity, NAME)
        if not isinstance(data.parsed, tuple):
            raise UsageError("not EMAIL_PASSWORD data")
        email, password = (fields.trimmed(value) for value in data.parsed)
        if not email or not password:
            raise MslError(ErrorCode.EMAILPASSWORD_BLANK)
        if self.attempts is None:
            user = self.users.authenticate(email, password)
        else:
            user = self.attempts.judged(identity, email, lambda: self.users.authenticate(email, password))
        if user is None:
            raise MslError(ErrorCode.EMAILPASSWORD_INCORRECT)
        check_user(self.authorization, identity, user, NAME)
        return user
