"""USER_ID_TOKEN: a user ID token of another session proves the user (msl-schemes section 3.3).

What is wrong with the embedded tokens is always said with a code about user authentication data, so that it never
makes the client throw away the session it speaks in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hsm_msl.errors import ErrorCode, MslError, UsageError
from hsm_msl.msl.tokens.master_token import MasterToken, MasterTokens
from hsm_msl.msl.tokens.user_id_token import UserIdToken, UserIdTokens
from hsm_msl.msl.userauth.base import UserAuthData, check_entity_for_users, check_user
from hsm_msl.ports import Authorization
from hsm_msl.wire import fields

NAME = "USER_ID_TOKEN"

_NO_ANSWER = frozenset((ErrorCode.MASTERTOKEN_UNTRUSTED, ErrorCode.USERIDTOKEN_NOT_DECRYPTED))


def user_id_token_data(master_token: MasterToken, user_id_token: UserIdToken) -> UserAuthData:
    """Return the data with which a client carries a user over from another session."""
    return UserAuthData(
        NAME,
        {"useridtoken": user_id_token.to_wire(), "mastertoken": master_token.to_wire()},
        (master_token, user_id_token),
    )


@dataclass(frozen=True, slots=True)
class UserIdTokenScheme:
    """The USER_ID_TOKEN scheme over the tokens this entity issues.

    Expiry of either embedded token is not looked at, nor whether the master token was revoked.

    Attributes:
        master_tokens: opens the embedded master token.
        user_id_tokens: opens the embedded user ID token.
        check: refuses a revoked user ID token; ``TokenIssuer.check_user_id_token``.
        authorization: the hooks.
    """

    master_tokens: MasterTokens
    user_id_tokens: UserIdTokens
    check: Callable[[UserIdToken], None]
    authorization: Authorization
    name: str = NAME

    def parse(
        self,
        authdata: Mapping[str, Any],
        master_token: MasterToken | None = None,  # noqa: ARG002 - the data brings its own
    ) -> UserAuthData:
        """Read and open both tokens.

        Raises:
            MslError: MSL_PARSE_ERROR, USERAUTH_MASTERTOKEN_INVALID, USERAUTH_USERIDTOKEN_INVALID (also for a user ID
                token bound to another master token).
            BackendError: a token key operation did not happen.
        """
        master_obj = fields.mapping(authdata, "mastertoken")
        user_obj = fields.mapping(authdata, "useridtoken")
        try:
            carried = self.master_tokens.parse(master_obj)
        except MslError:
            raise MslError(ErrorCode.USERAUTH_MASTERTOKEN_INVALID) from None
        return user_id_token_data(carried, parse_carried(self.user_id_tokens, user_obj, carried))

    def authenticate(self, data: UserAuthData, identity: str) -> str:
        """Check permission, both tokens, and revocation, in the order of the specification.

        Returns:
            The user's identity text.

        Raises:
            MslError: USERAUTH_ENTITY_INCORRECT_DATA, USERAUTH_MASTERTOKEN_NOT_DECRYPTED, USERAUTH_ENTITY_MISMATCH,
                USERAUTH_USERIDTOKEN_NOT_DECRYPTED, USERAUTH_ENTITYUSER_INCORRECT_DATA, the code of a refusal by
                ``check`` as it is, USERAUTH_USERIDTOKEN_REVOKE_CHECK_ERROR when it cannot judge the token.
            StoreError: revocations cannot be read, which is no verdict about the user.
        """
        check_entity_for_users(self.authorization, identity, NAME)
        master_token, user_id_token = _tokens(data)
        if master_token.identity is None:
            raise MslError(ErrorCode.USERAUTH_MASTERTOKEN_NOT_DECRYPTED)
        if master_token.identity != identity:
            raise MslError(ErrorCode.USERAUTH_ENTITY_MISMATCH)
        user = user_of(user_id_token)
        check_user(self.authorization, identity, user, NAME)
        check_carried(self.check, user_id_token)
        return user


def parse_carried(tokens: UserIdTokens, obj: Mapping[str, Any], master_token: MasterToken) -> UserIdToken:
    """Read a user ID token inside user authentication data.

    Raises:
        MslError: USERAUTH_USERIDTOKEN_INVALID, also for one bound to another master token.
        BackendError: a token key operation did not happen.
    """
    try:
        return tokens.parse(obj, master_token)
    except MslError:
        raise MslError(ErrorCode.USERAUTH_USERIDTOKEN_INVALID) from None


def user_of(token: UserIdToken) -> str:
    """Return whom a carried token stands for. Raises MslError USERAUTH_USERIDTOKEN_NOT_DECRYPTED."""
    if token.user is None:
        raise MslError(ErrorCode.USERAUTH_USERIDTOKEN_NOT_DECRYPTED)
    return token.user


def check_carried(check: Callable[[UserIdToken], None], token: UserIdToken) -> None:
    """Refuse a revoked token inside user authentication data.

    Raises:
        MslError: the code of a refusal by ``check`` as it is, USERAUTH_USERIDTOKEN_REVOKE_CHECK_ERROR when it cannot
            judge the token.
        StoreError: revocations cannot be read.
    """
    try:
        check(token)
    except MslError as error:
        if error.code in _NO_ANSWER:
            raise MslError(ErrorCode.USERAUTH_USERIDTOKEN_REVOKE_CHECK_ERROR) from None
        raise


def _tokens(data: UserAuthData) -> tuple[MasterToken, UserIdToken]:
    match data.parsed:
        case (MasterToken() as master_token, UserIdToken() as user_id_token):
            return master_token, user_id_token
    raise UsageError("not USER_ID_TOKEN data")
