"""Everything one entity brings to one MSL network: identity, keys, schemes, tokens, clock (msl-engine section 1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hsm_msl.crypto.token_keys import TokenKeys
from hsm_msl.errors import ErrorCode
from hsm_msl.msl.entityauth.base import EntityAuthSchemes, LocalEntity
from hsm_msl.msl.keyx.base import KeyExchanges
from hsm_msl.msl.message.capabilities import Capabilities
from hsm_msl.msl.tokens.issuer import TokenIssuer
from hsm_msl.msl.tokens.master_token import MasterTokens, TokenCache
from hsm_msl.msl.tokens.service_token import ServiceTokenKeys
from hsm_msl.msl.tokens.user_id_token import UserIdTokens
from hsm_msl.msl.userauth.base import UserAuthSchemes
from hsm_msl.ports import Authorization, Clock, RandomBytes, SessionVault


@dataclass(frozen=True, slots=True)
class MslContext:
    """One entity in one network. Built once by the composition root and shared by every exchange.

    Attributes:
        local: how this entity authenticates itself; its scheme never changes.
        entity_schemes: schemes by which others, and this entity, may authenticate.
        user_schemes: schemes by which users may authenticate.
        key_exchanges: key exchange schemes in this entity's order of preference.
        authorization: the hooks of every scheme.
        token_keys: the keys of tokens; of a client they open nothing.
        master_tokens: parses and makes master tokens.
        user_id_tokens: parses and makes user ID tokens.
        issuer: the token factory, or None for a client of a trusted-services network.
        service_token_keys: contexts of service tokens by name.
        service_token_cache: verified service tokens.
        vault: makes and packs session keys.
        clock: local time.
        random: cryptographic randomness.
        capabilities: what this side can read, or None to publish nothing.
        peer_to_peer: whether both ends issue tokens.
        user_text: gives the text of an error for a user, in the best of the languages that there is, or None.
    """

    local: LocalEntity
    entity_schemes: EntityAuthSchemes
    user_schemes: UserAuthSchemes
    key_exchanges: KeyExchanges
    authorization: Authorization
    token_keys: TokenKeys
    master_tokens: MasterTokens
    user_id_tokens: UserIdTokens
    issuer: TokenIssuer | None
    vault: SessionVault
    clock: Clock
    random: RandomBytes
    capabilities: Capabilities | None = None
    service_token_keys: ServiceTokenKeys = field(default_factory=dict)
    service_token_cache: TokenCache = field(default_factory=lambda: TokenCache(0))
    peer_to_peer: bool = False
    user_text: Callable[[ErrorCode, Sequence[str]], str | None] | None = None
