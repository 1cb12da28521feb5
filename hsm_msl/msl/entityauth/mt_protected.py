"""MT_PROTECTED: other entity authentication data, hidden under the session keys of a master token (section 2.5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hsm_msl.crypto.context import CryptoContext, protect, unprotect
from hsm_msl.errors import ErrorCode, MslError, UsageError
from hsm_msl.msl.entityauth.base import AssigningScheme, EntityAuthData, EntityAuthSchemes, parse_entity_auth
from hsm_msl.msl.tokens.master_token import MasterToken, MasterTokens
from hsm_msl.wire import codec, fields

NAME = "MT_PROTECTED"


def mt_protected_data(inner: EntityAuthData, token: MasterToken, context: CryptoContext) -> EntityAuthData:
    """Hide entity authentication data; the result may be sent any number of times.

    Args:
        inner: the data that authenticates the entity.
        token: a master token the receiver issued or knows.
        context: the session of that token.

    Raises:
        MslError: the session lacks a key.
        BackendError: a key operation did not happen.
    """
    authdata, signature = protect(context, codec.encode(inner.to_wire()))
    return EntityAuthData(
        NAME,
        inner.identity,
        {"signature": signature, "authdata": authdata, "mastertoken": token.to_wire()},
        inner,
    )


@dataclass(frozen=True, slots=True)
class MtProtectedScheme:
    """The MT_PROTECTED scheme.

    It counts as neither encrypting nor protecting, whatever it hides, so user authentication data is refused with it.

    Attributes:
        schemes: every scheme that may be inside; the same mapping this one is in, so that it is read when used.
        tokens: opens the master token.
        sessions: finds the context of a master token this entity uses but did not issue.
    """

    schemes: EntityAuthSchemes
    tokens: MasterTokens
    sessions: Callable[[MasterToken], CryptoContext | None] | None = None
    name: str = NAME
    encrypts: bool = False
    protects_integrity: bool = False

    def parse(self, authdata: Mapping[str, Any]) -> EntityAuthData:
        """Open the data and read what is inside.

        Raises:
            MslError: MSL_PARSE_ERROR, ENTITYAUTH_MASTERTOKEN_INVALID, ENTITYAUTH_MASTERTOKEN_NOT_DECRYPTED,
                ENTITYAUTH_VERIFICATION_FAILED, a crypto code, and what the inner scheme raises.
            BackendError: a token key operation did not happen.
        """
        obj = fields.mapping(authdata, "mastertoken")
        protected = fields.binary(authdata, "authdata")
        signature = fields.binary(authdata, "signature")
        try:
            token = self.tokens.parse(obj)
        except MslError:
            raise MslError(ErrorCode.ENTITYAUTH_MASTERTOKEN_INVALID) from None
        context = token.context
        if context is None and self.sessions is not None:
            context = self.sessions(token)
        if context is None:
            raise MslError(ErrorCode.ENTITYAUTH_MASTERTOKEN_NOT_DECRYPTED)
        plaintext = unprotect(context, protected, signature, ErrorCode.ENTITYAUTH_VERIFICATION_FAILED)
        inner = parse_entity_auth(codec.decode(plaintext), self.schemes)
        return EntityAuthData(NAME, inner.identity, authdata, inner)

    def assign(self, data: EntityAuthData) -> EntityAuthData:
        """Let the inner scheme give an identity where it does that. Raises StoreError."""
        inner = _inner(data)
        scheme = self.schemes[inner.scheme]
        if not isinstance(scheme, AssigningScheme):
            return data
        inner = scheme.assign(inner)
        return replace(data, identity=inner.identity, parsed=inner)

    def context(self, data: EntityAuthData) -> CryptoContext:
        """Return the context of the inner scheme. Raises as that scheme; its hooks judge the inner identity."""
        inner = _inner(data)
        return self.schemes[inner.scheme].context(inner)


def _inner(data: EntityAuthData) -> EntityAuthData:
    if not isinstance(data.parsed, EntityAuthData):
        raise UsageError("not MT_PROTECTED data")
    return data.parsed
