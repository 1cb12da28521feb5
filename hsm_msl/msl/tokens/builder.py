"""Deciding which service tokens a message carries (msl-engine section 13.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from hsm_msl.crypto.context import CryptoContext
from hsm_msl.crypto.null import NullContext
from hsm_msl.msl.tokens.master_token import MasterToken
from hsm_msl.msl.tokens.service_token import ServiceToken, ServiceTokenKeys, make_service_token
from hsm_msl.msl.tokens.user_id_token import UserIdToken


class ServiceTokenBuilder:
    """The service tokens of one message, to be changed by the application before it is sent.

    Tokens are bound to the tokens the *receiver* of the message will hold. An operation that lacks a token to bind
    to, or the keys for a name, changes nothing and says so.

    Args:
        tokens: what the message carries so far.
        keys: contexts by token name.
        master_token: what master-bound tokens are bound to, if there is one.
        user_id_token: what user-bound tokens are bound to, if there is one.
        handshake: whether the message is a handshake.
    """

    __slots__ = ("_keys", "_master_token", "_tokens", "_user_id_token", "handshake")

    def __init__(
        self,
        tokens: Iterable[ServiceToken],
        keys: ServiceTokenKeys,
        master_token: MasterToken | None,
        user_id_token: UserIdToken | None,
        *,
        handshake: bool = False,
    ) -> None:
        self._tokens = {token.identity: token for token in tokens}
        self._keys = keys
        self._master_token = master_token
        self._user_id_token = user_id_token
        self.handshake = handshake

    @property
    def master_token_available(self) -> bool:
        """Whether tokens can be bound to a master token."""
        return self._master_token is not None

    @property
    def user_id_token_available(self) -> bool:
        """Whether tokens can be bound to a user."""
        return self._master_token is not None and self._user_id_token is not None

    @property
    def tokens(self) -> tuple[ServiceToken, ...]:
        """What the message carries now."""
        return tuple(self._tokens.values())

    def add(
        self,
        name: str,
        data: bytes,
        *,
        master_bound: bool = False,
        user_bound: bool = False,
        encrypted: bool = True,
        compression: str | None = None,
    ) -> bool:
        """Add or replace a token.

        Args:
            name: the token's name.
            data: its contents, not empty; see ``delete``.
            master_bound: bind it to the master token.
            user_bound: bind it to the user ID token and the master token.
            encrypted: encrypt its contents.
            compression: algorithm to try.

        Returns:
            False when the token to bind to, the keys for the name or the data is missing.

        Raises:
            BackendError: a service token key gave no answer.
        """
        keys = self._keys.get(name) or self._keys.get("")
        if not data or keys is None or not self._can_bind(master_bound, user_bound):
            return False
        self._put(name, data, keys, master_bound, user_bound, encrypted, compression)
        return True

    def add_if_absent(self, name: str, data: bytes, *, master_bound: bool = False, user_bound: bool = False) -> bool:
        """Add a token unless one of this name and binding is there already. Returns and raises as ``add``."""
        if (name, master_bound or user_bound, user_bound) in self._tokens:
            return True
        return self.add(name, data, master_bound=master_bound, user_bound=user_bound)

    def put(self, token: ServiceToken) -> None:
        """Add or replace a token made before. Raises MslError when it is bound to other tokens."""
        token.check_binding(self._master_token, self._user_id_token)
        self._tokens[token.identity] = token

    def exclude(self, name: str, *, master_bound: bool = False, user_bound: bool = False) -> bool:
        """Leave a token out of this message only. Returns whether it was there."""
        return self._tokens.pop((name, master_bound or user_bound, user_bound), None) is not None

    def delete(self, name: str, *, master_bound: bool = False, user_bound: bool = False) -> bool:
        """Tell the receiver to forget a token. Returns False when the message does not carry it."""
        if (name, master_bound or user_bound, user_bound) not in self._tokens:
            return False
        if not self._can_bind(master_bound, user_bound):
            return False
        self._put(name, b"", NullContext(), master_bound, user_bound, False, None)
        return True

    def _can_bind(self, master_bound: bool, user_bound: bool) -> bool:
        if user_bound:
            return self.user_id_token_available
        return self.master_token_available or not master_bound

    def _put(
        self,
        name: str,
        data: bytes,
        keys: CryptoContext,
        master_bound: bool,
        user_bound: bool,
        encrypted: bool,
        compression: str | None,
    ) -> None:
        token = make_service_token(
            name,
            data,
            keys,
            master_token=self._master_token if master_bound or user_bound else None,
            user_id_token=self._user_id_token if user_bound else None,
            encrypted=encrypted,
            algorithm=compression,
        )
        self._tokens[token.identity] = token


ServiceTokenUpdate = Callable[[ServiceTokenBuilder], None]
"""Called for every message built, handshakes and repetitions included."""
