"""The user ID token: one user, bound to one master token (msl-wire section 8.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hsm_msl.crypto.token_keys import TokenKeys
from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.msl.tokens.master_token import MasterToken, TokenCache
from hsm_msl.msl.tokens.outer import is_expired, is_renewable, read_outer
from hsm_msl.wire import binary, codec, fields


@dataclass(frozen=True, slots=True)
class UserIdToken:
    """A user ID token; ``user`` is None where this entity did not issue it. Times are seconds since the epoch."""

    tokendata: str
    signature: str
    renewal_window: int
    expiration: int
    master_token_serial_number: int
    serial_number: int
    user: str | None = None

    @property
    def verified(self) -> bool:
        """Whether this entity issued the token and could open it."""
        return self.user is not None

    def to_wire(self) -> dict[str, object]:
        """Return the token as it was received or issued."""
        return {"tokendata": self.tokendata, "signature": self.signature}

    def is_renewable(self, remote_now: float | None, local_now: float) -> bool:
        """Tell whether the renewal window is open; as for master tokens."""
        return is_renewable(self.renewal_window, self.verified, remote_now, local_now)

    def is_expired(self, remote_now: float | None, local_now: float) -> bool:
        """Tell whether the token is past its expiration; as for master tokens."""
        return is_expired(self.expiration, self.verified, remote_now, local_now)

    def is_bound_to(self, master_token: MasterToken | None) -> bool:
        """Tell whether the token belongs to this master token, by serial number."""
        return master_token is not None and self.master_token_serial_number == master_token.serial_number


class UserIdTokens:
    """Parses and makes user ID tokens with the token keys of this entity.

    Args:
        keys: the token keys; of a client they open nothing.
        cache: verified tokens.
    """

    __slots__ = ("_cache", "_keys")

    def __init__(self, keys: TokenKeys, cache: TokenCache) -> None:
        self._keys = keys
        self._cache = cache

    def parse(self, obj: Mapping[str, Any], master_token: MasterToken | None) -> UserIdToken:
        """Read a user ID token that must be bound to ``master_token``, the verification master token.

        Raises:
            MslError: the codes of msl-wire section 8.2; the binding is checked last, even for opaque tokens.
            BackendError: a token key operation did not happen.
        """
        token: UserIdToken | None = self._cache.get(obj.get("tokendata"), obj.get("signature"))
        if token is None:
            token = self._parse(obj)
        if master_token is None or token.master_token_serial_number != master_token.serial_number:
            raise MslError(ErrorCode.USERIDTOKEN_MASTERTOKEN_MISMATCH)
        return token

    def _parse(self, obj: Mapping[str, Any]) -> UserIdToken:
        failure = ErrorCode.USERIDTOKEN_TOKENDATA_PARSE_ERROR
        missing = ErrorCode.USERIDTOKEN_TOKENDATA_MISSING
        tokendata, signature, inner, context = read_outer(obj, self._keys, missing, failure)
        window = fields.integer(inner, "renewalwindow", failure)
        expiration = fields.integer(inner, "expiration", failure)
        master = fields.integer(inner, "mtserialnumber", failure)
        serial = fields.integer(inner, "serialnumber", failure)
        sealed = fields.binary(inner, "userdata", failure)
        if expiration < window:
            raise MslError(ErrorCode.USERIDTOKEN_EXPIRES_BEFORE_RENEWAL)
        fields.ranged(master, ErrorCode.USERIDTOKEN_MASTERTOKEN_SERIAL_NUMBER_OUT_OF_RANGE)
        fields.ranged(serial, ErrorCode.USERIDTOKEN_SERIAL_NUMBER_OUT_OF_RANGE)
        if not sealed:
            raise MslError(ErrorCode.USERIDTOKEN_USERDATA_MISSING)
        if context is None:
            return UserIdToken(tokendata, signature, window, expiration, master, serial)
        failure = ErrorCode.USERIDTOKEN_USERDATA_PARSE_ERROR
        userdata = codec.decode(context.decrypt(sealed), failure)
        user = fields.string(userdata, "identity", failure)
        fields.optional_mapping(userdata, "issuerdata", failure)
        if not user:
            raise MslError(ErrorCode.USERIDTOKEN_IDENTITY_INVALID)
        token = UserIdToken(tokendata, signature, window, expiration, master, serial, user)
        self._cache.put(tokendata, signature, token)
        return token

    def issue(
        self, user: str, *, renewal_window: int, expiration: int, master_token_serial_number: int, serial_number: int
    ) -> UserIdToken:
        """Make a token of this entity for ``user``.

        Raises:
            BackendError: a token key operation did not happen.
        """
        context = self._keys.primary()
        data = codec.encode(
            {
                "userdata": binary.encode(context.encrypt(codec.encode({"identity": user}))),
                "mtserialnumber": master_token_serial_number,
                "renewalwindow": renewal_window,
                "serialnumber": serial_number,
                "expiration": expiration,
            }
        )
        token = UserIdToken(
            binary.encode(data),
            binary.encode(context.sign(data)),
            renewal_window,
            expiration,
            master_token_serial_number,
            serial_number,
            user,
        )
        self._cache.put(token.tokendata, token.signature, token)
        return token
