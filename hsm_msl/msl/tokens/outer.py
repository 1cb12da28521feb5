"""What master and user ID tokens have in common: the outer object and the two moments of their lives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from hsm_msl.crypto.symmetric import SymmetricContext
from hsm_msl.crypto.token_keys import TokenKeys
from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.wire import binary, codec, fields


class Outer(NamedTuple):
    """The outer object of a token.

    Attributes:
        tokendata: its text as received.
        signature: likewise.
        inner: the token data, decoded; clear text that anybody may have written unless ``context`` is set.
        context: opens the secret part, None where the token does not verify here.
    """

    tokendata: str
    signature: str
    inner: dict[str, Any]
    context: SymmetricContext | None


def read_outer(obj: Mapping[str, Any], keys: TokenKeys, missing: ErrorCode, malformed: ErrorCode) -> Outer:
    """Read a token's outer object and look whether it verifies here; a bad signature is not an error.

    Args:
        obj: the token as decoded from a message.
        keys: the token keys of this entity.
        missing: the code for empty token data.
        malformed: the code for token data that is no object.

    Raises:
        MslError: MSL_PARSE_ERROR, ``missing``, ``malformed``.
        BackendError: a token key operation did not happen.
    """
    tokendata = fields.string(obj, "tokendata")
    signature = fields.string(obj, "signature")
    data = binary.decode(tokendata)
    if not data:
        raise MslError(missing)
    context = keys.verify(data, binary.decode(signature))
    return Outer(tokendata, signature, codec.decode(data, malformed), context)


def is_renewable(window: int, verified: bool, remote_now: float | None, local_now: float) -> bool:
    """Tell whether a renewal window is open; that of an opaque token is while remote time is unknown."""
    if remote_now is not None:
        return window <= remote_now
    return window <= local_now if verified else True


def is_expired(expiration: int, verified: bool, remote_now: float | None, local_now: float) -> bool:
    """Tell whether a token is past its expiration; an opaque one is not while remote time is unknown."""
    if remote_now is not None:
        return expiration <= remote_now
    return expiration <= local_now if verified else False
