"""The master token: the session keys of one entity, sealed by its issuer (msl-wire section 8.1)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hsm_msl.crypto.context import CryptoContext
from hsm_msl.crypto.symmetric import SymmetricContext
from hsm_msl.crypto.token_keys import TokenKeys
from hsm_msl.errors import ErrorCode, MslError
from hsm_msl.msl.tokens.outer import is_expired, is_renewable, read_outer
from hsm_msl.ports import RandomBytes, SessionData, SessionVault, SymmetricKeys
from hsm_msl.wire import binary, codec, fields
from hsm_msl.wire.limits import MAX_LONG, SEQUENCE_WRAP_MARGIN


@dataclass(frozen=True, slots=True)
class MasterToken:
    """A master token, opened when this entity can open it, opaque otherwise.

    Times are whole seconds since the epoch. ``session`` is None for an opaque token, which grants nothing.
    """

    tokendata: str
    signature: str
    renewal_window: int
    expiration: int
    sequence_number: int
    serial_number: int
    session: SessionData | None = None
    context: CryptoContext | None = None

    @property
    def verified(self) -> bool:
        """Whether this entity issued the token and could open it."""
        return self.session is not None

    @property
    def identity(self) -> str | None:
        """The entity the token was issued to, known only to the issuer."""
        return None if self.session is None else self.session.identity

    def to_wire(self) -> dict[str, object]:
        """Return the token as it was received or issued, never re-encoded."""
        return {"tokendata": self.tokendata, "signature": self.signature}

    def is_renewable(self, remote_now: float | None, local_now: float) -> bool:
        """Tell whether the renewal window is open; an opaque token is renewable while remote time is unknown."""
        return is_renewable(self.renewal_window, self.verified, remote_now, local_now)

    def is_expired(self, remote_now: float | None, local_now: float) -> bool:
        """Tell whether the token is past its expiration; an opaque one is not while remote time is unknown."""
        return is_expired(self.expiration, self.verified, remote_now, local_now)

    def is_newer_than(self, other: MasterToken) -> bool:
        """Compare by sequence number with wrap-around, then by expiration (msl-schemes section 13.5)."""
        mine, theirs = self.sequence_number, other.sequence_number
        if mine == theirs:
            return self.expiration > other.expiration
        if mine > theirs:
            return theirs >= mine - MAX_LONG + SEQUENCE_WRAP_MARGIN
        return mine < theirs - MAX_LONG + SEQUENCE_WRAP_MARGIN

    def same_as(self, other: MasterToken | None) -> bool:
        """Tell whether both are the same token: serial number, sequence number and expiration."""
        return (
            other is not None
            and self.serial_number == other.serial_number
            and self.sequence_number == other.sequence_number
            and self.expiration == other.expiration
        )


def session_context(
    identity: str | None, sequence_number: int, keys: SymmetricKeys, random: RandomBytes
) -> SymmetricContext:
    """Return the context of a session; its key ID is ``identity_sequence`` (msl-wire section 4.5)."""
    key_id = str(sequence_number) if identity is None else f"{identity}_{sequence_number}"
    return SymmetricContext(keys, key_id, random)


class TokenCache:
    """Remember tokens that were verified and opened, so that each costs its token operations once.

    The whole received text is the key: a token with another signature is another token. Expiry, renewal window and
    revocation are not cached. Least recently used entries leave first.

    Args:
        capacity: how many tokens to keep.
    """

    __slots__ = ("_capacity", "_entries", "hits", "misses")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[tuple[object, object], Any] = OrderedDict()
        self.hits = 0
        self.misses = 0

    def get(self, tokendata: object, signature: object) -> Any:
        """Return what was remembered for this text, or None."""
        try:
            found = self._entries[tokendata, signature]
            self._entries.move_to_end((tokendata, signature))
        except (KeyError, TypeError):
            # Another thread may evict between the two steps; an unhashable member is no token at all.
            self.misses += 1
            return None
        self.hits += 1
        return found

    def put(self, tokendata: str, signature: str, value: object) -> None:
        """Remember ``value``, forgetting the least recently used entry when full."""
        if not self._capacity:
            return
        self._entries[tokendata, signature] = value
        while len(self._entries) > self._capacity:
            try:
                self._entries.popitem(last=False)
            except KeyError:
                return

    def clear(self) -> None:
        """Forget everything, as when a key version was retired."""
        self._entries.clear()


class MasterTokens:
    """Parses and makes master tokens with the token keys of this entity.

    Args:
        keys: the token keys; of a client they open nothing.
        vault: opens and seals session data.
        random: source of initialisation vectors.
        cache: verified tokens.
    """

    __slots__ = ("_cache", "_keys", "_random", "_vault")

    def __init__(self, keys: TokenKeys, vault: SessionVault, random: RandomBytes, cache: TokenCache) -> None:
        self._keys = keys
        self._vault = vault
        self._random = random
        self._cache = cache

    def parse(self, obj: Mapping[str, Any]) -> MasterToken:
        """Read a master token; one that does not verify here stays opaque and is not an error.

        Raises:
            MslError: the codes of msl-wire section 8.1, in the order of msl-engine section 6 row B2.
            BackendError: a token key operation did not happen.
        """
        cached: MasterToken | None = self._cache.get(obj.get("tokendata"), obj.get("signature"))
        if cached is not None:
            return cached
        failure = ErrorCode.MASTERTOKEN_TOKENDATA_PARSE_ERROR
        missing = ErrorCode.MASTERTOKEN_TOKENDATA_MISSING
        tokendata, signature, inner, context = read_outer(obj, self._keys, missing, failure)
        window = fields.integer(inner, "renewalwindow", failure)
        expiration = fields.integer(inner, "expiration", failure)
        sequence = fields.integer(inner, "sequencenumber", failure)
        serial = fields.integer(inner, "serialnumber", failure)
        sealed = fields.binary(inner, "sessiondata", failure)
        if expiration < window:
            raise MslError(ErrorCode.MASTERTOKEN_EXPIRES_BEFORE_RENEWAL)
        fields.ranged(sequence, ErrorCode.MASTERTOKEN_SEQUENCE_NUMBER_OUT_OF_RANGE)
        fields.ranged(serial, ErrorCode.MASTERTOKEN_SERIAL_NUMBER_OUT_OF_RANGE)
        if not sealed:
            raise MslError(ErrorCode.MASTERTOKEN_SESSIONDATA_MISSING)
        if context is None:
            return MasterToken(tokendata, signature, window, expiration, sequence, serial)
        session = self._vault.open(sealed, context)
        token = MasterToken(
            tokendata,
            signature,
            window,
            expiration,
            sequence,
            serial,
            session,
            session_context(session.identity, sequence, session.keys, self._random),
        )
        self._cache.put(tokendata, signature, token)
        return token

    def issue(
        self, session: SessionData, *, renewal_window: int, expiration: int, sequence_number: int, serial_number: int
    ) -> MasterToken:
        """Make a token of this entity.

        Args:
            session: identity, keys and issuer data to seal.
            renewal_window: seconds since the epoch.
            expiration: seconds since the epoch, not before ``renewal_window``.
            sequence_number: 0 to 2^53.
            serial_number: 0 to 2^53.

        Raises:
            BackendError: a token key operation did not happen.
        """
        context = self._keys.primary()
        data = codec.encode(
            {
                "sessiondata": binary.encode(self._vault.seal(session, context)),
                "renewalwindow": renewal_window,
                "serialnumber": serial_number,
                "expiration": expiration,
                "sequencenumber": sequence_number,
            }
        )
        token = MasterToken(
            binary.encode(data),
            binary.encode(context.sign(data)),
            renewal_window,
            expiration,
            sequence_number,
            serial_number,
            session,
            session_context(session.identity, sequence_number, session.keys, self._random),
        )
        self._cache.put(token.tokendata, token.signature, token)
        return token
