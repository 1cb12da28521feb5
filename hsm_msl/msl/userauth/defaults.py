"""The user authentication schemes there are: one line each says how a scheme is made from its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from hsm_msl.errors import ConfigurationError
from hsm_msl.msl.required import required
from hsm_msl.msl.tokens.issuer import TokenIssuer
from hsm_msl.msl.tokens.master_token import MasterTokens
from hsm_msl.msl.tokens.user_id_token import UserIdTokens
from hsm_msl.msl.userauth import email_password, user_id_token
from hsm_msl.msl.userauth.attempts import FailedAttempts
from hsm_msl.msl.userauth.base import UserAuthScheme, UserAuthSchemes
from hsm_msl.msl.userauth.external import ExternalScheme
from hsm_msl.ports import Authorization, Users


@dataclass(frozen=True, slots=True)
class OwnTokens:
    """The tokens of an entity that issues them.

    Attributes:
        master_tokens: opens master tokens.
        user_id_tokens: opens user ID tokens.
        issuer: knows which of them are revoked.
    """

    master_tokens: MasterTokens
    user_id_tokens: UserIdTokens
    issuer: TokenIssuer


@dataclass(frozen=True, slots=True)
class UserParts:
    """What user authentication schemes are made of; a part that is None rules out the schemes that need it.

    Attributes:
        authorization: the hooks.
        users: checks email addresses and passwords.
        tokens: the tokens of this entity.
        external: schemes of one's own, each judged by a user service.
        attempts: limits how often wrong passwords may be tried; None for no limit.
    """

    authorization: Authorization
    users: Users | None = None
    tokens: OwnTokens | None = None
    external: tuple[ExternalScheme, ...] = ()
    attempts: FailedAttempts | None = None


def _user_id_token(parts: UserParts) -> UserAuthScheme:
    tokens = required(parts.tokens, user_id_token.NAME, "tokens issued by this entity")
    return user_id_token.UserIdTokenScheme(
        tokens.master_tokens, tokens.user_id_tokens, tokens.issuer.check_user_id_token, parts.authorization
    )


SCHEMES: Mapping[str, Callable[[UserParts], UserAuthScheme]] = {
    email_password.NAME: lambda parts: email_password.EmailPasswordScheme(
        required(parts.users, email_password.NAME, "users"), parts.authorization, parts.attempts
    ),
    user_id_token.NAME: _user_id_token,
}
"""How each scheme is made."""


def user_auth_schemes(names: Iterable[str], parts: UserParts) -> UserAuthSchemes:
    """Make the schemes named.

    Args:
        names: names of ``SCHEMES`` or of the external schemes of ``parts``.
        parts: what they are made of.

    Raises:
        ConfigurationError: there is no such scheme, or a part it needs is missing.
    """
    external = {scheme.name: scheme for scheme in parts.external}
    made: dict[str, UserAuthScheme] = {}
    for name in names:
        if name in external:
            made[name] = external[name]
        elif name in SCHEMES:
            made[name] = SCHEMES[name](parts)
        else:
            raise ConfigurationError(f"there is no user authentication scheme {name!r}")
    return made
