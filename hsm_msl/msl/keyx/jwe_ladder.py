"""JWE_LADDER: the ladder whose keys are JWKs inside draft-era JWEs (msl-schemes section 8)."""

from __future__ import annotations

from hsm_msl.crypto.jwe import JweTransport
from hsm_msl.crypto.transport import WrapTransport
from hsm_msl.errors import ErrorCode
from hsm_msl.msl.keyx.ladder import Dialect, IssuerSide, Ladder, RequesterSide
from hsm_msl.ports import KeyForm, RandomBytes, SessionVault, WrappingKey
from hsm_msl.wire.jose import encode_jwe_json

NAME = "JWE_LADDER"


def _transport(key: WrappingKey | None, failure: ErrorCode, random: RandomBytes) -> JweTransport:
    return JweTransport("A128KW", WrapTransport(key, failure), encode_jwe_json, random)


def _key_id(random: RandomBytes) -> str:
    return str(int.from_bytes(random(8), signed=True))


DIALECT = Dialect(NAME, KeyForm.JWK_USE, _transport, _key_id)


def jwe_ladder(
    vault: SessionVault,
    random: RandomBytes,
    *,
    issuer: IssuerSide | None = None,
    requester: RequesterSide | None = None,
) -> Ladder:
    """Return the JWE_LADDER scheme; arguments as ``Ladder``."""
    return Ladder(DIALECT, vault, random, issuer, requester)
