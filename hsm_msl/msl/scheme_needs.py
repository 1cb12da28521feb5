"""What each scheme asks of the token with a server's keys: one table, for the documentation and for diagnosis."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What a scheme is for."""

    ENTITY = "entity authentication"
    USER = "user authentication"
    EXCHANGE = "key exchange"
    KEYS = "keys of fleets"


@dataclass(frozen=True, slots=True)
class Operation:
    """Something a token does, and the PKCS#11 mechanisms (without CKM_) of which one is enough."""

    name: str
    mechanisms: tuple[str, ...]

    def possible(self, mechanisms: Collection[str]) -> bool:
        """Tell whether one of these mechanisms does it."""
        return any(mechanism in mechanisms for mechanism in self.mechanisms)

    def __str__(self) -> str:
        return " or ".join(f"CKM_{mechanism}" for mechanism in self.mechanisms)


AES_CBC = Operation("AES in CBC mode", ("AES_CBC", "AES_ECB"))
HMAC = Operation("HMAC-SHA256", ("SHA256_HMAC",))
KEY_WRAP = Operation("AES key wrap", ("AES_KEY_WRAP", "AES_ECB"))
KEY_UNWRAP = Operation("unwrapping into the token", ("AES_KEY_WRAP",))
SESSION_PACK = Operation("packing session keys", ("AES_KEY_WRAP", "RSA_PKCS_OAEP"))
RSA_SIGN = Operation("RSA signatures", ("SHA256_RSA_PKCS", "RSA_PKCS"))
EC_SIGN = Operation("ECDSA signatures", ("ECDSA_SHA256", "ECDSA"))
RSA_WRAP = Operation("wrapping for an RSA key", ("RSA_PKCS_OAEP",))
AES_GENERATE = Operation("making AES keys", ("AES_KEY_GEN",))
MAC_GENERATE = Operation("making HMAC keys", ("GENERIC_SECRET_KEY_GEN",))
DERIVE = Operation("deriving keys by encryption", ("AES_ECB_ENCRYPT_DATA",))


@dataclass(frozen=True, slots=True)
class Needs:
    """One scheme, or one mechanism of it, as a server speaks it.

    Attributes:
        kind: what it is for.
        scheme: its name on the wire, with the mechanism where that matters.
        protects: what it gives the messages or the session.
        operations: what the token must do; all of them.
        keys: where each key is.
    """

    kind: Kind
    scheme: str
    protects: str
    operations: tuple[Operation, ...]
    keys: str

    def missing(self, mechanisms: Collection[str]) -> tuple[Operation, ...]:
        """Return what a token cannot do for this scheme.

        Args:
            mechanisms: names of the token's mechanisms without CKM_, as ``Token.mechanisms`` returns them.
        """
        return tuple(needed for needed in self.operations if not needed.possible(mechanisms))


_TOKEN_KEYS = (AES_CBC, HMAC)
_OWN_RSA = "peers' public keys on the host; the server's private key in the token"
_FRESH = "session keys made on the host and sealed under the token keys"
_REQUESTER = f"{_FRESH}; no long-term key takes part"

NEEDS: tuple[Needs, ...] = (
    Needs(
        Kind.ENTITY,
        "PSK",
        "encrypts and authenticates",
        _TOKEN_KEYS,
        "the entity's keys in the token, as token objects or unwrapped from the fleet store",
    ),
    Needs(Kind.ENTITY, "PSK_PROFILE", "encrypts and authenticates", _TOKEN_KEYS, "as PSK, found by the key set's ID"),
    Needs(Kind.ENTITY, "X509", "authenticates", (RSA_SIGN,), _OWN_RSA),
    Needs(Kind.ENTITY, "RSA", "authenticates", (RSA_SIGN,), _OWN_RSA),
    Needs(Kind.ENTITY, "ECC", "authenticates", (EC_SIGN,), _OWN_RSA),
    Needs(Kind.ENTITY, "NONE", "nothing", (), "none"),
    Needs(Kind.ENTITY, "NONE_SUFFIXED", "nothing", (), "none"),
    Needs(
        Kind.ENTITY,
        "MT_PROTECTED",
        "hides the inner data; counts as nothing",
        _TOKEN_KEYS,
        "token keys in the token; then as the inner scheme",
    ),
    Needs(Kind.ENTITY, "PROVISIONED", "nothing", (), "none"),
    Needs(Kind.USER, "EMAIL_PASSWORD", "proves a user", (), "passwords hashed in the store"),
    Needs(Kind.USER, "USER_ID_TOKEN", "proves a user", _TOKEN_KEYS, "token keys in the token"),
    Needs(
        Kind.EXCHANGE, "ASYMMETRIC_WRAPPED", "a session from the requester's one-time key", _TOKEN_KEYS, _REQUESTER
    ),
    Needs(
        Kind.EXCHANGE,
        "SYMMETRIC_WRAPPED PSK",
        "a session from the pre-shared wrapping key",
        (*_TOKEN_KEYS, KEY_WRAP),
        f"the entity's wrapping key in the token; {_FRESH}",
    ),
    Needs(Kind.EXCHANGE, "DIFFIE_HELLMAN", "a session from an agreement", _TOKEN_KEYS, _REQUESTER),
    Needs(
        Kind.EXCHANGE,
        "JWK_LADDER",
        "a session, and the wrapping key of the next one",
        (*_TOKEN_KEYS, KEY_WRAP),
        f"the entity's and the issuer's wrapping keys in the token; {_FRESH}",
    ),
    Needs(
        Kind.EXCHANGE,
        "JWE_LADDER",
        "a session, and the wrapping key of the next one",
        (*_TOKEN_KEYS, KEY_WRAP),
        f"the entity's and the issuer's wrapping keys in the token; {_FRESH}",
    ),
    Needs(
        Kind.EXCHANGE,
        "SYMMETRIC_WRAPPED PSK, token residency",
        "a session from the pre-shared wrapping key",
        (*_TOKEN_KEYS, AES_GENERATE, MAC_GENERATE, KEY_UNWRAP),
        "every key in the token, session keys included",
    ),
    Needs(
        Kind.EXCHANGE,
        "ASYMMETRIC_WRAPPED RSA, token residency",
        "a session from the requester's one-time key",
        (*_TOKEN_KEYS, AES_GENERATE, MAC_GENERATE, SESSION_PACK, RSA_WRAP),
        "every key in the token, session keys included",
    ),
    Needs(
        Kind.KEYS,
        "fleet store",
        "pre-shared keys of any number of entities",
        (KEY_UNWRAP,),
        "wrapped in the database; unwrapped into the token while in use",
    ),
    Needs(
        Kind.KEYS,
        "derived",
        "pre-shared keys of any number of entities",
        (AES_CBC, DERIVE),
        "a master key in the token; derived keys beside it while in use",
    ),
)
"""Every scheme a server can speak."""


def lines() -> Iterator[str]:
    """Give the table as lines of Markdown, under one heading per kind."""
    for kind in Kind:
        yield f"### {kind.value.capitalize()}"
        yield ""
        yield "| scheme | protects | the token must have | where keys are |"
        yield "| --- | --- | --- | --- |"
        for needs in NEEDS:
            if needs.kind is kind:
                operations = "; ".join(str(operation) for operation in needs.operations) or "nothing"
                yield f"| {needs.scheme} | {needs.protects} | {operations} | {needs.keys} |"
        yield ""
