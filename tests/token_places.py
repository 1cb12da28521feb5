"""Server contexts whose keys are on a token, for the suites that run over real tokens."""

from __future__ import annotations

from dataclasses import replace

from hsm_msl.backend.pkcs11.token import Token
from hsm_msl.backend.token_vault import TokenVault
from hsm_msl.crypto.public_key import PublicKey
from hsm_msl.msl.context import MslContext
from hsm_msl.msl.entityauth.base import LocalEntity
from hsm_msl.msl.entityauth.rsa import RsaScheme, rsa_data
from hsm_msl.msl.keyx.asymmetric_wrapped import AsymmetricWrapped
from hsm_msl.msl.tokens.issuer import TokenIssuer
from hsm_msl.msl.tokens.master_token import MasterTokens, TokenCache
from hsm_msl.msl.tokens.user_id_token import UserIdTokens
from hsm_msl.ports import SigningKey
from msl_keys import Ephemeral
from msl_world import SERVER, World

IDENTITY_ID = f"{SERVER}-key"


def with_identity(world: World, context: MslContext, signing: SigningKey) -> MslContext:
    """Return the server's context with its identity key on the token, and let the clients of the world trust it."""
    world.public_keys[IDENTITY_ID] = PublicKey(signing.public_key)
    scheme = RsaScheme(world.public_keys, world.grants, IDENTITY_ID, signing)
    data = rsa_data(SERVER, IDENTITY_ID)
    local = LocalEntity(data, scheme.context(data), encrypts=False, protects_integrity=True)
    return replace(context, local=local, entity_schemes={**context.entity_schemes, "RSA": scheme})


def with_resident_keys(world: World, base: MslContext, token: Token) -> MslContext:
    """Return the server's context with session keys in the token, packed under the wrapping keys of the ring."""
    vault = TokenVault(token, world.ring)
    master_tokens = MasterTokens(base.token_keys, vault, world.random, TokenCache(100))
    issuer = TokenIssuer(
        master_tokens,
        UserIdTokens(base.token_keys, TokenCache(100)),
        world.policy,
        clock=world.clock,
        random=world.random,
        replays=world.replays,
        renewals=world.renewals,
        revocations=world.revocations,
    )
    exchange = AsymmetricWrapped(Ephemeral(world.random), vault, world.random)
    return replace(
        base, master_tokens=master_tokens, issuer=issuer, vault=vault, key_exchanges={exchange.name: exchange}
    )
