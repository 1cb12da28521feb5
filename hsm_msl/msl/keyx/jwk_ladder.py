"""JWK_LADDER: the ladder whose keys are JWKs under AES key wrap (msl-schemes section 8)."""

from __future__ import annotations

from hsm_msl.crypto.transport import PaddedJwkTransport, WrapTransport
from hsm_msl.msl.keyx.ladder import Dialect, IssuerSide, Ladder, RequesterSide
from hsm_msl.ports import KeyForm, RandomBytes, SessionVault

NAME = "JWK_LADDER"

DIALECT = Dialect(
    NAME,
    KeyForm.JWK_KEY_OPS,
    lambda key, failure, random: PaddedJwkTransport(WrapTransport(key, failure)),  # noqa: ARG005 - nothing is drawn
    lambda random: "wrapKeyId",  # noqa: ARG005 - the reference sends this constant
)


def jwk_ladder(
    vault: SessionVault,
    random: RandomBytes,
    *,
    issuer: IssuerSide | None = None,
    requester: RequesterSide | None = None,
) -> Ladder:
    """Return the JWK_LADDER scheme; arguments as ``Ladder``."""
    return Ladder(DIALECT, vault, random, issuer, requester)
